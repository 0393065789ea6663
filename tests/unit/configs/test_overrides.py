"""Overrides of a configuration as it was written."""

from typing import Any

import pytest

from configs.overrides import OverrideError, set_path, undoes


def test_set_path_expands_a_bare_word() -> None:
    """A bare word on the way is the tag of a record, and stays so."""
    raw: dict[str, Any] = {"algorithm": "afa_cs", "worker": "fedprox", "arrivals": "markov"}

    set_path(raw, "algorithm.collect", 3)
    set_path(raw, "worker.mu", 1)
    set_path(raw, "arrivals.turn_on", 0.5)
    set_path(raw, "algorithm.server.name", "adam")

    assert raw == {
        "algorithm": {"name": "afa_cs", "collect": 3, "server": {"name": "adam"}},
        "worker": {"optimizer": "fedprox", "mu": 1},
        "arrivals": {"kind": "markov", "turn_on": 0.5},
    }


def test_set_path_refuses_to_lead_through_a_value() -> None:
    """A path through a number is refused, with the number."""
    with pytest.raises(OverrideError, match="workers is 5, which has no fields to set"):
        set_path({"workers": 5}, "workers.lr", 1)


def test_set_path_expands_the_words_of_a_training() -> None:
    """A preset, a named transport and a named machine are records; unknown words are not."""
    raw: dict[str, Any] = {"kind": "training", "transport": "zeropp", "topology": "mini"}
    unknown = {"kind": "training", "transport": "zeroqq"}

    set_path(raw, "transport.sync", "full")
    set_path(raw, "topology.device.memory_bytes", 8)

    assert raw["transport"] == {"weights": "int8", "gradients": "int4", "sync": "full"}
    assert [level["ranks"] for level in raw["topology"]["levels"]] == [2, 4]
    assert raw["topology"]["device"] == {"memory_bytes": 8}
    with pytest.raises(OverrideError, match="transport is 'zeroqq', which has no fields to set"):
        set_path(unknown, "transport.sync", "full")


def test_another_preset_replaces_the_sizes_of_the_one_before() -> None:
    """What was set beside the preset stays, what the preset had set does not."""
    raw: dict[str, Any] = {"kind": "training", "model": "gpt-1m"}

    set_path(raw, "model.heads", 2)
    set_path(raw, "model.preset", "gpt-3m")

    assert raw["model"] == {"preset": "gpt-3m", "heads": 2}


@pytest.mark.parametrize(
    ("before", "path", "word", "after"),
    [
        (
            {"worker": {"lr": 0.3, "batch_size": 8}},
            "worker",
            "momentum",
            {"worker": {"optimizer": "momentum", "lr": 0.3, "batch_size": 8}},
        ),
        (
            {"algorithm": {"name": "afa_cs", "slots": "wait", "collect": 5}},
            "algorithm",
            "fedavg",
            {"algorithm": {"name": "fedavg", "collect": 5}},
        ),
        (
            {"algorithm": {"server": {"name": "adam", "beta1": 0.8, "epsilon": 1e-6}}},
            "algorithm.server",
            "amsgrad",
            {"algorithm": {"server": {"name": "amsgrad", "beta1": 0.8, "epsilon": 1e-6}}},
        ),
        (
            {"data": {"partition": {"kind": "natural", "min_samples": 9}}},
            "data.partition",
            "iid",
            {"data": {"partition": "iid"}},
        ),
        (
            {"data": {"name": "mnist", "source": "./mine", "seed": 3}},
            "data",
            "cifar10",
            {"data": {"name": "cifar10", "seed": 3}},
        ),
        (
            {"data": {"name": "mnist", "source": "./mine", "seed": 3}},
            "data",
            "mnist",
            {"data": {"name": "mnist", "source": "./mine", "seed": 3}},
        ),
        (
            {"kind": "training", "data": {"name": "file", "source": "x", "tokenizer": "t.json"}},
            "data",
            "arithmetic",
            {"kind": "training", "data": {"name": "arithmetic", "tokenizer": "t.json"}},
        ),
        (
            {"kind": "training", "model": {"layers": 2, "hidden": 64, "heads": 4, "tied": True}},
            "model",
            "gpt-3m",
            {"kind": "training", "model": {"preset": "gpt-3m", "tied": True}},
        ),
        (
            {"kind": "training", "transport": {"sync": "int8", "hadamard": True, "block_size": 64}},
            "transport",
            "zeropp",
            {
                "kind": "training",
                "transport": {
                    "weights": "int8", "gradients": "int4", "sync": "int4", "block_size": 64
                },
            },
        ),
        (
            {"kind": "training", "partition": {"forward": 1, "backward": 1}},
            "partition",
            "zero3",
            {"kind": "training", "partition": "zero3"},
        ),
        (
            {"kind": "training", "topology": {"name": "own", "device": {"memory_bytes": 8}}},
            "topology",
            "./other.yaml",
            {"kind": "training", "topology": "./other.yaml"},
        ),
        (
            {"launcher": {"kind": "slurm", "partition": "gpu"}},
            "launcher",
            "local",
            {"launcher": "local"},
        ),
        ({"worker": {"lr": 0.3}}, "worker", "momentumm", {"worker": "momentumm"}),
        ({"worker": {"lr": 0.3}}, "worker", {"optimizer": "sgd"}, {"worker": {"optimizer": "sgd"}}),
    ],
)  # fmt: skip
def test_a_word_over_a_record_chooses_its_kind(
    before: dict[str, Any], path: str, word: object, after: dict[str, Any]
) -> None:
    """What does not hang on the word stays; machines and partitions have no kinds."""
    set_path(before, path, word)

    assert before == after


def test_what_a_later_setting_takes_away() -> None:
    """The same path, all below a mapping, and below a word what its kind does not have."""
    raw: dict[str, Any] = {"algorithm": {"name": "afa_cs", "slots": "wait"}}

    assert undoes(raw, "seed", 1, "seed")
    assert undoes(raw, "algorithm", {"name": "mifa"}, "algorithm.collect")
    assert undoes(raw, "algorithm", "fedavg", "algorithm.slots")
    assert undoes(raw, "algorithm", "fedavg", "algorithm.name")
    assert not undoes(raw, "algorithm", "mifa", "algorithm.slots")
    assert not undoes(raw, "algorithm", "fedavg", "algorithm.server.name")
    assert not undoes(raw, "algorithm", "fedavg", "arrivals")


def test_a_field_of_a_word_that_is_no_record_is_refused() -> None:
    """A type of numbers has no fields, in a federated experiment either."""
    with pytest.raises(OverrideError, match="dtype is 'float64', which has no fields to set"):
        set_path({"dtype": "float64"}, "dtype.x", 1)
