"""The search of the planner: bounds in the order of promise, times on shallow and whole models."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from configs.sharding import Partition
from configs.training import TrainingExperiment
from configs.transport import Transport
from tasks.zero.costs.links import Network
from tasks.zero.planning.bounds import Demands, lower_bound
from tasks.zero.planning.candidates import Candidates, distinct, skyline
from tasks.zero.planning.prices import KINDS, Kind, Prices, priced
from tasks.zero.planning.space import (
    Floats,
    Ints,
    Mask,
    Passes,
    expressible,
    nested_partitions,
    of_engine,
    passing_bytes,
    states_bytes,
)
from tasks.zero.planning.timing import Model, Schedule, timed
from tasks.zero.planning.work import Work, work_of

_EXPANDED = 512
"""Partitions with a way through the batch that get their formats at a time."""
_MOST_EXPANDED = 2048
"""And in all, at most."""
_ROUND = 1024
"""Candidates that are timed on a shallow model at a time."""
_MOST_TIMED = 4_096
"""And in all, at most."""
_MOST_WHOLE = 64
_MOST_LEAN = 32
_OF_EACH = 2
"""Formats that are timed of what is on the front by its bound, and of each named row."""


@dataclass(frozen=True)
class Found:
    """What a search has found.

    Attributes:
        whole: Timed on the whole model, from the fastest.
        num_timed: Candidates that were timed, on few blocks at least.
        least_s: Nothing that was not timed is faster than this.
    """

    whole: Candidates
    num_timed: int
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
        self.num_partitions = len(parts)
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
        named = self._rows(rows)
        some, least_s = self._in_order(named.step_s.min(initial=np.inf))
        lean = self._lean()
        every = named.joined(some, lean).sorted()
        best = every.take(slice(_MOST_WHOLE))
        of_each = every.first_of(every.partition, 1).take(slice(_MOST_WHOLE // 2))
        chosen = best.joined(of_each, self._front(every), named)
        return Found(
            self.timed(distinct(chosen), is_whole=True).sorted(), len(every), float(least_s)
        )

    def _rows(self, rows: Sequence[Partition]) -> Candidates:
        """Time the named rows in the named formats; return the best of each."""
        numbers = np.array([self.parts.find(one) for one in rows], dtype=np.int64)
        numbers = np.unique(numbers[numbers >= 0])
        own = np.arange(len(self.searched), len(self.transports))
        passes, number, transport = np.meshgrid(
            np.arange(len(self.passes)), numbers, own, indexing="ij"
        )
        every = Candidates(passes.ravel(), number.ravel(), transport.ravel(), np.zeros(passes.size))
        is_one = self.fits[every.passes, every.partition]
        is_one &= self.allowed[every.partition, every.transport]
        every = self.timed(every.take(is_one))
        return every.sorted().first_of(every.sorted().partition, _OF_EACH)

    def _in_order(self, best_s: float) -> tuple[Candidates, float]:
        """Time candidates in the order of their bounds, until nothing can be better.

        Args:
            best_s: Of the named rows.

        Returns:
            What was timed, and a bound of what was not.
        """
        order = self._by_bound
        done, begin = Candidates(), 0
        while begin < len(order):
            if begin >= _MOST_EXPANDED:
                return done, float(order.step_s[begin])
            some = self._expanded(order.take(slice(begin, begin + _EXPANDED)))
            begin += _EXPANDED
            beyond_s = order.step_s[begin] if begin < len(order) else np.inf
            for first in range(0, len(some), _ROUND):
                if some.step_s[first] > best_s:
                    break
                if len(done) >= _MOST_TIMED:
                    return done, min(some.step_s[first], beyond_s)
                part = some.take(slice(first, first + _ROUND))
                if first:
                    part = part.take(part.step_s <= best_s)
                part = self.timed(part)
                done = done.joined(part)
                best_s = min(best_s, part.step_s.min())
            if beyond_s > best_s:
                break
        return done, best_s

    @cached_property
    def _by_bound(self) -> Candidates:
        """All partitions with all passes that fit, by the bound with the best formats."""
        bounds = np.where(self.fits, self.ideal_bounds(), np.inf).ravel()
        order = np.argsort(bounds, kind="stable")[: int(self.fits.sum())]
        passes, partition = np.divmod(order, len(self.parts))
        return Candidates(passes, partition, np.zeros_like(order), bounds[order])

    def ideal_bounds(self) -> Floats:
        """Bound what each partition takes with each way, shape (passes, P).

        Each collective has its own best format here, in each respect, and needs no padding to
        blocks.
        """
        every = np.arange(len(self.parts))
        lengths = self._prices.lengths(every, 1)
        moves: dict[Kind, Floats] = {}
        for kind in KINDS:
            table = self._prices.tables[kind]
            fixed, slope = (numbers.min(axis=1)[table.key] for numbers in table.demands)
            moves[kind] = priced(fixed, slope, lengths)
        every_reuses = np.ones(len(every), dtype=np.bool_)
        return np.stack(
            [
                lower_bound(
                    Demands(
                        moves,
                        lengths,
                        self.parts.optimizer,
                        every_reuses,
                        np.full(len(every), number),
                    ),
                    self._work,
                    self._model.layers,
                    self._model.norm_s,
                )
                for number in range(len(self.passes))
            ]
        )

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
            table = self._prices.tables[kind]
            alike = table.alike[:, table.wire[:num_formats]]
            code = code * alike.shape[1] + alike[table.key[some.partition]]
        has_copy = self.parts.backward[some.partition] < self.parts.forward[some.partition]
        is_repeated = self._work.micro_batches[some.passes] > 1
        reuses = (has_copy & is_repeated)[:, None] & self._reuses[None, :num_formats]
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
        lengths = self._lengths(some)
        moves: dict[Kind, Floats] = {}
        for kind in KINDS:
            table = self._prices.tables[kind]
            rows = table.key[some.partition], table.wire[some.transport]
            fixed, slope = table.demands
            moves[kind] = priced(fixed[rows], slope[rows], lengths)
        demands = Demands(
            moves,
            lengths,
            self.parts.optimizer[some.partition],
            self._reuses[some.transport],
            some.passes,
        )
        return lower_bound(demands, self._work, self._model.layers, self._model.norm_s)

    def _lengths(self, some: Candidates) -> Floats:
        blocks = self._prices.block_sizes[some.transport]
        return self._prices.lengths(some.partition, blocks)

    def _lean(self) -> Candidates:
        """Time what may be fastest among what needs no more memory than itself."""
        order = self._by_bound
        lean = order.take(skyline(order.step_s, self.memory_of(order)))
        chosen = np.unique(np.linspace(0, len(lean) - 1, _MOST_LEAN).astype(np.int64))
        every = self._expanded(lean.take(chosen))
        number = every.passes * len(self.parts) + every.partition
        return self.timed(every.first_of(number, _OF_EACH))

    def _front(self, some: Candidates) -> Candidates:
        return some.take(skyline(some.step_s, self.memory_of(some)))

    def timed(self, some: Candidates, *, is_whole: bool = False) -> Candidates:
        """Return candidates with their times.

        Args:
            some: Which ones.
            is_whole: On the whole model, not on a shallow one.
        """
        schedule = self._schedule(some)
        return some.with_times(timed(schedule, self._work, self._model, is_whole=is_whole))

    def _schedule(self, some: Candidates) -> Schedule:
        lengths = self._lengths(some)
        return Schedule(
            {
                kind: self._prices.columns(kind, some.partition, some.transport, lengths)
                for kind in KINDS
            },
            lengths,
            self.parts.optimizer[some.partition],
            self._reuses[some.transport],
            some.passes,
        )

    @cached_property
    def _prices(self) -> Prices:
        return Prices(self.base, self.parts, self.transports)

    @cached_property
    def _work(self) -> Work:
        return work_of(self.base, self.passes)

    @cached_property
    def _model(self) -> Model:
        model = self.base.model
        norm_s = Network(self.base.topology, self.base.ranks).scalars_s()
        return Model(model.layers, model.tied, norm_s)

    @cached_property
    def _reuses(self) -> Mask:
        return np.array([one.reuse_secondary for one in self.transports])
