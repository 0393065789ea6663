"""What times candidates: the tables of a machine and a model, and the timeline behind them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from configs.training import TrainingExperiment
from configs.transport import Transport
from tasks.zero.costs.links import Network
from tasks.zero.planning.candidates import Candidates
from tasks.zero.planning.prices import KINDS, Prices
from tasks.zero.planning.space import Floats, Ints, Mask, Partitions, Passes
from tasks.zero.planning.timing import Model, Schedule, timed
from tasks.zero.planning.work import Work, work_of


@dataclass(frozen=True)
class Clock:
    """Times candidates, whose numbers are those of these lists.

    Attributes:
        base: The training: model, machine, type, engine.
        parts: Partitions.
        transports: Formats.
        passes: Ways through the batch.
    """

    base: TrainingExperiment
    parts: Partitions
    transports: Sequence[Transport]
    passes: Sequence[Passes]

    @cached_property
    def prices(self) -> Prices:
        """What the collectives take."""
        return Prices(self.base, self.parts, self.transports)

    @cached_property
    def work(self) -> Work:
        """What the device computes."""
        return work_of(self.base, self.passes)

    @cached_property
    def model(self) -> Model:
        """What all candidates share."""
        model = self.base.model
        norm_s = Network(self.base.topology, self.base.ranks).scalars_s()
        return Model(model.layers, model.tied, norm_s)

    @cached_property
    def reuses(self) -> Mask:
        """Which formats gather later micro-batches from the backward copy."""
        return np.array([one.reuse_secondary for one in self.transports])

    def lengths(self, some: Candidates) -> Floats:
        """Return the padded lengths of the units, shape (units, n).

        Args:
            some: n candidates.
        """
        blocks: Ints = self.prices.block_sizes[some.transport]
        return self.prices.lengths(some.partition, blocks)

    def timed(self, some: Candidates) -> Floats:
        """Return the times of a train step.

        Args:
            some: n candidates.

        Returns:
            Seconds, shape (n,); as ``cost_model.predict`` has them.
        """
        return timed(self._schedule(some), self.work, self.model)

    def _schedule(self, some: Candidates) -> Schedule:
        lengths = self.lengths(some)
        return Schedule(
            {
                kind: self.prices.columns(kind, some.partition, some.transport, lengths)
                for kind in KINDS
            },
            lengths,
            self.parts.optimizer[some.partition],
            self.reuses[some.transport],
            some.passes,
        )
