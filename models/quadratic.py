"""The closed-form test problem: worker i has ``f_i(x) = h_i/2 * |x - c_i|^2``.

Its data set has one sample a worker, the row (c_i, h_i) of ``d + 1`` numbers; targets are unused.
Symbols: n workers at once, d coordinates, B samples a batch, N samples in all.
"""

import torch
from torch import Tensor

from models.interface import Evaluation, Model


class QuadraticModel(Model):
    """Mean of quadratics whose centres and curvatures are the samples.

    Args:
        dimension: d, the number of coordinates.
        start: Every coordinate of the initial model.
        noise: Standard deviation of the gradient noise, per coordinate and local step.
        dtype: Floating-point type of the parameters.
        device: Where they are.
    """

    name = "quadratic"

    def __init__(
        self,
        dimension: int,
        *,
        start: float = 0.0,
        noise: float = 0.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_parameters = dimension
        self.gradient_noise = noise
        self._start = start
        self._dtype = dtype
        self._device = device

    def initial(self, generator: torch.Generator) -> Tensor:
        """Return the configured start; nothing is drawn."""
        del generator
        return torch.full(
            (self.num_parameters,), self._start, dtype=self._dtype, device=self._device
        )

    def gradients(
        self, params_nP: Tensor, inputs: Tensor, targets: Tensor, *, out: Tensor | None = None
    ) -> Tensor:
        """Return the mean of ``h (x - c)`` over each worker's batch; see the base class."""
        del targets
        centres, curvatures = inputs[..., :-1], inputs[..., -1:]
        if inputs.shape[1] == 1:
            return torch.sub(params_nP, centres[:, 0], out=out).mul_(curvatures[:, 0])
        return torch.mean(curvatures * (params_nP[:, None] - centres), dim=1, out=out)

    def evaluate(
        self, params: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor
    ) -> Evaluation:
        """Evaluate the objective; the metric is the distance to its minimiser."""
        del targets
        weights = weights.to(params.dtype)
        offsets = params - inputs[:, :-1]
        pull = weights * inputs[:, -1]
        gradient = pull @ offsets
        return Evaluation(
            loss=float(0.5 * (pull @ offsets.square().sum(dim=1))),
            gradient=gradient,
            # x - x* = grad f / mean curvature, exactly.
            metrics={"distance": float(torch.linalg.vector_norm(gradient) / pull.sum())},
        )

    def metrics(self, params: Tensor, inputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return loss and distance to the minimiser, all samples weighing the same."""
        weights = torch.full_like(inputs[:, 0], 1 / len(inputs))
        evaluation = self.evaluate(params, inputs, targets, weights)
        return {"loss": evaluation.loss, **evaluation.metrics}

    def smoothness(self, inputs: Tensor, weights: Tensor) -> float:
        """Return the objective's curvature, which is exact and the same everywhere."""
        return float(weights.to(inputs.dtype) @ inputs[:, -1])
