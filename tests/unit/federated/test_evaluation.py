"""The objective is (1/M) sum_i f_i: every worker counts the same, however many samples it has."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.datasets import Dataset
from models.logistic import LogisticModel
from models.partition import Shards
from models.quadratic import QuadraticModel
from tasks.federated.evaluation import Evaluator

FEATURES, CLASSES, L2 = 4, 3, 0.02
SIZES = [7, 1, 40, 12]


def shards_of(sizes: list[int], order: np.typing.NDArray[np.int64]) -> Shards:
    """Give the workers so many samples each, in the given order."""
    return Shards.from_lists(np.split(order, np.cumsum(sizes)[:-1]))


def classified(num_test: int = 0) -> Dataset:
    """Random features of random classes, in float64."""
    rng = torch.Generator().manual_seed(1)
    total = sum(SIZES) + num_test
    inputs = torch.randn(total, FEATURES, generator=rng, dtype=torch.float64)
    targets = torch.randint(CLASSES, (total,), generator=rng)
    train, test = slice(None, sum(SIZES)), slice(sum(SIZES), None)
    return Dataset(
        inputs[train], targets[train], inputs[test], targets[test], targets[train].numpy(), CLASSES
    )


def centres(values: Tensor) -> Dataset:
    """Samples of the quadratic problem with these centres and curvature 1."""
    inputs = torch.stack([values, torch.ones_like(values)], dim=1)
    targets = torch.zeros(len(values), dtype=torch.int64)
    return Dataset(inputs, targets, inputs[:0], targets[:0], targets.numpy(), 1)


def test_the_objective_is_the_mean_over_the_workers() -> None:
    """Loss, gradient norm and accuracy equal a loop over the workers, each with its own mean."""
    dataset = classified()
    shards = shards_of(SIZES, np.random.default_rng(2).permutation(sum(SIZES)))
    model = LogisticModel(FEATURES, CLASSES, l2=L2, dtype=torch.float64)
    params = torch.randn(
        model.num_parameters, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )

    measured = Evaluator(model, dataset, shards).measure(params)

    leaf = params.clone().requires_grad_()
    matrix, biases = leaf[:-CLASSES].view(CLASSES, FEATURES), leaf[-CLASSES:]
    losses, accuracies = [], []
    for worker in range(len(SIZES)):
        samples = shards.of(worker)
        logits = functional.linear(dataset.train_inputs[samples], matrix, biases)
        targets = dataset.train_targets[samples]
        losses.append(functional.cross_entropy(logits, targets) + L2 / 2 * leaf.square().sum())
        accuracies.append(float((logits.argmax(dim=1) == targets).double().mean()))
    loss = torch.stack(losses).mean()
    (gradient,) = torch.autograd.grad(loss, leaf)
    # Sums of 60 doubles in another order.
    assert measured == pytest.approx(
        {
            "train/loss": float(loss.detach()),
            "train/grad_norm": float(gradient.norm()),
            "train/grad_sq_norm": float(gradient.square().sum()),
            "train/accuracy": np.mean(accuracies),
        },
        rel=1e-12,
    )


def test_test_samples_weigh_the_same() -> None:
    """The test metrics are plain means: the test set belongs to no worker."""
    dataset = classified(num_test=25)
    shards = shards_of(SIZES, np.arange(sum(SIZES)))
    model = LogisticModel(FEATURES, CLASSES, dtype=torch.float64)
    params = torch.linspace(-1, 1, model.num_parameters, dtype=torch.float64)

    measured = Evaluator(model, dataset, shards).measure(params)

    matrix, biases = params[:-CLASSES].view(CLASSES, FEATURES), params[-CLASSES:]
    logits = functional.linear(dataset.test_inputs, matrix, biases)
    loss = functional.cross_entropy(logits, dataset.test_targets)
    correct = logits.argmax(dim=1) == dataset.test_targets
    assert measured["test/loss"] == pytest.approx(float(loss), rel=1e-12)
    assert measured["test/accuracy"] == pytest.approx(float(correct.double().mean()), rel=1e-12)


@pytest.mark.parametrize("most_samples", [40, 99, 100, 101])
def test_fewer_samples_leave_every_worker_its_weight(most_samples: int) -> None:
    """When a worker's samples are all alike, using some of them changes nothing."""
    sizes = [30, 3, 50, 17]
    worker_centres = torch.tensor([1.0, -200.0, 5.0, 70.0], dtype=torch.float64)
    dataset = centres(worker_centres.repeat_interleave(torch.tensor(sizes)))
    shards = shards_of(sizes, np.arange(sum(sizes)))
    params = torch.tensor([3.0], dtype=torch.float64)
    model = QuadraticModel(1, dtype=torch.float64)

    measured = Evaluator(model, dataset, shards, most_samples).measure(params)

    assert measured["train/loss"] == pytest.approx(float((3 - worker_centres).square().mean()) / 2)
    assert measured["train/distance"] == pytest.approx(abs(3 - float(worker_centres.mean())))


def test_fewer_samples_are_spread_evenly() -> None:
    """Of one worker's centres 0 .. 99 every third is used; the first 34 would have mean 16.5."""
    dataset = centres(torch.arange(100, dtype=torch.float64))
    shards = shards_of([100], np.arange(100))
    model = QuadraticModel(1, dtype=torch.float64)

    evaluator = Evaluator(model, dataset, shards, 34)

    measured = evaluator.measure(torch.zeros(1, dtype=torch.float64))
    assert measured["train/distance"] == pytest.approx(49.5)
    assert measured["train/loss"] == pytest.approx(np.mean(np.arange(0.0, 100.0, 3.0) ** 2) / 2)


def test_smoothness_weighs_every_worker_the_same() -> None:
    """The curvature of the objective is the mean over the workers, not over the samples."""
    inputs = torch.tensor([[0.0, 2.0]] * 9 + [[0.0, 6.0]], dtype=torch.float64)
    targets = torch.zeros(10, dtype=torch.int64)
    dataset = Dataset(inputs, targets, inputs[:0], targets[:0], targets.numpy(), 1)
    shards = shards_of([9, 1], np.arange(10))

    smoothness = Evaluator(QuadraticModel(1, dtype=torch.float64), dataset, shards).smoothness()

    assert smoothness == pytest.approx(4.0)
