"""Where each rank's shards lie in a flat vector, so that shards of all degrees tile each other.

A rank's number is written in mixed radix, along the distinct degrees d_1 | d_2 | ... of a
partition: digit j is ``(rank mod d_j) div d_{j-1}``. A shard of degree d_j begins at
``L (digit_1 / d_1 + ... + digit_j / d_j)``: the innermost level decides first. So a rank's shard of
a larger degree always lies inside its shard of a smaller one, and every change of degree is a pure
gather or scatter of contiguous pieces (dossier ZeRO-topo, 2.3, for any number of levels; derived
here).

Arithmetic only; L is the padded length of the vector.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Hop:
    """One collective between shards of two degrees, as one rank sees it.

    Attributes:
        ranks: Who takes part, in ascending order; this rank among them.
        order: For each of them, which of the equal pieces of the lower degree's shard is theirs:
            a permutation of 0, 1, ...
    """

    ranks: tuple[int, ...]
    order: tuple[int, ...]


@dataclass(frozen=True)
class Chain:
    """The degrees that shards of one vector may have: nested divisors of the number of ranks.

    Attributes:
        num_ranks: N.
        degrees: Ascending, each a divisor of the next and the last of N; without 1.

    Raises:
        ValueError: A degree does not divide the next one, or N.
    """

    num_ranks: int
    degrees: tuple[int, ...]

    def __post_init__(self) -> None:
        for low, high in itertools.pairwise((1, *self.degrees, self.num_ranks)):
            if high % low:
                raise ValueError(f"{low} does not divide {high}")

    def offset(self, rank: int, degree: int, length: int) -> int:
        """Return where a rank's shard begins.

        Args:
            rank: From 0.
            degree: 1, or one of the chain.
            length: L, a multiple of the degree.
        """
        begin, inner = 0, 1
        for outer in itertools.takewhile(lambda d: d <= degree, self.degrees):
            begin += rank % outer // inner * (length // outer)
            inner = outer
        return begin

    def group(self, rank: int, inner: int, outer: int) -> tuple[int, ...]:
        """Return the ranks whose shards of degree ``outer`` tile this rank's of degree ``inner``.

        They differ from the rank in the digits between the two degrees alone. With ``outer`` N,
        beyond the chain, these are its replicas, too.

        Args:
            rank: From 0.
            inner: 1, or a degree of the chain.
            outer: A multiple of it: a degree of the chain, or N.

        Returns:
            Ascending, ``outer / inner`` of them.
        """
        first = rank // outer * outer + rank % inner
        return tuple(range(first, first + outer, inner))

    def hop(self, rank: int, inner: int, outer: int) -> Hop:
        """Return the one collective that leads from degree ``outer`` to ``inner``, or back.

        Args:
            rank: From 0.
            inner: 1, or a degree of the chain.
            outer: A larger degree of the chain.
        """
        ranks = self.group(rank, inner, outer)
        base = self.offset(rank, inner, outer)
        return Hop(ranks, tuple(self.offset(r, outer, outer) - base for r in ranks))

    def stops(self, inner: int, outer: int, *, at: Sequence[int] = ()) -> tuple[int, ...]:
        """Return the degrees between two, ends included, at which a conversion changes collective.

        Args:
            inner: 1, or a degree of the chain.
            outer: A larger degree of the chain.
            at: Degrees at which to stop, as far as they are of the chain and between the two.
        """
        between = [d for d in self.degrees if inner < d < outer and d in at]
        return (inner, *between, outer)


def padded(length: int, *, degree: int, block_size: int) -> int:
    """Return the least length, not below a vector's own, that is whole blocks on every rank.

    Args:
        length: Elements, at least 0.
        degree: The largest degree.
        block_size: Elements that share a scale; 1 where nothing is quantized.
    """
    unit = degree * block_size
    return -(-length // unit) * unit
