"""How the states of a training travel between ranks: in which format, in which blocks."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from configs.base import Number, Record, Whole
from configs.faults import nearest
from configs.scripts import refused

Wire = Literal["full", "bfloat16", "int8", "int4"]
"""``full`` is the type that the state has at rest."""

BITS: dict[str, int] = {"int8": 8, "int4": 4}
"""Bits an element of the quantized formats; every block has a float32 scale besides."""


class Transport(Record):
    """Wire formats, block-wise symmetric where they are quantized.

    What lies inside a node and what crosses nodes is told by the group of ranks that takes part.
    """

    weights: Wire = Field(default="full", description="Gathers of the forward and backward pass.")
    gradients: Wire = Field(default="full", description="Reductions of gradients inside a node.")
    sync: Wire = Field(
        default="full",
        description="Reductions of gradients across nodes: once a train step, or each micro-batch "
        "where the partition splits gradients over more than a node.",
    )
    refresh: Wire = Field(
        default="full", description="Gathers of updated weights, once a train step."
    )
    block_size: Whole = Field(
        default=256,
        ge=32,
        le=16_384,
        multiple_of=8,
        description="Elements that share a scale.",
    )
    error_feedback: bool = Field(
        default=False,
        description="Add what quantization took from a gradient to the next one (LoCo).",
    )
    error_beta: Annotated[Number, Field(gt=0, le=1)] = Field(
        default=0.8, description="Share of the new error in its moving average (LoCo)."
    )
    error_reset_steps: Whole = Field(
        default=1024, ge=1, description="Train steps between two resets of the error (LoCo)."
    )
    hadamard: bool = Field(
        default=False,
        description="Smooth gradients by a Hadamard transform before quantization (SDP4Bit).",
    )
    reuse_secondary: bool = Field(
        default=False,
        description="Gather later micro-batches of a train step from the backward copy, as "
        "DeepSpeed does, instead of from the forward one.",
    )


_NAMED: dict[str, dict[str, Any]] = {
    "full": {},
    "zeropp": {"weights": "int8", "gradients": "int4", "sync": "int4"},
    "zero_topo": {"weights": "int8", "gradients": "int4"},
    "zero_topo_quantized_sync": {
        "weights": "int8",
        "gradients": "int4",
        "sync": "int4",
        "refresh": "int8",
    },
    "sdp4bit": {"weights": "int8", "gradients": "int8", "sync": "int4", "hadamard": True},
}
TRANSPORTS: tuple[str, ...] = tuple(_NAMED)


def named_transport(name: str) -> Transport:
    """Return formats by name.

    Args:
        name: One of ``TRANSPORTS``.
    """
    return Transport.model_validate(_NAMED[name])


def _named(value: Any) -> Any:  # noqa: ANN401  raw YAML: any type arrives here
    if not isinstance(value, str):
        return value
    if value not in _NAMED:
        known = ", ".join(TRANSPORTS)
        raise refused(f"'{value}' is unknown{nearest(value, TRANSPORTS)}; known: {known}")
    return _NAMED[value]


TransportField = Annotated[Transport, BeforeValidator(_named)]
"""A transport, or the name of one in ``TRANSPORTS``."""
