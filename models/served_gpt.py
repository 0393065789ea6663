"""A trained GPT as MLflow loads it, for ``mlflow models predict`` and ``mlflow models serve``.

Like ``models/served.py`` this file travels with every logged model, beside the network.

Symbols: B sequences, s tokens of each, V vocabulary.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from models.gpt import GptStages

if TYPE_CHECKING:
    from configs.gpt import Gpt

NETWORK_FILE = "network.json"
MODEL_FILE = "model.safetensors"


class ServedGpt:
    """A GPT with its weights, in float32 whatever it was trained in.

    Args:
        network: What ``network.json`` says: ``sizes``, those of ``configs.gpt.Gpt``, and
            ``sequence``, the most tokens of a sequence.
        weights: Name -> value of every parameter.

    Raises:
        RuntimeError: They are not the weights of such a GPT.
    """

    def __init__(self, network: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        self._sequence: int = network["sequence"]
        sizes = cast("Gpt", SimpleNamespace(**network["sizes"]))
        self._vocabulary = sizes.vocabulary
        with torch.device("meta"):
            model = GptStages(sizes, self._sequence)
        self._model = model.float().to_empty(device="cpu").eval()
        self._model.load_state_dict(weights)

    def predict(
        self, inputs: NDArray[Any], params: Mapping[str, Any] | None = None
    ) -> NDArray[np.float32]:
        """Compute what the GPT says of the token behind each position.

        Args:
            inputs: Numbers of tokens, shape (B, s), integers from 0 to V - 1.
            params: ``output``: ``log_probabilities`` (the default) or ``logits``.

        Returns:
            Shape (B, s, V), float32.

        Raises:
            ValueError: Another output was asked for, or these are no sequences of the GPT.
        """
        wanted = (params or {}).get("output", "log_probabilities")
        if wanted not in _OUTPUTS:
            raise ValueError(f"output {wanted!r} is unknown; use one of {', '.join(_OUTPUTS)}")
        self._check(inputs)
        tokens = torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.int64))
        with torch.no_grad():  # one by one: the logits of many would fill the memory
            logits = torch.cat([self._model(one) for one in torch.split(tokens, 1)])
        answer: NDArray[np.float32] = _OUTPUTS[wanted](logits).numpy()
        return answer

    def _check(self, inputs: NDArray[Any]) -> None:
        if inputs.ndim != 2 or not (inputs.size and inputs.shape[1] <= self._sequence):
            raise ValueError(
                f"tokens of shape {inputs.shape}; give sequences of 1 to {self._sequence}, (B, s)"
            )
        if inputs.min() < 0 or inputs.max() >= self._vocabulary:
            raise ValueError(
                f"tokens from {inputs.min()} to {inputs.max()}; known are 0 to "
                f"{self._vocabulary - 1}"
            )


_OUTPUTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "log_probabilities": lambda logits: logits.log_softmax(dim=-1),
    "logits": lambda logits: logits,
}


def _load_pyfunc(data_path: str) -> ServedGpt:
    """Load a logged model; MLflow calls this.

    Args:
        data_path: Directory with ``network.json`` and ``model.safetensors``.

    Returns:
        The model.
    """
    directory = Path(data_path)
    network = json.loads((directory / NETWORK_FILE).read_text(encoding="utf-8"))
    return ServedGpt(network, load_file(directory / MODEL_FILE))
