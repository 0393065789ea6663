"""All faults of a configuration at once, each with its path and the nearest known word.

Pydantic stops at the first stage that fails: the checks between fields run only when every field
is valid by itself. So a faulty field is recorded, replaced by its default, and the rest is
validated again, until nothing new turns up.
"""

import copy
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from configs.base import Fault

_MOST_REPAIRS = 20


def faults_in(record: type[BaseModel], raw: Mapping[str, Any]) -> list[Fault]:
    """List every fault of a raw configuration.

    Args:
        record: The record that the configuration is to become.
        raw: The configuration as it was read, not yet validated.

    Returns:
        The faults in the order found; empty if the configuration is valid.
    """
    candidate: Any = copy.deepcopy(dict(raw))
    faults: list[Fault] = []
    repaired: set[tuple[str | int, ...]] = set()
    for _ in range(_MOST_REPAIRS):
        try:
            record.model_validate(candidate)
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=True)
        else:
            break
        progress = False
        for detail in details:
            path = _file_path(candidate, detail["loc"])
            fault = _explain(record, detail, path)
            # A check between fields that trips over a replaced field says nothing new.
            if detail["type"] == "fault" and _is_below(path, repaired):
                continue
            if fault not in faults:
                faults.append(fault)
            if path not in repaired:
                progress = _remove(candidate, path) or progress
                repaired.add(path)
        if not progress:
            break
    return faults


def nearest(word: str, known: Sequence[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the most similar known word, or an empty string."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _explain(record: type[BaseModel], detail: ErrorDetails, path: tuple[str | int, ...]) -> Fault:
    """Put one of Pydantic's error details into words."""
    kind, context, found = detail["type"], detail.get("ctx", {}), detail.get("input")
    if kind == "fault":
        message = str(context["reason"])
    elif kind == "extra_forbidden":
        known = _known_keys(record, detail["loc"][:-1])
        message = f"unknown key{nearest(str(path[-1]), known)}; known: {', '.join(known)}"
    elif kind == "missing":
        message = "missing; it has no default"
    elif kind in {"union_tag_invalid", "literal_error"}:
        expected = context.get("expected_tags", context.get("expected", ""))
        known = [word.strip().strip("'") for word in str(expected).replace(" or ", ", ").split(",")]
        word = context.get("tag", found)
        if kind == "union_tag_invalid":
            path = (*path, str(context["discriminator"]).strip("'"))
        message = f"{word!r} is unknown{nearest(str(word), known)}; known: {', '.join(known)}"
    elif kind == "union_tag_not_found":
        tag = str(context["discriminator"]).strip("'")
        message = f"the key '{tag}' is missing; it says which kind this is"
    else:
        message = f"{_shown(found)}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
    return Fault(path=".".join(str(key) for key in path), message=message)


def _shown(found: object) -> str:
    text = repr(found)
    return text if len(text) <= 60 else text[:57] + "..."


def _file_path(raw: Any, loc: tuple[str | int, ...]) -> tuple[str | int, ...]:  # noqa: ANN401
    """Drop from Pydantic's location what does not stand in the file (union tags, validators)."""
    path: list[str | int] = []
    node = raw
    for position, key in enumerate(loc):
        is_last = position == len(loc) - 1
        if isinstance(node, Mapping):
            if key in node:
                node = node[key]
            elif not is_last and (key in node.values() or "[" in str(key)):
                continue
            else:
                node = None
        elif isinstance(node, (list, tuple)) and isinstance(key, int) and key < len(node):
            node = node[key]
        elif isinstance(node, (str, int, float)) and path:
            # a shorthand word (its tag), or a member of a plain union ("float", "tuple[float, ...]")
            if key == node or not is_last or "[" in str(key) or key in {"float", "int", "str"}:
                continue
        path.append(key)
    return tuple(path)


def _is_below(path: tuple[str | int, ...], roots: set[tuple[str | int, ...]]) -> bool:
    return any(path[: len(root)] == root for root in roots)


def _remove(raw: Any, path: tuple[str | int, ...]) -> bool:  # noqa: ANN401
    """Delete the value at the path; a list loses the whole of itself, as its length matters."""
    node, parent, key = raw, None, None
    for step in path:
        if isinstance(node, Mapping) and step in node:
            node, parent, key = node[step], node, step
        else:
            break
    if parent is None:
        return False
    del parent[key]
    return True


def _known_keys(record: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """Names of the fields of the record that an error's location leads to."""
    schema: Any = record.model_json_schema()
    definitions = schema.get("$defs", {})

    def resolve(node: Any) -> Any:  # noqa: ANN401
        while "$ref" in node:
            node = definitions[node["$ref"].rsplit("/", 1)[-1]]
        return node

    node = resolve(schema)
    for key in loc:
        mapping = node.get("discriminator", {}).get("mapping", {})
        if key in mapping:
            node = resolve({"$ref": mapping[str(key)]})
        elif key in node.get("properties", {}):
            node = resolve(node["properties"][str(key)])
            options = [option for option in node.get("anyOf", []) if "$ref" in option]
            if len(options) == 1:
                node = resolve(options[0])
    return list(node.get("properties", {}))
