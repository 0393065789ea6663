"""A trained network as MLflow loads it, for ``mlflow models predict`` and ``mlflow models serve``.

This file travels with every logged model and is loaded where Watershed need not be installed. So it
imports nothing of Watershed but the networks, which travel beside it, and reads plain JSON.

Symbols: B samples, C classes (of text: symbols), P parameters.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from models.networks import make_network

NETWORK_FILE = "network.json"
MODEL_FILE = "model.safetensors"
_BATCH = 256


class ServedModel:
    """A network with its parameters.

    Args:
        network: What ``network.json`` says: ``name``, ``sizes``, ``dtype``, ``input_shape``.
        params: The model vector, shape (P,).

    Raises:
        ValueError: The network is unknown, or has another number of parameters.
    """

    def __init__(self, network: Mapping[str, Any], params: Tensor) -> None:
        self._dtype: torch.dtype = getattr(torch, network["dtype"])
        module = _make(network, params.numel()).to(self._dtype)
        expected = _num_parameters(module)
        if expected != params.numel():
            raise ValueError(f"{network['name']} has {expected} parameters, not {params.numel()}")
        nn.utils.vector_to_parameters(params.to(self._dtype), module.parameters())
        self._module = module.eval()

    def predict(
        self, inputs: NDArray[Any], params: Mapping[str, Any] | None = None
    ) -> NDArray[Any]:
        """Compute what the network says of samples.

        Args:
            inputs: Samples as the training saw them, shape (B, ...).
            params: ``output``: ``probabilities`` (the default), ``logits`` or ``labels``.

        Returns:
            Probabilities or logits, shape (B, C), or labels, shape (B,), int64.

        Raises:
            ValueError: Another output was asked for.
        """
        wanted = (params or {}).get("output", "probabilities")
        if wanted not in _OUTPUTS:
            raise ValueError(f"output {wanted!r} is unknown; use one of {', '.join(_OUTPUTS)}")
        samples = torch.from_numpy(np.ascontiguousarray(inputs))
        if samples.is_floating_point():
            samples = samples.to(self._dtype)
        with torch.no_grad():
            logits = torch.cat([self._module(chunk) for chunk in torch.split(samples, _BATCH)])
        answer: NDArray[Any] = _OUTPUTS[wanted](logits).numpy()
        return answer


_OUTPUTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "probabilities": lambda logits: logits.softmax(dim=1),
    "logits": lambda logits: logits,
    "labels": lambda logits: logits.argmax(dim=1),
}


def _make(network: Mapping[str, Any], num_parameters: int) -> nn.Module:
    """Build a network with so many classes that it has its parameters.

    Of a text nobody has written down how many symbols it has. The parameters of a network are an
    affine function of C, or do not depend on it.
    """

    def make(num_labels: int) -> nn.Module:
        return make_network(
            network["name"], network["sizes"], tuple(network["input_shape"]), num_labels
        )

    one, two = (_num_parameters(make(num_labels)) for num_labels in (1, 2))
    return make(max(1, 1 + (num_parameters - one) // (two - one)) if two > one else 1)


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _load_pyfunc(data_path: str) -> ServedModel:
    """Load a logged model; MLflow calls this.

    Args:
        data_path: Directory with ``network.json`` and ``model.safetensors``.

    Returns:
        The model.
    """
    directory = Path(data_path)
    network = json.loads((directory / NETWORK_FILE).read_text(encoding="utf-8"))
    return ServedModel(network, load_file(directory / MODEL_FILE)["model"])
