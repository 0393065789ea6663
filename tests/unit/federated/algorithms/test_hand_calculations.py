"""Two rounds of each algorithm, calculated by hand, and two returns of one worker in a buffer.

The two rounds, for M = 4 workers and one parameter, x_0 = 10 (delays are free inputs of a server):

    round   worker  start   delta   K   whole change    delay   returned at
    0       0       10      2       3   6               0       1 s
            1       10      4       1   4               0       3 s
    1       1       10      -1      2   -2              3       4 s
            2       18      3       2   6               0       7 s
"""

import math
from collections.abc import Callable

import pytest
import torch

from configs.algorithms import (
    AfaCd,
    AfaCs,
    Algorithm,
    Area,
    Ca2fl,
    Fadas,
    FadasAmsgrad,
    FedAsync,
    FedAvg,
    FedBuff,
    Mifa,
    RescaledAsgd,
    WorkerSgd,
)
from tasks.federated.algorithms import build
from tasks.federated.algorithms.interface import Returns

CASES: dict[str, tuple[Algorithm, float, float]] = {
    # mean of (2, 4); then of (-1, 3)
    "afa_cd": (AfaCd(), 13, 14),
    # the same at half the rate
    "afa_cd, eta 0.5": (AfaCd(server_lr=0.5), 11.5, 12),
    # mean of (6, 4); then of (-2, 6)
    "afa_cd, not normalised": (AfaCd(normalise=False), 15, 17),
    # mean of the slots (2, 4, 0, 0); then of (2, -1, 3, 0)
    "afa_cs, zeros": (AfaCs(), 11.5, 12.5),
    # mean of the slots (2, 4); then of (2, -1, 3)
    "afa_cs, seen": (AfaCs(slots="seen"), 13, 13 + 4 / 3),
    # worker 3 has not returned
    "afa_cs, wait": (AfaCs(slots="wait"), 10, 10),
    # mean of the slots (6, 4, 0, 0); then of (6, -2, 6, 0)
    "afa_cs, not normalised": (AfaCs(normalise=False), 12.5, 15),
    # mean of (6, 4); then of (-2, 6)
    "fedavg": (FedAvg(), 15, 17),
    # 10 -> half way to 16, half way to 14: 13.5; then 1/8 of the way to 8, half way to 24
    "fedasync, polynomial": (FedAsync(server_lr=0.5, exponent=1), 13.5, 18.40625),
    # ...; then half way to 8, half way to 24
    "fedasync, constant": (FedAsync(server_lr=0.5, staleness="constant"), 13.5, 17.375),
    # ...; then delay 3 is 2 beyond the knee: 0.5 / (1 + 2 * 2) = 0.1 of the way to 8, half to 24
    "fedasync, hinge": (
        FedAsync(server_lr=0.5, staleness="hinge", exponent=2, knee=1),
        13.5,
        (12.95 + 24) / 2,
    ),
    # ...; then delay 3 is at the knee: not damped
    "fedasync, hinge, at the knee": (
        FedAsync(server_lr=0.5, staleness="hinge", exponent=2, knee=3),
        13.5,
        17.375,
    ),
    # mean of (6, 4); then of (-2 / sqrt(4), 6)
    "fedbuff": (FedBuff(), 15, 17.5),
    # mean of (6, 4); then of (-2, 6)
    "fedbuff, not damped": (FedBuff(damp_stale=False), 15, 17),
    # d = 5: m = 2.5, v = v^ = 6.25, rate 0.5; then d = 2: m = 2.25, v = 5.6875 < v^, rate 1/3
    "fadas": (
        Fadas(
            server_lr=0.5,
            server=FadasAmsgrad(beta1=0.5, beta2=0.75, epsilon=1e-14, delay_threshold=1),
        ),
        10.5,
        10.8,
    ),
    # mean of the slots (6, 4, 0, 0); then of (6, -2, 6, 0)
    "mifa": (Mifa(), 12.5, 15),
    # h_bar = 0, calibrations 6, 4; then h_bar = 2.5, calibrations -2 - 4, 6 - 0
    "ca2fl": (Ca2fl(), 15, 17.5),
    # local models move by 6 and 4, of 4 workers; then by 8 - 14 and 24 - 10
    "area": (Area(), 12.5, 14.5),
    # local models (16, 14, 10, 10): half way to 12.5; then (16, 8, 24, 10): half way to 14.5
    "area, eta 0.5": (Area(server_lr=0.5), 11.25, 12.875),
    # gaps 1, 3 of mean 2: (0.5 * 2 + 1.5 * 4) / 2; then gaps 1, 7 of mean 3: (-1/3 + 7/3 * 3) / 2
    "rescaled_asgd": (RescaledAsgd(), 13.5, 13.5 + 10 / 3),
}


@pytest.mark.parametrize(("config", "first", "second"), CASES.values(), ids=CASES.keys())
def test_two_rounds(
    config: Algorithm, first: float, second: float, make_returns: Callable[..., Returns]
) -> None:
    """The two rounds at the head of this file give what they give by hand."""
    algorithm = build(config, 4, WorkerSgd())
    initial = algorithm.init(torch.tensor([10.0], dtype=torch.float64))
    rounds = [
        make_returns([0, 1], [[2], [4]], start=[[10], [10]], num_steps=[3, 1], at_s=[1, 3]),
        make_returns(
            [1, 2], [[-1], [3]], start=[[10], [18]], num_steps=[2, 2], delay=[3, 0], at_s=[4, 7]
        ),
    ]

    after_one = algorithm.aggregate(initial, rounds[0])
    after_two = algorithm.aggregate(after_one, rounds[1])

    # A handful of operations in float64 on numbers below 30; epsilon of FADAS is 1e-14.
    assert after_one.model.item() == pytest.approx(first, abs=1e-13)
    assert after_two.model.item() == pytest.approx(second, abs=1e-13)


TWICE: dict[str, tuple[Algorithm, float]] = {
    # both count: mean of (2, 8)
    "afa_cd": (AfaCd(), 5),
    # the newest overwrites: mean of the slots (8, 0)
    "afa_cs": (AfaCs(), 4),
    "afa_cs, seen": (AfaCs(slots="seen"), 8),
    "fedavg": (FedAvg(), 5),
    # 0 -> half way to 2 -> half way to 8
    "fedasync": (FedAsync(server_lr=0.5), 4.5),
    "fedbuff": (FedBuff(), 5),
    "mifa": (Mifa(), 4),
    # both are calibrated by the cache of before the update, 0, with h_bar = 0
    "ca2fl": (Ca2fl(), 5),
    # increments 2 - 0 and 8 - 2 telescope: 8 / 2
    "area": (Area(), 4),
    # gaps 1 and 2 of mean 1.5: (2/3 * 2 + 4/3 * 8) / 2
    "rescaled_asgd": (RescaledAsgd(), 6),
}


@pytest.mark.parametrize(("config", "expected"), TWICE.values(), ids=TWICE.keys())
def test_one_worker_twice(
    config: Algorithm, expected: float, make_returns: Callable[..., Returns]
) -> None:
    """Worker 0 of two returns 2 at 1 s and 8 at 3 s, both in the first buffer."""
    algorithm = build(config, 2, WorkerSgd())
    state = algorithm.init(torch.zeros(1, dtype=torch.float64))

    state = algorithm.aggregate(state, make_returns([0, 0], [[2], [8]], at_s=[1, 3]))

    assert state.model.item() == pytest.approx(expected, abs=1e-14)


def test_ca2fl_keeps_the_newest_of_two(make_returns: Callable[..., Returns]) -> None:
    """After a buffer with a worker twice, its cache is the newer change."""
    algorithm = build(Ca2fl(), 2, WorkerSgd())
    state = algorithm.init(torch.zeros(1, dtype=torch.float64))

    state = algorithm.aggregate(state, make_returns([0, 0], [[2], [8]]))
    state = algorithm.aggregate(state, make_returns([1], [[0]]))

    # First update (2 + 8) / 2 = 5; then h_bar = (8 + 0) / 2 = 4 and a calibration of 0.
    assert state.model.item() == 9


def test_waiting_slots_move_when_all_have_returned(make_returns: Callable[..., Returns]) -> None:
    """With slots: wait the first update has every worker; versions count meanwhile."""
    algorithm = build(AfaCs(slots="wait"), 3, WorkerSgd())
    state = algorithm.init(torch.zeros(1, dtype=torch.float64))

    models = []
    for worker, delta in ((0, 3.0), (0, 6.0), (2, 9.0), (1, 12.0), (2, 0.0)):
        state = algorithm.aggregate(state, make_returns([worker], [[delta]]))
        models.append(state.model.item())

    assert models == [0, 0, 0, 9, 15]
    assert state.version == 5


def test_server_optimiser_rests_while_slots_wait(make_returns: Callable[..., Returns]) -> None:
    """Rounds without an update leave the server-side optimiser's memory as it was."""
    config = AfaCs.model_validate({"slots": "wait", "server": "adam", "server_lr": 0.25})
    algorithm = build(config, 2, WorkerSgd())
    state = algorithm.init(torch.zeros(1, dtype=torch.float64))

    for _ in range(5):
        state = algorithm.aggregate(state, make_returns([0], [[4]]))
    waited = state.memory["optimizer/num_updates"].item()
    state = algorithm.aggregate(state, make_returns([1], [[4]]))

    assert waited == 0
    # Adam's first, bias-corrected step has the size of the rate; epsilon is 1e-8 of 4.
    assert state.model.item() == pytest.approx(0.25, rel=1e-8)


def test_no_time_gives_equal_weights(make_returns: Callable[..., Returns]) -> None:
    """Rescaled ASGD at time 0 knows no gaps yet and weighs all returns alike."""
    algorithm = build(RescaledAsgd(), 2, WorkerSgd())
    state = algorithm.init(torch.zeros(1, dtype=torch.float64))

    state = algorithm.aggregate(state, make_returns([0, 1], [[2], [4]], at_s=[0.0, 0.0]))

    assert state.model.item() == 3


def test_rescaling_gives_every_worker_the_same_weight(
    make_returns: Callable[..., Returns],
) -> None:
    """Over a cycle, a worker that returns ten times as often moves the model as far."""
    algorithm = build(RescaledAsgd(collect=1), 2, WorkerSgd())
    state = algorithm.init(torch.zeros(2, dtype=torch.float64))

    def cycle(begin_s: int) -> None:
        nonlocal state
        for second in range(1, 11):
            fast = make_returns([0], [[1, 0]], at_s=[begin_s + second])
            state = algorithm.aggregate(state, fast)
        state = algorithm.aggregate(state, make_returns([1], [[0, 1]], at_s=[begin_s + 10]))

    for begin_s in range(0, 1000, 10):
        cycle(begin_s)
    before = state.model
    cycle(1000)

    fast, slow = (state.model - before).tolist()
    # The mean gap is 20/11 s and still wanders by 1 % within the 101st cycle.
    assert fast == pytest.approx(slow, rel=0.01)
    assert math.isclose(fast, 10 / (20 / 11), rel_tol=0.01)


@pytest.mark.parametrize("server_lr", [1.0, 0.5])
def test_area_finds_the_optimum_at_any_rate(
    server_lr: float, make_returns: Callable[..., Returns]
) -> None:
    """AREA's fixed point depends neither on the rate nor on x_0 nor on who returns how often."""
    algorithm = build(Area(server_lr=server_lr), 2, WorkerSgd())
    state = algorithm.init(torch.tensor([-30.0], dtype=torch.float64))

    for version in range(1_200):
        worker = int(version % 3 == 2)
        centre = 100.0 * worker
        delta = 0.2 * (centre - state.model)
        returns = make_returns([worker], [delta.tolist()], start=[state.model.tolist()])
        state = algorithm.aggregate(state, returns)

    # f_i = (x - c_i)^2 / 2 with c = (0, 100).
    assert state.model.item() == pytest.approx(50, abs=1e-6)
