"""What an experiment keeps in memory, in closed form, to be said before it starts."""

from configs.arrivals import EventDriven, RoundBased, Trace
from configs.data import DATASETS
from configs.federated import FederatedExperiment
from configs.models import CharLstm, Cifar10Cnn, Logistic, MnistCnn, Quadratic

_BYTES = {"float32": 4, "float64": 8}
_SLOT_ALGORITHMS = {"afa_cs", "mifa", "ca2fl", "area"}
"""Algorithms that keep one vector a worker."""
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
        facts = DATASETS[experiment.data.name]
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
    vectors = (experiment.algorithm.name in _SLOT_ALGORITHMS) + (
        experiment.worker.optimizer == "scaffold"
    )
    return vectors * experiment.workers * parameters * _BYTES[experiment.dtype]


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
    vectors = 2 if experiment.worker.optimizer == "scaffold" else 1
    return min(versions, experiment.rounds) * vectors * parameters * _BYTES[experiment.dtype]
