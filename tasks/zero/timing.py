"""When what a device was asked to do is done."""

import time

import torch


def now(device: torch.device) -> float:
    """Return the time at which all is done that was begun; a GPU is waited for.

    Without the wait, kernels would count where the next one waits for them.

    Args:
        device: Of this rank; its current stream is waited for.

    Returns:
        Seconds, as ``time.perf_counter`` has them.
    """
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    return time.perf_counter()
