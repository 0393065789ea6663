"""A round of federated training beside a plain per-worker PyTorch loop, in the same run.

CPU times are best compared on one thread each: on more, the loop's threads wait for each other
busily, which would flatter us. Wall times are compared on all cores.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from configs.algorithms import AfaCd, AfaCs
from configs.models import Execution
from tasks.federated.local_training import _GROUP_BYTES, BEST_EXECUTION
from tests.benchmarks.rounds import (
    CHAR_LSTM,
    CIFAR10_CNN,
    LOGISTIC,
    MNIST_CNN,
    Case,
    Round,
    core_peak,
    measure,
    with_workers,
)

ALL_CORES = torch.get_num_threads()
Report = Callable[[str], None]


def tabulate(benchmark: BenchmarkFixture, function: Callable[[], object]) -> None:
    """Enter a function into the table of times."""
    benchmark.pedantic(function, rounds=3)  # type: ignore[no-untyped-call]  # the plugin's


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Let torch use so many threads."""
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(ALL_CORES)


@pytest.mark.parametrize("threads", [1, ALL_CORES], indirect=True)
@pytest.mark.parametrize(
    ("case", "repetitions", "least_ratio"),
    [(LOGISTIC, 50, 3.0), (MNIST_CNN, 5, 1.0), (CIFAR10_CNN, 4, 1.0), (CHAR_LSTM, 4, 0.95)],
    ids=["logistic", "mnist_cnn", "cifar10_cnn", "char_lstm"],
)
def test_round_beside_a_plain_loop(
    benchmark: BenchmarkFixture,
    report: Report,
    case: Case,
    repetitions: int,
    least_ratio: float,
    threads: int,
) -> None:
    """Logistic regression takes a third of the loop's CPU time at most; networks are not slower.

    The LSTM is the same oneDNN kernel on both sides: its ratio on one core is 1 to within 5 %.
    """
    work = Round(case)
    peak = core_peak()

    times = measure({"ours": work.ours, "plain": work.plain}, repetitions)
    tabulate(benchmark, work.ours)

    ours, plain = times["ours"], times["plain"]
    share = case.flops / ours.cpu_s / peak
    benchmark.extra_info |= {
        "cpu_ms": ours.cpu_s * 1e3,
        "plain_cpu_ms": plain.cpu_s * 1e3,
        "wall_ms": ours.wall_s * 1e3,
        "plain_wall_ms": plain.wall_s * 1e3,
        "share_of_peak": share,
    }
    report(
        f"{case.config.name}, {threads} threads: CPU {ours.cpu_s * 1e3:.1f} ms, plain loop "
        f"{plain.cpu_s * 1e3:.1f} ms, ratio {plain.cpu_s / ours.cpu_s:.2f}; wall "
        f"{ours.wall_s * 1e3:.1f} ms, {plain.wall_s * 1e3:.1f} ms, ratio "
        f"{plain.wall_s / ours.wall_s:.2f}; {share:.0%} of a core's {peak / 1e9:.0f} GFLOP/s"
    )
    assert plain.cpu_s / ours.cpu_s >= least_ratio
    if threads == ALL_CORES:
        assert plain.wall_s / ours.wall_s >= least_ratio


@pytest.mark.parametrize(
    ("case", "repetitions"),
    [(MNIST_CNN, 2), (CIFAR10_CNN, 2), (CHAR_LSTM, 1)],
    ids=["mnist_cnn", "cifar10_cnn", "char_lstm"],
)
def test_ways_of_execution(
    benchmark: BenchmarkFixture,
    report: Report,
    monkeypatch: pytest.MonkeyPatch,
    case: Case,
    repetitions: int,
) -> None:
    """What ``auto`` means has the smallest wall time on all cores, give or take 10 %."""
    ways: tuple[Execution, ...] = ("batched", "looped", "threads")
    monkeypatch.setitem(_GROUP_BYTES, "cpu", 1 << 40)  # all returns of a round in one batch
    rounds = {way: Round(case, way) for way in ways}
    best = BEST_EXECUTION[case.config.name, "cpu"]

    times = measure({way: rounds[way].ours for way in ways}, repetitions)
    tabulate(benchmark, rounds[best].ours)

    report(
        f"{case.config.name}, CPU and wall ms: "
        + ", ".join(
            f"{way} {found.cpu_s * 1e3:.0f} {found.wall_s * 1e3:.0f}"
            for way, found in times.items()
        )
    )
    assert times[best].wall_s <= 1.1 * min(found.wall_s for found in times.values())


@pytest.mark.parametrize("threads", [1], indirect=True)
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("algorithm", [AfaCd(collect=20), AfaCs(collect=20)], ids=["cd", "cs"])
def test_registered_workers_cost_nothing(
    benchmark: BenchmarkFixture, report: Report, algorithm: AfaCd | AfaCs
) -> None:
    """Whole simulated rounds a second do not fall with the number of registered workers.

    AFA-CS writes each slot for the first time here, which costs a page fault for every 4 KiB.
    """
    simulators = {
        number: Round(with_workers(LOGISTIC, number)).simulator(algorithm)
        for number in (100, 1_000, 10_000, 100_000)
    }

    times = measure({str(number): simulators[number].step for number in simulators}, 30)
    tabulate(benchmark, simulators[100_000].step)

    rates = {number: 1 / found.cpu_s for number, found in times.items()}
    report(
        f"{algorithm.name}, rounds a second of CPU time, by registered workers: "
        + ", ".join(f"{number}: {rate:.0f}" for number, rate in rates.items())
    )
    assert rates["100000"] > 0.8 * rates["100"]
