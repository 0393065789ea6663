"""DeepSpeed's quantizer op in plain torch, so that ZeRO++ runs where its CUDA kernels do not.

Same groups, same order and same rounding as the kernels (read in DeepSpeed 0.19.8,
``csrc/quantization``, ``csrc/includes/quantization_utils.h``): symmetric, ``scale = 2^bits / (2
absmax)``, the value times the scale rounded to the nearest even whole number, clamped to
``-2^(bits-1) .. 2^(bits-1) - 1``. So the largest element of a group, if positive, loses one step.
The scale's inverse travels, in float32; two INT4 share a byte, the first in its low half.

One departure: the kernels read and sum in float16, this in float32. Gradients of a float32 training
would underflow there (and be misread as float16); the difference is 2^-11 of a value, well under
half a step of INT8.
"""

import torch
from torch import Tensor


class TorchQuantizer:
    """What DeepSpeed calls for quantized weights (qwZ) and gradients (qgZ).

    ``groups`` are equal parts of the flat tensor that share a scale. Scales have shape (groups,):
    the kernels' (groups, 1) is refused by gloo's all-gather, into a flat buffer, as DeepSpeed calls
    it.
    """

    Symmetric = 0
    Asymmetric = 1

    @staticmethod
    def quantize(
        input_vals: Tensor, groups: int, num_bits: int, quant_type: int
    ) -> tuple[Tensor, Tensor]:
        """Quantize a tensor.

        Args:
            input_vals: Of any floating type; the last dimension is even for 4 bits.
            groups: How many share a scale each.
            num_bits: 4 or 8.
            quant_type: Only ``Symmetric``.

        Returns:
            int8 of the same shape (4 bits: half the last dimension), and the inverse scales.

        Raises:
            ValueError: The format is not supported, or the groups do not divide the tensor.
        """
        _check(num_bits, quant_type)
        values, scales = _quantized(_rows(input_vals, groups), num_bits)
        shape = list(input_vals.shape)
        shape[-1] //= 8 // num_bits
        return _packed(values, num_bits).view(shape), scales

    @staticmethod
    def dequantize(
        quantized_data: Tensor, params: Tensor, groups: int, num_bits: int, quant_type: int
    ) -> Tensor:
        """Return what ``quantize`` took, as far as it is left, in float32.

        Args:
            quantized_data: As returned there.
            params: The inverse scales.
            groups: How many.
            num_bits: 4 or 8.
            quant_type: Only ``Symmetric``.

        Raises:
            ValueError: The format is not supported, or the groups do not divide the tensor.
        """
        _check(num_bits, quant_type)
        values = _rows(_unpacked(quantized_data, num_bits), groups)
        shape = list(quantized_data.shape)
        shape[-1] *= 8 // num_bits
        return (values * params.view(-1, 1)).view(shape)

    @staticmethod
    def swizzle_quant(
        input_vals: Tensor,
        groups: int,
        num_bits: int,
        quant_type: int,
        pipeline_size: int,
        nodes: int,
        devices_per_node: int,
    ) -> tuple[Tensor, Tensor]:
        """Quantize, and order the parts for an all-to-all inside the node, then one across nodes.

        Of ``nodes * devices_per_node`` equal parts, that of device d of node n goes to place
        ``d * nodes + n``.

        Args:
            input_vals: Of any floating type.
            groups: How many share a scale each; a multiple of the parts.
            num_bits: 4 or 8.
            quant_type: Only ``Symmetric``.
            pipeline_size: Slices of each part; DeepSpeed uses 1 alone.
            nodes: Nodes.
            devices_per_node: Ranks of a node.

        Returns:
            Flat int8, and the inverse scales in the same order.

        Raises:
            ValueError: The format is not supported, or the groups do not divide as they must.
        """
        _check(num_bits, quant_type)
        parts = nodes * devices_per_node
        if pipeline_size != 1 or groups % parts:
            # DeepSpeed's kernel launches groups // parts blocks a part, so it would leave some out.
            raise ValueError(
                f"{groups} groups in {pipeline_size} slices do not divide among {parts} ranks; "
                f"make the larger side of every matrix a multiple of {parts}"
            )
        values, scales = _quantized(_rows(input_vals, groups), num_bits)
        order = (nodes, devices_per_node, groups // parts)
        values = values.view(*order, -1).transpose(0, 1).reshape(groups, -1)
        scales = scales.view(*order).transpose(0, 1).reshape(groups)
        return _packed(values, num_bits), scales

    @staticmethod
    def quantized_reduction(
        input_vals: Tensor,
        input_scales: Tensor,
        in_groups: int,
        out_groups: int,
        num_bits: int,
        quant_type: int,
        devices_per_node: int,
    ) -> tuple[Tensor, Tensor]:
        """Sum what the ranks of a node sent, and quantize the sum (it is not divided).

        Args:
            input_vals: ``devices_per_node`` quantized tensors, one after the other.
            input_scales: Their inverse scales, likewise.
            in_groups: Groups of all of them together.
            out_groups: Groups of the sum.
            num_bits: 4 or 8.
            quant_type: Only ``Symmetric``.
            devices_per_node: Ranks of a node.

        Returns:
            Flat int8, and the inverse scales.

        Raises:
            ValueError: The format is not supported, or the groups do not divide the tensor.
        """
        _check(num_bits, quant_type)
        values = _rows(_unpacked(input_vals, num_bits), in_groups) * input_scales.view(-1, 1)
        total = values.view(devices_per_node, -1).sum(0)
        reduced, scales = _quantized(_rows(total, out_groups), num_bits)
        return _packed(reduced, num_bits), scales


class TorchQuantizerBuilder:
    """Stands where DeepSpeed looks for the builder of the op; there is nothing to build."""

    NAME = "quantizer"

    def load(self, *, verbose: bool = True) -> type[TorchQuantizer]:  # noqa: ARG002  their interface
        """Return the op."""
        return TorchQuantizer

    def is_compatible(self, *, verbose: bool = False) -> bool:  # noqa: ARG002  their interface
        """Say that it works everywhere."""
        return True


def _check(num_bits: int, quant_type: int) -> None:
    if num_bits not in {4, 8} or quant_type != TorchQuantizer.Symmetric:
        raise ValueError(f"{num_bits} bits of type {quant_type}: use 4 or 8, symmetric (0)")


def _rows(values: Tensor, groups: int) -> Tensor:
    if values.numel() % groups:
        raise ValueError(f"{groups} groups do not divide {values.numel()} elements")
    return values.reshape(groups, -1)


def _quantized(rows: Tensor, num_bits: int) -> tuple[Tensor, Tensor]:
    rows = rows.float()
    steps = 1 << (num_bits - 1)
    absmax = rows.abs().amax(1, keepdim=True)
    scales = torch.where(absmax == 0, 1.0, steps / absmax)
    scales.clamp_(max=torch.finfo(torch.float32).max)  # 0 times infinity would be no number
    values = (rows * scales).round_().clamp_(-steps, steps - 1)
    return values.to(torch.int8), scales.reciprocal_().view(-1)


def _packed(values: Tensor, num_bits: int) -> Tensor:
    flat = values.reshape(-1)
    if num_bits == 8:
        return flat
    return (flat[0::2] & 15) | (flat[1::2] << 4)


def _unpacked(packed: Tensor, num_bits: int) -> Tensor:
    flat = packed.reshape(-1)
    if num_bits == 8:
        return flat
    return torch.stack(((flat << 4) >> 4, flat >> 4), dim=1).reshape(-1)
