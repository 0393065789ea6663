"""The learning rate of each train step: linear warm-up, then half a cosine."""

import math

from configs.training import AdamW


def lr_at(step: int, optimizer: AdamW, steps: int) -> float:
    """Return the learning rate of a train step.

    With W warm-up steps, T steps and least share m, step k = 1..T has the rate
    ``lr k / W`` for k <= W, then ``lr (m + (1 - m) (1 + cos(pi (k - W) / (T - W))) / 2)``:
    lr at the end of the warm-up, lr m at the last step.

    Args:
        step: k, from 1.
        optimizer: Largest rate, warm-up and least share.
        steps: T.

    Returns:
        The rate; never 0 unless the least share is, and then at the last step alone.

    Raises:
        ValueError: There is no such step.
    """
    if not 1 <= step <= steps:
        raise ValueError(f"train step {step} is none of 1 to {steps}")
    warmup, least = optimizer.warmup_steps, optimizer.min_lr_share
    if step <= warmup:
        return optimizer.lr * step / warmup
    progress = (step - warmup) / (steps - warmup)
    share = least + (1 - least) * (1 + math.cos(math.pi * progress)) / 2
    return optimizer.lr * share
