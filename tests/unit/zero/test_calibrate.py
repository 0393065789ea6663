"""Calibration: fits, the file, refusals, and a real measurement on four ranks."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import distributed as dist

from configs.calibration import Calibration
from configs.topology import CLUSTER, Link, Topology, load_topology
from configs.training import TrainingExperiment
from flows.command_line import main
from tasks.runtime.run_directory import RunDirectory
from tasks.steps.calibrating import calibrate_locally
from tasks.zero.calibrate import calibrate
from tasks.zero.calibrate_engine import engine_times
from tasks.zero.calibrate_file import Calibrated, topology_text, write_topology
from tasks.zero.calibrate_fit import (
    Beside,
    Line,
    MeasuredDevice,
    MeasuredLink,
    Sample,
    beside_computing,
    calibrated,
    fit_line,
    message_latency,
    num_sharers,
    usable_bytes,
    with_engine,
)
from tasks.zero.calibrate_links import LinkMeter, hops_of
from tasks.zero.calibrate_times import Clock
from tasks.zero.cost_model import predict
from tasks.zero.costs.links import Algorithm, Network
from tests.ranks import RankPool

LEVELS = [{"name": "package", "ranks": 2}, {"name": "node", "ranks": 4}]
BARE = Topology.model_validate({"name": "bare", "levels": LEVELS})
SIZES = [4.0**k for k in range(5, 13)]
DEVICE = MeasuredDevice(
    name="a core",
    memory_bytes=10**9,
    dtype="float32",
    rates=[(0.2, 0.01), (0.01, 0.002)],
    copy_bytes_per_s=5e9,
    quantize=Line(3e-4, 2e9),
    optimizer=Line(1e-4, 4e9),
)
TINY: dict[str, Any] = {"hidden": [32, 64], "tokens": 16, "least_s": 0.005, "device": "cpu"}

latencies = st.floats(1e-6, 1e-2)
bandwidths = st.floats(1e6, 1e11)


def samples_of(line: Line) -> list[Sample]:
    """Return exact times."""
    return [Sample(size, line.seconds(size)) for size in SIZES]


@given(latencies, bandwidths)
def test_a_fit_recovers_latency_and_bandwidth(latency_s: float, bytes_per_s: float) -> None:
    """Of exact times the fit is exact, as far as the sizes show both."""
    true = Line(latency_s, bytes_per_s)

    found = fit_line(samples_of(true))

    for size in SIZES:
        assert found.seconds(size) == pytest.approx(true.seconds(size), rel=1e-6)
    if SIZES[0] / bytes_per_s < latency_s < 100 * SIZES[-1] / bytes_per_s:
        assert found.latency_s == pytest.approx(latency_s, rel=1e-3)
        assert found.bytes_per_s == pytest.approx(bytes_per_s, rel=1e-3)


@given(latencies, bandwidths, st.lists(st.floats(0.95, 1.05), min_size=8, max_size=8))
def test_a_fit_bears_noise(latency_s: float, bytes_per_s: float, noise: list[float]) -> None:
    """With times that are off by 5 %, predicted times are off by 10 % at most."""
    true = Line(latency_s, bytes_per_s)
    noisy = [
        Sample(sample.num_bytes, sample.seconds * factor)
        for sample, factor in zip(samples_of(true), noise, strict=True)
    ]

    found = fit_line(noisy)

    assert found.latency_s >= 0
    for size in (SIZES[0], SIZES[-1]):
        assert found.seconds(size) == pytest.approx(true.seconds(size), rel=0.1)


def test_a_latency_is_never_negative() -> None:
    """A line goes through the origin at least, and rises at least; one size is refused."""
    steep = [Sample(1e3, 1e-6), Sample(1e6, 1.0)]

    assert fit_line(steep).latency_s == 0
    assert fit_line([Sample(1e3, 2.0), Sample(1e6, 2.0)]) == Line(2.0, 50e6)
    with pytest.raises(ValueError, match="2 samples of one size; measure two sizes at least"):
        fit_line([Sample(1e3, 1.0), Sample(1e3, 2.0)])


@given(st.sampled_from([1, 2, 4, 8]), st.floats(0.85, 1.15))
def test_who_shares_a_link_is_told_by_the_slow_down(sharers: int, noise: float) -> None:
    """Of eight ranks, as many share a link as each is slower when all are active."""
    alone, together = Line(0.0, 1e9), Line(0.0, 1e9 / sharers * noise)

    assert num_sharers(alone, together, 8) == sharers


def test_interference_is_computing_that_is_lost() -> None:
    """A second of moving that costs half a second is 0.5; beyond 1 the link itself is slower."""
    line = Line(1e-3, 1e9)

    def found(factor: float) -> tuple[Line, float]:
        small, large = (
            (size, Beside(line.seconds(size), factor * line.seconds(size))) for size in (1e4, 1e7)
        )
        return beside_computing(line, small, large)

    assert Beside(work_s=1.0, lost_s=0.5).share == 0.5
    assert Beside(work_s=1.0, lost_s=-0.1).share == 0
    same, share = found(0.5)
    assert share == 0.5
    assert same.latency_s == pytest.approx(1e-3)
    assert same.bytes_per_s == pytest.approx(1e9)
    slower, share = found(2.0)
    assert share == 1.0
    assert slower.latency_s == pytest.approx(2e-3)
    assert slower.bytes_per_s == pytest.approx(5e8)


def test_interference_below_a_fiftieth_is_noise() -> None:
    """What is less than 2 % cannot be told from none; what is more counts as it is."""
    assert Beside(work_s=1.0, lost_s=0.019).share == 0
    assert Beside(work_s=1.0, lost_s=0.021).share == 0.021


def test_a_collective_of_several_messages_has_the_latency_of_each() -> None:
    """Seven messages of a ring are divided by seven; sent at once, by what they cost the device."""
    line = Line(7e-3, 1e9)

    def latency(interference: float, *, is_ring: bool) -> float:
        return message_latency(line, num_ranks=8, interference=interference, is_ring=is_ring)

    assert latency(0.0, is_ring=True) == pytest.approx(1e-3)
    assert latency(1.0, is_ring=False) == pytest.approx(1e-3)
    assert latency(0.0, is_ring=False) == pytest.approx(7e-3)


def test_a_gpu_has_a_reserve() -> None:
    """Of 64 GiB, 64 GB are for a training: 4.7 GB are left for what is not predicted."""
    assert usable_bytes(64 * 2**30) == 64 * 10**9


@pytest.mark.parametrize("num_ranks", [2, 8])
def test_a_measured_exchange_is_priced_as_it_was_measured(num_ranks: int) -> None:
    """Where a gather and an exchange of a few bytes took the same, both are priced so: rings too.

    A latency of one message, fitted to collectives of n - 1, and charged once would be too little.
    """
    took = Line(70e-6, 1e9)
    level = {"name": "node", "ranks": num_ranks}
    bare = Topology.model_validate({"name": "t", "levels": [level]})
    for interference, algorithm in ((0.0, "ring"), (0.0, "direct"), (1.0, "direct")):
        latency_s = message_latency(
            took,
            num_ranks=num_ranks,
            interference=interference,
            is_ring=algorithm == "ring",
        )
        link = MeasuredLink(Line(latency_s, took.bytes_per_s), 1, interference)
        topology = calibrated(bare, {"node": link}, DEVICE, algorithm=algorithm)

        ways: list[Algorithm | None] = [None, "exchange"]
        for how in ways:
            priced = Network(topology, num_ranks).hop(1, num_ranks, 0.0, how).seconds
            assert priced == pytest.approx(70e-6, rel=0.01), (algorithm, how)


@pytest.mark.parametrize(
    ("num_ranks", "expected"),
    [
        (1, []),
        (2, [("package", 1, 2)]),
        (4, [("package", 1, 2), ("node", 2, 4)]),
        (8, [("package", 1, 2), ("node", 2, 4), (CLUSTER, 4, 8)]),
    ],
)
def test_each_level_has_a_hop(num_ranks: int, expected: list[tuple[str, int, int]]) -> None:
    """What is measured of a level joins the ranks that the level before does not."""
    hops = hops_of(load_topology("mini"), num_ranks)

    assert [(hop.level, hop.inner, hop.outer) for hop in hops] == expected


def test_what_is_not_measured_stays() -> None:
    """Peak, power and links of other levels are the user's; a shared link has all its bandwidth.

    What numbers were fitted with before goes with them.
    """
    known = {"peak_tflops": {"float32": 0.1}, "power_w": 100.0, "name": "mine"}
    link = {"gb_per_s": 7.0}
    levels = [{**LEVELS[0], "link": link}, LEVELS[1]]
    raw = {"name": "t", "levels": levels, "device": known, "fitted_prefetch": 0}
    topology = Topology.model_validate(raw)
    links = {CLUSTER: MeasuredLink(Line(1e-4, 0.25e9), sharers=4, interference=0.1)}

    found = calibrated(topology, links, DEVICE, algorithm="direct")

    assert found.fitted_prefetch is None
    assert found.device.peak_tflops == {"float32": 0.1}
    assert (found.device.power_w, found.device.name) == (100.0, "mine")
    assert found.link("package") == Link(gb_per_s=7.0)
    assert found.network == Link(
        gb_per_s=1.0, shared_by=4, latency_us=100.0, interference=0.1, algorithm="direct"
    )
    assert [rate.gflops for rate in found.device.rates["float32"]] == [0.01, 0.2]
    assert (found.device.quantize_gb_per_s, found.device.quantize_us) == (2.0, 300.0)
    assert (found.device.optimizer_gb_per_s, found.device.optimizer_us) == (4.0, 100.0)
    engine = with_engine(found, visit_s=5e-5, collective_s=2e-4).device
    assert (engine.visit_us, engine.collective_us) == (50.0, 200.0)


def measured(topology: Topology) -> Calibrated:
    """Return a calibration of made-up numbers."""
    links = {
        level: MeasuredLink(Line(1.23456e-4, 1.23456e9), 1, 0.987654)
        for level in topology.level_names()
    }
    return Calibrated(
        topology=calibrated(topology, links, DEVICE, algorithm="direct"),
        host="host (Linux)",
        device="a core",
        dtype="float32",
        began="2026-11-22 12:00 UTC",
        seconds=12.3,
    )


def test_the_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    """The topology file holds what was measured, to the last digit, and the model can use it."""
    found = measured(BARE)
    calibration = Calibration(topology=BARE, ranks=8)
    path = tmp_path / "measured.yaml"

    text = topology_text(found, calibration, name="measured", command="watershed calibrate bare")
    write_topology(path, text, force=False)

    assert load_topology(str(path)) == found.topology.model_copy(update={"name": "measured"})
    assert "# Measured by: watershed calibrate bare\n# 2026-11-22 12:00 UTC, in 12 s" in text
    experiment = {"kind": "training", "ranks": 8, "topology": str(path), "partition": "zero_topo"}
    assert predict(TrainingExperiment.model_validate(experiment)).step_s > 0


def test_a_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    """Without force an existing file stays as it is."""
    path = tmp_path / "machine.yaml"
    path.write_text("old")

    with pytest.raises(FileExistsError, match=r"machine.yaml exists; .* --force"):
        write_topology(path, "new", force=False)
    assert path.read_text() == "old"
    write_topology(path, "new", force=True)
    assert path.read_text() == "new"
    assert [one.name for one in tmp_path.iterdir()] == ["machine.yaml"]


@pytest.mark.parametrize(
    ("num_ranks", "message"),
    [
        (6, "6 ranks do not fill nodes of 4 (bare); use 4 or 8"),
        (3, "3 ranks fill no level of bare; use 1, 2, 4, or whole nodes"),
    ],
)
def test_ranks_fill_nodes(num_ranks: int, message: str) -> None:
    """A level that is not full cannot be measured."""
    with pytest.raises(ValidationError) as error:
        Calibration(topology=BARE, ranks=num_ranks)

    assert message in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["mini", "--ranks", "6"], 2, "calibrate: ranks: 6 ranks do not fill nodes of 4 (mini)"),
        (
            ["mini", "--ranks", "0"],
            2,
            "calibrate: ranks: 0 is not allowed; use a whole number from 1",
        ),
        (["mini", "--ranks", "1000000"], 2, "would measure their turns; use"),
        (["mini", "--launcher", "list.yaml"], 2, "list.yaml: holds no mapping of keys to values"),
        (["nowhere"], 2, "'nowhere' is no topology; use"),
        (["mini", "--hidden", "wide"], 2, "write numbers with commas"),
        (["mini", "--launcher", "none.yaml"], 2, "none.yaml: cannot be read"),
        (["mini", "--output", "here.yaml"], 2, "here.yaml exists; take another name"),
        (["mini", "--output", "gone/there.yaml"], 1, "gone/there.yaml: cannot be written"),
    ],
)
def test_the_command_refuses_before_it_measures(
    arguments: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What cannot become a file is refused at once, in words."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.yaml").write_text("mine")
    (tmp_path / "list.yaml").write_text("launcher: [1]")

    assert main(["calibrate", *arguments]) == code
    assert words in capsys.readouterr().err
    assert (tmp_path / "here.yaml").read_text() == "mine"


@pytest.mark.slow
def test_four_ranks_measure_a_machine(tmp_path: Path) -> None:
    """The job measures both levels of a node and the device; nothing but its files is left."""
    calibration = Calibration.model_validate({"topology": BARE, "ranks": 4, **TINY})

    found = calibrate_locally(calibration, tmp_path)

    topology = found.topology
    for level in ("package", "node"):
        link = topology.link(level)
        assert link is not None
        assert 1e-4 < link.gb_per_s < 1e3
        assert link.algorithm == "direct"
    assert topology.network is None
    rates = topology.device.rates["float32"]
    assert len(rates) == 2
    assert all(rate.tflops > 0 for rate in rates)
    assert topology.device.memory_bytes is not None
    experiment = {"kind": "training", "ranks": 4, "topology": topology, "partition": "zero3"}
    assert predict(TrainingExperiment.model_validate(experiment)).step_s > 0


def test_one_rank_has_no_links(ranks: Any) -> None:
    """A single device is measured without anything to send."""
    (found,) = ranks(1).run(measure_alone)

    assert found == (None, None, 2)


def measure_alone(rank: int, num_ranks: int) -> tuple[object, object, int]:
    """Measure on one rank."""
    del rank
    calibration = Calibration.model_validate({"topology": BARE, "ranks": num_ranks, **TINY})
    topology = calibrate(calibration, torch.device("cpu")).topology
    return topology.link("node"), topology.network, len(topology.device.rates["float32"])


def test_a_time_ends_when_the_last_rank_is_done(ranks: Any) -> None:
    """Of ranks of which one takes longer, all are told its time, though it is silent or not."""
    found = ranks(2).run(measure_sleeps)

    assert found[0] == found[1]
    alone, both, beside = found[0]
    # Of rank 0, which sleeps for 2 ms, while rank 1 is silent; on a busy machine it is late.
    assert 0.002 < alone < 0.04
    assert both > 0.04
    assert beside > 0.008


def measure_sleeps(rank: int, num_ranks: int) -> tuple[float, float, float]:
    """Return the time of rank 0 alone, of both, and of both beside computing.

    Rank 0 takes 2 ms; rank 1 takes 40 ms, and 8 ms of what is done beside computing.
    """
    del num_ranks
    clock = Clock(torch.device("cpu"), 0.01)

    def sleep() -> None:
        time.sleep(0.002 if rank == 0 else 0.04)

    def sleep_less() -> None:
        time.sleep(0.002 if rank == 0 else 0.008)

    return (
        min(clock.mean_s(sleep, takes_part=rank == 0) for _ in range(3)),
        clock.mean_s(sleep),
        clock.beside(lambda: [sleep_less], lambda: time.sleep(0.001)).work_s,
    )


def test_work_of_crowded_ranks_counts_by_its_processor_time(ranks: Any) -> None:
    """What a second of it takes on the wall is seen; then what the wall says does not count."""
    ((is_crowded, crowding, own_s),) = ranks(1).run(measure_crowded)

    assert is_crowded
    assert crowding > 3  # 8 ms on the wall for 2 ms
    assert own_s == pytest.approx(crowding * 0.002, rel=0.5)


def measure_crowded(rank: int, num_ranks: int) -> tuple[bool, float, float]:
    """Return what a clock makes of work that waits for its core for 6 of 8 ms."""
    del rank, num_ranks
    clock = Clock(torch.device("cpu"), 0.01)

    def burn() -> None:
        end_s = time.process_time() + 0.002
        while time.process_time() < end_s:
            pass

    def share() -> None:
        burn()
        time.sleep(0.006)

    clock.work_s(share)
    return clock.is_crowded, clock.crowding, clock.own_s(burn)


@pytest.mark.parametrize(("tflops", "is_left"), [(1e6, True), (1e-6, False)])
def test_the_engine_costs_what_the_model_does_not_price(
    ranks: Any, tflops: float, *, is_left: bool
) -> None:
    """All of a micro-batch where products take no time; nothing where they are priced too high."""
    ((seconds, visit, collective),) = ranks(1).run(measure_engine, tflops)

    assert collective == 0  # a rank alone has none
    assert (visit > 0) is is_left
    if is_left:  # 7 visits of 2 blocks, embedding and head; a micro-batch takes 100 us at least
        assert 1e-5 < visit < seconds


@pytest.mark.parametrize(
    ("gb_per_s", "is_left"), [(1e6, True), pytest.param(1e-6, False, marks=pytest.mark.slow)]
)
def test_a_collective_costs_what_the_model_does_not_price(
    ranks: Any, gb_per_s: float, *, is_left: bool
) -> None:
    """All that sharded states cost where links take no time; nothing where they take too long."""
    collectives = []
    for _ in range(3 if is_left else 1):  # a difference of times, which other programs may hide
        found = ranks(2).run(measure_engine, 1e6, gb_per_s)
        assert found[0][1:] == found[1][1:]
        seconds, _, collective = found[0]
        assert collective < seconds
        collectives.append(collective)
        if collective > 0:
            break

    assert any(collective > 0 for collective in collectives) is is_left


def measure_engine(
    rank: int, num_ranks: int, tflops: float, gb_per_s: float = 1.0
) -> tuple[float, float, float]:
    """Return how long the measurement took, and what a visit and a collective cost, s."""
    del rank
    package = {**LEVELS[0], "link": {"gb_per_s": gb_per_s, "algorithm": "direct"}}
    topology = Topology.model_validate(
        BARE.model_dump()
        | {
            "levels": [package, LEVELS[1]],
            "device": {
                "memory_gb_per_s": 1e6,
                "rates": {"float32": [{"gflops": 0.01, "tflops": tflops}]},
            },
        }
    )
    clock = Clock(torch.device("cpu"), 0.01)
    began = time.perf_counter()
    engine = engine_times(
        topology,
        torch.device("cpu"),
        clock,
        ranks=num_ranks,
        dtype="float32",
        width=32,
        tokens=16,
        timeout_s=60,
    )
    return time.perf_counter() - began, engine.visit_s, engine.collective_s


@pytest.fixture
def own_ranks() -> Iterator[RankPool]:
    """Return two ranks that no other test goes on with."""
    pool = RankPool(2, give_up_s=20)
    yield pool
    pool.close()


@pytest.mark.parametrize("part", ["links", "engine"])
def test_a_rank_that_fails_can_say_so_at_once(own_ranks: RankPool, part: str) -> None:
    """It gives no process group back: NCCL would have it wait for all others to do the same."""
    assert own_ranks.run(fail_while_measuring, part) == [0, 0]


def fail_while_measuring(rank: int, num_ranks: int, part: str) -> int:
    """Return how many process groups are given back where a measurement fails."""
    del rank
    given_back: list[object] = []
    vars(dist)["destroy_process_group"] = given_back.append  # waits for others, with NCCL
    cpu, fields = torch.device("cpu"), {"topology": BARE, "ranks": num_ranks, **TINY}
    clock = ClockWithoutMemory(cpu, 0.01)
    sizes = {"ranks": num_ranks, "width": 32, "tokens": 16, "timeout_s": 60}
    parts: dict[str, Callable[[], object]] = {
        "links": lambda: calibrate(Calibration.model_validate(fields), cpu, lack_memory),
        "engine": lambda: engine_times(BARE, cpu, clock, dtype="float32", **sizes),
    }
    with pytest.raises(MemoryError):
        parts[part]()
    return len(given_back)


def lack_memory(line: str) -> None:
    """Fail.

    Raises:
        MemoryError: Always.
    """
    raise MemoryError(line)


class ClockWithoutMemory(Clock):
    """Fails when it is to time a train step."""

    def own_s(self, work: Callable[[], object]) -> float:
        """See ``Clock``.

        Raises:
            MemoryError: Always.
        """
        raise MemoryError(work)


def test_the_groups_of_links_wait_no_longer_than_was_asked(own_ranks: RankPool) -> None:
    """Their own limit would be half an hour, for a rank that is silent."""
    asked = timedelta(seconds=47)

    assert own_ranks.run(limits_of_links, asked) == [{asked}] * 2


def limits_of_links(rank: int, num_ranks: int, timeout: timedelta) -> set[timedelta]:
    """Return how long the process groups wait that links are measured with."""
    del rank, num_ranks
    cpu = torch.device("cpu")
    meter = LinkMeter(BARE, cpu, Clock(cpu, 0.01), timeout=timeout)
    groups = [route.group for routes in meter._routes for route in routes._routes.values()]
    limits = {group._get_backend(cpu).options._timeout for group in groups}
    meter.close()
    return limits


@pytest.mark.parametrize(
    "signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interrupt_leaves_nothing(tmp_path: Path, signum: signal.Signals) -> None:
    """Ctrl-C, or a time-out, ends the command with 130, its processes, and temporary files."""
    (tmp_path / "tmp").mkdir()
    argv = [sys.executable, "-m", "flows.command_line", "calibrate", "mini", "--ranks", "2"]
    command = subprocess.Popen(
        [*argv, "--device", "cpu", "--output", str(tmp_path / "out.yaml")],
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp")},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline_s = time.monotonic() + 30
    while not list((tmp_path / "tmp").glob("*/attempts/1/rendezvous.json")):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    run = RunDirectory(next((tmp_path / "tmp").iterdir()))

    command.send_signal(signum)
    _, words = command.communicate(timeout=30)

    assert command.returncode == 130
    assert "stopped; nothing was written" in words
    assert not run.path.exists()
    assert not (tmp_path / "out.yaml").exists()
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(run.path) in _words(p)]


def _words(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
