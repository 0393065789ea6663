"""Closed forms that the whole simulator must meet: properties P1 to P10 and P13.

Test problem: f_i(x) = h_i/2 |x - c_i|^2. Exact K-step return: s_i(K) (x - c_i) with
s_i(K) = (1 - (1 - eta_L h_i)^K) / (eta_L K). Derived here; confirmed by the slow references below.

Coordinates of the quadratic problem are independent, so a problem in D dimensions is D repetitions
of the scalar one at once: that is how the statistical tests reach their precision.
"""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from configs.federated import FederatedExperiment
from tasks.federated.simulation import assemble
from tasks.federated.simulator import Simulator

ALL_ALGORITHMS = [
    "afa_cd",
    "afa_cs",
    "fedavg",
    "fedasync",
    "fedbuff",
    "fadas",
    "mifa",
    "ca2fl",
    "area",
    "rescaled_asgd",
]


def build(**settings: object) -> Simulator:
    """Return the simulator of a quadratic experiment in double precision."""
    raw = {"dtype": "float64", "local_steps": {"kind": "constant", "steps": 1}, **settings}
    return assemble(FederatedExperiment.model_validate(raw)).engine


def quadratic(
    centres: object, curvatures: object = 1.0, noise: float = 0.0, start: float = 0.0
) -> dict[str, object]:
    """Return the configuration of the test problem."""
    return {
        "name": "quadratic",
        "centres": centres,
        "curvatures": curvatures,
        "noise": noise,
        "start": start,
    }


def trajectory(simulator: Simulator, rounds: int) -> NDArray[np.float64]:
    """Return x_0 .. x_rounds, shape (rounds + 1, P)."""
    models = [simulator.state.model.clone()]
    for _ in range(rounds):
        simulator.step()
        models.append(simulator.state.model.clone())
    return torch.stack(models).numpy()


def contraction(steps: float, rate: float, curvature: float = 1.0) -> float:
    """s(K), by its definition: the exact return per unit of distance from the centre."""
    distance = 1.0
    for _ in range(int(steps)):
        distance -= rate * curvature * distance
    return (1.0 - distance) / (rate * steps)


def standard_error(values: NDArray[np.float64], batch: int) -> float:
    """Standard error of the mean by batch means; a batch is many relaxation times long."""
    means = values[: len(values) // batch * batch].reshape(-1, batch).mean(axis=1)
    return float(means.std(ddof=1) / math.sqrt(len(means)))


def test_p1_one_worker_one_step_is_plain_sgd() -> None:
    """M = 1, K = 1: AFA is SGD with step eta * eta_L."""
    eta, eta_l, centre = 0.7, 0.3, 5.0
    for name in ("afa_cd", "afa_cs"):
        simulator = build(
            workers=1,
            model=quadratic([centre]),
            algorithm={"name": name, "collect": 1, "server_lr": eta},
            worker={"optimizer": "sgd", "lr": eta_l},
        )

        found = trajectory(simulator, 30)[:, 0]

        expected = [0.0]
        for _ in range(30):
            expected.append(expected[-1] - eta * eta_l * (expected[-1] - centre))
        assert np.allclose(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_p2_normalised_equals_two_sided_fedavg(steps: int) -> None:
    """All workers, same K, no delay: AFA-CD with eta = K * eta_g follows FedAvg with eta_g."""
    paths = [
        trajectory(
            build(
                workers=6,
                model=quadratic([-3.0, 0.0, 1.0, 4.0, 9.0, 20.0], noise=1.0),
                algorithm={"name": name, "collect": 6, "server_lr": rate},
                worker={"optimizer": "sgd", "lr": 0.05},
                local_steps={"kind": "constant", "steps": steps},
                arrivals="synchronous",
            ),
            40,
        )
        for name, rate in (("afa_cd", steps * 0.8), ("fedavg", 0.8))
    ]

    # x_K - x_0 is divided by K and multiplied by it again: round-off of one division remains.
    assert np.allclose(paths[0], paths[1], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("max_delay", [0, 3])
def test_p3_with_everybody_in_every_round_cs_equals_cd(max_delay: int) -> None:
    """With m = M the memory holds just this round's returns, whatever the delays."""
    paths = [
        trajectory(
            build(
                workers=8,
                model=quadratic([float(i * i) for i in range(8)], noise=0.5),
                algorithm={"name": name, "collect": 8},
                worker={"optimizer": "sgd", "lr": 0.05},
                local_steps={"kind": "uniform", "low": 1, "high": 6},
                arrivals={"kind": "uniform", "max_delay": max_delay},
            ),
            60,
        )
        for name in ("afa_cd", "afa_cs")
    ]

    assert np.allclose(paths[0], paths[1], rtol=1e-12, atol=1e-12)


def test_p4_stationary_arrivals_fix_the_limit() -> None:
    """AFA-CD goes to the arrival-weighted optimum, AFA-CS to the one where all count the same."""
    centres, weights, steps, eta_l = [0.0, 10.0, 40.0], [6.0, 3.0, 1.0], [1, 4, 8], 0.05
    curvatures = [1.0, 2.0, 0.5]
    common = {
        "workers": 3,
        "model": quadratic(centres, curvatures),
        "worker": {"optimizer": "sgd", "lr": eta_l},
        "local_steps": {"kind": "per_worker", "steps": steps},
        "arrivals": {"kind": "weighted", "weights": weights},
    }

    cd = trajectory(
        build(algorithm={"name": "afa_cd", "collect": 2, "server_lr": 0.2}, **common), 5_800
    )
    cs = trajectory(
        build(algorithm={"name": "afa_cs", "collect": 2, "server_lr": 0.6}, **common), 800
    )

    s = np.array([contraction(k, eta_l, h) for k, h in zip(steps, curvatures, strict=True)])
    p = np.array(weights) / 10.0
    cd_limit = float((p * s * centres).sum() / (p * s).sum())
    cs_limit = float((s * centres).sum() / s.sum())
    tail = cd[1_000:, 0]
    # Batches of 800 rounds are 8 relaxation times long, hence nearly independent.
    error = standard_error(tail, 800)
    assert abs(tail.mean() - cd_limit) < 3 * error + 0.02
    assert error < 0.5 < abs(cd_limit - cs_limit) / 10
    assert abs(cs[-1, 0] - cs_limit) < 1e-6


@pytest.mark.parametrize("algorithm", [pytest.param("afa_cd", marks=pytest.mark.slow), "afa_cs"])
def test_p4_with_random_steps_their_mean_return_counts(algorithm: str) -> None:
    """With K ~ U{1..10} each centre weighs E[s_i(K)], neither s_i(E[K]) nor the same for all."""
    # Three kinds of workers, ten of each, the third the rarest; many returns a round average best.
    centres, curvatures = np.repeat([0.0, 10.0, 40.0], 10), np.repeat([0.5, 2.0, 9.0], 10)
    weights, eta_l, step = np.repeat([0.6, 0.3, 0.1], 10), 0.1, 0.05
    simulator = build(
        workers=30,
        model=quadratic(centres.tolist(), curvatures.tolist(), start=20.0),
        algorithm={"name": algorithm, "collect": 20, "server_lr": step / eta_l},
        worker={"optimizer": "sgd", "lr": eta_l},
        local_steps={"kind": "uniform", "low": 1, "high": 10},
        arrivals={"kind": "weighted", "weights": weights.tolist()},
    )

    values = trajectory(simulator, 2_000)[200:, 0]

    s = np.array([[contraction(k, eta_l, h) for k in range(1, 11)] for h in curvatures])
    counts = weights if algorithm == "afa_cd" else np.ones(30)

    def limit(mean_return: NDArray[np.float64]) -> float:
        return float((counts * mean_return * centres).sum() / (counts * mean_return).sum())

    # K is drawn independently of the model that it starts from, so the mean is exact for any step.
    # Batches of 180 rounds are 9 relaxation times long, hence nearly independent.
    error = standard_error(values, 180)
    expected = limit(s.mean(axis=1))
    assert abs(values.mean() - expected) < 3 * error
    at_mean_steps = (1 - (1 - eta_l * curvatures) ** 5.5) / (eta_l * 5.5)
    for wrong in (limit(at_mean_steps), limit(np.ones(30)), limit(curvatures)):
        assert abs(wrong - expected) > 8 * error


DIMENSIONS = 2_000


def _floor(algorithm: str, arrivals: str, collect: int, step: float, steps: int) -> float:
    """Mean square of x around the common centre 0, at stationarity, of 2,000 repetitions."""
    eta_l = 0.01
    simulator = build(
        workers=20,
        model=quadratic([[0.0] * DIMENSIONS] * 20, noise=1.0),
        algorithm={"name": algorithm, "collect": collect, "server_lr": step / eta_l},
        worker={"optimizer": "sgd", "lr": eta_l},
        local_steps={"kind": "constant", "steps": steps},
        arrivals=arrivals,
    )
    for _ in range(int(6 / step)):
        simulator.step()
    squares = []
    for _ in range(int(4 / step)):
        simulator.step()
        squares.append(float(simulator.state.model.square().mean()))
    return float(np.mean(squares))


@pytest.mark.parametrize(
    ("algorithm", "arrivals", "factor", "steps"),
    [
        ("afa_cd", "uniform", 1.0, 1),
        ("afa_cd", "uniform", 1.0, 3),
        pytest.param("afa_cs", "schedule", 1.0, 1, marks=pytest.mark.slow),
        pytest.param("afa_cs", "schedule", 1.0, 3, marks=pytest.mark.slow),
        pytest.param("afa_cs", "uniform", 1.75, 1, marks=pytest.mark.slow),
        ("afa_cs", "uniform", 1.75, 3),
    ],
)
def test_p5_noise_floor(algorithm: str, arrivals: str, factor: float, steps: int) -> None:
    """The stationary variance is (a^2 v/m) / (1 - (1 - a s)^2), times 2 - m/M for uniform CS."""
    step, collect = 0.01, 5

    found = _floor(algorithm, arrivals, collect, step, steps)

    r = 1 - 0.01
    v = (1 / steps**2) * (1 - r ** (2 * steps)) / (1 - r**2)
    s = contraction(steps, 0.01)
    expected = factor * (step**2 * v / collect) / (1 - (1 - step * s) ** 2)
    # Statistics: 2,000 coordinates x about 4 independent times, so 1.6 %; for CS the closed form is
    # the limit of small a, with a relative error of about a M/m = 4 %.
    assert found == pytest.approx(expected, rel=0.03 if algorithm == "afa_cd" else 0.06)


@pytest.mark.slow
def test_p6_sampling_floor_of_cd_and_none_of_cs() -> None:
    """Without noise, CD keeps the variance of sampling m of M; CS keeps nothing."""
    workers, collect, eta_l, step = 12, 3, 0.1, 0.05
    centres = np.random.default_rng(0).normal(size=(workers, 20))
    common = {
        "workers": workers,
        "model": quadratic(centres.tolist()),
        "worker": {"optimizer": "sgd", "lr": eta_l},
        "arrivals": "synchronous",
    }
    rate = step / eta_l

    cd = trajectory(
        build(algorithm={"name": "afa_cd", "collect": collect, "server_lr": rate}, **common), 8_000
    )
    cs = trajectory(
        build(algorithm={"name": "afa_cs", "collect": collect, "server_lr": rate}, **common), 1_500
    )

    mean = centres.mean(axis=0)
    v = float(((centres - mean) ** 2).sum(axis=1).mean())
    expected = step / (2 - step) * v / collect * (workers - collect) / (workers - 1)
    found = float(((cd[200:] - mean) ** 2).sum(axis=1).mean())
    # All coordinates see the same samples, so only the 11 dimensions that 12 centres span count:
    # 7,800 rounds are about 390 independent values of sqrt(2/11) relative spread, so 2 %.
    assert found == pytest.approx(expected, rel=0.06)
    assert float(((cs[-1] - mean) ** 2).sum()) < 1e-20


def test_p7_unequal_steps_bias_only_the_unnormalised() -> None:
    """With c = (0, 100), K = (1, 10) normalised goes to 48.87994, un-normalised to 90.53191."""
    common = {
        "workers": 2,
        "model": quadratic([0.0, 100.0]),
        "worker": {"optimizer": "sgd", "lr": 0.01},
        "local_steps": {"kind": "per_worker", "steps": [1, 10]},
        "arrivals": "synchronous",
    }
    limits = {}
    for name, extra in {
        "normalised": {"name": "afa_cd", "server_lr": 20.0},
        "un-normalised": {"name": "afa_cd", "server_lr": 4.0, "normalise": False},
        "fedavg": {"name": "fedavg", "server_lr": 4.0},
    }.items():
        simulator = build(algorithm={"collect": 2, **extra}, **common)
        limits[name] = trajectory(simulator, 400)[-1, 0]

    s = [contraction(1, 0.01), contraction(10, 0.01)]
    w = [1 - 0.99**1, 1 - 0.99**10]
    assert limits["normalised"] == pytest.approx(100 * s[1] / sum(s), abs=1e-9)
    assert limits["normalised"] == pytest.approx(48.87994, abs=5e-6)
    assert limits["un-normalised"] == pytest.approx(100 * w[1] / sum(w), abs=1e-9)
    assert limits["un-normalised"] == pytest.approx(90.53191, abs=5e-6)
    assert limits["fedavg"] == pytest.approx(limits["un-normalised"], abs=1e-9)


def _moves(worker: dict[str, float | str], steps: int) -> tuple[float, float]:
    """How far K steps go from distance 1 to the optimum, and on gradients of one; over the rate.

    The second is what FedNova divides by: the weight of all gradients of a return. Slow reference.
    """
    lr, beta, mu = (float(worker.get(name, 0.0)) for name in ("lr", "beta", "mu"))
    moves = []
    for gradient in (lambda x: 1.0 + x, lambda _: 1.0):
        x, velocity = 0.0, 0.0
        for _ in range(steps):
            velocity = beta * velocity + gradient(x) + mu * x
            x -= lr * velocity
        moves.append(-x / lr)
    return moves[0], moves[1]


@pytest.mark.parametrize("algorithm", ["afa_cd", "afa_cs", "rescaled_asgd"])
@pytest.mark.parametrize(
    ("worker", "divided_by_steps"),
    [
        ({"optimizer": "momentum", "lr": 0.001, "beta": 0.9}, 80.4),
        ({"optimizer": "fedprox", "lr": 0.001, "mu": 300.0}, 24.4),
    ],
)
def test_p7_unequal_weights_of_gradients_bias_no_more(
    algorithm: str, worker: dict[str, float | str], divided_by_steps: float
) -> None:
    """With momentum K = 10 pulls harder than K = 1 when divided by K, with FedProx less."""
    simulator = build(
        workers=2,
        model=quadratic([0.0, 100.0]),
        algorithm={"name": algorithm, "collect": 2, "server_lr": 200.0},
        worker=worker,
        local_steps={"kind": "per_worker", "steps": [1, 10]},
        arrivals="synchronous",
        service={"law": "constant"},
    )

    limit = trajectory(simulator, 200)[-1, 0]

    (one, weight_of_one), (ten, weight_of_ten) = _moves(worker, 1), _moves(worker, 10)
    assert limit == pytest.approx(100 / (1 + one / weight_of_one * weight_of_ten / ten), abs=1e-9)
    # As for SGD, what is left is of the order of the worker's rate times K.
    assert limit == pytest.approx(50, abs=0.3)
    assert 100 / (1 + one * 10 / ten) == pytest.approx(divided_by_steps, abs=0.1)


def test_p7_scaffold_needs_no_other_divisor() -> None:
    """SCAFFOLD's gradients count alike, and its correction leaves no bias of unequal K at all."""
    simulator = build(
        workers=2,
        model=quadratic([0.0, 100.0]),
        algorithm={"name": "afa_cd", "collect": 2, "server_lr": 20.0},
        worker={"optimizer": "scaffold", "lr": 0.01},
        local_steps={"kind": "per_worker", "steps": [1, 10]},
        arrivals="synchronous",
    )

    assert trajectory(simulator, 400)[-1, 0] == pytest.approx(50, abs=1e-9)


def _grows(simulator: Simulator, rounds: int) -> bool:
    """Whether the distance from the optimum 0 is larger at the end than in the middle."""
    path = np.abs(trajectory(simulator, rounds)[:, 0])
    third = rounds // 3
    return bool(path[-third:].max() > path[third : 2 * third].max())


@pytest.mark.parametrize(
    ("delay", "limit"), [(0, 2.0), (1, 1.0), (2, 0.61803), (5, 0.28463), (10, 0.14946)]
)
def test_p8_stability_limit_of_a_constant_delay(delay: int, limit: float) -> None:
    """Stable 2 % below 2 sin(pi / (2 (2d + 1))), unstable 2 % above: delays count from zero."""
    assert limit == pytest.approx(2 * math.sin(math.pi / (2 * (2 * delay + 1))), abs=5e-6)
    grows = {
        side: _grows(
            build(
                workers=1,
                model=quadratic([0.0], start=1.0),
                algorithm={"name": "afa_cd", "collect": 1, "server_lr": side * limit / 0.5},
                worker={"optimizer": "sgd", "lr": 0.5},
                arrivals={"kind": "schedule", "max_delay": delay, "delay": "constant"},
            ),
            900,
        )
        for side in (0.98, 1.02)
    }

    assert grows == {0.98: False, 1.02: True}


@pytest.mark.parametrize(
    ("workers", "limit"),
    [
        (2, 2.0),
        (3, 1.5),
        (5, 0.95492),
        (10, 0.48943),
        (20, 0.24623),
        pytest.param(100, 0.04934, marks=pytest.mark.slow),
    ],
)
def test_p9_stability_limit_of_the_memory(workers: int, limit: float) -> None:
    """AFA-CS, one return a round in turn: stable 2 % below 2 M sin^2(pi/(2M)), unstable above."""
    assert limit == pytest.approx(2 * workers * math.sin(math.pi / (2 * workers)) ** 2, abs=5e-6)
    grows = {
        side: _grows(
            build(
                workers=workers,
                model=quadratic([0.0] * workers, start=1.0),
                algorithm={"name": "afa_cs", "collect": 1, "server_lr": side * limit / 0.5},
                worker={"optimizer": "sgd", "lr": 0.5},
                arrivals="schedule",
            ),
            max(600, 30 * workers),
        )
        for side in (0.98, 1.02)
    }

    assert grows == {0.98: False, 1.02: True}


@pytest.mark.parametrize(
    ("collect", "steps", "rounds", "simulated"),
    [
        (1, 1, 400, 0.0484),
        (1, 1, 1600, 0.0245),
        pytest.param(4, 1, 1600, 0.0122, marks=pytest.mark.slow),
        pytest.param(1, 4, 1600, 0.0122, marks=pytest.mark.slow),
        pytest.param(4, 4, 6400, 0.00305, marks=pytest.mark.slow),
    ],
)
def test_p10_rate(collect: int, steps: int, rounds: int, simulated: float) -> None:
    """With a = sqrt(mK/T) the mean squared gradient is about 1/sqrt(mKT): speed-up in m and K."""
    step, eta_l, dimensions = math.sqrt(collect * steps / rounds), 1e-6, 400
    simulator = build(
        workers=collect,
        model=quadratic([[0.0] * dimensions] * collect, noise=1.0, start=1.0),
        algorithm={"name": "afa_cd", "collect": collect, "server_lr": step / eta_l},
        worker={"optimizer": "sgd", "lr": eta_l},
        local_steps={"kind": "constant", "steps": steps},
        arrivals="synchronous",
    )
    total = 0.0
    for _ in range(rounds):
        total += float(simulator.state.model.square().mean())
        simulator.step()
    found = total / rounds

    # Slow reference: E x^2 of x <- (1 - a) x - a * noise / sqrt(mK), summed over the rounds.
    second_moment, expected = 1.0, 0.0
    for _ in range(rounds):
        expected += second_moment / rounds
        second_moment = (1 - step) ** 2 * second_moment + step**2 / (collect * steps)
    # 400 coordinates, each with T a / 2 independent times: at least 4,000 samples in all, so 3 %.
    assert found == pytest.approx(expected, rel=0.04)
    # The simulated figures are one run of one coordinate each: good to about 6 %.
    assert expected == pytest.approx(simulated, rel=0.06)
    assert expected == pytest.approx(1 / math.sqrt(collect * steps * rounds), rel=0.05)


@pytest.mark.parametrize("algorithm", ALL_ALGORITHMS)
def test_p13_what_never_returns_is_not_known(algorithm: str) -> None:
    """If worker 1 never returns, its centre changes no bit of what worker 0 makes of the model.

    The lower bound follows: with f = (f_0 + f_1) / 2 and centres 0 and -2s or 2s, the gradient at
    one and the same x is x + s or x - s, one of which is s or larger in absolute value.
    """
    s = 3.0
    outputs = [
        trajectory(
            build(
                workers=2,
                model=quadratic([0.0, sign * 2 * s], start=1.0),
                algorithm={"name": algorithm, "collect": 1},
                worker={"optimizer": "sgd", "lr": 0.1},
                arrivals={"kind": "schedule", "never_return": [1]},
            ),
            300,
        )[:, 0]
        for sign in (-1, 1)
    ]

    assert np.array_equal(outputs[0], outputs[1])
    # It did learn from worker 0, whose centre is 0.
    assert abs(outputs[0][-1]) < 0.95
    assert len(np.unique(outputs[0][:100])) > 10
