"""What both other engines do alike with the plain model: freeze, group, recompute, measure.

Neither counts the bytes of its collectives or how long it waits for them: their ``StepReport`` has
none of it, and the times of passes and update include the waits.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from configs.gpt import is_frozen
from configs.training import AdamW, TrainingExperiment
from models.gpt import GptStages, loss_of


def prepare(experiment: TrainingExperiment, model: GptStages) -> None:
    """Freeze what is not trained, and make the blocks recompute if they are to.

    Args:
        experiment: What is run.
        model: Changed in place.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not is_frozen(name, experiment.frozen))
    if experiment.recompute:
        for block in model.stages[1:-1]:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def parameter_groups(model: nn.Module, optimizer: AdamW) -> list[dict[str, object]]:
    """Return the trained parameters, matrices with decay and those of one dimension without.

    Args:
        model: Before or after its parameters were sharded.
        optimizer: Settings.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, object]] = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": optimizer.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def batch_loss(model: nn.Module, tokens: Tensor, device: torch.device) -> Tensor:
    """Return the mean loss of one micro-batch.

    Args:
        model: Gives logits, whatever is wrapped around it.
        tokens: Shape (sequences, s + 1).
        device: Where to compute.
    """
    tokens = tokens.to(device, non_blocking=True)
    loss: Tensor = loss_of(model(tokens[:, :-1]), tokens[:, 1:])
    return loss


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Sequence[Tensor], device: torch.device) -> float:
    """Return the mean loss over the batches of all ranks.

    Args:
        model: As for ``batch_loss``.
        batches: This rank's; as many on all ranks, all of one size.
        device: Where to compute.
    """
    losses = torch.stack([batch_loss(model, tokens, device) for tokens in batches])
    return mean_over_ranks(losses.mean())


def mean_over_ranks(value: Tensor) -> float:
    """Return the mean of a number over all ranks.

    Args:
        value: This rank's.
    """
    total = value.detach().double()
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()
