"""The engine: one train step of a model whose states are split as a partition says.

It runs the stages itself, forward on detached inputs and backward one stage after the other, so
that weights are gathered ahead of their use and gradients leave as soon as they are there, in plain
sight. Between nodes nothing moves but what the partition puts there.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor
from torch import distributed as dist

from configs.gpt import is_frozen
from configs.sharding import Partition
from configs.training import TrainingExperiment
from configs.training_memory import MOST_LEAVING
from models.gpt import GptStages, initial_weights, loss_of
from tasks.runtime.output import say
from tasks.zero.collectives import Fabric
from tasks.zero.error_feedback import ErrorFeedback
from tasks.zero.gradients import UnitGradients
from tasks.zero.interface import PendingSave, StepReport
from tasks.zero.layout import Chain
from tasks.zero.optimizer import UnitOptimizer
from tasks.zero.sharded_state import begin_save, has_saved, load_state, saved_tensors
from tasks.zero.timing import now
from tasks.zero.units import Unit, units_of_stage
from tasks.zero.weights import UnitWeights

_CLIP_EPSILON = 1e-6
"""As torch.nn.utils.clip_grad_norm_ has it."""
_ERRORS = "errors/"
"""Names of errors of quantization begin so, in a checkpoint."""
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class _Visit:
    """A stage at work.

    Attributes:
        stage: Its number.
        is_backward: Whether the gradient passes, or the values.
    """

    stage: int
    is_backward: bool


class Engine:
    """A GPT and its optimizer on the ranks of a machine; see ``interface.TrainEngine``.

    Args:
        experiment: What to train, and how it is split.
        model: Taken over. On the meta device it gets the weights of the experiment's seed; else it
            has its own, the same on all ranks.
        device: Where to compute.
        is_continued: Whether ``load`` comes before anything else: what it brings is not drawn.
    """

    def __init__(
        self,
        experiment: TrainingExperiment,
        model: GptStages,
        device: torch.device,
        *,
        is_continued: bool = False,
    ) -> None:
        self._experiment, self._model, self._device = experiment, model, device
        self._partition: Partition = experiment.degrees
        self._rank, self._num_ranks = dist.get_rank(), dist.get_world_size()
        self._chain = Chain(self._num_ranks, self._partition.degrees)
        self._fabric = Fabric(
            experiment.topology,
            self._chain,
            experiment.transport,
            device,
            partition=self._partition,
            timeout=timedelta(seconds=experiment.timeout_s),
        )
        self._saving: dist.ProcessGroup | None = None
        self._dtype = DTYPES[experiment.dtype]
        self._master_dtype = torch.promote_types(self._dtype, torch.float32)
        self._reuses = experiment.transport.reuse_secondary
        self._num_steps = self._num_updates = 0
        self._leaving: deque[UnitGradients] = deque()
        self._errors = self._error_feedback()
        self._weights: dict[Unit, UnitWeights] = {}
        self._gradients: dict[Unit, UnitGradients] = {}
        self._optimizers: dict[Unit, UnitOptimizer] = {}
        self._units_of: list[list[Unit]] = []
        self._take(model, is_continued=is_continued)
        self._visits = _timeline(len(model.stages))
        # Its chunks are dozens of small passes over the logits, which a compiler fuses.
        self._loss_of = torch.compile(loss_of) if experiment.compile else loss_of

    def _take(self, model: GptStages, *, is_continued: bool) -> None:
        """Spread the weights over the ranks, stage by stage: no rank ever holds all of them."""
        experiment, transport = self._experiment, self._experiment.transport
        quantizes = {"int8", "int4"} & set(transport.model_dump().values())
        is_drawn = any(parameter.is_meta for parameter in model.parameters())
        names = [name for name, _ in model.named_parameters()]
        skipped = {
            name for name in names if is_continued and not is_frozen(name, experiment.frozen)
        }
        values = initial_weights(model, experiment.seed, skipped) if is_drawn else None
        for number, stage in enumerate(model.stages):
            if values is not None:
                stage.to_empty(device="cpu")
                for parameter, (_, value) in zip(stage.parameters(), values, strict=False):
                    parameter.data.copy_(value)
            stage.to(self._device)
            own = units_of_stage(
                number,
                stage,
                frozen=experiment.frozen,
                degree=max(self._partition.degrees, default=1),
                block_size=transport.block_size if quantizes else 1,
            )
            for unit in own:
                self._spread(unit)
            is_tied = model.config.tied and number == len(model.stages) - 1
            self._units_of.append([*(self._units_of[0] if is_tied else []), *own])
            if experiment.compile and 0 < number < len(model.stages) - 1:
                stage.compile()

    def _error_feedback(self) -> ErrorFeedback | None:
        transport = self._experiment.transport
        if not transport.error_feedback:
            return None
        return ErrorFeedback(
            block_size=transport.block_size,
            beta=transport.error_beta,
            reset_steps=transport.error_reset_steps,
        )

    def _spread(self, unit: Unit) -> None:
        """Keep this rank's shards of a unit, and drop the rest."""
        offset = self._chain.offset(self._rank, self._partition.optimizer, unit.padded_length)
        length = unit.padded_length // self._partition.optimizer
        unit.take_over(self._master_dtype, self._device)
        master = unit.buffer[offset : offset + length].clone()
        if self._dtype != self._master_dtype:
            unit.take_over(self._dtype, self._device)
        weights = self._weights[unit] = UnitWeights(
            unit,
            self._partition,
            chain=self._chain,
            fabric=self._fabric,
            transport=self._experiment.transport,
            rank=self._rank,
        )
        if not unit.is_trainable:
            return
        if self._dtype == self._master_dtype and length == weights.shard.numel():
            master = weights.shard  # one and the same
        self._optimizers[unit] = UnitOptimizer(self._experiment.optimizer, unit, master, offset)
        self._gradients[unit] = UnitGradients(
            unit,
            self._partition,
            fabric=self._fabric,
            transport=self._experiment.transport,
            num_ranks=self._num_ranks,
            dtype=self._master_dtype,
            errors=self._errors,
        )

    @property
    def state_bytes(self) -> int:
        """Bytes of weights, gradients and optimizer states that this rank keeps."""
        num_bytes = sum(
            one.state_bytes
            for kept in (self._weights, self._gradients, self._optimizers)
            for one in kept.values()
        )
        shared = sum(
            weights.shard.numel() * weights.shard.itemsize
            for unit, weights in self._weights.items()
            if unit in self._optimizers and self._optimizers[unit].master is weights.shard
        )
        errors = 0 if self._errors is None else self._errors.state_bytes
        return num_bytes - shared + errors

    def train_step(self, micro_batches: Sequence[Tensor], lr: float) -> StepReport:
        """Do one update from the mean gradient over all tokens; see ``TrainEngine``."""
        began = now(self._device)
        self._fabric.take_counts()
        if self._errors is not None:
            self._errors.begin_step(self._num_steps)
        loss = torch.zeros((), dtype=torch.float64, device=self._device)
        for number, tokens in enumerate(micro_batches):
            is_last = number == len(micro_batches) - 1
            loss += self._micro_batch(tokens.to(self._device), is_last=is_last)
        optimizer_began = now(self._device)
        passes_exposed = sum(self._fabric.exposed_s.values())
        scale = 1 / (self._num_ranks * len(micro_batches))
        grad_norm, mean_loss = self._norm_and_loss(loss, scale)
        is_finite = math.isfinite(grad_norm) and math.isfinite(mean_loss)
        if is_finite:
            self._update(grad_norm, scale, lr)
            self._num_updates += 1
        for gradients in self._gradients.values():
            gradients.clear()
        self._leaving.clear()
        counts = self._fabric.take_counts()
        ended, exposed = now(self._device), sum(counts.exposed_s.values())
        self._num_steps += 1
        return StepReport(
            loss=mean_loss,
            grad_norm=grad_norm,
            is_skipped=not is_finite,
            compute_s=optimizer_began - began - passes_exposed,
            exposed_s=counts.exposed_s,
            optimizer_s=ended - optimizer_began - (exposed - passes_exposed),
            received_bytes=counts.received_bytes,
        )

    def _micro_batch(self, tokens: Tensor, *, is_last: bool) -> Tensor:
        """Run forward and backward passes; return the mean loss over the tokens, float64."""
        inputs: list[Tensor] = []
        outputs: list[Tensor] = []
        x, last = tokens[:, :-1], len(self._model.stages) - 1
        loss = gradient = torch.empty(0)
        for number, visit in enumerate(self._visits):
            stage = visit.stage
            self._gather_ahead(self._visits[number : number + 1 + self._experiment.prefetch])
            if not visit.is_backward:
                x = x.detach().requires_grad_(x.is_floating_point())
            if stage == last:
                loss = self._loss_of(self._run(stage, x), tokens[:, 1:])
                loss.backward()  # type: ignore[no-untyped-call]  # torch
                gradient, x = x.grad, loss  # type: ignore[assignment]  # it has one
            elif visit.is_backward:
                gradient = self._backward(stage, inputs.pop(), outputs.pop(), gradient)
            else:
                inputs.append(x)
                x = self._run(stage, x, with_graph=not self._recomputes(stage))
                outputs.append(x)
            if stage == last or visit.is_backward:
                self._let_leave(stage, is_last=is_last)
            self._release(number, is_last=is_last)
        return loss.detach().double()

    def _backward(self, stage: int, x: Tensor, output: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient of a stage's input; those of its weights stay with them."""
        if self._recomputes(stage):
            output = self._run(stage, x)
        if output.requires_grad:  # not that of a frozen embedding: tokens have no gradient either
            torch.autograd.backward(output, gradient)
        return torch.empty(0) if x.grad is None else x.grad  # tokens have none

    def _recomputes(self, stage: int) -> bool:
        """Whether the backward pass computes a stage again: the blocks, if any."""
        return self._experiment.recompute and 0 < stage < len(self._model.stages) - 1

    def _run(self, stage: int, x: Tensor, *, with_graph: bool = True) -> Tensor:
        arguments = [x]
        if self._model.config.tied and stage == len(self._model.stages) - 1:
            arguments.append(self._model.stages[0].weight)  # type: ignore[arg-type]  # a parameter
        with torch.set_grad_enabled(with_graph):
            output: Tensor = self._model.stages[stage](*arguments)
        return output

    def _gather_ahead(self, visits: Sequence[_Visit]) -> None:
        """Have the weights of the first visit, and begin to gather those of the others."""
        for visit in visits:
            for unit in self._units_of[visit.stage]:
                self._weights[unit].prefetch()
        for unit in self._units_of[visits[0].stage]:
            self._weights[unit].acquire()

    def _release(self, number: int, *, is_last: bool) -> None:
        """Give weights back after a visit; what the next one uses, stays.

        A copy lives no longer than its train step, so that every step moves the same bytes: those
        of frozen weights go, too, and after a step that was skipped.
        """
        visit = self._visits[number]
        following = self._visits[number + 1 : number + 2]
        needed = {unit for later in following for unit in self._units_of[later.stage]}
        for unit in self._units_of[visit.stage]:
            if unit not in needed:
                is_between = any(
                    unit in self._units_of[later.stage] for later in self._visits[number + 1 :]
                )
                is_used_again = is_between or (self._reuses and not is_last)
                self._weights[unit].release(is_used_again=is_used_again)

    def _let_leave(self, stage: int, *, is_last: bool) -> None:
        """Send away the gradients that are complete when a stage's backward pass is done."""
        for unit in self._units_of[stage]:
            is_shared = stage > 0 and unit in self._units_of[0]  # complete at the first stage
            if not unit.is_trainable or is_shared:
                continue
            gradients = self._gradients[unit]
            gradients.leave()
            self._leaving.append(gradients)
            if len(self._leaving) > MOST_LEAVING:
                self._leaving.popleft().wait_for_oldest()
            if is_last:
                gradients.begin_sync()

    def _norm_and_loss(self, loss: Tensor, scale: float) -> tuple[float, float]:
        """Return the norm of the mean gradient, and the mean loss, over all ranks."""
        squares = torch.zeros((), dtype=torch.float64, device=self._device)
        for gradients in self._gradients.values():
            squares += torch.linalg.vector_norm(gradients.take_sum()).double() ** 2
        # Replicas of a shard each add it: the sum over all ranks counts it so often.
        both = torch.stack([squares * self._partition.optimizer / self._num_ranks, loss])
        self._fabric.sum_scalars(both)
        return both[0].sqrt().item() * scale, both[1].item() * scale

    def _update(self, grad_norm: float, scale: float, lr: float) -> None:
        clip = self._experiment.optimizer.clip
        if clip:
            scale *= min(1.0, clip / (grad_norm + _CLIP_EPSILON))
        for unit in self._optimizers:
            gradient = self._gradients[unit].take_sum()
            self._optimizers[unit].step(gradient.mul_(scale) if scale != 1 else gradient, lr)
            self._refresh(unit)

    def _refresh(self, unit: Unit) -> None:
        self._weights[unit].begin_refresh(self._optimizers[unit].master)

    def evaluate(self, batches: Sequence[Tensor]) -> float:
        """Return the mean loss over the tokens of all ranks' batches; see ``TrainEngine``."""
        loss = torch.zeros((), dtype=torch.float64, device=self._device)
        for number, tokens in enumerate(batches):
            is_last = number == len(batches) - 1
            own = self._loss_without_graph(tokens.to(self._device), is_last=is_last)
            loss += own / len(batches)
        self._fabric.sum_scalars(loss)
        return loss.item() / self._num_ranks

    def _loss_without_graph(self, tokens: Tensor, *, is_last: bool) -> Tensor:
        x = tokens[:, :-1]
        visits = self._visits[: len(self._model.stages)]
        for number, visit in enumerate(visits):
            self._gather_ahead(visits[number : number + 1 + self._experiment.prefetch])
            x = self._run(visit.stage, x, with_graph=False)
            for unit in self._units_of[visit.stage]:
                self._weights[unit].release(is_used_again=self._reuses and not is_last)
        return self._loss_of(x, tokens[:, 1:]).double()

    def begin_save(self, directory: Path) -> PendingSave:
        """Copy the whole state, and begin to write the copy; see ``TrainEngine``."""
        if self._saving is None:
            self._saving = dist.new_group(backend="gloo")
        return begin_save(directory, self._state(), self._saving)

    def load(self, directory: Path) -> None:
        """Take the state that ``begin_save`` has written; see ``TrainEngine``."""
        state = self._state()
        if self._errors is not None:
            state |= self._saved_errors(directory)
        load_state(directory, state)
        self._num_steps, self._num_updates = (
            int(count) if isinstance(count := state[name], Tensor) else 0
            for name in ("num_steps", "num_updates")
        )
        if self._errors is not None:
            self._errors.load_state_dict(
                {
                    name.removeprefix(self._errors_prefix): value
                    for name, value in state.items()
                    if name.startswith(self._errors_prefix) and isinstance(value, Tensor)
                }
            )
        for unit, optimizer in self._optimizers.items():
            optimizer.set_num_updates(self._num_updates)
            self._refresh(unit)
        for weights in self._weights.values():
            weights.wait()

    @property
    def _errors_prefix(self) -> str:
        """Under which errors are saved: of no use to other ranks, shards, hops or blocks.

        Earlier checkouts had no ``whole`` in it, and short blocks in the sums over replicas.
        """
        degrees = "-".join(map(str, self._partition.model_dump().values()))
        node = self._experiment.topology.node_ranks(self._num_ranks)
        block_size = self._experiment.transport.block_size
        return f"{_ERRORS}{self._num_ranks}/{degrees}/{node}/{block_size}/whole/{self._rank}/"

    def _saved_errors(self, directory: Path) -> dict[str, Tensor]:
        """Return tensors for the errors of a checkpoint; say so if it has none of these."""
        found = saved_tensors(directory, self._errors_prefix)
        if not found and self._rank == 0 and has_saved(directory, _ERRORS):
            say(
                "the errors of quantization begin at zero: those of the checkpoint are of other "
                "ranks, or of another partition, node, block_size or checkout of Watershed"
            )
        return found

    def _state(self) -> dict[str, object]:
        """Return what a checkpoint holds; frozen parameters are as the seed made them."""
        state: dict[str, object] = {
            "num_steps": torch.tensor(self._num_steps),
            "num_updates": torch.tensor(self._num_updates),
        }
        for optimizer in self._optimizers.values():
            state |= dict(optimizer.state())
        if self._errors is not None:
            errors = self._errors.state_dict()
            state |= {f"{self._errors_prefix}{key}": value for key, value in errors.items()}
        return state

    def full_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and whole value of every parameter; see ``TrainEngine``.

        They are the master weights: what the passes compute with may have lost some on the wire.
        """
        for unit, weights in self._weights.items():
            trained = self._optimizers.get(unit)
            whole = weights.gather_exactly(None if trained is None else trained.master).cpu()
            begin = 0
            for name, parameter in unit.parameters:
                end = begin + parameter.numel()
                yield name, whole[begin:end].view(parameter.shape).to(self._master_dtype, copy=True)
                begin = end

    def close(self) -> None:
        """End what runs in the background."""
        self._fabric.close()


def _timeline(num_stages: int) -> list[_Visit]:
    """Return the visits of a micro-batch: the last stage's forward and backward are one."""
    forward = [_Visit(stage, is_backward=False) for stage in range(num_stages)]
    return forward + [_Visit(stage, is_backward=True) for stage in reversed(range(num_stages - 1))]
