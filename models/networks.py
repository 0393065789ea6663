"""Networks by name, as they are trained and, where Watershed is not installed, served.

A network here is trained by ``ModuleModel``; this file and what it imports travel with a model that
is logged in MLflow, and so import nothing else of Watershed.

Symbols: B samples, C classes (of text: symbols).
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from models.cnn import Cifar10Cnn, MnistCnn
from models.lstm import CharLstmNetwork


def make_network(
    name: str, sizes: Mapping[str, Any], shape: tuple[int, ...], num_labels: int
) -> nn.Module:
    """Build a network, freshly initialised from PyTorch's global generator.

    Args:
        name: Its name in the configuration.
        sizes: The fields of its configuration.
        shape: Of one sample.
        num_labels: C.

    Returns:
        The network: samples of shape (B, ...) to logits of shape (B, C).

    Raises:
        ValueError: The name is unknown.
    """
    match name:
        case "logistic":
            return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), num_labels))
        case "mnist_cnn":
            return MnistCnn()
        case "cifar10_cnn":
            return Cifar10Cnn()
        case "char_lstm":
            return CharLstmNetwork(
                num_labels,
                embedding=sizes["embedding"],
                hidden=sizes["hidden"],
                layers=sizes["layers"],
            )
    raise ValueError(f"network {name!r} is unknown")
