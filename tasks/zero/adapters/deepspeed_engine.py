"""DeepSpeed's ZeRO behind the interface of our engine: stages 0 to 3, hpZ, and the whole of ZeRO++.

On a CPU it runs over gloo; nothing is compiled there: the update is PyTorch's AdamW, DeepSpeed's
shared-memory collectives are left out, and its quantizer op is ``quantizer_op``. On CUDA the op is
DeepSpeed's own.

What differs from ours, and is left as DeepSpeed has it:

- The gradient that qgZ delivers of a matrix is the mean times the ranks of a node, of other
  parameters the mean (it sums inside the node, and divides by the nodes alone). ``grad_norm`` and
  clipping see that.
- With bfloat16 the master weights begin as the rounded ones.
- After the first gather of a step, hpZ takes all weights from the backward copy.
- ``Transport.block_size`` is not used: DeepSpeed derives its blocks from each matrix's shape.
- All ranks build the whole model on the CPU before it is split (no ``zero.Init`` yet).
"""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import torch
import torch.distributed as dist
from torch import Tensor, nn

from configs.base import raise_faults
from configs.engines import engine_faults
from configs.training import TrainingExperiment
from models.gpt import GptStages
from tasks.runtime.errors import JobError, Reason
from tasks.zero.adapters.deepspeed_config import deepspeed_config
from tasks.zero.adapters.plain_model import (
    batch_loss,
    mean_loss,
    mean_over_ranks,
    parameter_groups,
    prepare,
)
from tasks.zero.adapters.quantizer_op import TorchQuantizerBuilder
from tasks.zero.interface import PendingSave, StepReport
from tasks.zero.timing import now

_TAG = "state"


class DeepSpeedEngine:
    """A model and its AdamW, split by DeepSpeed over the default process group.

    Args:
        experiment: What is run.
        model: Whole, the same on all ranks. Split in place.
        device: Where this rank computes.

    Raises:
        ValidationError: DeepSpeed cannot express the experiment.
        JobError: It asks for something that this accelerator or installation lacks.
    """

    def __init__(
        self, experiment: TrainingExperiment, model: GptStages, device: torch.device
    ) -> None:
        raise_faults("TrainingExperiment", engine_faults(experiment))
        deepspeed = _imported(experiment, device)
        self._device = device
        self._plain_linear = nn.functional.linear
        prepare(experiment, model)
        settings = experiment.optimizer
        self._torch_optimizer = torch.optim.AdamW(
            parameter_groups(model, settings),
            lr=0.0,  # at stage 0 in bfloat16 DeepSpeed begins with a step of no gradient
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
            fused=True,
        )
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self._gradient_bytes = 4 * trained // experiment.degrees.gradients
        self._engine, *_ = deepspeed.initialize(
            model=model, optimizer=self._torch_optimizer, config=deepspeed_config(experiment)
        )
        if not self._engine.zero_optimization():
            self._torch_optimizer.state.clear()  # of that step; without it, there is none yet

    @property
    def state_bytes(self) -> int:
        """Bytes of this rank's weights, gradients, master weights and moments."""
        parameters = list(self._engine.module.parameters())
        kept = [tensor for parameter in parameters for tensor in _tensors_of(parameter)]
        for master, moments in self._torch_optimizer.state.items():
            kept += [master, *moments.values()]
        storages = {tensor.untyped_storage() for tensor in kept}
        states = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
        return states + self._gradient_bytes

    def train_step(self, micro_batches: Sequence[Tensor], lr: float) -> StepReport:
        """Do one update; see ``TrainEngine``."""
        started = updating = now(self._device)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        total = torch.zeros((), device=self._device)
        for number, tokens in enumerate(micro_batches, start=1):
            loss = batch_loss(self._engine, tokens, self._device)
            self._engine.backward(loss)
            total += loss.detach() / len(micro_batches)
            plain_norm = self._plain_norm()
            if number == len(micro_batches):  # before, a step does but count
                updating = now(self._device)
            self._engine.step()
        ended = now(self._device)
        norm = plain_norm if plain_norm is not None else self._engine.get_global_grad_norm()
        return StepReport(
            loss=mean_over_ranks(total),
            grad_norm=float(norm),
            is_skipped=not self._engine.was_step_applied(),
            compute_s=updating - started,
            optimizer_s=ended - updating,
        )

    def evaluate(self, batches: Sequence[Tensor]) -> float:
        """Return the mean loss; see ``TrainEngine``."""
        self._engine.eval()
        loss = mean_loss(self._engine, batches, self._device)
        self._engine.train()
        return loss

    def begin_save(self, directory: Path) -> PendingSave:
        """Write the state, and wait until it is written; see ``TrainEngine``."""
        self._engine.save_checkpoint(str(directory), tag=_TAG)
        return _Saved()

    def load(self, directory: Path) -> None:
        """Take a state of as many ranks; see ``TrainEngine``.

        Raises:
            JobError: There is none, or it is of another number of ranks.
        """
        if not (directory / _TAG).is_dir():
            message = f"{directory} is no checkpoint of DeepSpeed; use the engine that wrote it"
            raise JobError(Reason.CHECKPOINT, message)
        saved = len(list((directory / _TAG).glob("*_optim_states.pt")))
        if saved not in {0, dist.get_world_size()}:
            message = (
                f"{directory} was saved by {saved} ranks of DeepSpeed, which can only load it "
            )
            raise JobError(Reason.CHECKPOINT, f"{message}with as many, not {dist.get_world_size()}")
        self._engine.load_checkpoint(str(directory), tag=_TAG)

    def full_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the whole parameters; see ``TrainEngine``."""
        import deepspeed  # type: ignore[import-untyped]  # noqa: PLC0415

        for name, parameter in self._engine.module.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter]):
                value = parameter.detach().cpu().clone()
            yield name, value

    def close(self) -> None:
        """Undo what DeepSpeed changed in this process, and give its process groups back."""
        from deepspeed import comm  # noqa: PLC0415
        from deepspeed.utils import groups  # type: ignore[import-untyped]  # noqa: PLC0415

        self._engine.destroy()
        nn.functional.linear = self._plain_linear
        made = [groups._get_zero_param_intra_parallel_group(), *groups._ALL_TO_ALL_GROUP.values()]
        for group in made:
            if isinstance(group, dist.ProcessGroup):
                comm.destroy_process_group(group)

    def _plain_norm(self) -> float | None:
        """Return the norm if the optimizer is not wrapped: DeepSpeed clips by it, and drops it."""
        if self._engine.optimizer is not self._torch_optimizer:
            return None
        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return nn.utils.get_total_norm(gradients).item()


class _Saved:
    """A checkpoint that is written already."""

    def is_done(self) -> bool:
        """Say that it is."""
        return True

    def wait(self) -> None:
        """Return at once."""


def _tensors_of(parameter: nn.Parameter) -> list[Tensor]:
    """Return all that ZeRO-3 may keep of a parameter: the whole, its shard, its hpZ shard."""
    shards = [getattr(parameter, f"ds_{word}tensor", None) for word in ("", "secondary_")]
    return [parameter.data, *(shard for shard in shards if shard is not None)]


def _imported(experiment: TrainingExperiment, device: torch.device) -> ModuleType:
    """Import DeepSpeed, for this device, onto the default process group; what it reads is set.

    Raises:
        JobError: Its quantizer is asked for, and cannot be built.
    """
    os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
        os.environ["LOCAL_SIZE"] = str(experiment.topology.node_ranks(experiment.ranks))
    import deepspeed  # noqa: PLC0415

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    builders = deepspeed.ops.op_builder
    if device.type == "cpu":
        # Looked up before any is built: nothing is, and no compiler is tried.
        deepspeed.ops.__compatible_ops__ = {}
        builders.QuantizerBuilder = TorchQuantizerBuilder
    elif _is_quantized(experiment) and not builders.QuantizerBuilder().is_compatible():
        raise JobError(
            Reason.ENGINE,
            "DeepSpeed's quantizer op cannot be built here: it needs nvcc of torch's CUDA version "
            "on PATH; set transport to full, or use engine ours",
        )
    deepspeed.init_distributed()
    module: ModuleType = deepspeed
    return module


def _is_quantized(experiment: TrainingExperiment) -> bool:
    return {experiment.transport.weights, experiment.transport.gradients} != {"full"}
