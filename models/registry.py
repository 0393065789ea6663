"""Models by the name of their configuration; networks are those of ``models.networks``."""

import torch
from torch import nn

from configs.models import Logistic, Model, Quadratic
from models.datasets import Dataset
from models.interface import Model as ModelInterface
from models.logistic import LogisticModel
from models.modules import ModuleModel
from models.networks import make_network
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

    Raises:
        ValueError: ``make_network`` does not know it.
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
        case _:
            shape = tuple(dataset.train_inputs.shape[1:])

            def make() -> nn.Module:
                return make_network(config.name, config.model_dump(), shape, dataset.num_labels)

            return ModuleModel(config.name, make, dtype=dtype, device=device)
