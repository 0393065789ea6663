"""What a form chooses of a study that is in a file: values that win over the grid.

An override of the command line is refused where the grid varies the same field. Who fills in a form
cannot edit the file: there the grid gives way, as far as nothing else hangs on it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from configs.base import Fault
from configs.overrides import OverrideError, set_path, undoes
from configs.study import touches

Choices = Mapping[str, Sequence[JsonValue]]
"""Dotted path of a field -> the values that it is to take, one or several."""

_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_TAGS = ("name", "kind", "optimizer", "preset")
_LONGEST = 3


def choose(
    raw: dict[str, Any], root: dict[str, Any], path: str, values: Sequence[JsonValue]
) -> Iterator[Fault]:
    """Let one field of a raw study take these values only.

    A word keeps the points of the grid that have it; so does a number that the labels tell, such as
    ``2 x 1``. Any other number takes the place of what the grid sets. Several values become an axis
    of the grid.

    Args:
        raw: The study as it was read, changed in place.
        root: The mapping in it that the path begins at: the study itself, or its experiment.
        path: Dotted path of the field.
        values: What it is to be.

    Yields:
        A fault if an axis would lose its meaning, or if there is no such path.
    """
    for axes, name in _axes(raw):
        axis = axes[name]
        if not any(_decides(root, *setting, path) for setting in _settings(name, axis)):
            continue
        if kept := _kept(name, axis, path, values):
            axes[name] = kept
            return
        changed = _overruled(name, axis, path, values)
        if changed is None:
            yield Fault(path=path, message=_refusal(name, axis, path, values))
            return
        axes[name] = changed
        if not changed:
            del axes[name]
    yield from _set_base(raw, root, path, values)


def _axes(raw: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """List what varies, each with the mapping that holds it: the grid's axes, or the strategies."""
    grid = raw.get("grid")
    listed = [(grid, name) for name in grid] if isinstance(grid, dict) else []
    return listed + ([(raw, "strategies")] if isinstance(raw.get("strategies"), dict) else [])


def _set_base(
    raw: dict[str, Any], root: dict[str, Any], path: str, values: Sequence[JsonValue]
) -> Iterator[Fault]:
    if len(values) > 1:
        raw["grid"] = {**(raw.get("grid") or {}), path: list(values)}
        return
    record, _, tag = path.rpartition(".")
    try:  # the word alone, as a file would have it: what it has nothing to do with stays
        set_path(root, record if record and tag in _TAGS else path, values[0])
    except OverrideError as error:
        yield Fault(path=path, message=str(error))


def _settings(name: str, axis: object) -> list[tuple[str, object]]:
    """List what an axis sets: paths and values."""
    if isinstance(axis, dict):
        labelled = [values for values in axis.values() if isinstance(values, dict)]
        return [setting for values in labelled for setting in values.items()]
    return [(name, value) for value in axis] if isinstance(axis, list) else []


def _paths(name: str, axis: object) -> list[str]:
    return [path for path, _ in _settings(name, axis)]


def _decides(root: Mapping[str, Any], other: str, value: object, path: str) -> bool:
    """Whether what an axis sets decides on a field, or on a part of it."""
    return other.startswith(f"{path}.") or undoes(root, other, value, path)


def _kept(name: str, axis: object, path: str, values: Sequence[JsonValue]) -> Any:  # noqa: ANN401  raw YAML
    """Return what of an axis gives the field one of these words; empty if nothing does."""
    if name == path and len(values) > 1:
        return list(values)
    if not (all(isinstance(value, str) for value in values) or _tells(axis, path)):
        return {}
    if isinstance(axis, dict):
        return {
            label: overrides
            for label, overrides in axis.items()
            if isinstance(overrides, dict) and _value_at(overrides, path) in values
        }
    listed = axis if isinstance(axis, list) else []
    return [value for value in listed if _value_at({name: value}, path) in values]


def _overruled(name: str, axis: object, path: str, values: Sequence[JsonValue]) -> Any:  # noqa: ANN401  raw YAML
    """Return an axis without the field; empty if nothing is left, None if its labels would lie."""
    if not isinstance(axis, dict):
        return {} if name == path or _is_word(path, values) else None
    paths = _paths(name, axis)
    if _is_word(path, values):  # all that hangs on the words that the axis has
        record = path.partition(".")[0]
        return {} if all(other.partition(".")[0] == record for other in paths) else None
    if any(other != path and touches(other, path) for other in paths):
        return None
    rest = {
        label: {key: value for key, value in overrides.items() if key != path}
        for label, overrides in axis.items()
        if isinstance(overrides, dict)
    }
    if not any(rest.values()):
        return {}
    are_distinct = all(list(rest.values()).count(value) == 1 for value in rest.values())
    return rest if are_distinct and not _tells(axis, path) else None


def _tells(axis: object, path: str) -> bool:
    """Whether the labels of an axis tell the numbers that it gives a field, among others."""
    if not isinstance(axis, dict) or len(set(_paths("", axis))) == 1:
        return False
    sets = [(str(label), one) for label, one in axis.items() if isinstance(one, dict)]
    return bool(sets) and all(
        _value_at(one, path) in [float(told) for told in _NUMBER.findall(label)]
        for label, one in sets
    )


def _is_word(path: str, values: Sequence[JsonValue]) -> bool:
    return path.rpartition(".")[2] in _TAGS or all(isinstance(value, str) for value in values)


def _value_at(overrides: Mapping[str, Any], path: str) -> object:
    """Return what overrides give a field, dotted, nested or by a word; None for nothing."""
    found = None
    for key, value in overrides.items():
        if key == path:
            found = value
        elif path.startswith(f"{key}."):
            below = path.removeprefix(f"{key}.")
            if isinstance(value, Mapping):
                found = _value_at(value, below)
            elif isinstance(value, str) and below in _TAGS:
                found = value
    return found


def _refusal(name: str, axis: object, path: str, values: Sequence[JsonValue]) -> str:
    labels = axis.values() if isinstance(axis, dict) else ()
    known = [_value_at(overrides, path) for overrides in labels if isinstance(overrides, dict)]
    told = list(dict.fromkeys(str(value) for value in known if value is not None))
    some = ", ".join(told[:_LONGEST]) + (", ..." if len(told) > _LONGEST else "")
    message = f"{', '.join(map(str, values))} is not in the study's axis '{name}', which sets it "
    message += f"together with other fields ({some})"
    return f"{message}; leave this as in the preset, or use a study without that axis"
