"""Logistic regression with closed-form gradients, against autograd."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.logistic import LogisticModel

FEATURES, CLASSES, L2 = 6, 4, 0.1


def make_model(l2: float = L2) -> LogisticModel:
    """Make a small model in float64."""
    return LogisticModel(FEATURES, CLASSES, l2=l2, dtype=torch.float64)


def draw(num_workers: int, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Parameters, inputs of shape (n, B, 2, 3) and targets."""
    rng = torch.Generator().manual_seed(3)
    size = FEATURES * CLASSES + CLASSES
    params = torch.randn(num_workers, size, generator=rng, dtype=torch.float64)
    inputs = torch.randn(num_workers, batch_size, 2, 3, generator=rng, dtype=torch.float64)
    targets = torch.randint(CLASSES, (num_workers, batch_size), generator=rng)
    return params, inputs, targets


def loss_of(
    params: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """The loss of one worker, as one would write it down."""
    matrix, biases = params[: FEATURES * CLASSES].view(CLASSES, FEATURES), params[-CLASSES:]
    losses = functional.cross_entropy(
        functional.linear(inputs.flatten(1), matrix, biases), targets, reduction="none"
    )
    mean = losses.mean() if weights is None else weights @ losses
    return mean + L2 / 2 * params.square().sum()


def gradient_of(
    params: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Its gradient by autograd."""
    leaf = params.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(leaf, inputs, targets, weights), leaf)
    return gradient


def hessian_of(loss: Callable[[Tensor], Tensor], params: Tensor) -> Tensor:
    """The matrix of second derivatives."""
    matrix: Tensor = torch.autograd.functional.hessian(loss, params)  # type: ignore[no-untyped-call]  # torch's
    return matrix


@pytest.mark.parametrize(("num_workers", "batch_size"), [(1, 1), (1, 7), (5, 1), (5, 7)])
def test_gradients_of_many_equal_autograd_of_each(num_workers: int, batch_size: int) -> None:
    """The batched closed form gives each worker what autograd gives it alone."""
    params, inputs, targets = draw(num_workers, batch_size)

    gradients = make_model().gradients(params, inputs, targets)

    expected = torch.stack([gradient_of(*row) for row in zip(params, inputs, targets, strict=True)])
    torch.testing.assert_close(gradients, expected)


def test_gradients_are_written_whole_to_out() -> None:
    """Whatever stood in ``out``, NaN included, is replaced."""
    params, inputs, targets = draw(3, 5)
    out = torch.full_like(params, torch.nan)

    result = make_model().gradients(params, inputs, targets, out=out)

    assert result is out
    assert torch.equal(out, make_model().gradients(params, inputs, targets))


def test_non_finite_input_shows_in_that_workers_gradient_alone() -> None:
    """An infinite sample makes its worker's gradient not finite, and leaves the others alone."""
    params, inputs, targets = draw(3, 5)
    clean = make_model().gradients(params, inputs, targets)
    inputs[1, 2] = torch.inf

    gradients = make_model().gradients(params, inputs, targets)

    assert not torch.isfinite(gradients[1]).all()
    assert torch.equal(gradients[[0, 2]], clean[[0, 2]])


def test_evaluation_equals_autograd_over_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weighted loss, gradient and accuracy are those of the whole, also when taken in chunks."""
    monkeypatch.setattr("models.logistic._CHUNK", 4)
    params, inputs, targets = (tensor[0] for tensor in draw(1, 10))
    weights = torch.linspace(1, 2, 10, dtype=torch.float64)
    weights /= weights.sum()

    evaluation = make_model().evaluate(params, inputs, targets, weights)

    assert evaluation.loss == pytest.approx(float(loss_of(params, inputs, targets, weights)))
    torch.testing.assert_close(evaluation.gradient, gradient_of(params, inputs, targets, weights))
    matrix, biases = params[:-CLASSES].view(CLASSES, FEATURES), params[-CLASSES:]
    right = (inputs.flatten(1) @ matrix.T + biases).argmax(dim=1) == targets
    assert evaluation.metrics["accuracy"] == pytest.approx(float(weights[right].sum()))


def test_weights_may_be_of_higher_precision() -> None:
    """Weights in float64 evaluate a float32 model in float32."""
    model = LogisticModel(FEATURES, CLASSES)
    params, inputs, targets = (tensor[0] for tensor in draw(1, 10))
    weights = torch.full((10,), 0.1, dtype=torch.float64)

    evaluation = model.evaluate(params.float(), inputs.float(), targets, weights)

    assert evaluation.gradient.dtype == torch.float32
    assert model.smoothness(inputs.float(), weights) > 0


def test_metrics_leave_out_the_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test loss is the plain mean cross-entropy, and accuracy the share of right answers."""
    monkeypatch.setattr("models.logistic._CHUNK", 3)
    params, inputs, targets = (tensor[0] for tensor in draw(1, 10))

    metrics = make_model().metrics(params, inputs, targets)

    penalty = L2 / 2 * float(params.square().sum())
    assert metrics["loss"] == pytest.approx(float(loss_of(params, inputs, targets)) - penalty)
    equal = torch.full((10,), 0.1, dtype=torch.float64)
    evaluation = make_model().evaluate(params, inputs, targets, equal)
    assert metrics["accuracy"] == pytest.approx(evaluation.metrics["accuracy"])


def test_smoothness_bounds_every_curvature() -> None:
    """No Hessian has an eigenvalue above the bound; at zero with two classes half of it is met."""
    params, inputs, targets = (tensor[0] for tensor in draw(1, 10))
    weights = torch.linspace(1, 2, 10, dtype=torch.float64)
    weights /= weights.sum()
    model = make_model()

    bound = model.smoothness(inputs, weights)

    for scale in (0.0, 0.1, 1.0):
        hessian = hessian_of(lambda p: loss_of(p, inputs, targets, weights), scale * params)
        assert torch.linalg.eigvalsh(hessian)[-1] <= bound * (1 + 1e-12)


def test_smoothness_is_met_by_two_classes() -> None:
    """With two classes the softmax's Hessian is 1/2 at zero, so the bound is exact there."""
    model = LogisticModel(FEATURES, 2, dtype=torch.float64)
    _, inputs, _ = (tensor[0] for tensor in draw(1, 10))
    weights = torch.full((10,), 0.1, dtype=torch.float64)

    def loss(params: Tensor) -> Tensor:
        logits = inputs.flatten(1) @ params[:-2].view(2, FEATURES).T + params[-2:]
        return functional.cross_entropy(logits, torch.zeros(10, dtype=torch.int64))

    hessian = hessian_of(loss, torch.zeros(model.num_parameters, dtype=torch.float64))

    largest = float(torch.linalg.eigvalsh(hessian)[-1])
    assert largest == pytest.approx(model.smoothness(inputs, weights))


def test_starts_at_zero() -> None:
    """The initial model is zero, of C * (D + 1) parameters."""
    initial = make_model().initial(torch.Generator())

    assert torch.equal(initial, torch.zeros(CLASSES * (FEATURES + 1), dtype=torch.float64))
