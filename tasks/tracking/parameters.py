"""An experiment as MLflow parameters: flat, dotted names, short texts."""

import json
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

MAX_LENGTH = 500
_MAX_ELEMENTS = 8


def flatten(record: Mapping[str, JsonValue]) -> dict[str, str]:
    """Flatten nested configuration.

    Args:
        record: Nested mapping, as ``model_dump(mode="json")`` gives it.

    Returns:
        Dotted path -> value as it would stand in YAML on one line. Lists of more than 8 elements
        are abbreviated, texts of more than 500 characters cut; both say how long they were.
    """
    return dict(_flat("", record))


def _flat(prefix: str, record: Mapping[str, JsonValue]) -> Iterator[tuple[str, str]]:
    for key, value in record.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(f"{path}.", value)
        else:
            yield path, _shortened(_text(value))


def _text(value: JsonValue) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and len(value) > _MAX_ELEMENTS:
        shown = ", ".join(json.dumps(element) for element in value[:_MAX_ELEMENTS])
        return f"[{shown}, ... ({len(value)} values)]"
    return json.dumps(value)


def _shortened(text: str) -> str:
    if len(text) <= MAX_LENGTH:
        return text
    mark = f"... ({len(text)} characters)"
    return text[: MAX_LENGTH - len(mark)] + mark
