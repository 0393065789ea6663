"""Models by the name of their configuration."""

import pytest
import torch

from configs.models import CharLstm, Cifar10Cnn, Logistic, MnistCnn, Model, Quadratic
from models.datasets import Dataset, load
from models.registry import build


def dataset_of(shape: tuple[int, ...], num_labels: int) -> Dataset:
    """One sample of a shape."""
    inputs, targets = torch.zeros(1, *shape), torch.zeros(1, dtype=torch.int64)
    return Dataset(inputs, targets, inputs, targets, targets.numpy(), num_labels)


@pytest.mark.parametrize(
    ("config", "shape", "num_labels", "num_parameters"),
    [
        (Logistic(), (1, 28, 28), 10, 7850),
        (MnistCnn(), (1, 28, 28), 10, 582_026),
        (Cifar10Cnn(), (3, 32, 32), 10, 940_362),
        (CharLstm(embedding=2, hidden=3, layers=1), (80,), 5, 10 + 4 * 3 * 7 + 5 * 4),
    ],
)
def test_models_are_sized_for_their_data(
    config: Model, shape: tuple[int, ...], num_labels: int, num_parameters: int
) -> None:
    """Each configuration gives the model of its name, of its own size and of the type asked."""
    model = build(config, dataset_of(shape, num_labels), dtype=torch.float64)

    initial = model.initial(torch.Generator().manual_seed(0))

    assert model.name == config.name
    assert model.num_parameters == num_parameters
    assert initial.shape == (num_parameters,)
    assert initial.dtype == torch.float64


def test_quadratic_takes_start_and_noise_from_its_configuration() -> None:
    """The test problem's constants arrive in the model."""
    config = Quadratic(centres=((1.0, 2.0), (3.0, 4.0)), start=5.0, noise=0.5)

    model = build(config, load(config), dtype=torch.float32)

    assert model.gradient_noise == 0.5
    assert model.initial(torch.Generator()).tolist() == [5.0, 5.0]


def test_penalty_reaches_logistic_regression() -> None:
    """l2 of the configuration is added to the gradient."""
    dataset = dataset_of((3,), 2)
    params = torch.ones(1, 8)
    plain, penalised = (
        build(Logistic(l2=l2), dataset, dtype=torch.float32).gradients(
            params, dataset.train_inputs[None], dataset.train_targets[None]
        )
        for l2 in (0.0, 0.25)
    )

    torch.testing.assert_close(penalised, plain + 0.25)
