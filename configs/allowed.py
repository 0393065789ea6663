"""What a place in a configuration may hold, in words, read from the annotations of its records."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_FEW_KEYS = 4
"""Most keys of a record that are named where it is only mentioned."""


@dataclass(frozen=True)
class Allowed:
    """The annotation of one place.

    Attributes:
        annotation: The bare type, without ``Annotated``.
        metadata: Its bounds.
        tag: Name of the field that tells the members of a union apart; None for other types.
        description: Of the field, if the place is one.
    """

    annotation: Any
    metadata: tuple[object, ...] = ()
    tag: str | None = None
    description: str = ""

    @classmethod
    def of(cls, annotation: Any) -> "Allowed":  # noqa: ANN401  annotations have no common type
        """Take an annotation apart.

        Args:
            annotation: A type, an ``Annotated`` type, or a ``FieldInfo``.

        Returns:
            What it allows. None beside one other type is left out: who wants it, omits the key.
        """
        parts: list[object] = []
        if isinstance(annotation, FieldInfo):
            parts.append(annotation)
            annotation = annotation.annotation
        while True:
            if get_origin(annotation) is Annotated:
                annotation, *more = get_args(annotation)
                parts += more
            elif _is_union(annotation) and len(rest := _without_none(annotation)) == 1:
                annotation = rest[0]
            else:
                break
        fields = [part for part in parts if isinstance(part, FieldInfo)]
        tags = [field.discriminator for field in fields if isinstance(field.discriminator, str)]
        bounds = [bound for field in fields for bound in field.metadata]
        bounds += [part for part in parts if not isinstance(part, FieldInfo)]
        described = [field.description for field in fields if field.description]
        return cls(
            annotation,
            tuple(bounds),
            tags[0] if tags else None,
            described[0] if described else "",
        )

    @property
    def record(self) -> type[BaseModel] | None:
        """The record, if the place holds one of a single kind."""
        annotation = self.annotation
        is_record = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        return annotation if is_record else None

    @property
    def keys(self) -> list[str]:
        """Names of the record's fields; empty for what is no record."""
        return list(self.record.model_fields) if self.record else []

    @property
    def choices(self) -> list[str]:
        """Words that the place, or a member of its union, may hold; without the empty one."""
        if self.members:
            return [word for member in self.members for word in member.choices]
        if get_origin(self.annotation) is not Literal:
            return []
        return [str(choice) for choice in get_args(self.annotation) if choice != ""]

    @property
    def members(self) -> list["Allowed"]:
        """Members of a union; empty for what is no union."""
        if not _is_union(self.annotation):
            return []
        return [Allowed.of(member) for member in _without_none(self.annotation)]

    @property
    def options(self) -> dict[str, "Allowed"]:
        """Members of a tagged union by their tags; empty for what is none."""
        options = {}
        for member in self.members if self.tag else ():
            if member.record and self.tag:
                (word,) = get_args(member.record.model_fields[self.tag].annotation)
                options[str(word)] = member
        return options

    def member_for(self, value: object) -> "Allowed | None":
        """Return the one member of a plain union that has the shape of a value."""
        fitting = [member for member in self.members if member.shape == shape_of(value)]
        return fitting[0] if len(fitting) == 1 else None

    @property
    def shape(self) -> str:
        """Coarse shape: ``sequence``, ``mapping`` or ``scalar``."""
        origin = get_origin(self.annotation) or self.annotation
        if origin in {tuple, list}:
            return "sequence"
        return "mapping" if origin is dict or self.record else "scalar"

    def child(self, key: str | int) -> "Allowed":
        """Return what a place below this one allows."""
        if self.record and key in self.record.model_fields:
            return Allowed.of(self.record.model_fields[str(key)])
        arguments = get_args(self.annotation)
        if self.shape == "sequence" and arguments:
            return Allowed.of(arguments[0])
        if self.shape == "mapping" and len(arguments) == 2:
            return Allowed.of(arguments[1])
        return Allowed(object)

    def words(self, *, plural: bool = False) -> str:
        """Say what is allowed: ``a number above 0``."""
        annotation, origin = self.annotation, get_origin(self.annotation)
        if self.options:
            return f"one of {', '.join(self.options)}"
        if self.members:
            return " or ".join(member.words(plural=plural) for member in self.members)
        if origin is Literal:
            choices = self.choices
            return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
        if self.shape == "sequence":
            entries = Allowed.of(get_args(annotation)[0]).words(plural=True)
            least = " with at least one entry" if self._bound(annotated_types.MinLen) else ""
            return f"{'lists' if plural else 'a list'} of {entries}{least}"
        if self.shape == "mapping":
            few = 0 < len(self.keys) <= _FEW_KEYS
            keys = ", ".join(self.keys) if few else "keys to values"
            return f"mappings of {keys}" if plural else f"a mapping of {keys}"
        if annotation is bool:
            return "true or false"
        if annotation in {int, float}:
            name = "whole number" if annotation is int else "number"
            noun = f"{name}s" if plural else f"a {name}"
            if factor := self._bound(annotated_types.MultipleOf):
                noun = f"{'multiples' if plural else 'a multiple'} of {factor}"
            return f"{noun} {range_}" if (range_ := self._range()) else noun
        if annotation is str:
            return "text that is not empty" if self._bound(annotated_types.MinLen) else "text"
        return "values" if plural else "a value"

    def _range(self) -> str:
        above, at_least = self._bound(annotated_types.Gt), self._bound(annotated_types.Ge)
        below, at_most = self._bound(annotated_types.Lt), self._bound(annotated_types.Le)
        is_open = below is None and at_most is None
        if above is not None:
            low = f"above {above}"
            return low if is_open else f"{low}, {_end(below, at_most, open_word='at most')}"
        if at_least is not None:
            if is_open:
                return f"of at least {at_least}"
            least = f"{at_least:g}" if isinstance(at_least, float) else at_least
            return f"from {least} to {_end(below, at_most, open_word='')}"
        return "" if is_open else _end(below, at_most, open_word="of at most")

    def _bound(self, kind: type) -> object | None:
        names = {"MinLen": "min_length", "MultipleOf": "multiple_of"}
        attribute = names.get(kind.__name__, kind.__name__.lower())
        found = [getattr(bound, attribute) for bound in self.metadata if isinstance(bound, kind)]
        return found[-1] if found else None


def shape_of(value: object) -> str:
    """Coarse shape of a value: ``sequence``, ``mapping`` or ``scalar``."""
    if isinstance(value, Mapping):
        return "mapping"
    is_text = isinstance(value, (str, bytes))
    return "sequence" if isinstance(value, Sequence) and not is_text else "scalar"


def paths_named(record: type[BaseModel], name: str, raw: object = None) -> list[str]:
    """Find the dotted paths of all fields of a name, in a record and the records below it.

    Args:
        record: Where to search.
        name: Name of the field.
        raw: What stands there; of a tagged union, only the member that it chooses is searched.

    Returns:
        Each path once, in the order of the fields.
    """
    paths = []
    for key, field in record.model_fields.items():
        if key == name:
            paths.append(key)
        allowed = Allowed.of(field)
        node = raw.get(key) if isinstance(raw, Mapping) else None
        tag = node.get(allowed.tag) if isinstance(node, Mapping) else node
        chosen = allowed.options.get(tag) if isinstance(tag, str) else None
        for below in [chosen] if chosen else [allowed, *allowed.members]:
            if below.record:
                paths += [f"{key}.{path}" for path in paths_named(below.record, name, node)]
    return list(dict.fromkeys(paths))


def leaf_paths(record: type[BaseModel]) -> list[str]:
    """List the dotted paths of all fields that need hold no record, such as ``worker.lr``.

    Args:
        record: Where to begin.

    Returns:
        Each path once, in the order of the fields; fields of all members of a union.
    """
    paths = []
    for key, field in record.model_fields.items():
        allowed = Allowed.of(field)
        below = [part.record for part in (allowed, *allowed.members) if part.record]
        paths += [key] if not below or allowed.choices else []
        paths += [f"{key}.{path}" for part in below for path in leaf_paths(part)]
    return list(dict.fromkeys(paths))


def _end(below: object | None, at_most: object | None, *, open_word: str) -> str:
    if below is not None:
        return f"below {below}"
    most = f"{at_most:g}" if isinstance(at_most, float) else at_most
    return f"{open_word} {most}".strip()


def _is_union(annotation: object) -> bool:
    return get_origin(annotation) in {Union, types.UnionType}


def _without_none(annotation: object) -> list[Any]:
    return [member for member in get_args(annotation) if member is not type(None)]
