"""The reference of the run forms, made from the deployments: ``python -m flows.form_reference``.

It is kept in ``docs/forms.md``; a test holds the two to be equal. It says what Prefect makes the
forms of, and what its server refuses by: the JSON schemas of the flows' parameters.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from tasks.tracking.tables import markdown_table

_DEPLOYMENTS = Path(__file__).parents[1] / "prefect.yaml"
_TAB = "From a preset"
"""Title of the records whose empty fields are as in the preset."""
_LAUNCHER = "LauncherForm"
_HEAD = """\
# Run forms

What Prefect asks for when a deployment is run (*Deployments*, *Run*, *Custom run*), and what its
API takes as `parameters` ([operate.md](operate.md)). Made from the deployments of `prefect.yaml` by
`python -m flows.form_reference > docs/forms.md`.

The first column is the title of a field, the second its name in the API and in what is said of
faults. A field that is left empty is as in the preset, or means what stands there.

Whoever may fill in a form runs commands as the worker's user: `setup`, `python` and others of the
launcher, `settings` and the paths of files are not confined.
"""

_Schema = Mapping[str, Any]


def form_reference() -> str:
    """Return the reference as Markdown: a section a deployment, then the launcher's fields."""
    deployments = yaml.safe_load(_DEPLOYMENTS.read_text(encoding="utf-8"))["deployments"]
    sections = [_HEAD]
    launcher: _Schema = {}
    for deployment in deployments:
        flow: Flow[..., Any] = load_flow_from_entrypoint(
            deployment["entrypoint"], use_placeholder_flow=False
        )
        schema = parameter_schema(flow.fn).model_dump()
        launcher = schema["definitions"].get(_LAUNCHER, launcher)
        sections += _sections(deployment, schema)
    sections += ["## Launcher", launcher["description"], _table(launcher["properties"], {}, {})]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _sections(deployment: Mapping[str, Any], schema: _Schema) -> Iterator[str]:
    definitions: _Schema = schema["definitions"]
    name = deployment["name"]
    yield f"## {name}"
    yield deployment["description"]
    fields: dict[str, _Schema] = schema["properties"]
    yield _table(fields, definitions, deployment["parameters"], where=f"#{name}-from-a-preset")
    for record in definitions.values():
        if record.get("title") == _TAB:
            yield f"### {name}: from a preset"
            yield _table(record["properties"], definitions, {})


def _table(
    fields: Mapping[str, _Schema],
    definitions: _Schema,
    deployed: Mapping[str, object],
    *,
    where: str = "",
) -> str:
    body = [
        [
            field["title"],
            f"`{name}`",
            _allowed(field, definitions, where),
            _default(deployed.get(name, field.get("default"))),
            " ".join(field["description"].split()),
        ]
        for name, field in fields.items()
    ]
    return markdown_table(["field", "name", "allowed", "default", "meaning"], body)


def _allowed(field: _Schema, definitions: _Schema, where: str) -> str:
    """Say what a field takes."""
    if "$ref" in field:
        return _link(field["$ref"].rsplit("/", 1)[-1], definitions, where)
    if "anyOf" in field:
        members = [one for one in field["anyOf"] if one != {"type": "null"}]
        return " or ".join(_allowed(member, definitions, where) for member in members)
    if "enum" in field:
        return f"one of {', '.join(f'`{word}`' for word in field['enum'])}"
    match field["type"]:
        case "integer" | "number" as kind:
            noun = "a whole number" if kind == "integer" else "a number"
            return f"{noun} {_range(field)}".rstrip()
        case "array":
            most = f" of at most {field['maxItems']}" if "maxItems" in field else ""
            return f"a list{most}; each {_allowed(field['items'], definitions, where)}"
        case "boolean":
            return "true or false"
        case _:
            return _text(field)


def _link(record: str, definitions: _Schema, where: str) -> str:
    if record == _LAUNCHER:
        return "[its fields](#launcher)"
    if definitions[record].get("title") == _TAB:
        return f"[fields beside a preset]({where})"
    return f"a whole [{record}](reference.md#{record.lower()})"


def _range(field: _Schema) -> str:
    low, above = field.get("minimum"), field.get("exclusiveMinimum")
    most, below = field.get("maximum"), field.get("exclusiveMaximum")
    end = f"to {_number(most)}" if most is not None else ""
    if below is not None:
        end = f"to below {_number(below)}"
    if above is not None:
        return f"above {_number(above)}{', at most ' if end else ''}{end.removeprefix('to ')}"
    if low is None:
        return end
    return f"from {_number(low)} {end}" if end else f"of at least {_number(low)}"


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _text(field: _Schema) -> str:
    if field.get("format") == "date":
        return "a date, YYYY-MM-DD"
    if field.get("format") == "path" or "ya?ml" in field.get("pattern", ""):
        return "a path"
    if field.get("pattern", "").startswith("^[^="):
        return "PATH=VALUE"
    return "text that is not empty" if field.get("minLength") else "text"


def _default(value: object) -> str:
    return f"`{json.dumps(value)}`" if value or value is False or value == 0 else "empty"


if __name__ == "__main__":
    sys.stdout.write(form_reference())
