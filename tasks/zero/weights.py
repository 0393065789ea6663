"""The weights of a unit: a shard at rest, the whole vector while a stage computes with it.

At rest a rank keeps its shard of the forward degree. The forward pass gathers the whole vector from
it. What stays until the backward pass is a shard of the backward degree: the same shard; a larger
one, by-product of the gather (the secondary copy of ZeRO++'s hpZ); or the whole vector.
"""

from torch import Tensor

from configs.sharding import Partition
from configs.transport import Transport
from tasks.zero.collectives import Fabric, Handle, Kept
from tasks.zero.layout import Chain
from tasks.zero.units import Unit
from tasks.zero.wires import Coder


class UnitWeights:
    """The weights of one unit on one rank.

    Args:
        unit: With its buffer filled; it is freed unless the degree is 1.
        partition: Over how many ranks.
        chain: The degrees.
        fabric: What gathers.
        transport: In which format.
        rank: From 0.
    """

    def __init__(
        self,
        unit: Unit,
        partition: Partition,
        *,
        chain: Chain,
        fabric: Fabric,
        transport: Transport,
        rank: int,
    ) -> None:
        self._unit, self._partition, self._fabric = unit, partition, fabric
        self._transport = transport
        self._pending: Handle | None = None
        self._kept: Kept | None = None
        self._refresh: Handle | None = None
        degree, length = partition.forward, unit.padded_length
        begin = chain.offset(rank, degree, length)
        self.shard = unit.buffer
        """What the rank keeps, shape (padded_length / forward,)."""
        if degree > 1:
            self.shard = unit.buffer[begin : begin + length // degree].clone()
            unit.free()
        self._kept_bytes = 0
        if 1 < partition.backward < degree:
            coder = Coder(
                transport.weights, self.shard.dtype, self.shard.numel(), transport.block_size
            )
            self._kept_bytes = degree // partition.backward * coder.num_bytes

    @property
    def state_bytes(self) -> int:
        """Bytes of the shard at rest, and of what stays between the passes."""
        return self.shard.numel() * self.shard.itemsize + self._kept_bytes

    def prefetch(self) -> None:
        """Begin to gather the whole vector, unless it is there or on its way."""
        if self._pending is not None or self._unit.is_allocated:
            return
        self._finish_refresh()
        self._unit.allocate()
        if self._kept is not None:
            self._pending = self._fabric.gather_kept(self._kept, self._unit.buffer)
            return
        forward, backward = self._partition.forward, self._partition.backward
        self._pending = self._fabric.gather(
            self.shard,
            self._unit.buffer,
            inner=1,
            outer=forward,
            wire=self._transport.weights,
            keep=backward if 1 < backward < forward else None,
        )

    def acquire(self) -> None:
        """Wait until the whole vector is there."""
        self._finish_refresh()
        self.prefetch()
        if self._pending is not None:
            self._pending.wait()
            self._kept = self._pending.kept or self._kept
            self._pending = None

    def release(self, *, is_used_again: bool) -> None:
        """Give back what is not to stay.

        Args:
            is_used_again: Whether a later pass is to gather from what stays: the backward pass of
                the micro-batch or, if the setting says so, a later micro-batch of the train step.
        """
        if not is_used_again:
            self._kept = None
        whole_stays = is_used_again and self._partition.backward == 1
        if self._partition.forward > 1 and not whole_stays:
            self._unit.free()

    def begin_refresh(self, shard: Tensor) -> None:
        """Begin to take updated weights; the next ``acquire`` waits for them.

        Args:
            shard: Of the optimizer's degree, in the type of the weights or a wider one; not to be
                changed before that.
        """
        if shard is self.shard:
            return
        degrees, wire = self._partition, self._transport.refresh
        if degrees.optimizer == degrees.forward and wire == "full":
            self.shard.copy_(shard)
            return
        self._refresh = self._fabric.gather(
            shard,
            self.shard,
            inner=self._partition.forward,
            outer=self._partition.optimizer,
            wire=wire,
        )

    def gather_exactly(self, master: Tensor | None) -> Tensor:
        """Return the whole vector as the optimizer has it, and not as it comes over the wire.

        Args:
            master: This rank's shard of the optimizer's degree; None for weights that are not
                trained, which are at rest as they are.

        Returns:
            Shape (padded_length,), of the master weights' type.
        """
        degrees, shard = self._partition, self.shard
        if master is not None:
            shard = master.new_empty(self._unit.padded_length // degrees.forward)
            self._gather_fully(master, shard, degrees.forward, degrees.optimizer)
        whole = shard.new_empty(self._unit.padded_length)
        self._gather_fully(shard, whole, 1, degrees.forward)
        return whole

    def _gather_fully(self, shard: Tensor, out: Tensor, inner: int, outer: int) -> None:
        """Gather over the hops of every train step."""
        is_between = inner < self._partition.backward < outer
        self._fabric.gather(
            shard,
            out,
            inner=inner,
            outer=outer,
            wire="full",
            keep=self._partition.backward if is_between else None,
        ).wait()

    def _finish_refresh(self) -> None:
        if self._refresh is not None:
            self._refresh.wait()
            self._refresh = None

    def wait(self) -> None:
        """Wait for whatever is under way; gathered weights that nobody came for are given back."""
        self._finish_refresh()
        if self._pending is not None:
            self.acquire()
            self.release(is_used_again=False)
