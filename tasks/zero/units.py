"""A model as units: flat vectors of parameters that are gathered, reduced and updated together.

A stage has one unit of the parameters that are trained and, if it has any, one of the frozen ones.
A tied head uses the unit of the embedding besides its own. Inside a unit the matrices come first,
the parameters of one dimension last, so that weight decay acts on one contiguous part.

The whole vector of a unit lives in one buffer, of which the parameters are views. When it is not
needed, its storage is given back and the views stay, empty; when it is filled again, a graph that
has saved a view for the backward pass finds the same values.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from configs.gpt import is_frozen
from tasks.zero.layout import padded


@dataclass(eq=False)
class Unit:
    """A flat vector of parameters.

    Attributes:
        name: Of the stage, such as ``stages.3``; frozen ones end with ``frozen``.
        parameters: Names and parameters, in the order of the vector.
        is_trainable: Whether they are trained.
        length: Elements without padding.
        num_decayed: Elements of the matrices, at the beginning.
        padded_length: Elements with padding.
        buffer: The whole vector, shape (padded_length,); its storage may be empty.
    """

    name: str
    parameters: list[tuple[str, nn.Parameter]]
    is_trainable: bool
    length: int
    num_decayed: int
    padded_length: int
    buffer: Tensor = field(default_factory=lambda: torch.empty(0))

    def take_over(self, dtype: torch.dtype, device: torch.device) -> None:
        """Copy the parameters into a new buffer, and make them views of it.

        Args:
            dtype: Of the buffer, and of the parameters from now on.
            device: Of both.
        """
        self.buffer = torch.zeros(self.padded_length, dtype=dtype, device=device)
        begin = 0
        for _, parameter in self.parameters:
            view = self.buffer[begin : begin + parameter.numel()].view(parameter.shape)
            view.copy_(parameter.detach())
            parameter.data = view
            begin += parameter.numel()

    def accumulate_into(self, sums: Tensor) -> None:
        """Have backward passes add the gradients to a vector, from now on.

        Args:
            sums: Shape (padded_length,), of the parameters' dtype.
        """
        begin = 0
        for _, parameter in self.parameters:
            parameter.grad = sums[begin : begin + parameter.numel()].view(parameter.shape)
            begin += parameter.numel()

    def allocate(self) -> None:
        """Give the buffer its storage; the values are arbitrary."""
        self.buffer.untyped_storage().resize_(self.buffer.numel() * self.buffer.itemsize)

    def free(self) -> None:
        """Give the storage of the buffer back; all views of it are empty until ``allocate``."""
        self.buffer.untyped_storage().resize_(0)

    @property
    def is_allocated(self) -> bool:
        """Whether the buffer has its storage."""
        return self.buffer.untyped_storage().size() > 0

    def move_gradient(self, sums: Tensor, *, is_first: bool) -> None:
        """Add the gradients to a vector, and forget them.

        Args:
            sums: Shape (padded_length,), of any floating type.
            is_first: Whether to write instead of to add: what is there is taken for zero.
        """
        parts: list[Tensor] = []
        gradients: list[Tensor] = []
        begin = 0
        for _, parameter in self.parameters:
            part = sums[begin : begin + parameter.numel()].view(parameter.shape)
            begin += parameter.numel()
            if parameter.grad is not None:
                parts.append(part)
                gradients.append(parameter.grad)
                parameter.grad = None
            elif is_first:
                part.zero_()
        if is_first:
            sums[begin:].zero_()
        if is_first and parts:
            torch._foreach_copy_(parts, gradients)
        elif parts:
            torch._foreach_add_(parts, gradients)

    def take_gradient(self) -> Tensor:
        """Return the gradients as one vector, zero where there is none, and forget them.

        Returns:
            Shape (padded_length,), of the parameters' dtype.
        """
        flat = torch.empty(self.padded_length, dtype=self.buffer.dtype, device=self.buffer.device)
        begin = 0
        for _, parameter in self.parameters:
            part = flat[begin : begin + parameter.numel()]
            if parameter.grad is None:
                part.zero_()
            else:
                part.copy_(parameter.grad.view(-1))
                parameter.grad = None
            begin += parameter.numel()
        flat[begin:].zero_()
        return flat


def units_of_stage(
    number: int, stage: nn.Module, *, frozen: Sequence[str], degree: int, block_size: int
) -> list[Unit]:
    """Divide the parameters of a stage into units; they stay as they are.

    Args:
        number: Of the stage.
        stage: The stage.
        frozen: Names, or beginnings of names, of what is not trained.
        degree: The largest degree of the partition.
        block_size: Elements that share a scale; 1 where nothing is quantized.

    Returns:
        The unit of what is trained, and that of what is not; those that have any parameter.
    """
    named = [(f"stages.{number}.{name}", p) for name, p in stage.named_parameters()]
    return [
        _unit(f"stages.{number}", some, is_trainable, degree, block_size)
        for is_trainable in (True, False)
        if (some := [pair for pair in named if is_frozen(pair[0], frozen) != is_trainable])
    ]


def _unit(
    name: str,
    parameters: list[tuple[str, nn.Parameter]],
    is_trainable: bool,  # noqa: FBT001  private
    degree: int,
    block_size: int,
) -> Unit:
    ordered = sorted(parameters, key=lambda pair: pair[1].dim() < 2)
    for _, parameter in ordered:
        parameter.requires_grad_(is_trainable)
    length = sum(parameter.numel() for _, parameter in ordered)
    return Unit(
        name=name if is_trainable else f"{name}.frozen",
        parameters=ordered,
        is_trainable=is_trainable,
        length=length,
        num_decayed=sum(p.numel() for _, p in ordered if p.dim() >= 2),
        padded_length=padded(length, degree=degree, block_size=block_size),
    )
