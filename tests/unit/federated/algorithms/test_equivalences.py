"""Where algorithms must agree with each other or with plain SGD (P1 to P3, P7 of the test battery).

Workers have f_i(x) = |x - c_i|^2 / 2 and run K exact local steps.
"""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from configs.algorithms import (
    AfaCd,
    AfaCs,
    Algorithm,
    Area,
    Ca2fl,
    FedAsync,
    FedAvg,
    FedBuff,
    Mifa,
    RescaledAsgd,
    WorkerSgd,
)
from tasks.federated.algorithms import build
from tasks.federated.algorithms.interface import Returns

LOCAL_LR = 0.1
CENTRES = torch.tensor([[3.0, -1.0], [0.5, 8.0], [-4.0, 2.0], [1.0, 1.0]], dtype=torch.float64)


def train(start: Tensor, centres: Tensor, num_steps: Tensor) -> Tensor:
    """Return each worker's normalised change after its local steps."""
    local_models = start.clone()
    for step in range(int(num_steps.max())):
        moving = (step < num_steps).to(start.dtype)[:, None]
        local_models -= LOCAL_LR * moving * (local_models - centres)
    return (local_models - start) / num_steps.to(start.dtype)[:, None]


def run(
    config: Algorithm,
    *,
    centres: Tensor = CENTRES,
    num_steps: Sequence[int],
    delays: Sequence[int] = (0,),
    num_rounds: int = 30,
) -> Tensor:
    """Run rounds in which every worker returns, and return all models, shape (T + 1, P).

    In round t worker i's delay is ``delays[(t + i) % len(delays)]``, or t where that is less.
    """
    num_workers = len(centres)
    algorithm = build(config, num_workers, WorkerSgd())
    state = algorithm.init(torch.tensor([5.0, -7.0], dtype=torch.float64))
    steps = torch.tensor(num_steps)
    models = [state.model]
    for version in range(num_rounds):
        delay = [min(version, delays[(version + i) % len(delays)]) for i in range(num_workers)]
        start = torch.stack([models[version - d] for d in delay])
        returns = Returns(
            worker=torch.arange(num_workers),
            start=start,
            delta=train(start, centres, steps),
            num_steps=steps,
            delay=torch.tensor(delay),
            returned_at_s=torch.full((num_workers,), version + 1.0, dtype=torch.float64),
        )
        state = algorithm.aggregate(state, returns)
        models.append(state.model)
    return torch.stack(models)


P1: list[Algorithm] = [
    AfaCd(collect=1, server_lr=0.5),
    AfaCs(collect=1, server_lr=0.5),
    FedAvg(collect=1, server_lr=0.5),
    FedAsync(server_lr=0.5),
    FedBuff(collect=1, server_lr=0.5),
    Mifa(collect=1, server_lr=0.5),
    Ca2fl(collect=1, server_lr=0.5),
    Area(collect=1, server_lr=0.5),
    RescaledAsgd(collect=1, server_lr=0.5),
]


@pytest.mark.parametrize("config", P1, ids=lambda c: c.name)
def test_p1_one_worker_and_one_step_is_plain_sgd(config: Algorithm) -> None:
    """With M = K = 1 and no delay every algorithm under server SGD is SGD with a = eta * eta_L."""
    centre = CENTRES[:1]
    x = torch.tensor([5.0, -7.0], dtype=torch.float64)
    expected = [x]
    for _ in range(30):
        x = x - 0.5 * LOCAL_LR * (x - centre[0])
        expected.append(x)

    models = run(config, centres=centre, num_steps=[1])

    # Round-off of 30 updates of numbers below 10; a is 0.05.
    assert torch.allclose(models, torch.stack(expected), rtol=0, atol=1e-14)


@pytest.mark.parametrize("server", ["sgd", "momentum"])
def test_p2_normalised_and_whole_changes_differ_by_k(server: str) -> None:
    """AFA-CD(eta = K * eta_g) is FedAvg(eta_g) when all workers run K steps."""
    afa = AfaCd.model_validate({"server_lr": 4 * 0.25, "server": server})
    whole = FedAvg.model_validate({"server_lr": 0.25, "server": server})

    models = run(afa, num_steps=[4] * 4)

    # K is a power of two, so the two scale without rounding: nothing differs at all.
    assert torch.equal(models, run(whole, num_steps=[4] * 4))


@pytest.mark.parametrize("slots", ["zeros", "wait", "seen"])
def test_p3_cs_is_cd_when_everyone_returns(slots: str) -> None:
    """With m = M, AFA-CS has no older return to remember, whatever the delays and steps."""
    config = AfaCs.model_validate({"slots": slots, "server_lr": 0.4})
    cd = run(AfaCd(server_lr=0.4), num_steps=[1, 5, 2, 3], delays=[0, 3, 1, 7, 2])

    cs = run(config, num_steps=[1, 5, 2, 3], delays=[0, 3, 1, 7, 2])

    # Round-off of 30 updates of numbers below 10.
    assert torch.allclose(cs, cd, rtol=0, atol=1e-13)


SYNCHRONOUS: list[Algorithm] = [
    FedBuff(),
    AfaCd(normalise=False),
    AfaCs(normalise=False),
    Mifa(),
    Ca2fl(),
    Area(),
]


@pytest.mark.parametrize("config", SYNCHRONOUS, ids=lambda c: c.name)
def test_synchronous_rounds_of_all_are_fedavg(config: Algorithm) -> None:
    """Without delays, with everyone and with whole changes, nothing is left to differ in."""
    models = run(config, num_steps=[1, 5, 2, 3])

    assert torch.allclose(models, run(FedAvg(), num_steps=[1, 5, 2, 3]), rtol=0, atol=1e-13)


def test_equal_gaps_leave_rescaled_asgd_unweighted() -> None:
    """Workers that take the same time weigh the same: Rescaled ASGD is AFA-CD."""
    cd = run(AfaCd(), num_steps=[1, 5, 2, 3], delays=[0, 3, 1])

    models = run(RescaledAsgd(), num_steps=[1, 5, 2, 3], delays=[0, 3, 1])

    assert torch.allclose(models, cd, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("normalise", "expected"),
    [(True, 48.87994), (False, 90.53191)],
    ids=["normalised", "whole changes"],
)
@pytest.mark.parametrize("name", ["afa_cd", "afa_cs"])
def test_p7_fixed_point_with_unequal_steps(name: str, expected: float, *, normalise: bool) -> None:
    """Whole changes are drawn to the worker with more steps; normalised ones hardly (truth 50).

    c = (0, 100), K = (1, 10), h = 1: x* = sum w_i c_i / sum w_i with w_i = 1 - (1 - eta_L)^K_i,
    divided by K_i if normalised; the figures are for eta_L = 0.01.
    """
    config = {"afa_cd": AfaCd, "afa_cs": AfaCs}[name](normalise=normalise, server_lr=10)
    centres = torch.tensor([[0.0], [100.0]], dtype=torch.float64)
    algorithm = build(config, 2, WorkerSgd())
    state = algorithm.init(torch.tensor([20.0], dtype=torch.float64))
    steps = torch.tensor([1, 10])
    pull = 1 - 0.99 ** steps.double()[:, None]

    for version in range(600):
        start = state.model.expand(2, -1)
        returns = Returns(
            worker=torch.arange(2),
            start=start,
            delta=pull * (centres - start) / steps[:, None],
            num_steps=steps,
            delay=torch.zeros(2, dtype=torch.int64),
            returned_at_s=torch.full((2,), float(version), dtype=torch.float64),
        )
        state = algorithm.aggregate(state, returns)

    # The figures have five decimals.
    assert state.model.item() == pytest.approx(expected, abs=5e-6)
