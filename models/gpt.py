"""A GPT in stages: embedding, blocks, then the final norm with the head.

The architecture is GPT-NeoX's (arXiv:2204.06745, section 2): rotary positions (arXiv:2104.09864) on
a share of each head, attention and MLP side by side or one after the other. Not from there: which
half of the queries' and keys' numbers is which (here all queries, all keys, all values), and the
initial weights (normal; those into the residual are divided by the root of twice the depth).

Symbols: B sequences, s tokens of each, h width, n heads, d width of a head, r how much of it
rotates, V vocabulary, T = B s positions.
"""

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:  # this file travels with models that are logged in MLflow, without configs
    from configs.gpt import Gpt

_CHUNK_ELEMENTS = 2**24
"""Logits that the loss widens at once: 64 MiB in float32."""


class Rotary(nn.Module):
    """Rotation of queries and keys by angles that grow with the position.

    The tables are float32 wherever and in whatever type the weights are: positions above 256 are no
    numbers of bfloat16. They are computed anew on the device that the module moves to, from the
    meta device too, and so are in no checkpoint.

    Args:
        sequence: Most positions.
        width: r, even.
        base: Base of the geometric series of frequencies.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, sequence: int, width: int, base: float) -> None:
        super().__init__()
        self._sequence, self._width, self._base = sequence, width, base
        cos, sin = self._tables(None)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def _tables(self, device: torch.device | None) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each (s, 1, 1, r/2), on a device; None for the default one."""
        exponents = torch.arange(0, self._width, 2, dtype=torch.float64, device=device)
        positions = torch.arange(self._sequence, dtype=torch.float64, device=device)
        angles = positions[:, None] * self._base ** (-exponents / self._width)
        angles = angles[:, None, None, :]
        return angles.cos().float(), angles.sin().float()

    def _apply(  # the base class's signature
        self,
        fn: Callable[[Tensor], Tensor],
        recurse: bool = True,  # noqa: FBT001, FBT002
    ) -> "Rotary":
        """Follow the other tensors to their device, but not to their type."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's own
        self.cos, self.sin = self._tables(self.cos.device)
        return self

    def forward(self, heads: Tensor) -> Tensor:
        """Rotate the first r numbers of each head, in pairs (i, i + r/2).

        Args:
            heads: Shape (B, s, any, n, d), any floating-point type.

        Returns:
            A tensor like it.
        """
        cos, sin = (table[: heads.shape[1]].to(heads.dtype) for table in (self.cos, self.sin))
        half = self._width // 2
        first, second = heads[..., :half], heads[..., half : self._width]
        rest = heads[..., self._width :]
        return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


class Attention(nn.Module):
    """Causal self-attention.

    Args:
        config: The GPT.
        rotary: The rotation, which all blocks share.
    """

    def __init__(self, config: "Gpt", rotary: Rotary) -> None:
        super().__init__()
        self._head_shape = (3, config.heads, config.head_width)
        self.rotary = rotary
        self.qkv = nn.Linear(config.hidden, 3 * config.hidden)
        self.output = nn.Linear(config.hidden, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the positions of each sequence.

        Args:
            x: Shape (B, s, h).

        Returns:
            Shape (B, s, h).
        """
        heads = self.qkv(x).unflatten(-1, self._head_shape)
        queries, keys = self.rotary(heads[:, :, :2]).transpose(1, 3).unbind(2)
        values = heads[:, :, 2].transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return cast(Tensor, self.output(mixed.transpose(1, 2).flatten(2)))


class Mlp(nn.Module):
    """Two layers with a GELU between them, on each position by itself.

    Args:
        config: The GPT.
    """

    def __init__(self, config: "Gpt") -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden, config.mlp_width)
        self.output = nn.Linear(config.mlp_width, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position.

        Args:
            x: Shape (B, s, h).

        Returns:
            Shape (B, s, h).
        """
        return cast(Tensor, self.output(functional.gelu(self.up(x))))


class Block(nn.Module):
    """Attention and MLP, each behind a norm of its own, added to what came in.

    Args:
        config: The GPT.
        rotary: The rotation, which all blocks share.
    """

    def __init__(self, config: "Gpt", rotary: Rotary) -> None:
        super().__init__()
        self._is_parallel = config.parallel_residual
        self.attention_norm = _norm(config)
        self.attention = Attention(config, rotary)
        self.mlp_norm = _norm(config)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor) -> Tensor:
        """Add what attention and MLP make of the input.

        Args:
            x: Shape (B, s, h).

        Returns:
            Shape (B, s, h).
        """
        attended = x + self.attention(self.attention_norm(x))
        beside = x if self._is_parallel else attended
        return cast(Tensor, attended + self.mlp(self.mlp_norm(beside)))


class Head(nn.Module):
    """The final norm, then one product to logits.

    Args:
        config: The GPT. Of a tied one this has no matrix: it is given the embedding's.
    """

    def __init__(self, config: "Gpt") -> None:
        super().__init__()
        self.norm = _norm(config)
        if not config.tied:
            self.weight = nn.Parameter(torch.empty(config.vocabulary, config.hidden))

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Return the logits of the next token at each position.

        Args:
            x: Shape (B, s, h).
            embedding: The embedding's weight, shape (V, h), of a tied GPT alone.

        Returns:
            Shape (B, s, V).
        """
        weight = self.weight if embedding is None else embedding
        return functional.linear(self.norm(x), weight)


def _norm(config: "Gpt") -> nn.LayerNorm:
    # In bfloat16 its kernels compute in float32, on all devices, and round the result once
    # (tests/unit/models/test_gpt.py); widening here would keep a second, larger activation.
    return nn.LayerNorm(config.hidden, eps=config.norm_epsilon)


class GptStages(nn.Module):
    """A GPT whose stages can be run, and their weights fetched, one by one.

    ``stages[0]`` makes (B, s, h) of tokens (B, s); each block keeps that shape; ``stages[-1]``
    makes logits (B, s, V) of it, and takes ``stages[0].weight`` besides where the GPT is tied.
    Weights are undefined until they are set, see ``build_gpt``; make it on the meta device.

    Args:
        config: The GPT.
        sequence: Most tokens of a sequence.
    """

    def __init__(self, config: "Gpt", sequence: int) -> None:
        super().__init__()
        self.config = config
        rotary = Rotary(sequence, config.rotary_width, config.rotary_base)
        blocks = [Block(config, rotary) for _ in range(config.layers)]
        embedding = nn.Embedding(config.vocabulary, config.hidden)
        self.stages = nn.ModuleList([embedding, *blocks, Head(config)])

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the next token at each position.

        Args:
            tokens: Shape (B, s), int64.

        Returns:
            Shape (B, s, V), in the type of the weights.
        """
        *body, head = self.stages
        x = tokens
        for stage in body:
            x = stage(x)
        return cast(Tensor, head(x, body[0].weight) if self.config.tied else head(x))

    def loss(self, tokens: Tensor) -> Tensor:
        """Return the mean cross-entropy of each token after the first, see ``loss_of``.

        Args:
            tokens: Shape (B, s + 1), int64.
        """
        return loss_of(self(tokens[:, :-1]), tokens[:, 1:])


def build_gpt(
    config: "Gpt", sequence: int, seed: int, dtype: torch.dtype = torch.float32
) -> GptStages:
    """Make a GPT with its initial weights on the CPU.

    Args:
        config: The GPT.
        sequence: Most tokens of a sequence.
        seed: Of the weights.
        dtype: Of the weights.

    Returns:
        The model; its weights are those of ``initial_weights``, rounded to the type.
    """
    with torch.device("meta"):
        model = GptStages(config, sequence)
    values = initial_weights(model, seed)
    model = model.to(dtype).to_empty(device="cpu")
    with torch.no_grad():
        for parameter, (_, value) in zip(model.parameters(), values, strict=True):
            parameter.copy_(value)
    return model


def initial_weights(
    model: GptStages, seed: int, skipped: Collection[str] = ()
) -> Iterator[tuple[str, Tensor]]:
    """Draw the initial weights one parameter at a time.

    A parameter's generator is seeded by the seed and its number alone, so that its values are the
    same whatever the ranks, the type, the device, and whether the head is tied. Matrices are
    normal, those that end in the residual with a deviation smaller by ``sqrt(2 L)``; biases are
    zero, scales of norms one.

    Args:
        model: Says shapes and names; may be on the meta device.
        seed: At least 0.
        skipped: Names of parameters whose values nobody needs: they are zero, which takes no time.

    Yields:
        Name and value, float32 on the CPU, in the model's order.
    """
    config = model.config
    for index, (name, parameter) in enumerate(model.named_parameters()):
        value = torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
        if name in skipped:
            yield name, value.zero_()
            continue
        if value.dim() == 1:
            yield name, value.fill_(float(name.endswith("norm.weight")))
            continue
        state = np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0]))
        depth_scale = (2 * config.layers) ** -0.5 if name.endswith("output.weight") else 1.0
        yield name, value.normal_(0.0, config.init_std * depth_scale, generator=generator)


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy over all positions.

    It is computed in float32 (float64 from float64), in chunks: beside the logits and their
    gradient, both in the logits' type, only one chunk is ever held.

    Args:
        logits: Shape (B, s, V).
        targets: Shape (B, s), int64.

    Returns:
        A scalar, float32 or float64.
    """
    loss = _MeanCrossEntropy.apply(  # type: ignore[no-untyped-call]  # torch's own
        logits.flatten(0, -2), targets.flatten()
    )
    return cast(Tensor, loss)


class _MeanCrossEntropy(torch.autograd.Function):
    """Cross-entropy that keeps the logits alone, and computes their softmax again for the gradient.

    PyTorch's keeps the logarithm of the softmax besides: V numbers for each of the T positions,
    in float32, the largest tensor of a small GPT with a large vocabulary.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, logits_TV: Tensor, targets_T: Tensor
    ) -> Tensor:
        wide = torch.promote_types(logits_TV.dtype, torch.float32)
        logsumexp_T = torch.empty_like(targets_T, dtype=wide)
        for part in _chunks(logits_TV):
            torch.logsumexp(logits_TV[part].to(wide), dim=-1, out=logsumexp_T[part])
        chosen_T = logits_TV.gather(1, targets_T[:, None])[:, 0]
        ctx.save_for_backward(logits_TV, targets_T, logsumexp_T)
        return (logsumexp_T - chosen_T).mean()

    @staticmethod
    def backward(ctx: torch._C._FunctionBase, grad: Tensor) -> tuple[Tensor, None]:
        logits_TV, targets_T, logsumexp_T = cast(tuple[Tensor, Tensor, Tensor], ctx.saved_tensors)
        scale = grad / len(targets_T)
        gradient_TV = torch.empty_like(logits_TV)
        for part in _chunks(logits_TV):
            softmax = (logits_TV[part] - logsumexp_T[part, None]).exp_()
            rows = torch.arange(len(softmax), device=softmax.device)
            softmax[rows, targets_T[part]] -= 1
            torch.mul(softmax, scale, out=gradient_TV[part])
        return gradient_TV, None


def _chunks(logits_TV: Tensor) -> Iterator[slice]:
    num_positions, vocabulary = logits_TV.shape
    rows = max(1, _CHUNK_ELEMENTS // vocabulary)
    for begin in range(0, num_positions, rows):
        yield slice(begin, begin + rows)
