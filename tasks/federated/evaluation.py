"""What a line of the journal says: the objective on all workers' data, and the test metrics.

The objective is f = (1/M) sum_i f_i (dossier section 1): every worker counts the same, however many
samples it holds, so a sample of worker i weighs 1 / (M n_i).
"""

import torch
from torch import Tensor

from models.datasets import Dataset
from models.interface import Model
from models.partition import Shards
from tasks.runtime.metrics import TEST_PREFIX, Metric


class Evaluator:
    """Evaluates models on the training objective and the test set.

    Args:
        model: The model.
        dataset: Its data, on the model's device.
        shards: Which samples each worker holds.
        most_samples: Use at most about so many training samples, spread evenly; None for all.
    """

    def __init__(
        self, model: Model, dataset: Dataset, shards: Shards, most_samples: int | None = None
    ) -> None:
        self._model = model
        order = torch.as_tensor(shards.order)
        counts = torch.as_tensor(shards.counts)
        owner = torch.repeat_interleave(torch.arange(len(counts)), counts)
        if most_samples is not None and most_samples < len(order):
            taken = torch.linspace(0, len(order) - 1, most_samples, dtype=torch.float64).long()
            order, owner = order[taken], owner[taken]
            counts = torch.bincount(owner, minlength=len(counts))
        weights = 1.0 / counts[owner].to(torch.float64)
        device = dataset.train_inputs.device
        order = order.to(device)
        self._inputs = dataset.train_inputs[order]
        self._targets = dataset.train_targets[order]
        self._weights = (weights / weights.sum()).to(device)
        self._test_inputs, self._test_targets = dataset.test_inputs, dataset.test_targets

    def smoothness(self) -> float | None:
        """Upper bound of the Lipschitz constant of the objective's gradient, if one is known."""
        return self._model.smoothness(self._inputs, self._weights)

    def measure(self, params: Tensor) -> dict[str, float]:
        """Evaluate one model.

        Args:
            params: Parameters, shape (P,).

        Returns:
            Journal metric -> value.
        """
        result = self._model.evaluate(params, self._inputs, self._targets, self._weights)
        norm = float(torch.linalg.vector_norm(result.gradient.double()))
        measured: dict[str, float] = {
            Metric.TRAIN_LOSS: result.loss,
            Metric.TRAIN_GRAD_NORM: norm,
            Metric.TRAIN_GRAD_SQ_NORM: norm * norm,
        }
        measured |= {f"train/{name}": value for name, value in result.metrics.items()}
        if len(self._test_inputs):
            tested = self._model.metrics(params, self._test_inputs, self._test_targets)
            measured |= {f"{TEST_PREFIX}{name}": value for name, value in tested.items()}
        return {str(name): value for name, value in measured.items()}
