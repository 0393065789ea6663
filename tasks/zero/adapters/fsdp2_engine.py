"""PyTorch's FSDP2 behind the interface of our engine.

A stage is a group of parameters that FSDP2 gathers together; with a tied head, the embedding and
the head are gathered by the root instead, for the whole pass. Weights and optimizer states lie at
one degree S, in shard groups of neighbouring ranks; FSDP2 averages over the N / S replicas itself.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from configs.base import raise_faults
from configs.engines import engine_faults
from configs.training import AdamW, TrainingExperiment
from models.gpt import GptStages
from tasks.zero.adapters.plain_model import (
    batch_loss,
    mean_loss,
    mean_over_ranks,
    parameter_groups,
    prepare,
)
from tasks.zero.interface import PendingSave, StepReport
from tasks.zero.sharded_state import begin_save, load_state
from tasks.zero.timing import now


class Fsdp2Engine:
    """A model and its AdamW, sharded by ``fully_shard``.

    Args:
        experiment: What is run; of its transport, only the full one can be had.
        model: Whole, the same on all ranks; with bfloat16 its float32 weights become the master
            ones. Sharded in place.
        device: Where this rank computes.

    Raises:
        ValidationError: FSDP2 cannot express the experiment.
    """

    def __init__(
        self, experiment: TrainingExperiment, model: GptStages, device: torch.device
    ) -> None:
        raise_faults("TrainingExperiment", engine_faults(experiment))
        self._settings = experiment.optimizer
        self._device = device
        self._is_whole = experiment.degrees.gradients < experiment.degrees.optimizer
        prepare(experiment, model)
        if experiment.dtype == "float64":
            model.double()
        self._model = _sharded(experiment, model, device)
        self._optimizer = _adamw(model, experiment.optimizer, device)
        self._save_group = dist.new_group(backend="gloo")

    @property
    def state_bytes(self) -> int:
        """Bytes of this rank's shards: weights, gradients and moments."""
        weights = sum(_local(p).nbytes for p in self._model.parameters())
        trained = [p for p in self._model.parameters() if p.requires_grad]
        gradients = sum((p if self._is_whole else _local(p)).nbytes for p in trained)
        moments = sum(
            _local(tensor).nbytes
            for state in self._optimizer.state.values()
            for tensor in state.values()
        )
        return weights + gradients + moments

    def train_step(self, micro_batches: Sequence[Tensor], lr: float) -> StepReport:
        """Do one update; see ``TrainEngine``."""
        started = now(self._device)
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        for number, tokens in enumerate(micro_batches, start=1):
            self._reduce_at(is_last=number == len(micro_batches))
            loss = batch_loss(self._model, tokens, self._device) / len(micro_batches)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            total += loss.detach()
        loss_mean = mean_over_ranks(total)
        computed = now(self._device)
        grad_norm = self._update(lr)
        return StepReport(
            loss=loss_mean,
            grad_norm=grad_norm,
            is_skipped=not math.isfinite(grad_norm),
            compute_s=computed - started,
            optimizer_s=now(self._device) - computed,
        )

    def evaluate(self, batches: Sequence[Tensor]) -> float:
        """Return the mean loss; see ``TrainEngine``."""
        loss = mean_loss(self._model, batches, self._device)
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # else the backward copies, which nobody uses, would stay
        return loss

    def begin_save(self, directory: Path) -> PendingSave:
        """Begin to write the state; see ``TrainEngine``."""
        return begin_save(directory, self._state(), self._save_group)

    def load(self, directory: Path) -> None:
        """Take a state; see ``TrainEngine``."""
        load_state(directory, self._state())

    def full_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the whole parameters; see ``TrainEngine``."""
        for name, parameter in self._model.named_parameters():
            yield name, cast("DTensor", parameter.detach()).full_tensor().cpu()

    def close(self) -> None:
        """Nothing runs in the background."""

    def _reduce_at(self, *, is_last: bool) -> None:
        """Say how far the next backward pass reduces: at the last one all the way, to the mean.

        Before, gradients stay whole if they are to, else shards are summed inside a shard group.
        """
        root = cast("FSDPModule", self._model)
        root.set_requires_gradient_sync(is_last or not self._is_whole)
        root.set_requires_all_reduce(is_last)

    def _update(self, lr: float) -> float:
        gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        grad_norm = norm.item()
        if math.isfinite(grad_norm):
            if self._settings.clip:
                nn.utils.clip_grads_with_norm_(self._model.parameters(), self._settings.clip, norm)
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            self._optimizer.step()
        self._optimizer.zero_grad()
        return grad_norm

    def _state(self) -> dict[str, object]:
        state: dict[str, object] = {}
        for name, parameter in self._model.named_parameters():
            state[name] = parameter.detach()
            for word, tensor in self._optimizer.state.get(parameter, {}).items():
                state[f"{name}.{word}"] = tensor
        return state


def _sharded(experiment: TrainingExperiment, model: GptStages, device: torch.device) -> GptStages:
    degrees = experiment.degrees
    options: dict[str, Any] = {
        "mesh": _mesh(experiment.ranks, degrees.optimizer, device),
        "reshard_after_forward": _reshard(degrees.backward, degrees.optimizer),
    }
    if experiment.dtype == "bfloat16":
        options["mp_policy"] = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32)
    stages = list(model.stages[1:-1] if experiment.model.tied else model.stages)
    if experiment.compile:
        for block in model.stages[1:-1]:
            block.compile()
    units = [fully_shard(stage, **options) for stage in stages]
    fully_shard(model, **options)
    _prefetch(units, experiment.prefetch)
    return model


def _mesh(num_ranks: int, shard: int, device: torch.device) -> DeviceMesh:
    if shard == num_ranks:
        return init_device_mesh(device.type, (num_ranks,), mesh_dim_names=("shard",))
    shape = (num_ranks // shard, shard)
    return init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))


def _reshard(backward: int, shard: int) -> bool | int:
    """Return FSDP2's word for the degree that the backward pass gathers from."""
    return {shard: True, 1: False}.get(backward, backward)


def _prefetch(units: Sequence[FSDPModule], ahead: int) -> None:
    """Gather as many stages ahead as ours; without it, FSDP2 gathers early on CUDA alone."""
    for ordered, name in ((units, "forward"), (units[::-1], "backward")):
        for position, unit in enumerate(ordered):
            following = list(itertools.islice(ordered, position + 1, position + 1 + ahead))
            getattr(unit, f"set_modules_to_{name}_prefetch")(following)


def _adamw(model: nn.Module, settings: AdamW, device: torch.device) -> torch.optim.AdamW:
    """Return the optimizer with its moments in place, so that a checkpoint has where to go."""
    optimizer = torch.optim.AdamW(
        parameter_groups(model, settings),
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=True,
    )
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    return optimizer


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
