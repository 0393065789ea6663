"""The reference of all fields, made from the records: ``python -m configs.reference``.

It is kept in ``docs/reference.md``; a test holds the two to be equal.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from configs.allowed import Allowed
from configs.scaling import ScalingStudy
from configs.study import Study
from configs.topology import Topology

_ROOTS = (Study, ScalingStudy, Topology)
_LONGEST_DEFAULT = 60
_HEAD = """\
# Reference

Every field of a study's YAML file, and of a machine's. Made from the schemas by
`python -m configs.reference > docs/reference.md`.

A dotted path names a field on the command line (`--set worker.lr=0.1`) and in a grid. A field
without a default has to be given. Where a record is chosen by a word (`algorithm: afa_cs`), the
word alone means the record with its defaults. Over a record that is there, in a grid or with
`--set algorithm=afa_cs`, it changes the kind: fields that the new kind has too stay as they are,
those that hang on the old one (the `slots` of AFA-CS, the `source` of a data set, the sizes of a
`preset`, the formats of a `transport`) go. A mapping, another `topology` and the name of a
`partition` replace the whole. The forms in Prefect are in [forms.md](forms.md).
"""


def reference() -> str:
    """Return the reference as Markdown: a section for each record, in the order of their use."""
    return "\n".join([_HEAD, *(section for record in _records() for section in _section(record))])


def _records() -> list[type[BaseModel]]:
    """List all records below the roots, each once, outer ones first."""
    found: dict[type[BaseModel], None] = {}

    def visit(allowed: Allowed) -> None:
        if allowed.record is not None:
            if allowed.record in found:
                return
            found[allowed.record] = None
            for key in allowed.keys:
                visit(allowed.child(key))
            return
        for member in allowed.members:
            visit(member)
        if allowed.shape == "sequence":
            visit(allowed.child(0))
        elif allowed.shape == "mapping":
            visit(allowed.child(""))

    for root in _ROOTS:
        visit(Allowed.of(root))
    return list(found)


def _section(record: type[BaseModel]) -> Iterator[str]:
    yield f"## {record.__name__}\n"
    yield f"{_first_paragraph(record)}\n"
    if not record.model_fields:
        return
    yield "| field | allowed | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in record.model_fields.items():
        is_tag = len(get_args(field.annotation)) == 1 and not field.description
        meaning = "Chooses this record." if is_tag else field.description or ""
        cells = (f"`{name}`", _allowed(field), _default(field), meaning)
        yield f"| {' | '.join(_cell(text) for text in cells)} |"
    yield ""


def _first_paragraph(record: type[BaseModel]) -> str:
    lines = (record.__doc__ or "").strip().split("\n\n")[0].splitlines()
    return " ".join(line.strip() for line in lines)


def _allowed(field: FieldInfo) -> str:
    """Say what a field may hold; records are linked."""
    allowed = Allowed.of(field)
    parts = allowed.members or [allowed]
    if allowed.shape == "sequence" or (allowed.shape == "mapping" and allowed.record is None):
        inner = allowed.child(0 if allowed.shape == "sequence" else "")
        records = [part.record for part in (inner, *inner.members) if part.record]
        words = "list" if allowed.shape == "sequence" else "mapping of names"
        return f"{words} of {_links(records)}" if records else allowed.words()
    records = [part.record for part in parts if part.record]
    others = [part.words() for part in parts if not part.record]
    return " or ".join([*others, *([_links(records)] if records else [])])


def _links(records: list[type[BaseModel]]) -> str:
    return ", ".join(f"[{record.__name__}](#{record.__name__.lower()})" for record in records)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        chosen = value.model_dump(mode="json", exclude_defaults=True)
        tag = next((key for key in ("kind", "name") if hasattr(value, key)), None)
        word = getattr(value, tag) if tag and len(chosen) <= 1 else None
        return f"`{word}`" if word else "its defaults"
    if value is None:
        return "none"
    text = json.dumps(value, default=list)
    return f"`{text}`" if len(text) <= _LONGEST_DEFAULT else "see the source"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.stdout.write(reference())
