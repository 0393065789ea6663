"""From the ``kind`` of an arrival process to the process."""

import numpy as np
from numpy.typing import NDArray

from configs.arrivals import (
    EventDriven,
    LabelCorrelated,
    Markov,
    Periodic,
    Schedule,
    Slurm,
    Synchronous,
    Trace,
    Uniform,
    Weighted,
)
from configs.federated import FederatedExperiment
from configs.trace import TraceError, read_buffers
from tasks.federated import local_steps
from tasks.federated.arrivals.events import EventDrivenArrivals
from tasks.federated.arrivals.interface import ArrivalProcess, Floats
from tasks.federated.arrivals.markov import MarkovArrivals
from tasks.federated.arrivals.replay import ReplayedArrivals
from tasks.federated.arrivals.rounds import (
    PeriodicArrivals,
    ScheduledArrivals,
    UniformArrivals,
    WeightedArrivals,
)
from tasks.federated.arrivals.synchronous import SynchronousArrivals
from tasks.federated.service import ServiceTimes
from tasks.runtime.errors import JobError, Reason


def build(
    experiment: FederatedExperiment, label_shares: NDArray[np.floating] | None = None
) -> ArrivalProcess:
    """Return the arrival process that an experiment names, before its first round.

    Args:
        experiment: A validated experiment.
        label_shares: Share of each label among each worker's samples, shape (M, C), rows summing
            to one; only ``label_correlated`` looks at it.

    Returns:
        The process.

    Raises:
        JobError: The trace cannot be used, or the workers are real.
        ValueError: ``label_correlated`` without label shares.
    """
    service = ServiceTimes(experiment.service, workers=experiment.workers, seed=experiment.seed)
    draw_steps = local_steps.build(experiment, service)
    config = experiment.arrivals
    match config:
        case Synchronous():
            return SynchronousArrivals(config, experiment, draw_steps, service)
        case Uniform():
            return UniformArrivals(config, experiment, draw_steps)
        case Weighted():
            weights = np.array(config.weights, dtype=np.float64)
            return WeightedArrivals(config, experiment, draw_steps, weights=weights)
        case LabelCorrelated():
            weights = label_weights(config, label_shares)
            return WeightedArrivals(config, experiment, draw_steps, weights=weights)
        case Schedule():
            return ScheduledArrivals(config, experiment, draw_steps)
        case Periodic():
            return PeriodicArrivals(config, experiment, draw_steps)
        case Markov():
            return MarkovArrivals(config, experiment, draw_steps)
        case EventDriven():
            return EventDrivenArrivals(config, experiment, draw_steps, service)
        case Trace():
            try:
                return ReplayedArrivals(read_buffers(config, experiment), draw_steps)
            except TraceError as error:
                raise JobError(Reason.TRACE, str(error)) from error
        case Slurm():
            raise JobError(
                Reason.ARRIVALS,
                "arrivals slurm cannot be simulated: their workers are jobs of a cluster, with a "
                "server job; use launcher: slurm, or arrivals event_driven, or the trace of a run",
            )


def label_weights(config: LabelCorrelated, label_shares: NDArray[np.floating] | None) -> Floats:
    """Return how often each worker arrives: 1 without favoured labels, ``ratio`` with no other.

    Args:
        config: The favoured labels and the ratio.
        label_shares: Share of each label among each worker's samples, shape (M, C).

    Returns:
        One weight a worker, shape (M,), linear in the share of favoured labels.

    Raises:
        ValueError: There are no label shares.
    """
    if label_shares is None:
        raise ValueError("label_correlated needs the label shares of the workers, got None")
    favoured = sorted(set(config.favoured_labels))
    share: Floats = label_shares[:, favoured].astype(np.float64).sum(axis=1)
    return 1.0 + (config.ratio - 1.0) * share
