"""What the federated algorithms and the simulator know of a model.

Symbols: n workers computed at once, P parameters, B samples a batch, N samples in all.
Every model is a flat vector of P parameters, so that servers and transports need not know layers.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Evaluation:
    """The objective and its gradient on a whole data set.

    Attributes:
        loss: Weighted mean loss.
        gradient: Gradient of that loss, shape (P,).
        metrics: The model's own metrics by name, such as ``accuracy`` in [0, 1].
    """

    loss: float
    gradient: Tensor
    metrics: dict[str, float]


class Model(ABC):
    """A loss over flat parameter vectors, with gradients of many workers at once.

    Attributes:
        name: Its name in the configuration, such as ``logistic``.
        num_parameters: P.
        gradient_noise: Standard deviation of noise that a worker adds to each coordinate of each
            stochastic gradient; 0 for all but the quadratic test problem.
    """

    name: str
    num_parameters: int
    gradient_noise: float = 0.0

    @abstractmethod
    def initial(self, generator: torch.Generator) -> Tensor:
        """Draw the initial parameters, shape (P,), in the model's dtype, on its device.

        Args:
            generator: A CPU generator.

        Returns:
            A tensor of its own.
        """

    @abstractmethod
    def gradients(
        self, params_nP: Tensor, inputs: Tensor, targets: Tensor, *, out: Tensor | None = None
    ) -> Tensor:
        """Mean gradient of each worker over its own batch, at its own parameters.

        Several threads may call it at once. With n = 1 it takes the way that is best for one
        worker alone.

        Args:
            params_nP: One parameter vector a worker, shape (n, P), contiguous.
            inputs: One batch a worker, shape (n, B, ...).
            targets: Their targets, shape (n, B, ...).
            out: Where to write the result, shape (n, P), contiguous; default: a new tensor.

        Returns:
            Shape (n, P). The caller may change it in place.
        """

    @abstractmethod
    def evaluate(
        self, params: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor
    ) -> Evaluation:
        """Evaluate ``sum_j w_j loss_j`` and its gradient over a data set, in chunks.

        Args:
            params: Parameters, shape (P,).
            inputs: Samples, shape (N, ...).
            targets: Targets, shape (N, ...).
            weights: Sample weights, shape (N,), summing to one, of any floating-point type.

        Returns:
            Loss, gradient and (weighted) metrics.
        """

    @abstractmethod
    def metrics(self, params: Tensor, inputs: Tensor, targets: Tensor) -> dict[str, float]:
        """The model's metrics on a test set, such as ``{"loss": ..., "accuracy": ...}``.

        Args:
            params: Parameters, shape (P,).
            inputs: Samples, shape (N, ...).
            targets: Targets, shape (N, ...).

        Returns:
            Name -> value, all samples weighing the same.
        """

    def smoothness(self, inputs: Tensor, weights: Tensor) -> float | None:
        """Upper bound of the Lipschitz constant L of the objective's gradient, if there is one.

        Args:
            inputs: Samples, shape (N, ...).
            weights: Sample weights, shape (N,), summing to one, of any floating-point type.

        Returns:
            The bound, or None where no closed form is known.
        """
        del inputs, weights
        return None
