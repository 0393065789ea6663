"""What the simulator itself does: refuses, counts, and keeps the models that can be pulled."""

import pytest
import torch

from configs.federated import FederatedExperiment
from tasks.federated.simulation import assemble
from tasks.federated.simulator import Simulator
from tasks.runtime.errors import JobError

OVERFLOWS = 1e9
"""A curvature with which 50 local steps of rate 0.1 leave the range of doubles."""


def build(curvatures: list[float], **settings: object) -> Simulator:
    """Return the simulator of a scalar quadratic problem with centres 1, 2, ...

    Workers do two local steps of rate 0.1, or 50 if they are to overflow.
    """
    raw: dict[str, object] = {
        "workers": len(curvatures),
        "dtype": "float64",
        "model": {
            "name": "quadratic",
            "centres": [float(i + 1) for i in range(len(curvatures))],
            "curvatures": curvatures,
        },
        "worker": {"optimizer": "sgd", "lr": 0.1},
        "local_steps": {
            "kind": "per_worker",
            "steps": [50 if curvature == OVERFLOWS else 2 for curvature in curvatures],
        },
    }
    return assemble(FederatedExperiment.model_validate(raw | settings)).engine


def kept_versions(simulator: Simulator, prefix: str = "models") -> set[int]:
    """The versions whose models (or control variates) a checkpoint would hold."""
    tensors, _ = simulator.checkpoint()
    return {int(name.split("/")[1]) for name in tensors if name.startswith(f"{prefix}/")}


def test_refused_returns_are_left_out_and_counted_by_worker() -> None:
    """The others' mean is taken as if the refused had not come; each worker is named once."""
    simulator = build(
        [1.0, OVERFLOWS, 1.0, OVERFLOWS],
        algorithm={"name": "afa_cd", "collect": 4},
        arrivals="synchronous",
    )

    for _ in range(3):
        simulator.step()

    # Two steps shrink the distance from a centre by 0.9^2; half of that is returned. The centres
    # of the workers that are left, 1 and 3, have the mean 2.
    expected = 2 * (1 - (1 - (1 - 0.81) / 2) ** 3)
    assert float(simulator.state.model[0]) == pytest.approx(expected, rel=1e-12)
    assert simulator.totals.refused == {"1": 3, "3": 3}
    assert sorted(simulator.totals.refusals()) == [
        "round 0: return of worker 1 refused, not finite",
        "round 0: return of worker 3 refused, not finite",
    ]
    assert simulator.totals.num_returns == 12
    assert simulator.totals.num_samples == 3 * (2 + 50 + 2 + 50)  # a quadratic has one sample


@pytest.mark.parametrize("algorithm", ["afa_cs", "ca2fl", "fadas"])
def test_a_round_in_which_all_are_refused_changes_only_the_version(algorithm: str) -> None:
    """Model and memory keep their bits; the next finite return goes on from them."""
    simulator = build(
        [1.0, OVERFLOWS],
        algorithm={"name": algorithm, "collect": 1},
        arrivals={"kind": "schedule", "order": [0, 1]},
    )
    simulator.step()
    before = simulator.state.clone()

    simulator.step()

    after = simulator.state.clone()
    assert after.version == before.version + 1
    assert torch.equal(after.model, before.model)
    assert after.memory.keys() == before.memory.keys()
    assert all(torch.equal(after.memory[name], before.memory[name]) for name in before.memory)
    simulator.step()
    assert not torch.equal(simulator.state.model, after.model)


def test_fifty_rounds_without_a_finite_return_end_the_training() -> None:
    """It stops with the reason and a way out, instead of burning hours."""
    simulator = build(
        [OVERFLOWS], algorithm={"name": "afa_cd", "collect": 1}, arrivals="synchronous"
    )
    for _ in range(49):
        simulator.step()

    with pytest.raises(JobError, match=r"no finite return in 50 rounds .* lower worker\.lr"):
        simulator.step()


def test_totals_equal_a_hand_calculation() -> None:
    """Workers in turn, two a round, K = 1, 2, 4, batches of 8, delay 2 once there are versions."""
    raw = {
        "workers": 3,
        "model": "logistic",
        "data": {"name": "digits", "partition": "iid"},
        "algorithm": {"name": "afa_cd", "collect": 2},
        "worker": {"optimizer": "sgd", "batch_size": 8},
        "local_steps": {"kind": "per_worker", "steps": [1, 2, 4]},
        "arrivals": {"kind": "schedule", "max_delay": 2, "delay": "constant"},
    }
    simulator = assemble(FederatedExperiment.model_validate(raw)).engine
    assert simulator.totals.since_line() == {}
    for _ in range(4):
        simulator.step()

    # Workers (0, 1), (2, 0), (1, 2), (0, 1) with delays 0, 1, 2, 2.
    first = simulator.totals.since_line()
    assert simulator.totals.num_samples == (3 + 5 + 6 + 3) * 8
    assert first == {"delay/mean": 10 / 8, "delay/max": 2, "local_steps/mean": 17 / 8}

    simulator.totals.start_line()
    assert simulator.totals.since_line() == {}
    simulator.step()

    # Workers (2, 0).
    assert simulator.totals.since_line() == {
        "delay/mean": 2,
        "delay/max": 2,
        "local_steps/mean": 5 / 2,
    }
    assert simulator.totals.num_samples == (3 + 5 + 6 + 3 + 5) * 8
    assert simulator.totals.num_dropped == 0


def test_the_largest_delay_is_that_of_any_return_since_the_last_line() -> None:
    """Workers that take 1 and 2.5 s, one return a round: the slow one's is the third of four."""
    simulator = build(
        [1.0, 1.0],
        algorithm={"name": "afa_cd", "collect": 1},
        arrivals="event_driven",
        service={"law": "constant", "mean_s": [1.0, 2.5]},
    )

    for _ in range(4):
        simulator.step()

    # At 1, 2, 2.5 and 3 s, of the versions 0, 1, 0 and 2: delays 0, 0, 2 and 1.
    since = simulator.totals.since_line()
    assert simulator.totals.virtual_s == 3.0
    assert (since["delay/mean"], since["delay/max"]) == (3 / 4, 2)


@pytest.mark.parametrize("max_delay", [0, 3])
def test_round_based_models_are_kept_for_the_maximum_delay(max_delay: int) -> None:
    """After each round just the versions that the next one may draw are kept."""
    simulator = build(
        [1.0] * 5,
        algorithm={"name": "afa_cd", "collect": 2},
        arrivals={"kind": "uniform", "max_delay": max_delay},
    )

    for version in range(1, 20):
        simulator.step()

        assert kept_versions(simulator) == set(range(max(0, version - max_delay), version + 1))


@pytest.mark.parametrize("optimizer", ["sgd", "scaffold"])
def test_event_driven_models_are_kept_while_a_worker_holds_them(optimizer: str) -> None:
    """Kept are the newest version and those that later returns turn out to have pulled."""
    simulator = build(
        [1.0] * 6,
        algorithm={"name": "afa_cd", "collect": 2},
        worker=optimizer,
        arrivals="event_driven",
        service={"law": "exponential", "mean_s": [1.0, 1.0, 1.0, 1.0, 1.0, 10.0]},
    )

    kept, kept_controls, pulled = [], [], []
    for _ in range(300):
        pulled.append(set(simulator.step().pulled.tolist()))
        kept.append(kept_versions(simulator))
        kept_controls.append(kept_versions(simulator, "controls"))

    # Whoever is under way in the first 100 rounds is back in the 200 after them.
    for done in range(100):
        version = done + 1
        later = set().union(*pulled[done + 1 :])
        assert kept[done] == {v for v in later if v <= version} | {version}
    assert kept_controls == (kept if optimizer == "scaffold" else [set()] * 300)
