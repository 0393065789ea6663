"""Multinomial logistic regression with closed-form gradients of many workers at once.

A model vector holds the weights, row by row, then the biases: P = C * D + C.
Symbols: n workers at once, B samples a batch, D features, C classes, N samples in all.
"""

import torch
from torch import Tensor

from models.interface import Evaluation, Model

_CHUNK = 8192


class LogisticModel(Model):
    """Mean cross-entropy of a linear classifier, plus ``l2/2 * |x|^2`` (biases included).

    Args:
        num_features: D.
        num_classes: C.
        l2: Weight of the penalty.
        dtype: Floating-point type of the parameters.
        device: Where they are.
    """

    name = "logistic"

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        l2: float = 0.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_parameters = (num_features + 1) * num_classes
        self.l2 = l2
        self._num_features = num_features
        self._num_classes = num_classes
        self._dtype = dtype
        self._device = device

    def initial(self, generator: torch.Generator) -> Tensor:
        """Return zeros: the problem is convex, and nothing is drawn."""
        del generator
        return torch.zeros(self.num_parameters, dtype=self._dtype, device=self._device)

    def gradients(
        self, params_nP: Tensor, inputs: Tensor, targets: Tensor, *, out: Tensor | None = None
    ) -> Tensor:
        """Return each worker's mean gradient; see the base class.

        Logits stand as (n, C, B): for 10 classes, both products then run about twice as fast as
        with (n, B, C) (measured with MKL, D = 784, B = 64), as the long side stays innermost.
        """
        if out is None:
            out = torch.empty_like(params_nP)
        inputs_nBD = inputs.flatten(2)
        weights_nCD, biases_nC = self._split(params_nP)
        out_nCD, out_nC = self._split(out)
        logits_nCB = torch.baddbmm(biases_nC[..., None], weights_nCD, inputs_nBD.mT)
        residuals_nCB = torch.softmax(logits_nCB, dim=1, out=logits_nCB)
        residuals_nCB.scatter_(1, targets[:, None], -1.0, reduce="add")
        share = 1 / inputs_nBD.shape[1]
        torch.baddbmm(out_nCD, residuals_nCB, inputs_nBD, beta=0, alpha=share, out=out_nCD)
        torch.mean(residuals_nCB, dim=2, out=out_nC)
        if self.l2:
            out.add_(params_nP, alpha=self.l2)
        return out

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Views of the weights (..., C, D) and the biases (..., C)."""
        num_weights = self._num_features * self._num_classes
        shape = (*params.shape[:-1], self._num_classes, self._num_features)
        return params[..., :num_weights].view(shape), params[..., num_weights:]

    def evaluate(
        self, params: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor
    ) -> Evaluation:
        """Evaluate loss, gradient and accuracy; see the base class."""
        weights = weights.to(params.dtype)
        gradient = self.l2 * params
        gradient_CD, gradient_C = self._split(gradient)
        loss = 0.5 * self.l2 * float(params.square().sum())
        accuracy = 0.0
        for begin in range(0, len(inputs), _CHUNK):
            chunk = slice(begin, begin + _CHUNK)
            inputs_ND, weights_N = inputs[chunk].flatten(1), weights[chunk]
            log_shares_NC = self._log_shares(params, inputs_ND)
            picked_N1 = targets[chunk, None]
            loss -= float(weights_N @ log_shares_NC.gather(1, picked_N1)[:, 0])
            correct_N = log_shares_NC.argmax(dim=1) == targets[chunk]
            accuracy += float(weights_N @ correct_N.to(weights.dtype))
            residuals_NC = log_shares_NC.exp_()
            residuals_NC.scatter_add_(
                1, picked_N1, residuals_NC.new_full((), -1.0).expand_as(picked_N1)
            )
            residuals_NC.mul_(weights_N[:, None])
            gradient_CD.addmm_(residuals_NC.T, inputs_ND)
            gradient_C.add_(residuals_NC.sum(dim=0))
        return Evaluation(loss=loss, gradient=gradient, metrics={"accuracy": accuracy})

    def metrics(self, params: Tensor, inputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return mean cross-entropy (without the penalty) and accuracy."""
        loss, num_correct = 0.0, 0
        for begin in range(0, len(inputs), _CHUNK):
            chunk = slice(begin, begin + _CHUNK)
            log_shares_NC = self._log_shares(params, inputs[chunk].flatten(1))
            loss -= float(log_shares_NC.gather(1, targets[chunk, None]).sum())
            num_correct += int((log_shares_NC.argmax(dim=1) == targets[chunk]).sum())
        return {"loss": loss / len(inputs), "accuracy": num_correct / len(inputs)}

    def _log_shares(self, params: Tensor, inputs_ND: Tensor) -> Tensor:
        weights_CD, biases_C = self._split(params)
        return torch.log_softmax(torch.addmm(biases_C, inputs_ND, weights_CD.T), dim=1)

    def smoothness(self, inputs: Tensor, weights: Tensor) -> float:
        """Return half the largest eigenvalue of the inputs' second moment, plus l2.

        The softmax's Hessian is at most 1/2 (Böhning 1992); a constant 1 beside the features
        stands for the biases.
        """
        size = self._num_features + 1
        moment = inputs.new_zeros((size, size), dtype=torch.float64)
        for begin in range(0, len(inputs), _CHUNK):
            chunk = slice(begin, begin + _CHUNK)
            features = inputs[chunk].flatten(1)
            features = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
            moment += (features * weights[chunk, None].to(features.dtype)).T @ features
        return 0.5 * float(torch.linalg.eigvalsh(moment)[-1]) + self.l2
