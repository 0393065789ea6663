"""Models by the name of their configuration."""

import torch

from configs.models import CharLstm, Cifar10Cnn, Logistic, MnistCnn, Model, Quadratic
from models.cnn import Cifar10Cnn as Cifar10CnnNetwork
from models.cnn import MnistCnn as MnistCnnNetwork
from models.datasets import Dataset
from models.interface import Model as ModelInterface
from models.logistic import LogisticModel
from models.lstm import CharLstmNetwork
from models.modules import ModuleModel
from models.quadratic import QuadraticModel


def build(
    config: Model, dataset: Dataset, *, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> ModelInterface:
    """Build the model of a configuration, sized for its data set.

    Args:
        config: Which model.
        dataset: What it will be trained on; gives the shapes.
        dtype: Floating-point type of the parameters.
        device: Where they are.

    Returns:
        The model; it holds no parameters.
    """
    match config:
        case Quadratic():
            return QuadraticModel(
                config.dimension,
                start=config.start,
                noise=config.noise,
                dtype=dtype,
                device=device,
            )
        case Logistic():
            return LogisticModel(
                dataset.train_inputs[0].numel(),
                dataset.num_labels,
                l2=config.l2,
                dtype=dtype,
                device=device,
            )
        case MnistCnn():
            return ModuleModel(config.name, MnistCnnNetwork, dtype=dtype, device=device)
        case Cifar10Cnn():
            return ModuleModel(config.name, Cifar10CnnNetwork, dtype=dtype, device=device)
        case CharLstm():

            def make_lstm() -> CharLstmNetwork:
                return CharLstmNetwork(
                    dataset.num_labels,
                    embedding=config.embedding,
                    hidden=config.hidden,
                    layers=config.layers,
                )

            return ModuleModel(config.name, make_lstm, dtype=dtype, device=device)
