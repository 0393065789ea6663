"""Wire formats: rows of numbers to rows of bytes, and back.

Letters: K rows, n elements of a row, b bytes of a row on the wire.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from configs.transport import BITS, Wire
from tasks.zero.quantize import dequantize, dequantize_sum, payload_bytes, quantize


@dataclass(frozen=True)
class Coder:
    """One format for rows of one length.

    Attributes:
        wire: The format.
        dtype: What ``full`` is.
        length: n.
        block_size: Elements that share a scale.
        hadamard: Smooth before quantization.
    """

    wire: Wire
    dtype: torch.dtype
    length: int
    block_size: int
    hadamard: bool = False

    @property
    def is_quantized(self) -> bool:
        """Whether blocks share scales."""
        return self.wire in BITS

    @property
    def type_on_wire(self) -> torch.dtype:
        """The type of the elements in a format that is not quantized."""
        return torch.bfloat16 if self.wire == "bfloat16" else self.dtype

    @property
    def num_bytes(self) -> int:
        """The bytes b of a row."""
        if self.is_quantized:
            bits = BITS[self.wire]
            return payload_bytes(self.length, bits=bits, block_size=self.block_size)
        return self.length * self.type_on_wire.itemsize

    def encode(self, values_Kn: Tensor) -> Tensor:
        """Return the bytes of some rows; of values that are so already, without a copy.

        Args:
            values_Kn: Any floating type.

        Returns:
            Shape (K, b), uint8.
        """
        if self.is_quantized:
            return quantize(
                values_Kn,
                bits=BITS[self.wire],
                block_size=self.block_size,
                hadamard=self.hadamard,
            )
        return values_Kn.to(self.type_on_wire).contiguous().view(torch.uint8)

    def decode(self, payload_Kb: Tensor, out_Kn: Tensor) -> None:
        """Write the values of some rows.

        Args:
            payload_Kb: As ``encode`` returned it.
            out_Kn: Takes them, converted to its type.
        """
        if self.is_quantized:
            dequantize(
                payload_Kb,
                length=self.length,
                bits=BITS[self.wire],
                block_size=self.block_size,
                dtype=out_Kn.dtype,
                hadamard=self.hadamard,
                out=out_Kn,
            )
        else:
            out_Kn.copy_(payload_Kb.view(self.type_on_wire))

    def decode_sum(self, payload_Kb: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the sum of some rows, always added in the same order.

        Args:
            payload_Kb: As ``encode`` returned it.
            dtype: To add in.

        Returns:
            Shape (n,).
        """
        if self.is_quantized:
            return dequantize_sum(
                payload_Kb,
                length=self.length,
                bits=BITS[self.wire],
                block_size=self.block_size,
                dtype=dtype,
                hadamard=self.hadamard,
            )
        return payload_Kb.view(self.type_on_wire).sum(dim=0, dtype=dtype)
