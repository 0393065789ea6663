"""Degrees of partitions: what is accepted is a chain, on which an engine can be built."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from configs.sharding import ROWS, Partition
from configs.topology import load_topology, shipped_topologies
from configs.training import TrainingExperiment
from tasks.zero.layout import Chain


def _training(**fields: object) -> TrainingExperiment:
    return TrainingExperiment.model_validate({"kind": "training", **fields})


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", shipped_topologies())
def test_a_row_that_validates_is_a_chain(name: str, row: str) -> None:
    """Of every number of ranks up to two nodes and some; whole nodes and packages validate."""
    topology = load_topology(name)
    package, node = topology.levels[0].ranks, topology.ranks_per_node

    for ranks in range(1, 2 * node + 2):
        try:
            degrees = _training(topology=topology, partition=row, ranks=ranks).degrees
        except ValidationError:
            assert ranks % (package if ranks < node else node)
            continue
        assert Chain(ranks, degrees.degrees)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.sampled_from((1, 2, 3, 4, 6, 8, 12)), min_size=4, max_size=4), st.integers(1, 24)
)
def test_degrees_that_validate_are_a_chain(numbers: list[int], ranks: int) -> None:
    """Four numbers are checked as rows are, on a machine whose nodes any number fills."""
    names = Partition.model_fields
    partition = dict(zip(names, numbers, strict=True))
    topology = {"name": "one", "levels": [{"name": "node", "ranks": 24}]}
    try:
        degrees = _training(topology=topology, partition=partition, ranks=ranks).degrees
    except ValidationError:
        return

    assert Chain(ranks, degrees.degrees)


@pytest.mark.parametrize(
    ("topology", "ranks", "words"),
    [
        ("mini", 3, "2 ranks of a package do not divide 3 ranks; use 2 or 4 ranks, or another "),
        ("frontier", 5, "2 ranks of a package do not divide 5 ranks; use 4 or 6 ranks, or "),
        ("summit", 4, "3 ranks of a package do not divide 4 ranks; use 3 or 6 ranks, or another "),
        ("aurora", 11, "2 ranks of a package do not divide 11 ranks; use 10 or 12 ranks, or "),
    ],
)
def test_ranks_that_do_not_fill_packages_are_told(topology: str, ranks: int, words: str) -> None:
    """The default partition splits weights over a package: that is said, with what would do."""
    with pytest.raises(ValidationError) as raised:
        _training(topology=topology, ranks=ranks)

    (error,) = raised.value.errors()
    assert words in error["msg"]
    assert error["loc"] == ("ranks",)


def test_other_rows_take_ranks_that_do_not_fill_packages() -> None:
    """What the message offers does validate."""
    assert _training(ranks=3, partition="zero3").degrees.forward == 3
    assert _training(ranks=3, partition="hsdp").degrees.forward == 3
