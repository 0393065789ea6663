"""What an experiment keeps in memory, in closed form, to be said before it starts."""

from configs.arrivals import EventDriven, RoundBased, Trace
from configs.federated import FederatedExperiment
from configs.models import CharLstm, Cifar10Cnn, Logistic, MnistCnn, Quadratic

_BYTES = {"float32": 4, "float64": 8}
_MOST_SYMBOLS = 90
"""Of a text without rare ones; Tiny Shakespeare has 65."""


def num_parameters(experiment: FederatedExperiment) -> int | None:
    """Count a model's parameters without building it.

    Args:
        experiment: A validated experiment.

    Returns:
        The count, for a text with an assumed vocabulary of 90 symbols; None where nothing is known.
    """
    model = experiment.model
    if isinstance(model, Quadratic):
        return model.dimension
    if isinstance(model, MnistCnn):
        convolutions = 32 * (25 + 1) + 64 * (32 * 25 + 1)
        return convolutions + 512 * (1024 + 1) + 10 * (512 + 1)
    if isinstance(model, Cifar10Cnn):
        convolutions = 32 * (3 * 25 + 1) + 64 * (32 * 25 + 1)
        return convolutions + 512 * (1600 + 1) + 128 * (512 + 1) + 10 * (128 + 1)
    if isinstance(model, CharLstm):
        inputs = [model.embedding, *[model.hidden] * (model.layers - 1)]
        # Four gates a layer, each with two biases, as PyTorch counts them.
        cells = sum(4 * model.hidden * (width + model.hidden + 2) for width in inputs)
        return cells + _MOST_SYMBOLS * (model.embedding + model.hidden + 1)
    if isinstance(model, Logistic) and experiment.data is not None:
        facts = experiment.data.facts
        if facts.num_labels is not None:
            features = 1
            for extent in facts.shape:
                features *= extent
            return facts.num_labels * (features + 1)
    return None


def server_memory_bytes(experiment: FederatedExperiment, parameters: int) -> int:
    """Bytes of what is kept for every registered worker (AFA-CS's M x P, control variates).

    Args:
        experiment: A validated experiment.
        parameters: P.

    Returns:
        Bytes; 0 for algorithms without a memory.
    """
    vectors = experiment.algorithm.has_worker_memory + (experiment.worker.optimizer == "scaffold")
    return vectors * experiment.workers * parameters * _BYTES[experiment.dtype]


def least_in_flight_bytes(experiment: FederatedExperiment, parameters: int) -> int:
    """Bytes of the models in flight that are certain to be kept at once.

    With service times every version but the first is pulled by m workers, so that M workers in
    flight hold at least M / m versions. Returns that are dropped pull too, and a trace has its own
    times: there nothing but one version is certain.

    Args:
        experiment: A validated experiment.
        parameters: P.

    Returns:
        Bytes; at most ``in_flight_bytes``.
    """
    arrivals, most = experiment.arrivals, in_flight_bytes(experiment, parameters)
    if not isinstance(arrivals, (EventDriven, Trace)):
        return most
    versions = 1
    if isinstance(arrivals, EventDriven) and arrivals.max_delay is None:
        flying = experiment.workers - len(arrivals.never_return)
        versions = -(-flying // experiment.algorithm.collect)
    return min(most, versions * _flown_bytes(experiment, parameters))


def _flown_bytes(experiment: FederatedExperiment, parameters: int) -> int:
    """Bytes of one version; SCAFFOLD's control variate goes with each model."""
    vectors = 2 if experiment.worker.optimizer == "scaffold" else 1
    return vectors * parameters * _BYTES[experiment.dtype]


def in_flight_bytes(experiment: FederatedExperiment, parameters: int) -> int:
    """Most bytes of the models that workers in flight have pulled, one of each version.

    Args:
        experiment: A validated experiment.
        parameters: P.

    Returns:
        Bytes; SCAFFOLD's control variate goes with each model.
    """
    arrivals = experiment.arrivals
    if isinstance(arrivals, RoundBased):
        versions = arrivals.max_delay + 1
    elif isinstance(arrivals, (EventDriven, Trace)):
        versions = experiment.workers
    else:
        versions = 1
    return min(versions, experiment.rounds) * _flown_bytes(experiment, parameters)
