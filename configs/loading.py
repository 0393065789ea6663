"""Read a study from a YAML file, with overrides from the command line."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from configs.base import Fault
from configs.choices import Choices, choose
from configs.data import may_be_hub_name
from configs.faults import faults_in
from configs.overrides import OverrideError, set_path
from configs.scaling import ScalingStudy
from configs.study import Study
from configs.text import BYTES
from configs.topology import is_topology_file

_SOURCE, _TOKENIZER, _TOPOLOGY = "data.source", "data.tokenizer", "topology"
_FILE_FIELDS = ("arrivals.path", _SOURCE, _TOKENIZER, _TOPOLOGY)
"""Fields of an experiment that name files, some of them only if the value is no name."""
_OF_STUDY = {"name", "description", "launcher", "scaling"}
"""Fields of the study itself; all others that ``--set`` names are of its experiment."""
_OF_SCALING_STUDY = set(ScalingStudy.model_fields) - {"experiment", "kind"}
"""The same of a scaling study; ``local_steps`` of its experiment is what its sizes set."""


class ConfigError(Exception):
    """A configuration that cannot be used.

    Attributes:
        source: The file (or other origin) of the configuration.
        faults: Everything that is wrong with it; never empty.
    """

    def __init__(self, source: str, faults: Sequence[Fault]) -> None:
        self.source = source
        self.faults = list(faults)
        super().__init__("\n".join(f"{source}: {fault}" for fault in faults))


def load_study(
    path: Path, settings: Sequence[str] = (), chosen: Choices = MappingProxyType({})
) -> Study:
    """Read and validate a study, a scaling study, or a single experiment.

    A scaling study is a file of ``kind: scaling``; a single experiment, one without ``experiment``.

    Paths in the file are relative to its directory; paths in settings, to the working directory.

    Args:
        path: The YAML file.
        settings: Overrides ``dotted.path=value`` of the base experiment; values are YAML.
        chosen: What a form has chosen, by dotted path; wins over the grid, see ``choose``.

    Returns:
        The study; paths inside it are absolute.

    Raises:
        ConfigError: The file cannot be read, is no YAML mapping, or has faults (all listed).
    """
    raw = _read(path)
    record: type[Study | ScalingStudy] = Study
    if raw.get("kind") == "scaling":
        record = ScalingStudy
    elif "experiment" not in raw:
        above = {key: raw.pop(key) for key in _OF_STUDY & raw.keys()}
        raw = {**above, "experiment": raw}
    raw.setdefault("name", path.stem)
    _resolve_files(raw, path.resolve().parent)
    faults = [
        fault
        for key, values in chosen.items()
        if isinstance(root := _root(raw, key), dict)
        for fault in choose(raw, root, key, values)
    ]
    faults += [fault for setting in settings for fault in _set(raw, setting)]
    for fault in faults_in(record, raw):
        shown = fault.path.removeprefix("experiment.")
        if fault not in faults:
            faults.append(fault.model_copy(update={"path": shown}))
    if faults:
        raise ConfigError(str(path), faults)
    loaded = record.model_validate(raw)
    return loaded.study() if isinstance(loaded, ScalingStudy) else loaded


def with_settings(study: Study, settings: Sequence[str], *, only_below: str) -> Study:
    """Change a study that runs already.

    Args:
        study: The study.
        settings: Overrides ``dotted.path=value``.
        only_below: The one field of the study that may be changed.

    Returns:
        The changed study.

    Raises:
        ConfigError: A setting is faulty, or is of another field.
    """
    raw = study.model_dump(mode="json", exclude_unset=True)
    raw.setdefault("experiment", {})
    faults = [
        Fault(path=setting, message=f"cannot change any more; only {only_below}.* can")
        for setting in settings
        if setting.partition("=")[0].partition(".")[0] != only_below
    ]
    faults += [fault for setting in settings for fault in _set(raw, setting)]
    faults = faults or faults_in(Study, raw)
    if faults:
        raise ConfigError(study.name, faults)
    return Study.model_validate(raw)


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)  # noqa: S506  safe
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        problem = "is no text in UTF-8; save it as such"
    except yaml.YAMLError as error:
        problem = _yaml_problem(error)
    except RecursionError:
        problem = "is nested too deeply"
    else:
        if isinstance(raw, dict) and raw:
            return raw
        problem = "is empty" if not raw else "holds no mapping of keys to values"
    raise ConfigError(str(path), [Fault(path="", message=problem)])


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, with two differences.

    It refuses a key that stands twice (the last would win), and reads ``1e-3`` as the number that
    it is in YAML 1.2; in YAML 1.1 a number needs a dot and a signed exponent.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  as PyYAML has it
        seen: list[object] = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
                problem = f"the key '{key}' stands twice; remove one"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.append(key)
        return super().construct_mapping(node, deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _yaml_problem(error: yaml.YAMLError) -> str:
    """Say in one line where a file is no YAML."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem is None:
        return f"is no valid YAML: {str(error).splitlines()[0]}"
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{where}is no valid YAML: {error.problem}"


def _set(raw: dict[str, Any], setting: str) -> Iterator[Fault]:
    """Apply one ``dotted.path=value``."""
    key, separator, text = setting.partition("=")
    if not separator:
        yield Fault(path=setting, message="is no setting; write --set dotted.path=value")
        return
    for axis, path in _varied(raw):
        if key == path or path.startswith(f"{key}.") or key.startswith(f"{path}."):
            message = f"{axis} set {path} and would win; change it there"
            if raw.get("kind") != "scaling":
                message = f"the grid axis '{axis}' sets {path} and would win; change it in the file"
            yield Fault(path=key, message=message)
            return
    try:
        value = yaml.load(text, Loader=_StrictLoader)  # noqa: S506  safe
        if key in _FILE_FIELDS:
            value = _absolute(key, value, Path.cwd())
        root = _root(raw, key)
        if isinstance(root, dict):  # else that is a fault of the file, reported as such
            set_path(root, key, value)
    except yaml.YAMLError as error:
        yield Fault(path=key, message=f"{text!r} {_yaml_problem(error)}")
    except OverrideError as error:
        yield Fault(path=key, message=str(error))


def _root(raw: dict[str, Any], key: str) -> object:
    """Return what a path begins at: the study, or its experiment."""
    of_study = _OF_SCALING_STUDY if raw.get("kind") == "scaling" else _OF_STUDY
    return raw if key.partition(".")[0] in of_study else raw.get("experiment")


def _varied(raw: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """List the grid's axes with the paths that each sets, as far as the file is well formed."""
    if raw.get("kind") == "scaling":
        experiment = raw.get("experiment")
        if isinstance(experiment, dict) and experiment.get("kind") == "training":
            yield "sizes", "ranks"  # of the others, a field of the study has the name of theirs
        strategies = raw.get("strategies")
        for overrides in strategies.values() if isinstance(strategies, dict) else ():
            paths = overrides if isinstance(overrides, dict) else ()
            yield from (("strategies", path) for path in paths if isinstance(path, str))
    grid = raw.get("grid")
    for name, axis in grid.items() if isinstance(grid, dict) else ():
        if isinstance(axis, dict):
            for overrides in axis.values():
                paths = overrides if isinstance(overrides, dict) else ()
                yield from ((name, path) for path in paths if isinstance(path, str))
        elif isinstance(name, str):
            yield name, name


def _resolve_files(raw: dict[str, Any], directory: Path) -> None:
    """Make file names absolute, in the experiment and in the overrides of the grid."""
    experiment, grid = raw.get("experiment"), raw.get("grid")
    if isinstance(experiment, dict):
        _resolve_below(experiment, directory)
    if isinstance(raw.get("strategies"), dict):
        grid = {"strategies": raw["strategies"]}
    for name, axis in grid.items() if isinstance(grid, dict) else ():
        if isinstance(axis, list) and name in _FILE_FIELDS:
            axis[:] = [_absolute(name, value, directory) for value in axis]
        elif isinstance(axis, list):
            for value in axis:
                _resolve_below({name: value}, directory)
        elif isinstance(axis, dict):
            for overrides in axis.values():
                if isinstance(overrides, dict):
                    _resolve_below(overrides, directory)


def _resolve_below(fields: dict[str, Any], directory: Path) -> None:
    """Make the file names among the fields absolute, whether dotted or nested."""
    for dotted in _FILE_FIELDS:
        if dotted in fields:
            fields[dotted] = _absolute(dotted, fields[dotted], directory)
        above, _, key = dotted.partition(".")
        record = fields.get(above)
        if isinstance(record, dict) and key in record:
            record[key] = _absolute(dotted, record[key], directory)


def _absolute(field: str, value: object, directory: Path) -> object:
    """Join a path to the directory; what may be a name (on the hub, of a machine) stays."""
    if not isinstance(value, str) or not value:
        return value
    path = directory / Path(value).expanduser()
    if field == _SOURCE and may_be_hub_name(value) and not path.exists():
        return value
    if field == _TOKENIZER and value == BYTES:
        return value
    if field == _TOPOLOGY and not is_topology_file(value):
        return value
    return str(path.resolve())
