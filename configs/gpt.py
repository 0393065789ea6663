"""Which GPT is trained: sizes, presets, parameters and FLOPs in closed form.

The architecture is GPT-NeoX's: rotary positions on a share of each head, attention and MLP side by
side (parallel residual) or one after the other, layer norms with bias, MLP of four times the width.

Symbols: L layers, h hidden width, V vocabulary, s sequence length.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from configs.base import Fault, Number, PositiveFloat, Record, Whole, raise_faults

_MLP_RATIO = 4
_NEOX_VOCABULARY = 50_432

Preset = Literal[
    "", "gpt-1m", "gpt-3m", "gpt-10m", "gpt-25m", "gpt-125m", "gpt-350m", "gpt-1.3b", "gpt-2.7b",
    "gpt-6.7b", "gpt-10b", "gpt-20b",
]  # fmt: skip


class Gpt(Record):
    """A GPT."""

    preset: Preset = Field(default="", description="Name that the sizes were taken from.")
    layers: Whole = Field(default=4, ge=1, le=10_000, description="L: transformer blocks.")
    hidden: Whole = Field(default=128, ge=2, le=1_000_000, description="h: width.")
    heads: Whole = Field(default=4, ge=1, le=10_000, description="Attention heads.")
    vocabulary: Whole = Field(
        default=256, ge=2, le=10_000_000, description="V: rows of the embedding; bytes need 256."
    )
    rotary_fraction: Annotated[Number, Field(gt=0, le=1)] = Field(
        default=0.25, description="Share of each head that rotates with the position."
    )
    rotary_base: PositiveFloat = Field(default=10_000.0, description="Base of the rotations.")
    parallel_residual: bool = Field(
        default=True, description="Attention and MLP side by side, as in GPT-NeoX."
    )
    tied: bool = Field(default=False, description="The head is the embedding, transposed.")
    norm_epsilon: PositiveFloat = Field(default=1e-5, description="Of the layer norms.")
    init_std: PositiveFloat = Field(
        default=0.02, description="Of the initial weights; those into the residual less, by depth."
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Gpt":
        raise_faults("Gpt", list(self._faults()))
        return self

    def _faults(self) -> Iterator[Fault]:
        if self.hidden % self.heads:
            choices = [n for n in range(1, min(self.hidden, 257)) if self.hidden % n == 0]
            message = f"{self.heads} does not divide the width {self.hidden}; use one of {choices}"
            yield Fault(path="heads", message=message, related=("hidden",))
        elif self.rotary_width == 0:
            message = f"{self.rotary_fraction:g} of a head of {self.head_width} is less than one "
            yield Fault(
                path="rotary_fraction",
                message=f"{message}pair; use more",
                related=("hidden", "heads"),
            )

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.hidden // self.heads

    @property
    def rotary_width(self) -> int:
        """How much of a head rotates; even."""
        return int(self.head_width * self.rotary_fraction) // 2 * 2

    @property
    def mlp_width(self) -> int:
        """Width between the two layers of the MLP."""
        return _MLP_RATIO * self.hidden

    @property
    def block_parameters(self) -> int:
        """Parameters of one block: attention 4h^2 + 4h, MLP 8h^2 + 5h, two norms 4h."""
        h = self.hidden
        return 4 * h * h + 4 * h + 2 * _MLP_RATIO * h * h + (_MLP_RATIO + 1) * h + 4 * h

    @property
    def num_parameters(self) -> int:
        """All parameters: embedding, blocks, final norm, and the head unless it is tied."""
        ends = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * self.block_parameters + ends + 2 * self.hidden

    def stage_parameters(self, stage: int) -> dict[str, int]:
        """Return name and number of elements of each parameter of a stage, in the model's order.

        Args:
            stage: 0 for the embedding, then the blocks, last the head: ``layers + 1``.
        """
        hidden, wide = self.hidden, self.mlp_width
        if stage == 0:
            sizes = {"weight": self.vocabulary * hidden}
        elif stage <= self.layers:
            sizes = {
                "attention_norm.weight": hidden,
                "attention_norm.bias": hidden,
                "attention.qkv.weight": 3 * hidden * hidden,
                "attention.qkv.bias": 3 * hidden,
                "attention.output.weight": hidden * hidden,
                "attention.output.bias": hidden,
                "mlp_norm.weight": hidden,
                "mlp_norm.bias": hidden,
                "mlp.up.weight": wide * hidden,
                "mlp.up.bias": wide,
                "mlp.output.weight": hidden * wide,
                "mlp.output.bias": hidden,
            }
        else:
            sizes = {} if self.tied else {"weight": self.vocabulary * hidden}
            sizes |= {"norm.weight": hidden, "norm.bias": hidden}
        return {f"stages.{stage}.{name}": size for name, size in sizes.items()}

    def parameter_names(self) -> Iterator[str]:
        """Yield the names of all parameters."""
        for stage in range(self.layers + 2):
            yield from self.stage_parameters(stage)

    def forward_flops(self, sequence: int) -> int:
        """FLOPs of the matrix products of one sequence's forward pass.

        ``s L (24 h^2 + 4 s h) + 2 s h V``: a product of m x k and k x n counts 2 m k n, attention
        counts the whole score matrix (not half of it, though it is causal).

        Args:
            sequence: s.
        """
        return sequence * self.block_flops_per_token(sequence) * self.layers + self._head_flops(
            sequence
        )

    def block_flops_per_token(self, sequence: int) -> int:
        """FLOPs a token of one block's forward pass: ``24 h^2 + 4 s h``."""
        return 24 * self.hidden**2 + 4 * sequence * self.hidden

    def _head_flops(self, sequence: int) -> int:
        return 2 * sequence * self.hidden * self.vocabulary

    def model_flops(self, sequence: int) -> int:
        """FLOPs that training on one sequence needs: three forward passes (backward counts two).

        Args:
            sequence: s.
        """
        return 3 * self.forward_flops(sequence)

    def hardware_flops(self, sequence: int, *, recompute: bool) -> int:
        """FLOPs that are done: with recomputation, another forward pass of the blocks.

        With recomputation this is Megatron-LM's ``96 s L h^2 (1 + s/(6h) + V/(16 L h))``. GPT-NeoX
        writes 72 before the same brackets for training without, and so takes a quarter off the
        head too, which nobody computes again: 4.5 s h V instead of the 6 s h V that are done.

        Args:
            sequence: s.
            recompute: Whether the backward pass computes the blocks again.
        """
        again = self.layers * sequence * self.block_flops_per_token(sequence) if recompute else 0
        return self.model_flops(sequence) + again


def _preset(layers: int, hidden: int, heads: int, vocabulary: int = 256) -> dict[str, int]:
    return {"layers": layers, "hidden": hidden, "heads": heads, "vocabulary": vocabulary}


PRESETS: dict[str, dict[str, int]] = {
    "gpt-1m": _preset(5, 128, 4),
    "gpt-3m": _preset(4, 256, 8),
    "gpt-10m": _preset(6, 384, 6),
    "gpt-25m": _preset(8, 512, 8),
    "gpt-125m": _preset(12, 768, 12, _NEOX_VOCABULARY),
    "gpt-350m": _preset(24, 1024, 16, _NEOX_VOCABULARY),
    "gpt-1.3b": _preset(24, 2048, 16, _NEOX_VOCABULARY),
    "gpt-2.7b": _preset(32, 2560, 32, _NEOX_VOCABULARY),
    "gpt-6.7b": _preset(32, 4096, 32, _NEOX_VOCABULARY),
    "gpt-10b": _preset(32, 5120, 40, _NEOX_VOCABULARY),
    "gpt-20b": _preset(44, 6144, 64, _NEOX_VOCABULARY),
}
"""Sizes by name; gpt-20b is GPT-NeoX-20B. The byte-level ones train on any laptop."""


def _expanded(value: Any) -> Any:  # noqa: ANN401  raw YAML: any type arrives here
    """Let a bare name stand for a preset, and add a preset's sizes to what was not set."""
    if isinstance(value, str):
        value = {"preset": value}
    if not isinstance(value, dict):
        return value
    return {**PRESETS.get(str(value.get("preset")), {}), **value}


GptField = Annotated[Gpt, BeforeValidator(_expanded)]
"""A GPT, or the name of a preset; ``{preset: gpt-1m, tied: true}`` changes one."""


def is_frozen(name: str, patterns: Iterable[str]) -> bool:
    """Say whether a parameter is kept out of the training.

    Args:
        name: One of ``Gpt.parameter_names()``.
        patterns: Whole names, or beginnings of names with a ``*``.
    """
    return any(
        name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
        for pattern in patterns
    )
