"""The search of the planner: what may be fastest is timed first, until nothing can be faster."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from configs.sharding import Partition
from configs.training import TrainingExperiment
from configs.transport import Transport
from tasks.zero.planning.bounds import Demands, computing, lower_bound
from tasks.zero.planning.candidates import Candidates, distinct, skyline
from tasks.zero.planning.clock import Clock
from tasks.zero.planning.ideal import PIECE, Ideal
from tasks.zero.planning.prices import KINDS, Kind, priced
from tasks.zero.planning.space import (
    TIE,
    Floats,
    Ints,
    Mask,
    Passes,
    expressible,
    nested_partitions,
    num_rounded,
    of_engine,
    passing_bytes,
    states_bytes,
)

_EXPANDED = 1024
"""Partitions with a way through the batch that get their formats at a time."""
_MOST_EXPANDED = 4096
"""And in all, at most."""
_ROUND = 256
"""Candidates that are timed at a time."""
_MOST_TIMED = 1024
"""And in all, at most."""
_MOST_SIMPLER = 64
"""Candidates that are timed because they may be as good as the fastest, and simpler."""
_MOST_LEANEST = 256
"""Partitions with a way through the batch, with the same aim."""
_MOST_LEAN = 64
"""Candidates that are timed because they may be fastest among what needs no more memory."""
_OF_EACH = 64
"""Formats and ways that are timed of each named row."""


@dataclass(frozen=True)
class Found:
    """What a search has found.

    Attributes:
        timed: What was timed, from the fastest.
        least_s: Nothing that was not timed is faster than this.
    """

    timed: Candidates
    least_s: float


@dataclass
class Search:
    """One search.

    Attributes:
        base: The training: model, machine, type, engine.
        passes: Ways through the batch; those that fit nowhere are left out.
        searched: Formats, the simplest first.
        named: Further ones, for the named rows alone.
        memory_bytes: What a training may use of a device.
    """

    base: TrainingExperiment
    passes: list[Passes]
    searched: Sequence[Transport]
    named: Sequence[Transport]
    memory_bytes: int

    def __post_init__(self) -> None:
        parts = of_engine(nested_partitions(self.base.topology, self.base.ranks), self.base)
        self.num_partitions, self.num_passes = len(parts), len(self.passes)
        memory = states_bytes(parts, self.base) + passing_bytes(parts, self.base, self.passes)
        # Whole weights are gathered by nobody: there is nothing to prefetch.
        prefetch = np.array([one.prefetch for one in self.passes])
        is_one = (prefetch > prefetch.min())[:, None] & (parts.forward == 1)
        fits = (memory <= self.memory_bytes) & ~is_one
        rows, columns = np.flatnonzero(fits.any(axis=1)), np.flatnonzero(fits.any(axis=0))
        self.num_fitting = int(fits.sum())
        self.parts = parts.take(columns)
        self.passes = [self.passes[number] for number in rows]
        self.memory = memory[np.ix_(rows, columns)]
        self.fits = fits[np.ix_(rows, columns)]

    @cached_property
    def allowed(self) -> Mask:
        """What the engine can express, shape (P, transports)."""
        shape = len(self.parts), len(self.transports)
        if self.base.engine == "ours":
            return np.ones(shape, dtype=np.bool_)
        every = [
            self.base.model_copy(update={"partition": self.parts.partition(n), "transport": one})
            for n, one in itertools.product(range(len(self.parts)), self.transports)
        ]
        return np.array([expressible(one) for one in every]).reshape(shape)

    @cached_property
    def transports(self) -> list[Transport]:
        """All formats: those that are searched, then those of the named rows."""
        return [*self.searched, *self.named]

    def memory_of(self, some: Candidates) -> Ints:
        """Return the bytes that candidates need on a device.

        Args:
            some: n of them.

        Returns:
            Shape (n,).
        """
        return np.asarray(self.memory[some.passes, some.partition])

    def run(self, rows: Sequence[Partition]) -> Found:
        """Search.

        Args:
            rows: Named partitions, whose best must be among what is found.

        Returns:
            Sorted candidates, of each row that fits with one at least.
        """
        some = self._expanded(self._by_bound.take(slice(_EXPANDED)))
        first = some.take(slice(_ROUND)).joined(self._rows(rows), self._lean())
        found = self._in_order(self.timed(distinct(first)), some.take(slice(_ROUND, None)))
        simpler = self._simpler(found.timed, some.joined(self._leanest(found.timed.step_s[0])))
        every = distinct(found.timed.joined(self.timed(simpler)))
        return Found(every.sorted(), found.least_s)

    def _leanest(self, best_s: float) -> Candidates:
        """Return, with all formats, what needs least memory of what may be as good as the best."""
        order = self._by_bound
        equal = order.take(order.step_s <= (1 + TIE) * best_s)
        return self._expanded(equal.take(np.argsort(self.memory_of(equal))[:_MOST_LEANEST]))

    def _simpler(self, done: Candidates, some: Candidates) -> Candidates:
        """Return what may be as good as the fastest, and rounds less or needs less memory.

        Args:
            done: What was timed.
            some: Candidates with their bounds.
        """
        limit_s = (1 + TIE) * done.step_s[0]
        equal = done.take(done.step_s <= limit_s)
        least = min(zip(self._rounded[equal.transport], self.memory_of(equal), strict=True))
        some = some.take(some.step_s <= limit_s)
        rounded, memory = self._rounded[some.transport], self.memory_of(some)
        order = np.lexsort((memory, rounded))
        is_less = (rounded < least[0]) | ((rounded == least[0]) & (memory < least[1]))
        return some.take(order[is_less[order]][:_MOST_SIMPLER])

    def _rows(self, rows: Sequence[Partition]) -> Candidates:
        """Return the most promising of each named row in the named formats."""
        numbers = np.array([self.parts.find(one) for one in rows], dtype=np.int64)
        numbers = np.unique(numbers[numbers >= 0])
        own = np.arange(len(self.searched), len(self.transports))
        passes, number, transport = np.meshgrid(
            np.arange(len(self.passes)), numbers, own, indexing="ij"
        )
        every = Candidates(passes.ravel(), number.ravel(), transport.ravel(), np.zeros(passes.size))
        is_one = self.fits[every.passes, every.partition]
        is_one &= self.allowed[every.partition, every.transport]
        every = every.take(is_one)
        every = every.with_times(self.bounds(every)).sorted()
        return every.first_of(every.partition, _OF_EACH)

    def _in_order(self, done: Candidates, some: Candidates) -> Found:
        """Time candidates in the order of their bounds, until nothing can be better.

        Args:
            done: What was timed before.
            some: The rest of the first partitions, with their formats.
        """
        order, begin = self._by_bound, _EXPANDED
        while True:
            while len(some) and some.step_s[0] <= done.step_s.min() and len(done) < _MOST_TIMED:
                part = some.take(slice(_ROUND))
                done = done.joined(self.timed(part.take(part.step_s <= done.step_s.min())))
                some = some.take(slice(_ROUND, None))
            left_s = min(some.step_s.min(initial=np.inf), order.step_s[begin:].min(initial=np.inf))
            is_enough = begin >= _MOST_EXPANDED or len(done) >= _MOST_TIMED
            if left_s > done.step_s.min() or is_enough:
                return Found(distinct(done).sorted(), min(left_s, done.step_s.min()))
            some = self._expanded(order.take(slice(begin, begin + _EXPANDED)))
            begin += _EXPANDED

    @cached_property
    def _by_bound(self) -> Candidates:
        """All partitions with all passes that fit, by the bound with the best formats."""
        bounds = np.where(self.fits, self.ideal_bounds(), np.inf).ravel()
        order = np.argsort(bounds, kind="stable")[: int(self.fits.sum())]
        passes, partition = np.divmod(order, len(self.parts))
        return Candidates(passes, partition, np.zeros_like(order), bounds[order])

    def ideal_bounds(self) -> Floats:
        """Bound what each partition takes with each way, in whatever formats, shape (passes, P)."""
        model = self._clock.model
        weights = np.array([one.weights for one in self.searched])
        # All pieces of a step gather in the same format; with one at a time the bound is tighter.
        least: Floats = np.minimum.reduce(
            [
                Ideal(
                    self._clock.prices,
                    self._clock.work,
                    model.layers,
                    model.norm_s,
                    np.flatnonzero(weights == wire),
                ).bounds()
                for wire in np.unique(weights)
            ]
        )
        return least

    def _expanded(self, some: Candidates) -> Candidates:
        """Give each all formats that differ for it; return them by their bounds."""
        num_formats = len(self.searched)
        allowed = self.allowed[some.partition, :num_formats]
        number, transport = np.nonzero(self._differ(some) & allowed)
        every = some.take(number)
        every = Candidates(every.passes, every.partition, transport, every.step_s)
        return every.with_times(self.bounds(every)).sorted()

    def _differ(self, some: Candidates) -> Mask:
        """Tell which formats are not the same as a simpler one, shape (n, searched)."""
        num_formats = len(self.searched)
        code = np.zeros((len(some), num_formats), dtype=np.int64)
        for kind in KINDS:
            table = self._clock.prices.tables[kind]
            alike = table.alike[:, table.wire[:num_formats]]
            code = code * alike.shape[1] + alike[table.key[some.partition]]
        has_copy = self.parts.backward[some.partition] < self.parts.forward[some.partition]
        is_repeated = self._clock.work.micro_batches[some.passes] > 1
        reuses = (has_copy & is_repeated)[:, None] & self._clock.reuses[None, :num_formats]
        code = code * 2 + reuses
        first = (code[:, :, None] == code[:, None, :]).argmax(axis=2)
        return np.asarray(first == np.arange(num_formats))

    def bounds(self, some: Candidates) -> Floats:
        """Bound what candidates take.

        Args:
            some: n of them.

        Returns:
            Seconds, shape (n,).
        """
        pieces = [some.take(slice(n, n + PIECE)) for n in range(0, len(some), PIECE)]
        return np.concatenate([np.empty(0), *map(self._bounds, pieces)])

    def _bounds(self, some: Candidates) -> Floats:
        lengths = self._clock.lengths(some)
        moves: dict[Kind, Floats] = {}
        for kind in KINDS:
            table = self._clock.prices.tables[kind]
            rows = table.key[some.partition], table.wire[some.transport]
            fixed, slope = table.demands
            moves[kind] = priced(fixed[rows], slope[rows], lengths)
        model = self._clock.model
        optimizer = self.parts.optimizer[some.partition]
        of = computing(self._clock.work, some.passes, lengths, optimizer, model.layers)
        return lower_bound(Demands(moves, self._clock.reuses[some.transport]), of, model.norm_s)

    def _lean(self) -> Candidates:
        """Return what may be fastest among what needs no more memory than itself."""
        order = self._by_bound
        lean = order.take(skyline(order.step_s, self.memory_of(order)))
        every = self._expanded(lean.take(_spread(len(lean), _EXPANDED)))
        front = every.take(skyline(every.step_s, self.memory_of(every)))
        return front.take(_spread(len(front), _MOST_LEAN))

    def timed(self, some: Candidates) -> Candidates:
        """Return candidates with their times.

        Args:
            some: Which ones.
        """
        return some.with_times(self._clock.timed(some))

    @cached_property
    def _clock(self) -> Clock:
        return Clock(self.base, self.parts, self.transports, self.passes)

    @cached_property
    def _rounded(self) -> Ints:
        """How many states each format rounds."""
        return np.array([num_rounded(one) for one in self.transports])


def _spread(number: int, most: int) -> Ints:
    """Return so many numbers at most, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, number - 1, min(number, most)).astype(np.int64))
