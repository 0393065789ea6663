"""Warnings that a step is too large, made of the closed forms of ``step_limits``.

Symbols: M workers, m returns a round, K local steps, a = eta * eta_L the effective step, s by how
much a normalised return contracts.
"""

import math
from statistics import fmean

from configs.algorithms import (
    AfaCs,
    Area,
    Ca2fl,
    FedAsync,
    FedBuff,
    FedProx,
    Mifa,
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
from configs.step_limits import (
    averaging_rate_limit,
    calibrated_step_limit,
    contraction,
    delay_step_limit,
    step_limit,
)


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
    return step if algorithm.is_normalised else step * mean_steps(experiment)


def step_warnings(experiment: FederatedExperiment, smoothness: float | None) -> list[str]:
    """Say where a step size is above what the closed forms call stable.

    They hold for SGD at the server, and for SGD and FedProx at the workers; nothing is said about
    others. With real workers only their own steps are looked at, as nobody knows how many they will
    do.

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
    if is_real or not isinstance(algorithm.server, ServerSgd):
        return []
    if isinstance(algorithm, (FedAsync, Area)):
        return _averaging_warnings(experiment, algorithm, curvatures, proximal)
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
    limit = delay_step_limit(delay)
    if isinstance(algorithm, (AfaCs, Mifa, Ca2fl)):
        groups = experiment.workers / algorithm.collect
        is_calibrated = isinstance(algorithm, Ca2fl)
        limit = (calibrated_step_limit if is_calibrated else step_limit)(delay, groups)
        why += _of_memory(experiment)
    if step * rate <= limit:
        return []
    return [
        f"effective step a*s = {step * rate:.4g} (a = {step:.4g}, s = {rate:.4g}) is above the "
        f"stability limit {limit:.4g} for {why}: the run may diverge; use an algorithm.server_lr "
        f"below {algorithm.server_lr * limit / (step * rate):.3g}"
    ]


def _averaging_warnings(
    experiment: FederatedExperiment,
    algorithm: FedAsync | Area,
    curvatures: list[float],
    proximal: float,
) -> list[str]:
    """Look at the mixture of models: with one local step, or a rate above 1, it may diverge."""
    delay, why = _delay(experiment)
    steps = max(round(mean_steps(experiment)), 1)
    moved = steps * experiment.worker.lr * _mean_contraction(experiment, curvatures, proximal)
    groups, damping = 1.0, 1.0
    if isinstance(algorithm, Area):
        groups = experiment.workers / algorithm.collect
        why += _of_memory(experiment)
    else:
        damping = algorithm.damping(delay)
    limit = averaging_rate_limit(delay, groups, 1 - moved) / damping
    if algorithm.server_lr <= limit:
        return []
    return [
        f"algorithm.server_lr={algorithm.server_lr:g} is above the stability limit {limit:.4g} for "
        f"local models that move {moved:.4g} of the way to their optimum and {why}: the run may "
        "diverge; lower it, or worker.lr"
    ]


def _of_memory(experiment: FederatedExperiment) -> str:
    return (
        f" and a memory of {experiment.workers} workers, {experiment.algorithm.collect} a round "
        "(exact if they take turns; random arrivals bear more)"
    )


def _mean_contraction(
    experiment: FederatedExperiment, curvatures: list[float], proximal: float
) -> float:
    """Mean s over the workers; FedProx's term pulls back, which leaves h / (h + mu) of the way."""
    steps = max(round(mean_steps(experiment)), 1)
    is_normalised = experiment.algorithm.is_normalised
    weight = experiment.worker.gradient_weight(steps) if is_normalised else steps
    return fmean(
        contraction(h + proximal, experiment.worker.lr, steps) * h / (h + proximal) * steps / weight
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
