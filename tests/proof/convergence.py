"""Program: does a GPT learn as well when its states travel in 8 and 4 bits?

Trains a small GPT on Tiny Shakespeare with every transport and seed, on 8 gloo ranks: two nodes of
two packages of two. The trainings of one seed begin with the same weights and see the same batches,
so that the difference of their losses, the gap, is what the transport does to the training.

    python -m tests.proof.convergence --source tinyshakespeare.txt

Every finished training is written down at once; those that are there are not done again. Then the
figure is drawn, and the tables of docs/convergence.md are printed.
"""

import argparse
import itertools
import json
import statistics
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from configs.training import TrainingExperiment
from tasks.zero.engines import build_engine
from tasks.zero.preparation import open_batches
from tasks.zero.schedule import lr_at
from tests.proof.gaps import BASE, Curve, comparisons, draw, table
from tests.ranks import RankPool

DOCS = Path(__file__).parents[2] / "docs"
DATA_PATH = DOCS / "data" / "convergence.json"
FIGURE_PATH = DOCS / "figures" / "convergence.png"
SEEDS = tuple(range(10))
EXPERIMENT: dict[str, Any] = {
    "kind": "training",
    "model": {"layers": 4, "hidden": 128, "heads": 4},
    "data": "shakespeare",
    "sequence": 128,
    "ranks": 8,
    "topology": "mini",
    "partition": "zero_topo",
    "micro_batch": 2,
    "steps": 300,
    "optimizer": {"lr": 3e-3, "warmup_steps": 20},
    "evaluate_every": 25,
    "evaluate_sequences": 256,
}
CONTROL = "fp32, plain data parallelism"
_INT8_INT4 = {"weights": "int8", "gradients": "int4"}
_ALL_QUANTIZED = _INT8_INT4 | {"sync": "int4", "refresh": "int8"}
VARIANTS: dict[str, dict[str, Any]] = {
    BASE: {"transport": "full"},
    "INT8 weights": {"transport": {"weights": "int8"}},
    "INT8 weights, INT4 gradients": {"transport": _INT8_INT4},
    "the same with error feedback": {"transport": _INT8_INT4 | {"error_feedback": True}},
    "all quantized": {"transport": _ALL_QUANTIZED},
    "all quantized, error feedback": {"transport": _ALL_QUANTIZED | {"error_feedback": True}},
    "INT8 weights, Hadamard INT8/INT4": {"transport": "sdp4bit"},
    CONTROL: {"transport": "full", "partition": "ddp"},
}
"""What changes, by name. ``CONTROL`` differs from ``BASE`` by the order of sums alone."""
CHANGES = {
    "INT4 gradients, where weights are INT8": ("INT8 weights, INT4 gradients", "INT8 weights"),
    "INT4 sync and INT8 refresh besides": ("all quantized", "INT8 weights, INT4 gradients"),
    "error feedback, where gradients are INT4": (
        "the same with error feedback",
        "INT8 weights, INT4 gradients",
    ),
    "error feedback, where all is quantized": ("all quantized, error feedback", "all quantized"),
}
"""What one change does, in words: the variant that has it, and the one that is else the same."""
_EVALUATED_AT_ONCE = 16
_GIVE_UP_S = 3600


def experiment_of(variant: str, seed: int, **fields: Any) -> TrainingExperiment:
    """Return a training.

    Args:
        variant: One of ``VARIANTS``.
        seed: Of weights and batches.
        fields: Replace those of ``EXPERIMENT``.
    """
    return TrainingExperiment.model_validate(
        EXPERIMENT | VARIANTS[variant] | {"seed": seed} | fields
    )


def curve_of(pool: RankPool, variant: str, experiment: TrainingExperiment) -> Curve:
    """Train on all ranks, validating on the way.

    Args:
        pool: The ranks.
        variant: Name of the training.
        experiment: The training.

    Returns:
        Its losses.

    Raises:
        RanksFailedError: It failed; the message says why.
    """
    found = pool.run(train, experiment, variant)
    received = {
        level: statistics.fmean(curve.received_bytes[level] for curve in found)
        for level in found[0].received_bytes
    }
    losses: Curve = found[0]
    return losses.model_copy(update={"received_bytes": received})


def train(rank: int, num_ranks: int, experiment: TrainingExperiment, variant: str) -> Curve:
    """Train on one of the ranks, validating on the way.

    Args:
        rank: From 0.
        num_ranks: N.
        experiment: The training.
        variant: Its name.

    Returns:
        The losses, equal on all ranks, and this rank's bytes.

    Raises:
        JobError: The text cannot be had.
    """
    batches, _ = open_batches(experiment)
    validation = batches.validation(
        rank, num_ranks, _EVALUATED_AT_ONCE, experiment.evaluate_sequences
    )
    losses: dict[int, float] = {}
    with closing(build_engine(experiment, torch.device("cpu"))) as engine:
        for step in range(1, experiment.steps + 1):
            tokens = batches.step(
                step - 1, rank, num_ranks, experiment.micro_batch, experiment.accumulation
            )
            report = engine.train_step(tokens, lr_at(step, experiment.optimizer, experiment.steps))
            if step % (experiment.evaluate_every or experiment.steps) == 0:
                losses[step] = round(engine.evaluate(validation), 6)
    return Curve(
        variant=variant,
        seed=experiment.seed,
        steps=tuple(losses),
        validation_loss=tuple(losses.values()),
        received_bytes=dict(report.received_bytes),
    )


def run_missing(path: Path, seeds: Sequence[int], source: str | None) -> None:
    """Do the trainings that a file does not hold yet, and add each to it.

    Args:
        path: The file; made if missing.
        seeds: Which seeds.
        source: Where Tiny Shakespeare lies; None for the usual place.

    Raises:
        RanksFailedError: A training failed; those before it are kept.
        ValueError: The file holds trainings of another experiment.
        OSError: The file cannot be read or written.
    """
    curves = read(path) if path.exists() else []
    done = {(curve.seed, curve.variant) for curve in curves}
    trainings = sorted(itertools.product(seeds, VARIANTS), key=_place)
    data = {"name": "shakespeare", "source": source}
    with closing(RankPool(EXPERIMENT["ranks"], give_up_s=_GIVE_UP_S)) as pool:
        for seed, variant in trainings:
            if (seed, variant) not in done:
                curve = curve_of(pool, variant, experiment_of(variant, seed, data=data))
                curves = sorted([*curves, curve], key=lambda one: _place((one.seed, one.variant)))
                _write(path, curves)
                _say(f"seed {seed}, {variant}: {curve.validation_loss[-1]:.4f}")


def _place(training: tuple[int, str]) -> tuple[bool, int, int]:
    """Return what trainings are ordered by: seed and variant, the control after all others."""
    seed, variant = training
    return variant == CONTROL, seed, list(VARIANTS).index(variant)


def read(path: Path) -> list[Curve]:
    """Return the trainings that a file holds.

    Args:
        path: As ``run_missing`` wrote it.

    Raises:
        ValueError: They are not of this program's experiment, or of variants that it has not.
        OSError: It cannot be read.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    is_known = content["variants"].items() <= VARIANTS.items()  # a variant may have been added
    if content["experiment"] != EXPERIMENT or not is_known:
        raise ValueError(
            f"{path} holds trainings of another experiment than this program's; move it away, and "
            "all trainings are done again"
        )
    return [Curve.model_validate(curve) for curve in content["curves"]]


def _write(path: Path, curves: Sequence[Curve]) -> None:
    lines = ",\n".join(json.dumps(curve.model_dump()) for curve in curves)
    content = f'{{"experiment": {json.dumps(EXPERIMENT)},\n"variants": {json.dumps(VARIANTS)},\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    temporary.write_text(f'{content}"curves": [\n{lines}\n]}}\n', encoding="utf-8")
    temporary.replace(path)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  what this program is for


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, draw the figure, print the tables.

    Args:
        argv: Arguments; those of the process by default.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(description="Convergence with quantized transport.")
    parser.add_argument("--source", help="file or directory of Tiny Shakespeare")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="which seeds")
    parser.add_argument("--data", type=Path, default=DATA_PATH, help="file of the results")
    parser.add_argument("--figure", type=Path, default=FIGURE_PATH, help="PNG to draw")
    options = parser.parse_args(argv)
    run_missing(options.data, options.seeds, options.source)
    curves = read(options.data)
    draw(curves, options.figure)
    _say(table(curves))
    _say(comparisons(CHANGES, curves))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
