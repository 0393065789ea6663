"""Overrides: a dotted path and the value that it gets in a configuration as it was written.

A word alone over a record (``algorithm: afa_cs``) chooses another kind of it: fields that the new
kind has too stay as they are, the others go. A mapping takes the place of the whole record.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from configs.allowed import Allowed
from configs.base import Tagged
from configs.data import Data
from configs.federated import FederatedExperiment
from configs.gpt import PRESETS, Gpt
from configs.launchers import LauncherConfig
from configs.text import Text
from configs.topology import Topology, load_topology
from configs.training import TrainingExperiment
from configs.transport import TRANSPORTS, Transport, named_transport

_OF_THE_WORD: dict[type[BaseModel], frozenset[str]] = {
    Data: frozenset({"source", "shape", "classes"}),
    Text: frozenset({"source", "column"}),
    Gpt: frozenset(size for sizes in PRESETS.values() for size in sizes),
    Transport: frozenset(
        field for name in TRANSPORTS for field in named_transport(name).model_fields_set
    ),
}
"""Fields that mean something only with the word beside them, of records of one class: they go."""


class OverrideError(ValueError):
    """A dotted path that leads through something that is no mapping.

    Attributes:
        path: The dotted path.
    """

    def __init__(self, path: str, message: str) -> None:
        self.path = path
        super().__init__(message)


def set_path(raw: dict[str, Any], path: str, value: Any) -> None:  # noqa: ANN401  raw YAML
    """Set one value in nested raw configuration; missing mappings on the way are made.

    A bare word on the way (``algorithm: afa_cd``, ``transport: zero_topo``) stands for a record, so
    a path below it first expands it. A bare word as the value chooses the kind of the record that
    is there; it replaces a machine and the degrees of a partition, which have no kinds.

    Args:
        raw: The nested mapping, changed in place: an experiment, or a study with a ``launcher``.
        path: Dotted path, such as ``algorithm.server_lr``.
        value: The new value.

    Raises:
        OverrideError: The path is empty or leads through a value that is no mapping.
    """
    keys = path.split(".")
    *parents, last = keys
    if not all(keys):
        raise OverrideError(path, f"'{path}' is no dotted path; write like algorithm.server_lr")
    node = raw
    for depth, key in enumerate(parents):
        child = node.get(key)
        if child is None:
            child = node[key] = {}
        elif isinstance(child, str):
            child = node[key] = _written_out(_allowed_at(raw, keys[: depth + 1]), child)
        if not isinstance(child, dict):
            above = ".".join(parents[: depth + 1])
            raise OverrideError(path, f"{above} is {child!r}, which has no fields to set")
        node = child
    if last == "preset":
        _drop_sizes(node)
    if isinstance(value, str) and isinstance(before := node.get(last), dict):
        value = _chosen(_allowed_at(raw, keys), before, value)
    node[last] = value


def undoes(raw: Mapping[str, Any], path: str, value: object, other: str) -> bool:
    """Say whether setting one path takes away what another one was set to before.

    Args:
        raw: What both are set in, as for ``set_path``.
        path: The path that is set last.
        value: What it is set to.
        other: The path that was set before.

    Returns:
        True for the same path, and for one below it unless the value is a word that keeps it.
    """
    if path == other:
        return True
    if not other.startswith(f"{path}."):
        return False
    if not isinstance(value, str):
        return True
    meaning = _meaning(_allowed_at(raw, path.split(".")), value)
    return meaning is None or other.split(".")[path.count(".") + 1] not in meaning.stays


@dataclass(frozen=True)
class _Meaning:
    """What a word alone says of a record.

    Attributes:
        gives: Fields as they would be written: ``{"name": "afa_cs"}``.
        stays: Names of the fields that do not depend on the word.
    """

    gives: Mapping[str, Any]
    stays: frozenset[str]


def _meaning(allowed: Allowed, word: str) -> _Meaning | None:
    """Return what a word says of a record; None if it is not of one kind among several."""
    record = allowed.record
    tag = _tag(allowed)
    if allowed.options:
        known, fields = list(allowed.options), allowed.options.get(word, allowed).keys
    elif record is Transport:
        known, fields = list(TRANSPORTS), allowed.keys
    else:
        known, fields = allowed.child(tag).choices if tag else [], allowed.keys
    if word not in known:
        return None
    gives = {tag: word} if tag else named_transport(word).model_dump(exclude_unset=True)
    depends = _OF_THE_WORD.get(record, frozenset()) if record else frozenset()
    return _Meaning(gives, frozenset(fields) - depends - {tag})


def _chosen(allowed: Allowed, before: dict[str, Any], word: str) -> Any:  # noqa: ANN401  raw YAML
    """Return what a word makes of a record; the word itself where nothing of the record stays."""
    meaning = _meaning(allowed, word)
    if meaning is None:
        return word
    if (tag := _tag(allowed)) and _tag_of(allowed, before) == word:
        return before
    kept = {key: value for key, value in before.items() if key in meaning.stays and key != tag}
    return {**meaning.gives, **kept} if kept else word


def _written_out(allowed: Allowed, word: str) -> Any:  # noqa: ANN401  raw YAML
    """Write out what a bare word means; the word itself if it is no record."""
    if tagged := _tagged(allowed):
        return {tagged.tag: word}  # also an unknown one, which is then told at its own place
    if meaning := _meaning(allowed, word):
        return dict(meaning.gives)
    if allowed.record is Topology:
        try:
            return load_topology(word).model_dump(mode="json", exclude_unset=True)
        except ValueError:
            return word
    return word


def _allowed_at(raw: Mapping[str, Any], keys: list[str]) -> Allowed:
    """Return what may stand at a path, by the kinds of the records on the way."""
    first, *below = keys
    kind = TrainingExperiment if raw.get("kind") == "training" else FederatedExperiment
    allowed = Allowed.of(LauncherConfig if first == "launcher" else kind)
    allowed = allowed if first == "launcher" else allowed.child(first)
    node = raw.get(first)
    for key in below:
        if allowed.options:
            allowed = allowed.options.get(_tag_of(allowed, node), Allowed(object))
        allowed = allowed.child(key)
        node = node.get(key) if isinstance(node, Mapping) else None
    return allowed


def _tagged(allowed: Allowed) -> Tagged | None:
    return next((one for one in allowed.metadata if isinstance(one, Tagged)), None)


def _tag(allowed: Allowed) -> str:
    """Name of the field that a bare word is the value of; empty if there is none."""
    tagged = _tagged(allowed)
    return tagged.tag if tagged else "preset" if allowed.record is Gpt else ""


def _tag_of(allowed: Allowed, node: object) -> str:
    """Return the word that a record is chosen by, written or not."""
    if isinstance(node, str):
        return node
    tagged = _tagged(allowed)
    default = tagged.default if tagged else ""
    return str(node.get(_tag(allowed), default)) if isinstance(node, Mapping) else default


def _drop_sizes(model: dict[str, Any]) -> None:
    """Remove the sizes that a model has from its preset, so that another preset's take effect."""
    for size, number in PRESETS.get(str(model.get("preset")), {}).items():
        if model.get(size) == number:
            del model[size]
