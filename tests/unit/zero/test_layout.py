"""Shards of all degrees of a chain, and the hops between them."""

import itertools
import math
import operator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.zero.layout import Chain, padded


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    """Draw a chain of up to three degrees, of up to 24 ranks."""
    factors = draw(st.lists(st.integers(2, 4), max_size=3).filter(lambda f: math.prod(f) <= 24))
    products = list(itertools.accumulate(factors, operator.mul, initial=1))
    num_ranks = products[-1] * draw(st.integers(1, 24 // products[-1]))
    return Chain(num_ranks, tuple(products[1:]))


def elements(chain: Chain, rank: int, degree: int, length: int) -> range:
    """Return the elements of a rank's shard."""
    begin = chain.offset(rank, degree, length)
    return range(begin, begin + length // degree)


@settings(deadline=None, max_examples=40)
@given(chains(), st.integers(1, 3))
def test_shards_of_every_degree_tile_the_vector(chain: Chain, factor: int) -> None:
    """Neighbours with the same ``rank // degree`` hold each element exactly once."""
    for degree in (1, *chain.degrees):
        length = math.lcm(degree, *chain.degrees) * factor
        for block in range(0, chain.num_ranks, degree):
            shards = [elements(chain, r, degree, length) for r in range(block, block + degree)]

            assert sorted(itertools.chain(*shards)) == list(range(length))


@settings(deadline=None, max_examples=40)
@given(chains())
def test_shards_nest(chain: Chain) -> None:
    """A rank's shard lies inside its shards of all lower degrees."""
    length = chain.degrees[-1] if chain.degrees else 1
    for rank in range(chain.num_ranks):
        shards = [set(elements(chain, rank, degree, length)) for degree in (1, *chain.degrees)]

        assert all(larger >= smaller for larger, smaller in itertools.pairwise(shards))


@settings(deadline=None, max_examples=40)
@given(chains())
def test_a_hop_puts_the_pieces_of_a_shard_together(chain: Chain) -> None:
    """The ranks of a hop hold the pieces that its order says, and share the lower degree's shard.

    Every member sees the same ranks and the same order, or the collective would mix pieces up.
    """
    length = chain.degrees[-1] if chain.degrees else 1
    for inner, outer in itertools.combinations((1, *chain.degrees), 2):
        for rank in range(chain.num_ranks):
            hop = chain.hop(rank, inner, outer)

            assert rank in hop.ranks
            assert hop.ranks == chain.group(rank, inner, outer)
            assert all(chain.hop(other, inner, outer) == hop for other in hop.ranks)
            whole = elements(chain, rank, inner, length)
            size = length // outer
            for other, piece in zip(hop.ranks, hop.order, strict=True):
                assert elements(chain, other, inner, length) == whole
                begin = whole.start + piece * size
                assert elements(chain, other, outer, length) == range(begin, begin + size)


@settings(deadline=None, max_examples=40)
@given(chains())
def test_replicas_hold_the_same_shard(chain: Chain) -> None:
    """From the last degree to all ranks, a group is of those with one and the same shard."""
    last = chain.degrees[-1] if chain.degrees else 1
    for rank in range(chain.num_ranks):
        mine = chain.offset(rank, last, last)
        same = [r for r in range(chain.num_ranks) if chain.offset(r, last, last) == mine]

        assert list(chain.group(rank, last, chain.num_ranks)) == same


def test_the_layout_of_two_eight_all_is_the_one_of_the_method() -> None:
    """On 2 | 8 | N, offsets are (4c + q) L/8 + n L/N, with l = 2q + c (dossier, 2.3)."""
    chain, length = Chain(32, (2, 8, 32)), 64
    for rank in range(32):
        n, local = divmod(rank, 8)
        q, c = divmod(local, 2)

        assert chain.offset(rank, 2, length) == c * length // 2
        assert chain.offset(rank, 8, length) == (4 * c + q) * length // 8
        assert chain.offset(rank, 32, length) == (4 * c + q) * length // 8 + n * length // 32


def test_a_conversion_stops_where_it_is_told_and_can() -> None:
    """Only degrees of the chain, strictly between the ends, are stops."""
    chain = Chain(16, (2, 4, 8, 16))

    assert chain.stops(1, 16, at=(4, 3, 1, 16)) == (1, 4, 16)
    assert chain.stops(2, 8, at=(8, 4)) == (2, 4, 8)
    assert chain.stops(1, 16) == (1, 16)


def test_degrees_that_do_not_nest_are_refused() -> None:
    """The error names the two numbers that do not divide."""
    with pytest.raises(ValueError, match="4 does not divide 6"):
        Chain(12, (4, 6))
    with pytest.raises(ValueError, match="4 does not divide 6"):
        Chain(6, (2, 4))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 64), st.sampled_from([1, 32, 256]))
def test_padding_is_the_least_that_gives_whole_blocks(
    length: int, degree: int, block_size: int
) -> None:
    """The padded length is a multiple of degree and block size, and less than one unit longer."""
    unit = degree * block_size

    result = padded(length, degree=degree, block_size=block_size)

    assert result % unit == 0
    assert length <= result < length + unit
