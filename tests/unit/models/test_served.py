"""Served models: what MLflow loads says the same as the network that was trained."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.cnn import Cifar10Cnn, MnistCnn
from models.lstm import CharLstmNetwork
from models.modules import ModuleModel
from models.served import ServedModel


def _flat(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])


@pytest.mark.parametrize(
    ("name", "sizes", "module", "inputs"),
    [
        ("mnist_cnn", {}, MnistCnn(), torch.rand(3, 1, 28, 28)),
        ("cifar10_cnn", {}, Cifar10Cnn(), torch.rand(3, 3, 32, 32)),
        (
            "char_lstm",
            {"embedding": 4, "hidden": 6, "layers": 2},
            CharLstmNetwork(11, embedding=4, hidden=6, layers=2),
            torch.randint(0, 11, (3, 80)),
        ),
    ],
)
def test_networks_answer_as_they_were_trained(
    name: str, sizes: dict[str, int], module: torch.nn.Module, inputs: torch.Tensor
) -> None:
    """Built again from the flat vector alone, the vocabulary of the text included."""
    network = {"name": name, "sizes": sizes, "dtype": "float32", "input_shape": inputs.shape[1:]}
    with torch.no_grad():
        expected = module(inputs)

    served = ServedModel(network, _flat(module))

    assert served.predict(inputs.numpy(), {"output": "logits"}) == pytest.approx(
        expected.numpy(), abs=1e-5
    )
    assert served.predict(inputs.numpy()).sum(axis=1) == pytest.approx(np.ones(3), abs=1e-5)


def test_the_vector_is_read_in_the_order_in_which_it_was_trained() -> None:
    """The metrics of the training's own model, from what the served one says."""
    model = ModuleModel("mnist_cnn", MnistCnn)
    params = model.initial(torch.Generator().manual_seed(3))
    inputs, targets = torch.rand(5, 1, 28, 28), torch.randint(0, 10, (5,))
    network = {"name": "mnist_cnn", "sizes": {}, "dtype": "float32", "input_shape": (1, 28, 28)}

    logits = ServedModel(network, params).predict(inputs.numpy(), {"output": "logits"})

    loss = functional.cross_entropy(torch.from_numpy(logits), targets)
    assert model.metrics(params, inputs, targets)["loss"] == pytest.approx(float(loss), abs=1e-5)


_LOGISTIC: dict[str, Any] = {
    "name": "logistic", "sizes": {}, "dtype": "float64", "input_shape": [2]
}  # fmt: skip


def test_logistic_regression_by_hand() -> None:
    """Weights row by row, then the biases: three classes of two features."""
    params = torch.tensor([1.0, 0.0, 0.0, 1.0, -1.0, -1.0, 0.5, 0.0, 0.0], dtype=torch.float64)

    served = ServedModel(_LOGISTIC, params)

    samples = np.array([[2.0, 1.0], [-3.0, 0.0]], dtype=np.float32)
    assert served.predict(samples, {"output": "logits"}).tolist() == [
        [2.5, 1.0, -3.0],
        [-2.5, 0.0, 3.0],
    ]
    assert served.predict(samples, {"output": "labels"}).tolist() == [0, 2]


def test_wrong_sizes_and_wrong_outputs_are_told() -> None:
    """With what there is."""
    with pytest.raises(ValueError, match="has 3 parameters, not 4"):
        ServedModel(_LOGISTIC, torch.zeros(4))
    with pytest.raises(ValueError, match="use one of probabilities, logits, labels"):
        ServedModel(_LOGISTIC, torch.zeros(9)).predict(np.zeros((1, 2)), {"output": "class"})
    with pytest.raises(ValueError, match="'gru' is unknown"):
        ServedModel(_LOGISTIC | {"name": "gru"}, torch.zeros(9))
