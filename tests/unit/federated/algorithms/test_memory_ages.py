"""The ages of remembered returns: right by hand, and no bit of the model is another for them."""

from collections.abc import Callable

import pytest
import torch

from configs.algorithms import AfaCd, AfaCs, Algorithm, Area, Ca2fl, Mifa, WorkerSgd
from configs.federated import FederatedExperiment
from tasks.federated.algorithms import build
from tasks.federated.algorithms.afa_cs import afa_cs
from tasks.federated.algorithms.interface import Returns
from tasks.federated.algorithms.memory_ages import age_metrics
from tasks.federated.checkpoint import Checkpoint
from tasks.federated.simulation import assemble
from tasks.federated.simulator import Simulator

MakeReturns = Callable[..., Returns]


@pytest.mark.parametrize("config", [AfaCs(), Mifa(), Ca2fl(), Area()], ids=lambda one: one.name)
def test_ages_equal_a_hand_calculation(config: Algorithm, make_returns: MakeReturns) -> None:
    """Three workers; who has not returned counts from round 0, of two returns the newest counts."""
    algorithm = build(config, 3, WorkerSgd())
    state = algorithm.init(torch.zeros(1, dtype=torch.float64))
    assert age_metrics(state) == {}

    found = []
    for worker, delay in (([0], [0]), ([1, 0], [0, 1]), ([1, 1], [2, 1]), ([0], [0])):
        state = algorithm.aggregate(state, make_returns(worker, [[0.1]] * len(worker), delay=delay))
        found.append(age_metrics(state))

    # Versions pulled by workers 0, 1, 2 after each update; ages are counted at that update.
    #   (0, -, -) at 0;  (0, 1, -) at 1;  (0, 1, -) at 2;  (3, 1, -) at 3
    ages = [(0, 0, 0), (1, 0, 1), (2, 1, 2), (0, 2, 3)]
    assert found == [
        {"memory/age_mean": pytest.approx(sum(one) / 3), "memory/age_max": max(one)} for one in ages
    ]


def test_an_algorithm_without_a_memory_has_no_ages(make_returns: MakeReturns) -> None:
    """Nothing is said of what is not kept."""
    algorithm = build(AfaCd(), 3, WorkerSgd())
    state = algorithm.init(torch.zeros(1, dtype=torch.float64))

    assert age_metrics(algorithm.aggregate(state, make_returns([0], [[0.1]]))) == {}


def test_the_model_has_the_same_bits(make_returns: MakeReturns) -> None:
    """Keeping versions beside a memory changes nothing in it."""
    generator = torch.Generator().manual_seed(0)
    config = AfaCs(server_lr=0.3)
    plain, with_versions = afa_cs(config, 5), build(config, 5, WorkerSgd())
    states = [one.init(torch.ones(4)) for one in (plain, with_versions)]

    for _ in range(20):
        worker = torch.randint(5, (3,), generator=generator).tolist()
        rows = torch.randn(3, 4, generator=generator).tolist()
        returns = make_returns(worker, rows, dtype=torch.float32)
        states = [
            one.aggregate(state, returns)
            for one, state in zip((plain, with_versions), states, strict=True)
        ]

    assert torch.equal(states[0].model, states[1].model)
    kept = set(states[1].memory) - set(states[0].memory)
    assert kept == {"slot_pulled"}
    assert states[1].memory["slot_pulled"].dtype == torch.int64


def _simulator() -> Simulator:
    raw = {
        "workers": 6,
        "model": {"name": "quadratic", "centres": [0.0] * 6, "start": 1.0},
        "algorithm": {"name": "afa_cs", "collect": 2},
        "arrivals": {"kind": "uniform", "max_delay": 3},
    }
    return assemble(FederatedExperiment.model_validate(raw)).engine


def test_ages_survive_a_checkpoint_and_its_lack_of_them() -> None:
    """A restored run has the same ages; a checkpoint of before there were any can be used."""
    whole = _simulator()
    for _ in range(12):
        whole.step()
    tensors, facts = whole.checkpoint()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    old = {name: tensor for name, tensor in tensors.items() if "slot_pulled" not in name}
    restored, upgraded = _simulator(), _simulator()

    restored.restore(Checkpoint(tensors, facts))
    upgraded.restore(Checkpoint(old, facts))

    assert age_metrics(restored.state) == age_metrics(whole.state)
    upgraded.step()
    restored.step()
    assert torch.equal(upgraded.state.model, restored.state.model)
    assert age_metrics(upgraded.state)["memory/age_max"] == 12
