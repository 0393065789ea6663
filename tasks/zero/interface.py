"""What the training loop asks of an engine: ours, DeepSpeed's or FSDP2's."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class StepReport:
    """One train step, as one rank saw it.

    Attributes:
        loss: Mean over all tokens of the step, of all ranks.
        grad_norm: 2-norm of the whole mean gradient, before clipping.
        is_skipped: The gradient, or the loss, was not finite, so that the weights are as before.
        compute_s: Forward and backward passes, without what is below; of engines that do not tell
            what they wait, with that.
        exposed_s: Time that the passes and the update waited for a collective, by level of the
            machine; of engines that do not tell, empty.
        optimizer_s: The update of the weights, without its collectives where waits are told.
        received_bytes: Bytes that this rank got from others, by level of the machine; of engines
            that do not tell, empty.
    """

    loss: float
    grad_norm: float
    is_skipped: bool = False
    compute_s: float = 0.0
    exposed_s: Mapping[str, float] = field(default_factory=dict)
    optimizer_s: float = 0.0
    received_bytes: Mapping[str, int] = field(default_factory=dict)


class PendingSave(Protocol):
    """A checkpoint that is being written while the training goes on."""

    def is_done(self) -> bool:
        """Say, without waiting, whether this rank's part of it is written."""
        ...

    def wait(self) -> None:
        """Wait until all parts of it are written, of all ranks.

        Raises:
            OSError: It could not be written.
        """
        ...


class TrainEngine(Protocol):
    """A model and its optimizer, spread over the ranks. Every method is called by all ranks."""

    @property
    def state_bytes(self) -> int:
        """Bytes of weights, gradients and optimizer states that this rank keeps."""
        ...

    def train_step(self, micro_batches: Sequence[Tensor], lr: float) -> StepReport:
        """Do one update from the mean gradient over all tokens.

        Args:
            micro_batches: This rank's, each of shape (sequences, s + 1), int64: inputs are all but
                the last token, targets all but the first.
            lr: Learning rate.

        Returns:
            What was measured.
        """
        ...

    def evaluate(self, batches: Sequence[Tensor]) -> float:
        """Return the mean loss over the tokens of all ranks' batches, without changing anything.

        Args:
            batches: This rank's, as for ``train_step``; as many on all ranks.
        """
        ...

    def begin_save(self, directory: Path) -> PendingSave:
        """Copy the whole state, and begin to write the copy.

        Args:
            directory: Where to; the same on all ranks, it exists and is empty.

        Returns:
            What is being written; at most one at a time.
        """
        ...

    def load(self, directory: Path) -> None:
        """Take the state that ``begin_save`` has written, also with other ranks or degrees.

        Args:
            directory: Of a whole checkpoint.

        Raises:
            JobError: It is of another model, or of an engine whose state cannot be taken.
        """
        ...

    def full_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and whole value of every parameter, in the model's order, on the CPU.

        All ranks must go through all of them; only rank 0's values are whole for sure.
        """
        ...

    def close(self) -> None:
        """End what runs in the background."""
        ...
