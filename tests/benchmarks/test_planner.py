"""How long a plan takes, from 384 to 78,848 devices: less than a second for 10,000."""

import time
from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from configs.topology import load_topology
from configs.training import TrainingExperiment
from tasks.zero.planner import plan
from tasks.zero.planning.plans import Plan, Wish

_REPEATS = 3
_WANTED = 10_000
_MOST_S = 1.0
_OTHERS = ["aurora", "dgx-a100", "dgx-h100", "frontier-calibrated", "summit"]
_SIZES = [384, _WANTED, 10_080, 78_848]


@pytest.mark.parametrize(
    ("topology", "devices"),
    [
        *((name, devices) for name in ("frontier", "perlmutter") for devices in _SIZES),
        *((name, devices) for name in _OTHERS for devices in (_WANTED, 10_080)),
    ],
)
def test_a_plan_for_ten_thousand_devices_takes_less_than_a_second(
    topology: str, devices: int, report: Callable[[str], None], benchmark: BenchmarkFixture
) -> None:
    """Print the fastest of three times; 10,080 has far more divisors than 10,000.

    Nodes are full: 10,000 means 9,996 where they have 6 or 12 devices.
    """
    per_node = load_topology(topology).ranks_per_node
    ranks = devices // per_node * per_node
    base = TrainingExperiment.model_validate(
        {
            "kind": "training",
            "model": "gpt-20b",
            "data": "arithmetic",
            "sequence": 2048,
            "ranks": ranks,
            "topology": topology,
            "dtype": "bfloat16",
        }
    )
    wish = Wish(base, ranks * 2048 * 5, base.topology.device.memory_bytes or 64 * 10**9)
    computed = []

    def work() -> Plan:
        begin = time.process_time()
        found = plan(wish)
        computed.append(time.process_time() - begin)
        return found

    found = benchmark.pedantic(work, rounds=_REPEATS)  # type: ignore[no-untyped-call]

    report(
        f"plan {topology} {ranks:>6} devices: {min(computed):.2f} s of CPU time, "
        f"{found.num_partitions:,} partitions, {found.num_candidates:,} candidates, "
        f"{found.num_timed:,} timed, possible gain {100 * found.possible_gain:.2g} %"
    )
    if devices == _WANTED:
        assert min(computed) < _MOST_S
