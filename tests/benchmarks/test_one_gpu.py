"""One rank on one GPU: our engine beside DeepSpeed's and FSDP2's, whole train steps in turns."""

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from configs.training_memory import predicted_memory
from tests.benchmarks.one_gpu_rank import Steps
from tests.benchmarks.training_contenders import Contender

Report = Callable[[str], None]
Rank = Callable[[int], Steps]
"""Trains so many steps."""

OURS = Contender("ours ZeRO-3", "ours", "zero3")
OURS_QUANTIZED = Contender("ours, INT8 refresh", "ours", "zero3", (("refresh", "int8"),))
DEEPSPEED = Contender("DeepSpeed ZeRO-3", "deepspeed", "zero3")
FSDP2 = Contender("FSDP2 full", "fsdp2", "zero3")
BASE: Mapping[str, object] = {
    "sequence": 2048,
    "micro_batch": 4,
    "ranks": 1,
    "topology": "dgx-h100",
    "dtype": "bfloat16",
    "device": "cuda",
}
_WARM_UP_STEPS = 3
_ROOT = Path(__file__).parents[2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("model", "together"), [("gpt-350m", True), ("gpt-1.3b", False)], ids=["350m", "1.3b"]
)
def test_one_gpu(
    benchmark: BenchmarkFixture, report: Report, model: str, *, together: bool
) -> None:
    """Our train step takes no longer than DeepSpeed's and FSDP2's; peaks of memory are told.

    The smaller model's ranks live side by side and take turns; the larger one's fill the device.
    """
    base = {**BASE, "model": model}
    contenders = [OURS, DEEPSPEED, FSDP2, *([OURS_QUANTIZED] if together else [])]

    def run() -> dict[Contender, list[Steps]]:
        return measured(contenders, base, rounds=3 if together else 1, steps=8, together=together)

    times: dict[Contender, list[Steps]] = benchmark.pedantic(run, rounds=1)  # type: ignore[no-untyped-call]

    ours_s = step_s(times[OURS])
    predicted = predicted_memory(OURS.experiment(base, 1))
    report(f"{torch.cuda.get_device_name()}, {model}, 4 x 2048 tokens a step, bfloat16, eager:")
    for contender, steps in times.items():
        rounds = ", ".join(f"{statistics.median(one.step_s) * 1e3:.1f}" for one in steps)
        report(
            f"{contender.name:28}{step_s(steps) * 1e3:8.1f} ms a step ({rounds})"
            f"{step_s(steps) / ours_s:7.3f} times ours, peak {steps[-1].peak_bytes / 1e9:.1f} GB"
        )
    report(f"predicted for ours: {predicted.total / 1e9:.1f} GB, {predicted}")
    benchmark.extra_info |= {one.name: step_s(steps) for one, steps in times.items()}
    for other in (DEEPSPEED, FSDP2):
        assert step_s(times[other]) >= ours_s, other.name


def step_s(steps: Sequence[Steps]) -> float:
    """Return the median over rounds of the median train step."""
    return statistics.median(statistics.median(one.step_s) for one in steps)


def measured(
    contenders: Sequence[Contender],
    base: Mapping[str, object],
    *,
    rounds: int,
    steps: int,
    together: bool,
) -> dict[Contender, list[Steps]]:
    """Measure contenders in turns.

    Args:
        contenders: Who.
        base: Fields of the experiment that all share.
        rounds: How often each has its turn.
        steps: Train steps of a turn.
        together: Whether all live until the end; else each ends before the next begins.

    Returns:
        What was measured in each round.
    """
    found: dict[Contender, list[Steps]] = {one: [] for one in contenders}
    if not together:
        for contender in contenders:
            with running_rank(contender, base) as train:
                train(_WARM_UP_STEPS)
                found[contender] += [train(steps) for _ in range(rounds)]
        return found
    with ExitStack() as stack:
        ranks = {one: stack.enter_context(running_rank(one, base)) for one in contenders}
        for train in ranks.values():
            train(_WARM_UP_STEPS)
        for _ in range(rounds):
            for contender, train in ranks.items():
                found[contender].append(train(steps))
    return found


@contextmanager
def running_rank(contender: Contender, base: Mapping[str, object]) -> Iterator[Rank]:
    """Start a rank in a process of its own.

    Args:
        contender: Who.
        base: Fields of the experiment that all share.

    Yields:
        What asks it to train.
    """
    experiment = contender.experiment(base, 1)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.one_gpu_rank"],
        cwd=_ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        orders, answers = process.stdin, process.stdout
        assert orders is not None
        assert answers is not None
        print(experiment.model_dump_json(), file=orders, flush=True)

        def train(num_steps: int) -> Steps:
            print(num_steps, file=orders, flush=True)
            return Steps.model_validate_json(answers.readline())

        yield train
