"""What a continued training must have as it was, and what of it differs from a checkpoint's.

What may change between two starts, is not in it: ranks, machine, partition, transport.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from configs.training import TrainingExperiment

_TOKENS = "tokens"


def what_stays(experiment: TrainingExperiment, fingerprint: str) -> dict[str, JsonValue]:
    """Return all that a continued training must have as it was.

    Args:
        experiment: The training.
        fingerprint: Of its tokens.
    """
    return {
        "model": experiment.model.model_dump(mode="json"),
        _TOKENS: fingerprint,
        "optimizer": experiment.optimizer.model_dump(mode="json"),
        "validation_fraction": experiment.data.validation_fraction,
        "frozen": [*sorted(experiment.frozen)],
        **{
            name: getattr(experiment, name)
            for name in ("engine", "sequence", "sequences_per_step", "steps", "dtype", "seed")
        },
    }


def hash_of(stays: Mapping[str, JsonValue]) -> str:
    """Return a hash that is another if anything in it is.

    Args:
        stays: From ``what_stays``.
    """
    return hashlib.sha256(json.dumps(dict(stays), sort_keys=True).encode()).hexdigest()[:16]


def differences(there: Mapping[str, JsonValue], here: Mapping[str, JsonValue]) -> list[str]:
    """Say what differs, one field after the other.

    Args:
        there: From ``what_stays``, of the checkpoint.
        here: Of the training that would continue it.

    Returns:
        Words such as ``seed 0 there, 5 here``.
    """
    old, new = dict(_fields(there)), dict(_fields(here))
    return [
        "the text or its tokenizer"
        if name == _TOKENS
        else f"{name} {_word(old.get(name))} there, {_word(new.get(name))} here"
        for name in old | new
        if old.get(name) != new.get(name)
    ]


def _fields(record: Mapping[str, JsonValue], prefix: str = "") -> Iterator[tuple[str, JsonValue]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _word(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value)
