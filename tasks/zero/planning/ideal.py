"""Bounds of the step time by partition, with whatever formats: which partitions are worth a look.

Each piece of a step (``planning.bounds``) depends on two or three of the four degrees: so it is
bounded once for all partitions that share these, with every format, and the least one counts.
Pieces may differ in their formats here, and lengths have no padding; so the sum is below the bound
of every candidate of the partition.

Symbols: P partitions, L blocks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tasks.zero.planning.bounds import (
    Computing,
    beginning,
    computing,
    descent,
    ending,
    leaving,
    turn,
)
from tasks.zero.planning.prices import Kind, Prices, priced
from tasks.zero.planning.space import Floats, Ints
from tasks.zero.planning.work import Work

PIECE = 8192
"""Numbers in an array: so many stay in a core's caches, which is faster than all at once."""


@dataclass(frozen=True)
class _Sharing:
    """Partitions that have the collectives of some kinds in common, with all formats that differ.

    Attributes:
        pieces: Of each kind the moves, shape (units, 2 + levels, n), s, and o, shape (n,); sorted
            by group.
        begins: The first number of each group in all pieces, shape (groups,).
        group: Number of each partition's group, shape (P,).
    """

    pieces: list[tuple[list[Floats], Ints]]
    begins: Ints
    group: Ints

    def least(self, bound: Callable[[list[Floats], Ints], Floats]) -> Floats:
        """Return the least of all formats by partition.

        Args:
            bound: Gives the bounds of a piece, shape (..., n), s.

        Returns:
            Shape (..., P).
        """
        seconds = np.concatenate([bound(*piece) for piece in self.pieces], axis=-1)
        least = np.minimum.reduceat(seconds, self.begins, axis=-1)
        return np.asarray(least[..., self.group])


@dataclass(frozen=True)
class Ideal:
    """Bounds by partition and way through the batch.

    Attributes:
        prices: Of the collectives.
        work: Computing times.
        layers: L.
        norm_s: Time of the sum of the norm.
        transports: Numbers of the formats that a partition may have.
    """

    prices: Prices
    work: Work
    layers: int
    norm_s: float
    transports: Ints

    def bounds(self) -> Floats:
        """Bound what each partition takes with each way, shape (passes, P)."""
        return np.stack([self._of_way(number) for number in range(len(self.work.micro_batches))])

    def _of_way(self, number: int) -> Floats:
        others = int(self.work.micro_batches[number]) - 1

        def begin(moves: list[Floats], optimizer: Ints) -> Floats:
            gather, kept, refresh = moves
            return beginning(gather, kept, refresh, self._computing(number, optimizer))

        def rest(moves: list[Floats], optimizer: Ints) -> Floats:
            """Bound the other micro-batches, without the last sums and with them."""
            kept, reduction = moves
            of = self._computing(number, optimizer)
            down = descent(kept, reduction, of)
            # Nothing is gathered faster than from what is kept.
            middle = others * (down + turn(kept, kept, reduction, of)) if others else 0.0 * down
            return np.stack([middle, middle + down + leaving(kept, reduction, of)])

        def end(moves: list[Floats], optimizer: Ints) -> Floats:
            """Bound the end with the sums of the step, but without gathers."""
            reduction, sync = moves
            of = self._computing(number, optimizer)
            return ending(np.zeros_like(reduction), reduction, sync, of)

        middle, last = self._cycles.least(rest)
        last = np.maximum(last, middle + self._ends.least(end))
        return np.asarray(self._begins.least(begin) + last + self.norm_s)

    def _computing(self, number: int, optimizer: Ints) -> Computing:
        lengths = self.prices.raw_lengths[:, None].astype(np.float64)
        return computing(self.work, np.array([number]), lengths, optimizer, self.layers)

    @cached_property
    def _begins(self) -> _Sharing:
        return self._sharing(["forward_gather", "kept_gather", "refresh"])

    @cached_property
    def _cycles(self) -> _Sharing:
        return self._sharing(["kept_gather", "reduction"])

    @cached_property
    def _ends(self) -> _Sharing:
        return self._sharing(["reduction", "sync"])

    def _sharing(self, kinds: Sequence[Kind]) -> _Sharing:
        """Group the partitions whose collectives of some kinds are the same."""
        tables = [self.prices.tables[kind] for kind in kinds]
        packed = np.zeros(len(self.prices.parts), dtype=np.int64)
        for table in tables:
            packed = packed * len(table.fixed) + table.key
        _, first, group = np.unique(packed, return_index=True, return_inverse=True)
        keys = [table.key[first] for table in tables]
        # Formats of collectives that use the same states are chosen together.
        formats = np.unique(np.stack([table.wire[self.transports] for table in tables]), axis=1)
        code = np.arange(len(first))[:, None]
        for table, key, wires in zip(tables, keys, formats, strict=True):
            code = code * table.fixed.shape[1] + table.alike[key][:, wires]
        _, chosen = np.unique(code, return_index=True)
        row, column = np.divmod(chosen, formats.shape[1])
        lengths = self.prices.raw_lengths.astype(np.float64)[:, None]
        demands = [table.demands for table in tables]
        moves = [
            priced(fixed[key[row], wires[column]], slope[key[row], wires[column]], lengths)
            for (fixed, slope), key, wires in zip(demands, keys, formats, strict=True)
        ]
        optimizer = self.prices.parts.optimizer[first][row]
        pieces = [slice(begin, begin + PIECE) for begin in range(0, len(row), PIECE)]
        return _Sharing(
            [
                ([np.ascontiguousarray(one[:, :, piece]) for one in moves], optimizer[piece])
                for piece in pieces
            ],
            np.searchsorted(row, np.arange(len(first))),
            group,
        )
