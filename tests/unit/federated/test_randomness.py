"""Keyed random streams."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.federated.randomness import Stream, generator, rekey

KEYS = st.tuples(
    st.integers(0, 2**63 - 1),
    st.sampled_from(Stream),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**63 - 1),
)


@given(key=KEYS, used=st.integers(0, 7))
def test_a_rekeyed_generator_is_a_new_one(key: tuple[int, Stream, int, int], used: int) -> None:
    """Whatever was drawn before, the draws after rekeying are those of a new generator."""
    existing = generator(1, Stream.SERVICE)
    existing.integers(100, size=used, dtype=np.int32)

    rekey(existing, *key)

    new = generator(*key)
    assert np.array_equal(existing.integers(1000, size=9), new.integers(1000, size=9))
    assert np.array_equal(existing.standard_normal(9), new.standard_normal(9))


@given(keys=st.lists(KEYS, min_size=2, max_size=2, unique=True))
def test_other_keys_give_other_draws(keys: list[tuple[int, Stream, int, int]]) -> None:
    """Streams of different seeds, purposes or counters differ."""
    first, second = (generator(*key).integers(2**62, size=4) for key in keys)

    assert not np.array_equal(first, second)
