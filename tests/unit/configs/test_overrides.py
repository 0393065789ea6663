"""Overrides of a configuration as it was written."""

from typing import Any

import pytest

from configs.overrides import OverrideError, set_path


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
