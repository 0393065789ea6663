"""The closed-form test problem."""

import pytest
import torch

from models.quadratic import QuadraticModel

CENTRES = torch.tensor([[1.0, -2.0], [4.0, 0.0], [0.0, 6.0]], dtype=torch.float64)
CURVATURES = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
INPUTS = torch.cat([CENTRES, CURVATURES[:, None]], dim=1)
TARGETS = torch.zeros(3, dtype=torch.int64)
WEIGHTS = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)


def make_model() -> QuadraticModel:
    """Make a model of two coordinates."""
    return QuadraticModel(2, start=3.0, noise=0.25, dtype=torch.float64)


def test_starts_where_configured() -> None:
    """The initial model is the configured start in every coordinate, in the model's dtype."""
    initial = make_model().initial(torch.Generator())

    assert torch.equal(initial, torch.tensor([3.0, 3.0], dtype=torch.float64))
    assert make_model().gradient_noise == 0.25


@pytest.mark.parametrize("batch", [[[0], [2]], [[0, 1, 1], [2, 2, 0]]])
def test_gradient_is_the_mean_pull_of_the_batch(batch: list[list[int]]) -> None:
    """Each worker's gradient is the mean of h (x - c) over its own batch at its own parameters."""
    params = torch.tensor([[1.0, 1.0], [-2.0, 5.0]], dtype=torch.float64)
    picked = torch.tensor(batch)

    gradients = make_model().gradients(params, INPUTS[picked], TARGETS[picked])

    for row, samples in enumerate(batch):
        pulls = torch.stack([CURVATURES[i] * (params[row] - CENTRES[i]) for i in samples])
        torch.testing.assert_close(gradients[row], pulls.mean(dim=0))


def test_out_is_written() -> None:
    """With ``out`` the result stands there, and nothing else is changed."""
    params = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    out = torch.full((1, 2), 9.0, dtype=torch.float64)

    result = make_model().gradients(params, INPUTS[:1, None], TARGETS[:1, None], out=out)

    assert result is out
    assert torch.equal(out, params - CENTRES[:1])
    assert torch.equal(params, torch.tensor([[1.0, 1.0]], dtype=torch.float64))


def test_evaluation_is_the_weighted_mean() -> None:
    """Loss and gradient are the weighted means of the workers' own, written out by hand."""
    params = torch.tensor([1.0, 2.0], dtype=torch.float64)

    evaluation = make_model().evaluate(params, INPUTS, TARGETS, WEIGHTS)

    # |x - c|^2 = 16, 13, 17.
    assert evaluation.loss == pytest.approx(0.2 * 8 + 0.3 * 13 + 0.5 * 0.25 * 17)
    expected = sum(
        w * h * (params - c) for w, h, c in zip(WEIGHTS, CURVATURES, CENTRES, strict=True)
    )
    torch.testing.assert_close(evaluation.gradient, expected)


def test_distance_is_to_the_weighted_optimum() -> None:
    """The metric is |x - x*| with x* = sum w h c / sum w h, and is zero there."""
    params = torch.tensor([1.0, 2.0], dtype=torch.float64)
    pull = WEIGHTS * CURVATURES
    optimum = (pull[:, None] * CENTRES).sum(dim=0) / pull.sum()
    model = make_model()

    away = model.evaluate(params, INPUTS, TARGETS, WEIGHTS).metrics["distance"]
    there = model.evaluate(optimum, INPUTS, TARGETS, WEIGHTS).metrics["distance"]

    assert away == pytest.approx(float((params - optimum).norm()))
    assert there == pytest.approx(0, abs=1e-15)


def test_metrics_weigh_all_samples_the_same() -> None:
    """On a test set every worker counts the same."""
    params = torch.tensor([1.0, 2.0], dtype=torch.float64)
    model = make_model()

    metrics = model.metrics(params, INPUTS, TARGETS)

    equal = torch.full((3,), 1 / 3, dtype=torch.float64)
    evaluation = model.evaluate(params, INPUTS, TARGETS, equal)
    assert metrics == {"loss": evaluation.loss, **evaluation.metrics}


def test_smoothness_is_the_mean_curvature() -> None:
    """The objective's gradient has the weighted mean curvature as its exact Lipschitz constant."""
    assert make_model().smoothness(INPUTS, WEIGHTS) == pytest.approx(0.2 + 0.6 + 0.25)
