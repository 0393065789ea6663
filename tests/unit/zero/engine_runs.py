"""Trainings that the tests run on several ranks: by the engine, and by hand with plain PyTorch."""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from configs.gpt import is_frozen
from configs.training import TrainingExperiment
from models.gpt import GptStages, build_gpt
from tasks.zero.engine import DTYPES
from tasks.zero.engines import build_engine
from tasks.zero.interface import StepReport, TrainEngine
from tasks.zero.schedule import lr_at

TINY = {"layers": 2, "hidden": 24, "heads": 2, "vocabulary": 40}
CPU = torch.device("cpu")


def tiny(**fields: Any) -> TrainingExperiment:
    """Return an experiment that takes milliseconds a step.

    Args:
        fields: Replace those of the base; ``clip`` and ``epsilon`` are those of its optimizer.
    """
    optimizer = {"lr": 3e-3, "warmup_steps": 1, "clip": 0.7}
    optimizer |= {name: fields.pop(name) for name in ("clip", "epsilon") if name in fields}
    base = {
        "kind": "training",
        "model": TINY,
        "sequence": 12,
        "ranks": 8,
        "steps": 20,
        "dtype": "float64",
        "transport": "full",
        "optimizer": optimizer,
    }
    return TrainingExperiment.model_validate(base | fields)


@dataclass(frozen=True)
class Trained:
    """What a training gave.

    Attributes:
        reports: One each train step.
        weights: Whole parameters by name.
        state_bytes: Of this rank's states.
    """

    reports: list[StepReport]
    weights: dict[str, Tensor] = field(default_factory=dict)
    state_bytes: int = 0

    @property
    def losses(self) -> list[float]:
        """Of the train steps."""
        return [report.loss for report in self.reports]

    @property
    def norms(self) -> list[float]:
        """Of the gradients."""
        return [report.grad_norm for report in self.reports]


def micro_batches(experiment: TrainingExperiment, step: int, rank: int) -> list[Tensor]:
    """Return a rank's tokens of a train step; those of all ranks depend on their number alone."""
    generator = torch.Generator().manual_seed(1000 + step)
    shape = (experiment.sequences_per_step, experiment.sequence + 1)
    tokens = torch.randint(experiment.model.vocabulary, shape, generator=generator)
    of_micro_batches = tokens.view(experiment.accumulation, experiment.ranks, -1, shape[1])
    return list(of_micro_batches[:, rank])


def train(rank: int, num_ranks: int, experiment: TrainingExperiment) -> Trained:
    """Train with the engine that the experiment names."""
    del num_ranks
    with closing(build_engine(experiment, CPU)) as engine:
        return _trained(engine, experiment, rank, range(experiment.steps))


def train_and_save(
    rank: int, num_ranks: int, experiment: TrainingExperiment, steps: int, directory: str
) -> None:
    """Train some steps, and save."""
    del num_ranks
    with closing(build_engine(experiment, CPU)) as engine:
        _trained(engine, experiment, rank, range(steps))
        engine.begin_save(Path(directory)).wait()


def load_and_train(
    rank: int, num_ranks: int, experiment: TrainingExperiment, steps: int, directory: str
) -> Trained:
    """Load what was saved after some steps, and train the others."""
    del num_ranks
    with closing(build_engine(experiment, CPU, is_continued=True)) as engine:
        engine.load(Path(directory))
        return _trained(engine, experiment, rank, range(steps, experiment.steps))


def train_on_equal_tokens(rank: int, num_ranks: int, experiment: TrainingExperiment) -> Trained:
    """Train one step on the same tokens for all ranks and micro-batches."""
    del rank, num_ranks
    tokens = micro_batches(experiment, 0, 0)[0]
    with closing(build_engine(experiment, CPU)) as engine:
        report = engine.train_step([tokens] * experiment.accumulation, experiment.optimizer.lr)
        return Trained([report])


def _trained(
    engine: TrainEngine, experiment: TrainingExperiment, rank: int, steps: Iterable[int]
) -> Trained:
    reports = [
        engine.train_step(
            micro_batches(experiment, step, rank),
            lr_at(step + 1, experiment.optimizer, experiment.steps),
        )
        for step in steps
    ]
    weights = dict(engine.full_weights())
    return Trained(reports, weights if rank == 0 else {}, engine.state_bytes)


def train_by_hand(rank: int, num_ranks: int, experiment: TrainingExperiment) -> Trained:
    """Train a whole replica on every rank: gradients are averaged, PyTorch clips and updates."""
    model = build_gpt(experiment.model, experiment.sequence, experiment.seed)
    model = model.to(DTYPES[experiment.dtype])
    trained = [p for name, p in model.named_parameters() if not is_frozen(name, experiment.frozen)]
    adam = _adamw(experiment, trained)
    reports = []
    for step in range(experiment.steps):
        loss = _backward(model, micro_batches(experiment, step, rank))
        for tensor in (loss, *(p.grad for p in trained if p.grad is not None)):
            dist.all_reduce(tensor)
            tensor.div_(num_ranks)
        norm = nn.utils.clip_grad_norm_(trained, experiment.optimizer.clip or float("inf"))
        for group in adam.param_groups:
            group["lr"] = lr_at(step + 1, experiment.optimizer, experiment.steps)
        adam.step()
        model.zero_grad()
        reports.append(StepReport(loss.item(), norm.item()))
    weights = {name: p.detach() for name, p in model.named_parameters()}
    return Trained(reports, weights if rank == 0 else {})


def _backward(model: GptStages, batches: list[Tensor]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for tokens in batches:
        loss = model.loss(tokens) / len(batches)
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        total += loss.detach()
    return total


def _adamw(experiment: TrainingExperiment, parameters: list[nn.Parameter]) -> torch.optim.AdamW:
    config = experiment.optimizer
    decays = {True: config.weight_decay, False: 0.0}
    groups = [
        {"params": [p for p in parameters if (p.dim() > 1) is decayed], "weight_decay": decay}
        for decayed, decay in decays.items()
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
    )
