"""How many local steps a return has: one law for each ``kind`` of ``configs.arrivals.LocalSteps``.

A law is a pure function of (worker, sequence): asked again, it gives the same answer.
"""

from collections.abc import Callable

import numpy as np

from configs.arrivals import BudgetSteps, ConstantSteps, PerWorkerSteps, SpeedSteps, UniformSteps
from configs.federated import FederatedExperiment
from tasks.federated.randomness import Stream, generator, rekey
from tasks.federated.service import Floats, Ints, ServiceTimes

StepLaw = Callable[[Ints, Ints], Ints]
"""(worker ids, how many returns each had made before) -> local steps of each; all shape (n,)."""


def build(experiment: FederatedExperiment, service: ServiceTimes) -> StepLaw:
    """Return the law of local steps that an experiment names.

    Args:
        experiment: A validated experiment.
        service: Service times of its workers.

    Returns:
        The law.
    """
    law = experiment.local_steps
    match law:
        case ConstantSteps():
            return lambda worker, _: np.full_like(worker, law.steps)
        case UniformSteps():
            return _uniform(law, experiment.seed)
        case PerWorkerSteps():
            return _per_worker(np.array(law.steps, dtype=np.int64))
        case SpeedSteps():
            return _per_worker(steps_by_speed(service.means_s, law.mean))
        case BudgetSteps():
            return lambda worker, sequence: service.steps_within(
                worker, sequence, law.budget_s, max_steps=law.max_steps
            )


def _uniform(law: UniformSteps, seed: int) -> StepLaw:
    rng = generator(seed, Stream.LOCAL_STEPS)

    def draw(worker: Ints, sequence: Ints) -> Ints:
        steps = np.empty_like(worker)
        for n, key in enumerate(zip(worker.tolist(), sequence.tolist(), strict=True)):
            rekey(rng, seed, Stream.LOCAL_STEPS, *key)
            steps[n] = rng.integers(law.low, law.high, endpoint=True)
        return steps

    return draw


def _per_worker(steps: Ints) -> StepLaw:
    return lambda worker, _: steps[worker]


def steps_by_speed(means_s: Floats, mean_steps: float) -> Ints:
    """Give each worker local steps in proportion to its speed, with a given mean over all.

    Every worker gets at least one step; the others then share what is left in proportion. Rounding
    goes up for the largest fractions, so that the total is right to within half a step.

    Args:
        means_s: Mean service time of each worker, shape (M,).
        mean_steps: Mean over the workers; one step each if it is below one.

    Returns:
        Local steps, shape (M,), int64.
    """
    num_workers = len(means_s)
    total = round(mean_steps * num_workers)
    if total <= num_workers:
        return np.ones(num_workers, dtype=np.int64)
    shares = _with_floor(1 / means_s, mean_steps * num_workers)
    steps = np.floor(shares).astype(np.int64)
    fractions = shares - steps
    num_up = int(np.clip(total - steps.sum(), 0, num_workers))
    steps[np.argsort(-fractions, kind="stable")[:num_up]] += 1
    return steps


def _with_floor(speeds: Floats, total: float) -> Floats:
    """Solve sum_i max(1, c * speed_i) = total for c, and return the terms."""
    fastest_first = np.sort(speeds)[::-1]
    num_above = np.arange(1, len(speeds) + 1)
    # c if exactly the n fastest workers were above the floor, for every n
    scales = (total - (len(speeds) - num_above)) / np.cumsum(fastest_first)
    # that is consistent for the largest n whose slowest member is indeed above the floor
    above = np.flatnonzero(scales * fastest_first >= 1)
    shares: Floats = np.maximum(1.0, scales[above[-1]] * speeds)
    return shares
