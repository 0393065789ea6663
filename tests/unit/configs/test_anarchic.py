"""Real workers in the configuration: where they are, and what cannot be asked of them."""

from typing import Any

import pytest

from configs.arrivals import Slurm
from configs.faults import faults_in
from configs.federated import FederatedExperiment
from configs.stability import step_warnings
from configs.study import Study

ARRIVALS = {
    "kind": "slurm",
    "partitions": [{"partition": "batch", "workers": 3}, {"partition": "idle", "workers": 2}],
}
EXPERIMENT: dict[str, Any] = {
    "workers": 5,
    "data": "digits",
    "algorithm": {"name": "afa_cd", "collect": 2},
    "arrivals": ARRIVALS,
}


def _faults(**changes: object) -> list[str]:
    return [str(fault) for fault in faults_in(FederatedExperiment, EXPERIMENT | changes)]


def test_workers_are_dealt_to_partitions_in_order() -> None:
    """The first partition has the first ids; an id beyond the last one has no partition."""
    arrivals = Slurm.model_validate(ARRIVALS)

    partitions = [arrivals.partition_of(worker) for worker in range(5)]

    assert partitions == ["batch", "batch", "batch", "idle", "idle"]
    with pytest.raises(IndexError, match="no partition has worker 5; ids run from 0 to 4"):
        arrivals.partition_of(5)


def test_a_valid_experiment_has_no_faults() -> None:
    """Workers that never return may be among them, and a bound of the delay may be set."""
    assert _faults() == []
    assert _faults(arrivals=ARRIVALS | {"never_return": [4], "max_delay": 3}) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"workers": 6},
            "arrivals.partitions: they have 5 workers in all, but workers=6; give every worker one",
        ),
        (
            {"arrivals": ARRIVALS | {"partitions": [{"partition": "a", "workers": 3}] * 2}},
            "arrivals.partitions: a stands twice; add up its workers",
        ),
        (
            {"arrivals": ARRIVALS | {"partitions": []}},
            "arrivals.partitions: [] is not allowed; use a list of",
        ),
        ({"arrivals": "slurm"}, "arrivals.partitions: missing; it has no default"),
        (
            {"worker": "scaffold"},
            "worker.optimizer: scaffold needs control variates, which real workers do not exchange",
        ),
        (
            {"local_steps": {"kind": "constant", "steps": 7}},
            "local_steps: real workers do as many steps as arrivals.budget_s and arrivals.max_",
        ),
        (
            {"arrivals": ARRIVALS | {"budget_s": 0}},
            "arrivals.budget_s: 0 is not allowed; use a number above 0",
        ),
    ],
)
def test_what_real_workers_cannot_do_is_a_fault(changes: dict[str, Any], fault: str) -> None:
    """Each fault stands at its field, and says what to do."""
    found = _faults(**changes)

    assert any(text.startswith(fault) for text in found), found


@pytest.mark.parametrize("grid", [{}, {"arrivals": [ARRIVALS, "event_driven"]}])
def test_real_workers_need_a_cluster(grid: dict[str, Any]) -> None:
    """A study with such arrivals, at one point at least, needs the launcher that has them."""
    base = EXPERIMENT | ({"arrivals": "uniform"} if grid else {})
    raw = {"name": "s", "experiment": base, "grid": grid}

    faults = [str(fault) for fault in faults_in(Study, raw)]

    assert faults == [
        "launcher: arrivals slurm are jobs of a cluster, but the launcher is local; use launcher: "
        "{kind: slurm, ...}, or simulate with arrivals event_driven"
    ]
    assert faults_in(Study, raw | {"launcher": "slurm"}) == []


def test_of_steps_only_those_of_the_workers_are_warned_of() -> None:
    """How many local steps real workers do is not known, but whether each of them contracts is."""
    raw = EXPERIMENT | {"algorithm": {"name": "afa_cd", "collect": 2, "server_lr": 1e6}}
    stable = FederatedExperiment.model_validate(raw | {"worker": {"lr": 0.1}})
    unstable = FederatedExperiment.model_validate(raw | {"worker": {"lr": 0.3}})

    # The limit is 2 / L.
    assert step_warnings(stable, 10.0) == []
    (warning,) = step_warnings(unstable, 10.0)
    assert "worker.lr=0.3" in warning
