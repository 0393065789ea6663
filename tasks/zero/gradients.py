"""The gradients of a unit: leave a rank as soon as they are computed, and are summed where they go.

Every micro-batch, a rank's whole gradient is scattered over the ranks of the gradients' degree, and
added to the sum that each keeps. Once a train step those sums are scattered on to the optimizer's
degree, and summed over the replicas, if there are any. Nothing is divided here: the mean is taken
once, by the optimizer.
"""

import torch
from torch import Tensor

from configs.sharding import Partition
from configs.transport import Transport
from tasks.zero.collectives import Fabric, Handle
from tasks.zero.error_feedback import ErrorFeedback
from tasks.zero.units import Unit


class UnitGradients:
    """The gradients of one trainable unit on one rank.

    Args:
        unit: The unit.
        partition: Over how many ranks.
        fabric: What reduces.
        transport: In which format.
        num_ranks: N.
        dtype: Of the sums.
        errors: What quantization took so far; None without error feedback.
    """

    def __init__(
        self,
        unit: Unit,
        partition: Partition,
        *,
        fabric: Fabric,
        transport: Transport,
        num_ranks: int,
        dtype: torch.dtype,
        errors: ErrorFeedback | None,
    ) -> None:
        self._unit, self._partition, self._fabric = unit, partition, fabric
        self._transport, self._num_ranks, self._errors = transport, num_ranks, errors
        device = unit.buffer.device
        self._sums = torch.zeros(
            unit.padded_length // partition.gradients, dtype=dtype, device=device
        )
        # Whole gradients need not leave: where the types agree, the backward pass adds them itself.
        self._stays = partition.gradients == 1
        self._is_added = self._stays and dtype == unit.buffer.dtype
        if self._is_added:
            unit.accumulate_into(self._sums)
        self._is_first = True
        self._synced: Tensor | None = None
        self._leaving: list[tuple[Handle, Tensor]] = []
        self._syncing: list[Handle] = []

    @property
    def state_bytes(self) -> int:
        """Bytes of the sums."""
        return self._sums.numel() * self._sums.itemsize

    def leave(self) -> None:
        """Send the gradient of a micro-batch away, after the backward pass of its last stage."""
        if self._stays:
            if not self._is_added:
                self._unit.move_gradient(self._sums, is_first=self._is_first)
                self._is_first = False
            return
        flat = self._unit.take_gradient()
        handle = self._fabric.reduce(
            flat,
            self._sums,
            inner=1,
            outer=self._partition.gradients,
            inside=self._transport.gradients,
            across=self._transport.sync,
            errors=self._errors,
            key=self._unit.name,
        )
        self._leaving.append((handle, flat))

    def begin_sync(self) -> None:
        """Begin to bring the sums of all micro-batches to where the optimizer is."""
        gradients, optimizer = self._partition.gradients, self._partition.optimizer
        synced = self._sums
        if optimizer > gradients:
            # What is summed up is not needed after that: the result takes its place.
            synced = self._sums[: self._unit.padded_length // optimizer]
            handle = self._fabric.reduce(
                self._sums,
                synced,
                inner=gradients,
                outer=optimizer,
                inside=self._transport.gradients,
                across=self._transport.sync,
                errors=self._errors,
                key=f"{self._unit.name}/sync",
                is_added=False,
            )
            self._syncing.append(handle)
        if optimizer < self._num_ranks:
            handle = self._fabric.all_reduce(
                synced,
                degree=optimizer,
                inside=self._transport.gradients,
                across=self._transport.sync,
                errors=self._errors,
                key=f"{self._unit.name}/replicas",
            )
            self._syncing.append(handle)
        self._synced = synced

    def wait_for_oldest(self) -> None:
        """Wait until the oldest gradient that is under way has left, and drop it."""
        if self._leaving:
            handle, _ = self._leaving.pop(0)
            handle.wait()

    def take_sum(self) -> Tensor:
        """Return the sum over ranks and micro-batches, which ``begin_sync`` has begun to make.

        Returns:
            This rank's shard of the optimizer's degree; valid until ``clear``.
        """
        while self._leaving:
            self.wait_for_oldest()
        for handle in self._syncing:
            handle.wait()
        self._syncing.clear()
        return self._sums if self._synced is None else self._synced

    def clear(self) -> None:
        """Begin a new train step."""
        if self._is_added or not self._stays:
            self._sums.zero_()
        self._is_first = True
        self._synced = None
