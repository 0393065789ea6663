"""All faults of a configuration at once, each with its path and the nearest known word.

Pydantic stops at the first stage that fails: the checks between fields run only when every field
is valid by itself. So a faulty field is recorded, replaced by its default, and the rest is
validated again, until nothing new turns up.
"""

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from configs.allowed import Allowed, paths_named, shape_of
from configs.base import Fault

Path = tuple[str | int, ...]

_MOST_REPAIRS = 50
_MOST_SHOWN = 60
"""Longest value that a message repeats, in characters."""


def faults_in(record: type[BaseModel], raw: Mapping[str, Any]) -> list[Fault]:
    """List every fault of a raw configuration.

    Args:
        record: The record that the configuration is to become.
        raw: The configuration as it was read, not yet validated.

    Returns:
        The faults in the order found; empty if the configuration is valid.
    """
    candidate: dict[str, Any] = copy.deepcopy(dict(raw))
    faults: dict[Fault, None] = {}
    repaired: set[Path] = set()
    for _ in range(_MOST_REPAIRS):
        try:
            record.model_validate(candidate)
        except ValidationError as error:
            details = error.errors(include_url=False)
        else:
            break
        found = [place for detail in details if (place := _locate(record, candidate, detail))]
        for place in found:
            # A check between fields may trip over a replaced field: that says nothing new.
            if not any(_overlap(path, root) for path in place.checked for root in repaired):
                faults[_explain(record, place)] = None
        if not any([_remove(candidate, place.path) for place in found]):
            break
        repaired.update(place.path for place in found)
    return list(faults)


def nearest(word: str, known: Sequence[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the most similar known word, or an empty string."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


@dataclass(frozen=True)
class _Place:
    """Where an error stands in the file.

    Attributes:
        path: Keys and positions, as in the file.
        found: What stands there; None if nothing does.
        detail: Pydantic's error.
        allowed: What the place may hold.
        parent: What the place above may hold: the record whose key is unknown or missing.
        union: The tagged union that the parent was chosen from; None if from none.
        checked: Paths of all fields that a check between fields has looked at; empty for others.
    """

    path: Path
    found: object
    detail: ErrorDetails
    allowed: Allowed
    parent: Allowed
    union: Allowed | None
    checked: tuple[Path, ...] = ()


def _locate(record: type[BaseModel], raw: object, detail: ErrorDetails) -> _Place | None:
    """Walk the annotations and the raw value along an error's location.

    Pydantic's location also names union members, which do not stand in the file.

    Returns:
        The place; None if the error is of a union member that the value was never meant to be.
    """
    allowed = parent = Allowed.of(record)
    union: Allowed | None = None
    path: list[str | int] = []
    node = raw
    keys = list(detail["loc"])
    while keys:
        if allowed.options and keys[0] in allowed.options:
            union, allowed = allowed, allowed.options[str(keys.pop(0))]
        elif allowed.options:  # a check between fields names no tags
            tag = node.get(allowed.tag) if isinstance(node, Mapping) else node
            union, allowed = allowed, allowed.options.get(str(tag), Allowed(object))
        elif allowed.members:
            member = allowed.member_for(node)
            if member is None:
                break
            if _shape_of_label(str(keys.pop(0))) != member.shape:
                return None
            allowed = member
        else:
            key = keys.pop(0)
            if key == "[key]":  # the key itself is faulty, not what stands below it
                continue
            parent, allowed = allowed, allowed.child(key)
            if parent.record is None:
                union = None
            path.append(key)
            node = _below(node, key)
    checked: list[Path] = []
    if detail["type"] == "fault":
        depth = len(detail["ctx"]["path"])
        top = detail["loc"][: len(detail["loc"]) - depth]
        checked = [tuple(path), *((*top, *keys) for keys in detail["ctx"]["related"])]
    return _Place(tuple(path), node, detail, allowed, parent, union, tuple(checked))


def _explain(record: type[BaseModel], place: _Place) -> Fault:
    """Put an error into words: what was found, what is allowed, what was probably meant."""
    kind, found, path = place.detail["type"], place.found, place.path
    if kind == "fault":
        message = str(place.detail["ctx"]["reason"])
    elif kind == "extra_forbidden":
        message = _unknown_key(record, place)
    elif kind == "missing":
        message = f"missing; it has no default, give {place.allowed.words()}"
    elif kind == "union_tag_invalid":
        word = str(place.detail["ctx"]["tag"])
        known = list(place.allowed.options)
        if isinstance(found, Mapping):  # else it is the bare word itself
            path = (*path, str(place.allowed.tag))
        message = f"'{word}' is unknown{nearest(word, known)}; known: {', '.join(known)}"
    elif kind == "union_tag_not_found":
        message = f"the key '{place.allowed.tag}' is missing; give {place.allowed.words()}"
    elif kind == "literal_error" and isinstance(found, str):
        known = place.allowed.words().removeprefix("one of ").split(", ")
        message = f"'{found}' is unknown{nearest(found, known)}; known: {', '.join(known)}"
    elif kind == "string_pattern_mismatch":
        message = f"{_shown(found)} is not allowed. {place.allowed.description}"
    else:
        message = f"{_shown(found)} is not allowed; use {place.allowed.words()}"
    return Fault(path=".".join(map(str, path)), message=message)


def _unknown_key(record: type[BaseModel], place: _Place) -> str:
    key, known = str(place.path[-1]), place.parent.keys
    if similar := nearest(key, known):
        hint = similar
    elif place.union and (owners := [t for t, o in place.union.options.items() if key in o.keys]):
        hint = f" here; {', '.join(owners)} {'has' if len(owners) == 1 else 'have'} it"
    elif elsewhere := paths_named(record, key):
        hint = f" here (did you mean '{elsewhere[0]}'?)"
    else:
        hint = ""
    return f"unknown key{hint}; known: {', '.join(known)}"


def _shown(found: object) -> str:
    text = "null" if found is None else repr(found)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."


def _shape_of_label(label: str) -> str:
    """Shape of the union member that Pydantic's label names, such as ``tuple[float, ...]``."""
    word = label.split("[", 1)[0]
    return {"tuple": "sequence", "list": "sequence", "dict": "mapping"}.get(word, "scalar")


def _below(node: object, key: str | int) -> object:
    if isinstance(node, Mapping):
        return node.get(key)
    if shape_of(node) == "sequence" and isinstance(key, int):
        return node[key] if key < len(node) else None  # type: ignore[index,arg-type]  a sequence
    return None


def _overlap(path: Path, other: Path) -> bool:
    """Whether one of two paths leads to, or through, the other's place."""
    shorter = min(len(path), len(other))
    return path[:shorter] == other[:shorter]


def _remove(raw: dict[str, Any], path: Path) -> bool:
    """Delete the value at a path, or what it would stand in; of a list, the whole.

    Returns:
        Whether there was something to delete.
    """
    node: object = raw
    parent: dict[str, Any] | None = None
    last: Any = None
    for key in path:
        if not isinstance(node, dict) or key not in node:
            break
        parent, last, node = node, key, node[key]
    if parent is None:
        return False
    del parent[last]
    return True
