"""How large a step may be before a run diverges: closed forms, and warnings made of them.

The model behind them is linear: every worker's return contracts towards its own optimum as
``s * (c - x)``, and the server moves by ``a = eta * eta_L`` times the returns that it has. With
returns of a constant delay d, averaged over a memory of G groups that take turns,

    x_{t+1} = x_t - (a s / G) * sum_{j < G} x_{t-d-j}

is stable up to ``a s = 2 G sin^2(w/2) / sin(G w/2)`` with ``w = pi / (2 d + G)``, where the first
root reaches the unit circle. G = 1 is P8 and d = 0 is P9 of the test battery.

Symbols: M workers, m returns a round, K local steps, h the curvature of a worker's loss.
"""

import math
from statistics import fmean

from configs.algorithms import (
    AfaCd,
    AfaCs,
    Area,
    FedAsync,
    FedBuff,
    FedProx,
    Mifa,
    RescaledAsgd,
    ServerSgd,
    WorkerSgd,
)
from configs.arrivals import (
    BudgetSteps,
    ConstantSteps,
    EventDriven,
    PerWorkerSteps,
    RoundBased,
    Slurm,
    SpeedSteps,
    Trace,
    UniformSteps,
)
from configs.federated import FederatedExperiment
from configs.models import Quadratic


def step_limit(delay: float, groups: float) -> float:
    """Return the largest stable ``a * s`` with a constant delay and a memory.

    Args:
        delay: d, age of every return at its arrival, in rounds, at least 0.
        groups: G = M / m, groups of workers in the memory that take turns; 1 without memory.
            Where m does not divide M, the limit is somewhat lower than the true one.

    Returns:
        The limit; at 2 or below for whole numbers of groups.
    """
    frequency = math.pi / (2 * delay + groups)
    return 2 * groups * math.sin(frequency / 2) ** 2 / math.sin(groups * frequency / 2)


def delay_step_limit(delay: float) -> float:
    """Return the largest stable ``a * s`` with a constant delay: P8, 2 sin(pi / (2 (2d + 1))).

    Args:
        delay: d, in rounds, at least 0.

    Returns:
        The limit, at most 2.
    """
    return step_limit(delay, 1)


def memory_step_limit(workers: int, collect: int) -> float:
    """Return the largest stable ``a * s`` of AFA-CS: P9, 2 G sin^2(pi / (2 G)) with G = M / m.

    Args:
        workers: M, that take turns; random arrivals bear more.
        collect: m, at most M.

    Returns:
        The limit; about pi^2 m / (2 M) when M is much larger than m.
    """
    return step_limit(0, workers / collect)


def contraction(curvature: float, lr: float, steps: int) -> float:
    """Return s(K) = (1 - (1 - lr h)^K) / (lr K): by how much a normalised return contracts.

    Args:
        curvature: h, above 0.
        lr: eta_L, above 0.
        steps: K, at least 1.

    Returns:
        The contraction; tends to h as lr falls.
    """
    product = lr * curvature
    if product < 1:  # without cancellation, also for tiny rates
        return -math.expm1(steps * math.log1p(-product)) / (lr * steps)
    return (1 - (1 - product) ** steps) / (lr * steps)


def mean_steps(experiment: FederatedExperiment) -> float:
    """Return the mean of K over returns (over workers, where each has its own).

    Args:
        experiment: A validated experiment.

    Returns:
        The mean; for a time budget, the budget over the mean duration of a step.
    """
    law = experiment.local_steps
    match law:
        case ConstantSteps():
            return law.steps
        case UniformSteps():
            return (law.low + law.high) / 2
        case PerWorkerSteps():
            return fmean(law.steps)
        case SpeedSteps():
            return max(law.mean, 1.0)
        case BudgetSteps():
            means_s = experiment.service.mean_s
            counts = [
                min(max(law.budget_s / mean_s, 1.0), law.max_steps)
                for mean_s in (means_s if isinstance(means_s, tuple) else (means_s,))
            ]
            return fmean(counts)


def effective_step(experiment: FederatedExperiment) -> float:
    """Return a: what the server moves by, for a mean stochastic gradient of size one.

    Args:
        experiment: A validated experiment.

    Returns:
        eta * eta_L; times the mean of K for algorithms that do not divide a change by K.
    """
    algorithm = experiment.algorithm
    step = algorithm.server_lr * experiment.worker.lr
    is_normalised = isinstance(algorithm, RescaledAsgd) or (
        isinstance(algorithm, (AfaCd, AfaCs)) and algorithm.normalise
    )
    return step if is_normalised else step * mean_steps(experiment)


def step_warnings(experiment: FederatedExperiment, smoothness: float | None) -> list[str]:
    """Say where a step size is above what the closed forms call stable.

    They hold for SGD at the server, and for SGD and FedProx at the workers; nothing is said about
    others. FedAsync and AREA average models, which is stable at any delay, so only their workers'
    steps are looked at; so it is with real workers, as nobody knows how many steps they will do.

    Args:
        experiment: A validated experiment.
        smoothness: L, an upper bound of the objective's curvature; None if none is known. The
            quadratic model brings its own curvatures.

    Returns:
        Sentences for the user; empty if all is well or nothing is known.
    """
    curvatures = _curvatures(experiment, smoothness)
    worker, algorithm = experiment.worker, experiment.algorithm
    if not curvatures or not isinstance(worker, (WorkerSgd, FedProx)):
        return []
    proximal = worker.mu if isinstance(worker, FedProx) else 0.0
    is_real = isinstance(experiment.arrivals, Slurm)
    if (is_real or mean_steps(experiment) > 1) and worker.lr * (max(curvatures) + proximal) > 2:
        # The closed forms of the server presuppose that the workers' steps contract.
        return [_local_warning(worker.lr, max(curvatures) + proximal)]
    if (
        is_real
        or isinstance(algorithm, (FedAsync, Area))
        or not isinstance(algorithm.server, ServerSgd)
    ):
        return []
    return _server_warnings(experiment, _mean_contraction(experiment, curvatures, proximal))


def _local_warning(lr: float, steepest: float) -> str:
    return (
        f"worker.lr={lr:g} times the largest curvature {steepest:.4g} is {lr * steepest:.3g}, more "
        "than 2: each local step leads away from the worker's own optimum; use a worker.lr below "
        f"{2 / steepest:.3g}"
    )


def _server_warnings(experiment: FederatedExperiment, rate: float) -> list[str]:
    algorithm = experiment.algorithm
    delay, why = _delay(experiment)
    step = effective_step(experiment)
    if isinstance(algorithm, FedBuff) and algorithm.damp_stale:
        step /= math.sqrt(1 + delay)
    groups = 1.0
    if isinstance(algorithm, (AfaCs, Mifa)):
        groups = experiment.workers / algorithm.collect
        why += (
            f" and a memory of {experiment.workers} workers, {algorithm.collect} a round (exact if "
            "they take turns; random arrivals bear more)"
        )
    limit = step_limit(delay, groups)
    if step * rate <= limit:
        return []
    return [
        f"effective step a*s = {step * rate:.4g} (a = {step:.4g}, s = {rate:.4g}) is above the "
        f"stability limit {limit:.4g} for {why}: the run may diverge; use an algorithm.server_lr "
        f"below {algorithm.server_lr * limit / (step * rate):.3g}"
    ]


def _mean_contraction(
    experiment: FederatedExperiment, curvatures: list[float], proximal: float
) -> float:
    """Mean s over the workers; FedProx's term pulls back, which leaves h / (h + mu) of the way."""
    steps = max(round(mean_steps(experiment)), 1)
    return fmean(
        contraction(h + proximal, experiment.worker.lr, steps) * h / (h + proximal)
        for h in curvatures
    )


def _curvatures(experiment: FederatedExperiment, smoothness: float | None) -> list[float]:
    model = experiment.model
    if isinstance(model, Quadratic):
        values = model.curvatures
        return list(values) if isinstance(values, tuple) else [values]
    return [smoothness] if smoothness else []


def _delay(experiment: FederatedExperiment) -> tuple[float, str]:
    """Return the delay that the limit is taken at, and say which it is."""
    arrivals = experiment.arrivals
    if isinstance(arrivals, RoundBased) and arrivals.max_delay:
        delay = arrivals.max_delay
        late = "" if arrivals.delay == "constant" else " (if all returns were so late)"
        return delay, f"a delay of {delay} rounds{late}"
    if isinstance(arrivals, EventDriven):
        mean = (experiment.workers - 1) / experiment.algorithm.collect
        if arrivals.max_delay is not None:
            mean = min(mean, arrivals.max_delay)
        return mean, f"the mean delay of {mean:.4g} rounds"
    if isinstance(arrivals, Trace):
        return 0, "no delay (those of the trace make it lower)"
    return 0, "no delay"
