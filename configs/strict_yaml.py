"""YAML as configurations are written in it: no key twice, keys are text, exponents are numbers."""

import re
from typing import Any

import yaml

_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
_READ_AS_OTHER = {f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "int", "timestamp")}


class YamlError(ValueError):
    """A text that is no YAML; the message is one line, with the place."""


def read_yaml(text: str) -> Any:  # noqa: ANN401  raw YAML
    """Read YAML.

    Args:
        text: One document.

    Returns:
        Its value; all keys of its mappings are text.

    Raises:
        YamlError: It is no YAML, is nested too deeply, has a key twice, or one that is no text.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506  safe
    except yaml.YAMLError as error:
        raise YamlError(_problem(error)) from error
    except RecursionError as error:
        raise YamlError("is nested too deeply") from error
    except ValueError as error:  # of Python, for a date such as 2026-02-30
        raise YamlError(f"holds a value that cannot be read: {error}") from error


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, with three differences.

    It refuses a key that stands twice (the last would win), and reads ``1e-3`` as the number that
    it is in YAML 1.2; in YAML 1.1 a number needs a dot and a signed exponent. A key is text, as it
    is written: ``off`` and ``5`` are labels like any other.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  as PyYAML has it
        seen: list[object] = []
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(_as_written(key_node), deep=True)
            problem = f"the key '{key}' stands twice; remove one" if key in seen else ""
            if not isinstance(key, str):
                problem = f"the key {'null' if key is None else key} is no text; write a name"
            if problem:
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.append(key)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        node.value = [(_as_written(key), value) for key, value in node.value]


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _as_written(key: yaml.Node) -> yaml.Node:
    """Take a key for text that YAML would take for a number, a truth value or a date."""
    if isinstance(key, yaml.ScalarNode) and key.tag in _READ_AS_OTHER:
        return yaml.ScalarNode(_TEXT, key.value, key.start_mark, key.end_mark, key.style)
    return key


def _problem(error: yaml.YAMLError) -> str:
    """Say in one line where a text is no YAML."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem is None:
        return f"is no valid YAML: {str(error).splitlines()[0]}"
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{where}is no valid YAML: {error.problem}"
