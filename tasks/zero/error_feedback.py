"""What quantization takes from gradients is kept, and added to the next ones (LoCo).

With a gradient g of micro-batch k, and Q what is left after the wire::

    h_k = g_k + e_k
    e_(k+1) = Q8((1 - beta) e_k + beta (h_k - Q(h_k)))

The error e is an average, for its last value alone is noisy, and is kept as block-wise INT8, at a
quarter of a float32 gradient's memory. It is dropped every so many train steps: old errors belong
to weights that are no more.

References:
    Xie et al., "LoCo: Low-Bit Communication Adaptor for Large-scale Model Training", arXiv
    2407.04480, algorithm 1.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tasks.zero.blocks import Blocks
from tasks.zero.quantize import dequantize, payload_bytes, quantize
from tasks.zero.wires import Coder

_BITS = 8


class ErrorFeedback:
    """The errors of all gradients of one rank, by key.

    Args:
        beta: Share of the new error in the average, in (0, 1].
        reset_steps: Train steps between two resets.
        block_size: Values of an error that share a scale.
    """

    def __init__(self, *, beta: float, reset_steps: int, block_size: int) -> None:
        self._beta, self._reset_steps, self._block_size = beta, reset_steps, block_size
        self._errors: dict[str, Tensor] = {}

    @property
    def state_bytes(self) -> int:
        """Bytes of all errors."""
        return sum(error.numel() for error in self._errors.values())

    def begin_step(self, step: int) -> None:
        """Drop all errors where it is time.

        Args:
            step: Number of the train step that begins.
        """
        if step % self._reset_steps == 0:
            self._errors.clear()

    def encode(self, key: str, coder: Coder, values_Kn: Tensor) -> Tensor:
        """Return the bytes of some rows plus their error, and take note of the new error.

        Args:
            key: Which error.
            coder: The format; one that is not quantized has no errors.
            values_Kn: Of any floating type; not changed.

        Returns:
            Shape (K, b), uint8.

        Raises:
            ValueError: The error of this key is that of other shapes.
        """
        if not coder.is_quantized:
            return coder.encode(values_Kn)
        compensated_Kn = self.compensated(key, values_Kn)
        payload_Kb = coder.encode(compensated_Kn)
        dequantized_Kn = torch.empty_like(compensated_Kn)
        coder.decode(payload_Kb, dequantized_Kn)
        self.update(key, compensated_Kn, dequantized_Kn)
        return payload_Kb

    def compensated(self, key: str, values: Tensor) -> Tensor:
        """Return values plus their error.

        Args:
            key: Which error.
            values: Shape (..., n); not changed.

        Returns:
            Float32; the values themselves where there is no error yet, if they are float32.

        Raises:
            ValueError: The error of this key is that of other shapes.
        """
        error = self._error(key, values)
        return values.float() if error is None else error.add_(values)

    def update(self, key: str, compensated: Tensor, dequantized: Tensor) -> None:
        """Take note of what quantization has taken.

        Args:
            key: Which error.
            compensated: What was quantized, shape (..., n).
            dequantized: What is left of it.

        Raises:
            ValueError: The error of this key is that of other shapes.
        """
        lost = torch.sub(compensated, dequantized).float().mul_(self._beta)
        error = self._error(key, lost)
        if error is not None:
            lost.add_(error, alpha=1 - self._beta)
        payload = quantize(lost, bits=_BITS, block_size=self._block_size)
        blocks = Blocks(lost.shape[-1], _BITS, self._block_size)
        # A step whose gradient is not finite is skipped; its error must not outlive it.
        blocks.scales(payload.view(-1, blocks.payload_bytes)).nan_to_num_(nan=0.0)
        self._errors[key] = payload

    def state_dict(self) -> dict[str, Tensor]:
        """Return the errors, packed, by key; not copies."""
        return dict(self._errors)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take errors over; those of now are dropped.

        Args:
            state: As ``state_dict`` returned it; may be on the CPU. Each goes to its values' device
                where it is first used, so that a GPU's memory for it is of the stream that uses it.
        """
        self._errors = dict(state)

    def _error(self, key: str, like: Tensor) -> Tensor | None:
        payload = self._errors.get(key)
        if payload is None:
            return None
        length = like.shape[-1]
        num_bytes = payload_bytes(length, bits=_BITS, block_size=self._block_size)
        shape = (*like.shape[:-1], num_bytes)
        if payload.shape != shape:
            raise ValueError(
                f"the error of {key!r} takes {tuple(payload.shape)} bytes, values of shape "
                f"{tuple(like.shape)} need {shape}; give each shape a key of its own"
            )
        payload = payload.to(like.device)
        return dequantize(payload, length=length, bits=_BITS, block_size=self._block_size)
