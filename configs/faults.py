"""All faults of a configuration at once, each with its path and the nearest known word.

Pydantic stops at the first stage that fails: the checks between fields run only when every field
is valid by itself. So a faulty field is recorded, replaced by its default, and the rest is
validated again, until nothing new turns up.
"""

import copy
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from configs.allowed import Allowed, paths_named
from configs.base import Fault

Path = tuple[str | int, ...]

_MOST_REPAIRS = 50
_KEY = "[key]"
"""Pydantic's name for the key of a mapping, at the end of a location."""
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
    details: list[ErrorDetails] = []
    repaired: set[Path] = set()
    for _ in range(_MOST_REPAIRS):
        try:
            record.model_validate(candidate)
        except ValidationError as error:
            details = _without_counts_of_valid_items(error.errors(include_url=False))
        else:
            break
        found = [place for detail in details if (place := _locate(record, candidate, detail))]
        for place in found:
            # What trips over a replaced field says nothing new.
            if not any(_overlap(path, root) for path in place.checked for root in repaired):
                faults[_explain(record, raw, place)] = None
        replaced = {path for place in found if (path := _present(candidate, place.path))}
        if not replaced:
            break
        for path in replaced:
            _remove(candidate, path)
        repaired |= replaced
    # What has no place in our words is told in Pydantic's: a faulty file is never taken for valid.
    return list(faults) or [_as_pydantic_has_it(detail) for detail in details]


def nearest(word: str, known: Sequence[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the most similar known word, or an empty string."""
    close = closest(word, known)
    return f" (did you mean '{close}'?)" if close else ""


def closest(word: str, known: Iterable[str]) -> str:
    """Return the most similar known word; empty if none is similar."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), "")


def _as_pydantic_has_it(detail: ErrorDetails) -> Fault:
    return Fault(path=_dotted(detail["loc"]), message=f"{_shown(detail['input'])}: {detail['msg']}")


def _without_counts_of_valid_items(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """Drop what says that a list is too short, where its items are faulty themselves.

    Pydantic counts the valid items only: a list whose one item is faulty is "too short" as well.
    """
    paths = [detail["loc"] for detail in details]
    return [
        detail
        for detail in details
        if detail["type"] != "too_short"
        or not any(path != detail["loc"] and _overlap(path, detail["loc"]) for path in paths)
    ]


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
        checked: Paths of all fields that the failed check has looked at.
    """

    path: Path
    found: object
    detail: ErrorDetails
    allowed: Allowed
    parent: Allowed
    union: Allowed | None
    checked: tuple[Path, ...]


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
        if keys[0] == _KEY:  # the key itself is faulty, not what stands below it
            keys.pop(0)
        elif allowed.options and keys[0] in allowed.options:
            union, allowed = allowed, allowed.options[str(keys.pop(0))]
        elif allowed.options:  # a check between fields names no tags
            tag = node.get(allowed.tag) if isinstance(node, Mapping) else node
            union, allowed = allowed, allowed.options.get(str(tag), Allowed(object))
        elif allowed.members:
            member = allowed.member_for(node)
            if member is None or member.shape == "scalar":  # what the whole union allows, then
                break
            # A check between fields names no members, as it names no tags.
            if detail["type"] != "fault" and not _is_of(str(keys.pop(0)), member):
                return None
            allowed = member
        else:
            key = keys.pop(0)
            parent, allowed = allowed, allowed.child(key)
            if parent.record is None:
                union = None
            if not (isinstance(node, str) and node == detail["input"]):  # a bare word, its own tag
                path.append(key)
                node = _below(node, key)
    if detail["type"] == "fault":  # says its path itself, which need not stand in the file
        path += keys
    checked = [tuple(path)]
    if detail["type"] == "fault":
        above = path[: len(path) - len(detail["ctx"]["path"])]
        checked += [(*above, *keys) for keys in detail["ctx"]["related"]]
    return _Place(tuple(path), node, detail, allowed, parent, union, tuple(checked))


def _explain(record: type[BaseModel], raw: Mapping[str, Any], place: _Place) -> Fault:
    """Put an error into words: what was found, what is allowed, what was probably meant."""
    kind, found, path = place.detail["type"], place.found, place.path
    if kind == "invalid_key" or (_KEY in place.detail["loc"] and not isinstance(path[-1], str)):
        keys = place.parent.keys
        remedy = f"known: {', '.join(keys)}" if keys else "quote it"
        message = f"the key {path[-1]!r} is no text; {remedy}"
    elif kind in {"fault", "refused"}:
        message = str(place.detail["ctx"]["reason"])
    elif kind == "extra_forbidden":
        message = _unknown_key(record, raw, place)
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
    elif isinstance(found, str) and (known := place.allowed.choices):
        more = [member.words() for member in place.allowed.members if not member.choices]
        words = " or ".join([", ".join(known), *more])
        message = f"'{found}' is unknown{nearest(found, known)}; known: {words}"
    elif kind == "finite_number":
        message = f"{found} is not finite; use {place.allowed.words()}"
    elif kind == "string_pattern_mismatch":
        message = f"{_shown(found)} is not allowed. {place.allowed.description}"
    else:
        message = f"{_shown(found)} is not allowed; use {place.allowed.words()}"
    return Fault(
        path=_dotted(path), message=message, related=tuple(map(_dotted, place.checked[1:]))
    )


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))


def _unknown_key(record: type[BaseModel], raw: Mapping[str, Any], place: _Place) -> str:
    key, known = str(place.path[-1]), place.parent.keys
    if similar := nearest(key, known):
        hint = similar
    elif place.union and (owners := [t for t, o in place.union.options.items() if key in o.keys]):
        hint = f" here; {', '.join(owners)} {'has' if len(owners) == 1 else 'have'} it"
    elif elsewhere := paths_named(record, key, raw):
        above = tuple(elsewhere[0].split(".")[:-1])
        hint = f" here (did you mean '{elsewhere[0]}'?)"
        if place.path[: len(above)] == above:
            hint = f" here; it stands beside '{place.path[len(above)]}', not below it"
    else:
        hint = ""
    return f"unknown key{hint}; known: {', '.join(known)}"


def _shown(found: object) -> str:
    text = "null" if found is None else repr(found)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."


def _is_of(label: str, member: Allowed) -> bool:
    """Whether Pydantic's label, such as ``tuple[float, ...]``, names this member of a union."""
    if member.record:
        return label == member.record.__name__
    shapes = {"tuple": "sequence", "list": "sequence", "dict": "mapping"}
    return shapes.get(label.split("[", 1)[0]) == member.shape


def _below(node: object, key: str | int) -> object:
    if isinstance(node, Mapping):
        return node.get(key)
    if isinstance(node, Sequence) and not isinstance(node, str) and isinstance(key, int):
        return node[key] if key < len(node) else None
    return None


def _overlap(path: Path, other: Path) -> bool:
    """Whether one of two paths leads to, or through, the other's place."""
    shorter = min(len(path), len(other))
    return path[:shorter] == other[:shorter]


def _present(raw: object, path: Path) -> Path:
    """Cut a path behind the last mapping's key that is there: a list is replaced as a whole."""
    node = raw
    for depth, key in enumerate(path):
        if not isinstance(node, dict) or key not in node:
            return path[:depth]
        node = node[key]
    return path


def _remove(raw: dict[Any, Any], path: Path) -> None:
    """Delete the value at a path of mappings, unless it went with another one."""
    node: object = raw
    for key in path[:-1]:
        node = node.get(key) if isinstance(node, dict) else None
    if isinstance(node, dict):
        node.pop(path[-1], None)
