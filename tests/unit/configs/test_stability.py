"""Stability limits against direct iteration, and the warnings made of them."""

import math
from typing import Any

import pytest

from configs.federated import FederatedExperiment
from configs.stability import effective_step, step_warnings
from configs.step_limits import (
    averaging_rate_limit,
    calibrated_step_limit,
    contraction,
    delay_step_limit,
    step_limit,
)

_MARGIN = 0.02
"""2 % below the limit the recursion shrinks, 2 % above it grows: the battery's own tolerance."""


def _iterate(product: float, delay: int, groups: int, num_rounds: int) -> float:
    """Largest |x| near the end of x_{t+1} = x_t - (a s / G) sum_{j<G} x_{t-d-j}, from x = 1."""
    history = [1.0] * (delay + groups)  # oldest first
    largest = 0.0
    for now in range(num_rounds):
        following = history[-1] - product / groups * sum(history[:groups])
        history = [*history[1:], following]
        if abs(following) > 1e12:
            return math.inf
        if now >= num_rounds - 20 * (delay + groups):
            largest = max(largest, abs(following))
    return largest


def _assert_limit(limit: float, delay: int, groups: int) -> None:
    # 2 % off the limit, the largest root is about 0.02 / (2 d + G) off the unit circle.
    num_rounds = 2000 * (2 * delay + groups)
    assert _iterate((1 - _MARGIN) * limit, delay, groups, num_rounds) < 1e-3
    assert _iterate((1 + _MARGIN) * limit, delay, groups, num_rounds) > 1e3


@pytest.mark.parametrize(
    ("delay", "limit"), [(0, 2), (1, 1), (2, 0.61803), (5, 0.28463), (10, 0.14946)]
)
def test_delay_limit(delay: int, limit: float) -> None:
    """P8: the closed form has the battery's numbers, and the recursion turns there."""
    found = delay_step_limit(delay)

    assert found == pytest.approx(limit, abs=5e-6)
    _assert_limit(found, delay, groups=1)


@pytest.mark.parametrize(
    ("workers", "limit"),
    [(2, 2), (3, 1.5), (5, 0.95492), (10, 0.48943), (20, 0.24623), (100, 0.04934)],
)
def test_memory_limit(workers: int, limit: float) -> None:
    """P9: the closed form has the battery's numbers, and the recursion turns there."""
    found = step_limit(0, workers)

    assert found == pytest.approx(limit, abs=5e-6)
    if workers <= 20:  # the recursion for 100 takes its time and shows nothing new
        _assert_limit(found, delay=0, groups=workers)


@pytest.mark.parametrize(("delay", "groups"), [(1, 2), (3, 4), (2, 7), (6, 3)])
def test_limit_with_delay_and_memory(delay: int, groups: int) -> None:
    """The common form of both limits is where the recursion with both turns."""
    _assert_limit(step_limit(delay, groups), delay, groups)


def _grows(weights: dict[int, float], num_rounds: int) -> bool:
    """Whether x_{t+1} = sum_k weights[k] x_{t-k} grows, from x = 1."""
    reach = max(weights) + 1
    history = [1.0] * reach  # newest last
    for _ in range(num_rounds):
        history.append(sum(weight * history[-1 - age] for age, weight in weights.items()))
        if abs(history[-1]) > 1e12:
            return True
    return max(map(abs, history[-20 * reach :])) > max(map(abs, history[:reach]))


def _calibrated(product: float, delay: int, groups: int) -> dict[int, float]:
    """CA2FL's recursion: the new return against that of the same group G rounds before."""
    weights = dict.fromkeys(range(delay + groups + 1), 0.0)
    weights[0] = 1.0
    weights[delay] -= product
    weights[delay + groups] += product
    for age in range(delay + 1, delay + groups + 1):
        weights[age] -= product / groups
    return weights


def _averaging(rate: float, left: float, delay: int, groups: int) -> dict[int, float]:
    """AREA's recursion, and with one group FedAsync's."""
    weights = dict.fromkeys(range(delay + groups), 0.0)
    weights[0] = 1.0 - rate
    for age in range(delay, delay + groups):
        weights[age] += rate * left / groups
    return weights


@pytest.mark.parametrize(
    ("delay", "groups"), [(0, 1), (0, 2), (0, 3), (0, 10), (1, 4), (3, 1), (3, 5), (6, 2)]
)
def test_limit_of_calibrated_returns(delay: int, groups: int) -> None:
    """CA2FL: the recursion turns at the limit, which is not that of returns without memory."""
    limit = calibrated_step_limit(delay, groups)

    num_rounds = 1000 * (2 * delay + groups)
    assert not _grows(_calibrated((1 - _MARGIN) * limit, delay, groups), num_rounds)
    assert _grows(_calibrated((1 + _MARGIN) * limit, delay, groups), num_rounds)


def test_calibration_needs_smaller_steps_than_no_memory() -> None:
    """Without delay 2 is stable with one group, and 0.148 with a hundred."""
    assert calibrated_step_limit(0, 1) == pytest.approx(2.0)
    assert calibrated_step_limit(0, 9) == pytest.approx(0.647, abs=1e-3)
    assert calibrated_step_limit(0, 100) == pytest.approx(0.148, abs=1e-3)
    assert calibrated_step_limit(0, 100_000) > 0


@pytest.mark.parametrize(
    ("delay", "groups", "left"),
    [
        (0, 1, -1.5),
        (0, 1, 0.5),
        (1, 1, -1.5),
        (3, 1, -1.2),
        (0, 10, 0.5),
        (2, 5, -1.5),
        (8, 1, 0.9),
    ],
)
def test_limit_of_averaged_models(delay: int, groups: int, left: float) -> None:
    """FedAsync and AREA: the recursion turns at the limit of the server's rate."""
    limit = averaging_rate_limit(delay, groups, left)

    num_rounds = 2000 * (2 * delay + groups)
    assert not _grows(_averaging((1 - _MARGIN) * limit, left, delay, groups), num_rounds)
    assert _grows(_averaging((1 + _MARGIN) * limit, left, delay, groups), num_rounds)


@pytest.mark.parametrize(("lr", "steps"), [(0.01, 10), (0.7, 3), (1.5, 4), (1e-12, 5)])
def test_contraction_is_what_local_steps_do(lr: float, steps: int) -> None:
    """s(K) is the normalised return of K gradient steps on h x^2 / 2 from x = 1."""
    curvature = 1.2
    gradients = 0.0
    x = 1.0
    for _ in range(steps):
        gradients += curvature * x
        x -= lr * curvature * x

    assert contraction(curvature, lr, steps) == pytest.approx(gradients / steps, rel=1e-12)


def _experiment(**settings: Any) -> FederatedExperiment:
    return FederatedExperiment.model_validate(
        {
            "workers": 10,
            "model": {"name": "quadratic", "centres": [0.0] * 10},
            "algorithm": {"name": "afa_cd", "collect": 1},
            "local_steps": {"kind": "constant", "steps": 4},
        }
        | settings
    )


@pytest.mark.parametrize(
    ("algorithm", "step"),
    [
        ({"name": "afa_cd"}, 0.05),
        ({"name": "afa_cs"}, 0.05),
        ({"name": "rescaled_asgd"}, 0.05),
        ({"name": "afa_cd", "normalise": False}, 0.2),
        ({"name": "fedavg"}, 0.2),
        ({"name": "mifa"}, 0.2),
    ],
)
def test_effective_step(algorithm: dict[str, Any], step: float) -> None:
    """The step a is eta eta_L, times K where changes are not divided by K."""
    experiment = _experiment(
        algorithm=algorithm | {"collect": 1, "server_lr": 0.5},
        worker={"optimizer": "sgd", "lr": 0.1},
    )

    assert effective_step(experiment) == pytest.approx(step, rel=1e-12)


@pytest.mark.parametrize(
    ("law", "mean"),
    [
        ({"kind": "uniform", "low": 1, "high": 8}, 4.5),
        ({"kind": "per_worker", "steps": [1] * 5 + [4] * 5}, 2.5),
        ({"kind": "speed", "mean": 3.5}, 3.5),
        ({"kind": "time_budget", "budget_s": 3.0}, 6.0),
    ],
)
def test_effective_step_takes_the_mean_of_the_local_steps(law: dict[str, Any], mean: float) -> None:
    """With K that varies, an un-normalised algorithm moves by the mean K on average."""
    experiment = _experiment(
        algorithm={"name": "fedavg", "collect": 1, "server_lr": 1.0},
        worker={"optimizer": "sgd", "lr": 0.1},
        local_steps=law,
        service={"per": "step", "mean_s": 0.5},
    )

    assert effective_step(experiment) == pytest.approx(0.1 * mean, rel=1e-12)


_LATE = {"kind": "uniform", "max_delay": 5, "delay": "constant"}
_ONE_STEP = {"kind": "constant", "steps": 1}


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({"arrivals": _LATE}, 0.28463),
        ({"arrivals": "synchronous"}, 2.0),
        ({"arrivals": {"kind": "event_driven"}}, 2 * math.sin(math.pi / (2 * 19))),
        ({"arrivals": {"kind": "event_driven", "max_delay": 5}}, 0.28463),
        ({"arrivals": "schedule", "algorithm": {"name": "afa_cs"}}, 0.48943),
        ({"arrivals": "schedule", "algorithm": {"name": "mifa"}}, 0.48943),
        ({"arrivals": _LATE, "algorithm": {"name": "afa_cs"}}, step_limit(5, 10)),
        ({"arrivals": _LATE, "algorithm": {"name": "fedbuff"}}, 0.28463 * math.sqrt(6)),
        ({"arrivals": "schedule", "algorithm": {"name": "ca2fl"}}, calibrated_step_limit(0, 10)),
        ({"arrivals": _LATE, "algorithm": {"name": "ca2fl"}}, calibrated_step_limit(5, 10)),
        ({"arrivals": _LATE, "worker": {"optimizer": "fedprox", "mu": 3.0}}, 0.28463),
    ],
)
def test_a_warning_comes_exactly_above_the_limit(settings: dict[str, Any], limit: float) -> None:
    """With K = 1 and h = 1, a s is eta eta_L: 1 % below its limit nothing is said, above it is."""
    algorithm = {"name": "afa_cd", "collect": 1} | settings.get("algorithm", {})
    worker = {"optimizer": "sgd", "lr": 1e-3} | settings.get("worker", {})

    def warnings(product: float) -> list[str]:
        return step_warnings(
            _experiment(
                arrivals=settings["arrivals"],
                local_steps=_ONE_STEP,
                worker=worker,
                algorithm=algorithm | {"collect": 1, "server_lr": product / worker["lr"]},
            ),
            None,
        )

    assert warnings(0.99 * limit) == []
    (warning,) = warnings(1.01 * limit)
    assert "above the stability limit" in warning


def test_a_warning_says_the_limit_and_what_to_do() -> None:
    """The sentence has the step, the limit, what the limit is for, and a rate that is stable."""
    experiment = _experiment(
        algorithm={"name": "afa_cd", "collect": 1, "server_lr": 10.0},
        worker={"optimizer": "sgd", "lr": 0.1},
        local_steps=_ONE_STEP,
        arrivals={"kind": "uniform", "max_delay": 5},
    )

    (warning,) = step_warnings(experiment, None)

    assert warning == (
        "effective step a*s = 1 (a = 1, s = 1) is above the stability limit 0.2846 for a delay of "
        "5 rounds (if all returns were so late): the run may diverge; use an algorithm.server_lr "
        "below 2.85"
    )


def test_curvatures_of_the_quadratic_model_are_averaged() -> None:
    """The server's step meets the mean of the workers' contractions."""
    model = {"name": "quadratic", "centres": [0.0] * 10, "curvatures": [0.5] * 5 + [1.5] * 5}
    algorithm = {"name": "afa_cd", "collect": 1}
    worker = {"optimizer": "sgd", "lr": 1e-6}
    stable = algorithm | {"server_lr": 1.99e6}
    unstable = algorithm | {"server_lr": 2.01e6}

    assert step_warnings(_experiment(model=model, worker=worker, algorithm=stable), None) == []
    assert step_warnings(_experiment(model=model, worker=worker, algorithm=unstable), None)


def test_local_steps_that_diverge_are_named() -> None:
    """With several local steps, eta_L times the largest curvature above two is a warning."""
    model = {"name": "quadratic", "centres": [0.0] * 10, "curvatures": [1.0] * 9 + [30.0]}
    worker = {"optimizer": "sgd", "lr": 0.1}

    (warning,) = step_warnings(_experiment(model=model, worker=worker), None)

    assert warning == (
        "worker.lr=0.1 times the largest curvature 30 is 3, more than 2: each local step leads "
        "away from the worker's own optimum; use a worker.lr below 0.0667"
    )


def test_one_local_step_cannot_diverge_by_itself() -> None:
    """With K = 1 only the product of both rates matters."""
    experiment = _experiment(
        worker={"optimizer": "sgd", "lr": 3.0},
        algorithm={"name": "afa_cd", "collect": 1, "server_lr": 0.1},
        local_steps=_ONE_STEP,
    )

    assert step_warnings(experiment, None) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"algorithm": {"name": "fadas", "collect": 1, "server_lr": 1000.0}},
        {"algorithm": {"name": "afa_cd", "collect": 1, "server": "adam", "server_lr": 1000.0}},
        {"worker": {"optimizer": "momentum", "lr": 1000.0}},
        {"algorithm": {"name": "fedasync"}, "arrivals": _LATE},
        {"algorithm": {"name": "area", "collect": 1}, "arrivals": _LATE},
    ],
)
def test_nothing_is_said_where_nothing_is_known_to_diverge(settings: dict[str, Any]) -> None:
    """Adaptive servers and workers with momentum are left alone; averaged models are stable."""
    assert step_warnings(_experiment(**settings), None) == []


@pytest.mark.parametrize(
    ("algorithm", "lr", "is_stable"),
    [
        # With delay 0 FedAsync moves by alpha lr h, stable up to 2.
        ({"name": "fedasync", "server_lr": 1.0}, 1.99, True),
        ({"name": "fedasync", "server_lr": 1.0}, 2.01, False),
        ({"name": "fedasync", "server_lr": 0.5}, 3.98, True),
        ({"name": "fedasync", "server_lr": 0.5}, 4.02, False),
        ({"name": "area", "collect": 10, "server_lr": 3.98}, 0.5, True),
        ({"name": "area", "collect": 10, "server_lr": 4.02}, 0.5, False),
    ],
)
def test_averaged_models_are_checked_with_one_local_step(
    algorithm: dict[str, Any], lr: float, *, is_stable: bool
) -> None:
    """With K = 1 it is the mixture that diverges, not the worker; h is 1."""
    experiment = _experiment(
        algorithm=algorithm,
        worker={"optimizer": "sgd", "lr": lr},
        local_steps=_ONE_STEP,
        arrivals="synchronous",
    )

    warnings = step_warnings(experiment, None)

    assert len(warnings) == (not is_stable)
    assert all("above the stability limit" in warning for warning in warnings)


@pytest.mark.parametrize(("factor", "num_warnings"), [(0.99, 0), (1.01, 1)])
def test_proximal_returns_are_divided_by_the_weight_of_their_gradients(
    factor: float, num_warnings: int
) -> None:
    """With FedProx it is 1.998 for ten steps of lr mu = 0.5, not 10, so the limit is lower."""
    lr, mu, steps = 0.1, 5.0, 10
    moved = (1 - (1 - lr * (1 + mu)) ** steps) / (1 + mu) / ((1 - 0.5**steps) / 0.5)
    experiment = _experiment(
        worker={"optimizer": "fedprox", "lr": lr, "mu": mu},
        local_steps={"kind": "constant", "steps": steps},
        algorithm={"name": "afa_cd", "collect": 10, "server_lr": factor * 2 / moved},
        arrivals="synchronous",
    )

    assert len(step_warnings(experiment, None)) == num_warnings


def test_a_model_with_data_brings_its_smoothness() -> None:
    """L stands for the curvature; without a known L nothing is said."""
    experiment = FederatedExperiment.model_validate(
        {
            "workers": 10,
            "data": "digits",
            "algorithm": {"name": "afa_cd", "collect": 5, "server_lr": 1.0},
            "worker": {"optimizer": "sgd", "lr": 0.1},
            "local_steps": _ONE_STEP,
        }
    )

    assert step_warnings(experiment, 19.9) == []
    assert len(step_warnings(experiment, 20.1)) == 1
    assert step_warnings(experiment, None) == []
