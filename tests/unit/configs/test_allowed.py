"""What a place in a configuration may hold, in words."""

from collections.abc import Iterator
from typing import get_args

import annotated_types
import pytest
from pydantic import Strict

from configs.allowed import Allowed, leaf_paths, paths_named
from configs.base import Record
from configs.calibration import Calibration
from configs.federated import FederatedExperiment
from configs.training import TrainingExperiment


def _at(path: str) -> Allowed:
    """Walk to a place; a key of a union's member may lead through it."""
    allowed = Allowed.of(FederatedExperiment)
    for key in path.split("."):
        allowed = allowed.options[key] if key in allowed.options else allowed.child(key)
    return allowed


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("workers", "a whole number from 1 to 10000000"),
        ("rounds", "a whole number from 1 to 1000000000"),
        ("worker.sgd.lr", "a number above 0, at most 1e+09"),
        ("arrivals.markov.turn_on", "a number above 0, at most 1"),
        ("algorithm.afa_cd.server.adam.beta1", "a number from 0 to below 1"),
        (
            "service.mean_s",
            "a number above 0, at most 1e+09 or a list of numbers above 0, at most 1e+09",
        ),
        ("arrivals.weighted.weights", "a list of numbers of at least 0 with at least one entry"),
        (
            "arrivals.schedule.order",
            "a list of whole numbers from 0 to below 10000000 with at least one entry",
        ),
        ("dtype", "one of float32, float64"),
        ("record_trace", "true or false"),
        ("data", "a mapping of keys to values"),
        ("data.partition", "one of labels, dirichlet, iid, natural"),
    ],
)
def test_types_and_bounds_are_put_into_words(path: str, words: str) -> None:
    """Ranges are said with their ends, open or closed; unions with their members."""
    assert _at(path).words() == words


@pytest.mark.parametrize(
    ("record", "path", "words"),
    [
        (TrainingExperiment, "transport.block_size", "a multiple of 8 from 32 to 16384"),
        (Calibration, "hidden", "a list of multiples of 32 from 32 to 65536"),
    ],
)
def test_multiples_are_put_into_words(record: type[Record], path: str, words: str) -> None:
    """What is refused for being no multiple is not said to be allowed."""
    allowed = Allowed.of(record)
    for key in path.split("."):
        allowed = allowed.child(key)

    assert allowed.words() == words


def test_every_field_has_its_path_once() -> None:
    """Fields that several members of a union share are listed once; records are not fields."""
    paths = leaf_paths(FederatedExperiment)

    assert len(paths) == len(set(paths))
    assert {"workers", "worker.lr", "algorithm.server.beta1", "arrivals.weights"} <= set(paths)
    assert "arrivals" not in paths


def test_a_field_that_may_be_a_word_is_a_path_of_its_own() -> None:
    """A partition is a row's name or four degrees: both can be set."""
    paths = leaf_paths(TrainingExperiment)

    assert {"partition", "partition.forward", "transport.weights"} <= set(paths)
    assert "transport" not in paths


def test_a_field_is_found_wherever_it_is() -> None:
    """A key that was put at the wrong level has its right path."""
    assert paths_named(FederatedExperiment, "lr") == ["worker.lr"]
    assert paths_named(FederatedExperiment, "min_samples") == ["data.partition.min_samples"]
    assert paths_named(FederatedExperiment, "nothing") == []


def _scalars(annotation: object) -> Iterator[tuple[str, Allowed]]:
    """Every number that a record can hold, with its path."""
    allowed = Allowed.of(annotation)
    if allowed.record:
        for key, field in allowed.record.model_fields.items():
            yield from ((f"{key}.{path}", number) for path, number in _scalars(field))
    elif allowed.members:
        for member in get_args(allowed.annotation):
            yield from _scalars(member)
    elif allowed.shape == "sequence":
        yield from _scalars(get_args(allowed.annotation)[0])
    elif allowed.annotation in {int, float}:
        yield "", allowed


def test_every_number_is_bounded_and_strict() -> None:
    """No number is without both ends, and none is made of a word or a truth value.

    Weights of arrivals alone may be as large as they like: they are only compared.
    """
    numbers = list(_scalars(FederatedExperiment))

    assert len(numbers) > 50
    for path, allowed in numbers:
        kinds = [type(bound) for bound in allowed.metadata]
        assert {annotated_types.Gt, annotated_types.Ge} & set(kinds), path
        is_free = path == "arrivals.weights."
        assert is_free or {annotated_types.Lt, annotated_types.Le} & set(kinds), path
        assert Strict in kinds, path
