"""Read a study from a YAML file, with overrides from the command line."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from configs.base import Fault
from configs.choices import Choices, choose
from configs.data import may_be_hub_name
from configs.faults import closest, faults_in
from configs.federated import FederatedExperiment
from configs.overrides import OverrideError, set_path, undoes
from configs.scaling import ScalingStudy
from configs.strict_yaml import YamlError, read_yaml
from configs.study import Study
from configs.text import BYTES
from configs.topology import is_topology_file
from configs.training import TrainingExperiment

_SOURCE, _TOKENIZER, _TOPOLOGY = "data.source", "data.tokenizer", "topology"
_FILE_FIELDS = ("arrivals.path", _SOURCE, _TOKENIZER, _TOPOLOGY)
"""Fields of an experiment that name files, some of them only if the value is no name."""
_OF_STUDY = {"name", "description", "launcher", "scaling"}
"""Fields of the study itself; all others that ``--set`` names are of its experiment."""
_OF_SCALING_STUDY = set(ScalingStudy.model_fields) - {"experiment", "kind"}
"""The same of a scaling study; ``local_steps`` of its experiment is what its sizes set."""
_BASE = "experiment."
_VARIABLES = "launcher.environment."
_OF_EXPERIMENTS = FederatedExperiment.model_fields.keys() | TrainingExperiment.model_fields.keys()


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
    is_scaling = raw.get("kind") == "scaling"
    record: type[Study | ScalingStudy] = ScalingStudy if is_scaling else Study
    raw, faults = (raw, []) if is_scaling else _framed(raw)
    raw.setdefault("name", path.stem)
    _resolve_files(raw, path.resolve().parent)
    faults += [
        fault
        for key, values in chosen.items()
        if isinstance(root := _root(raw, key), dict)
        for fault in choose(raw, root, key, values)
    ]
    faults += [fault for setting in settings for fault in _set(raw, setting)]
    faults += [_as_in_settings(fault) for fault in faults_in(record, raw) if fault not in faults]
    if faults:
        raise ConfigError(str(path), faults)
    loaded = record.model_validate(raw)
    return loaded.study() if isinstance(loaded, ScalingStudy) else loaded


def _framed(raw: dict[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
    """Bring a file into the frame of a study: its experiment below ``experiment``.

    Args:
        raw: The file: a study, or a single experiment.

    Returns:
        The study, as it was probably meant, and what is wrong with its frame.
    """
    meant: dict[str, Any] = {}
    faults = []
    known = [*Study.model_fields, *_OF_EXPERIMENTS]
    for key, value in raw.items():
        word = closest(key, known) if key not in known else ""
        is_mapping = isinstance(value, dict) or word not in {"experiment", "grid"}
        if word in Study.model_fields and is_mapping and word not in {*raw, *meant}:
            faults.append(Fault(path=key, message=f"unknown key (did you mean '{word}'?)"))
            meant[word] = value
        else:
            meant[key] = value
    if "experiment" in meant:
        return meant, faults
    above = {key: meant.pop(key) for key in Study.model_fields if key in meant}
    if "grid" in above and not meant:
        return above, faults
    if "grid" in above:
        message = "a file with a grid has its experiment below 'experiment:'; move "
        faults.append(Fault(path="grid", message=f"{message}{', '.join(meant)} there"))
    return {**above, "experiment": meant}, faults


def _as_in_settings(fault: Fault) -> Fault:
    """Name fields of the experiment as settings do: without ``experiment`` before them."""
    return fault.model_copy(
        update={
            "path": fault.path.removeprefix(_BASE),
            "message": fault.message.replace(f"did you mean '{_BASE}", "did you mean '"),
        }
    )


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
        raw = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        problem = "is no text in UTF-8; save it as such"
    except YamlError as error:
        problem = str(error)
    else:
        if isinstance(raw, dict) and raw:
            return raw
        problem = "is empty" if not raw else "holds no mapping of keys to values"
    raise ConfigError(str(path), [Fault(path="", message=problem)])


def _set(raw: dict[str, Any], setting: str) -> Iterator[Fault]:
    """Apply one ``dotted.path=value``."""
    written, separator, text = setting.partition("=")
    if not separator:
        yield Fault(path=setting, message="is no setting; write --set dotted.path=value")
        return
    key = written.removeprefix(_BASE)
    root = raw.get("experiment") if written != key else _root(raw, key)
    if message := _refusal(raw, key):
        yield Fault(path=key, message=message)
        return
    try:
        value = _value(key, text)
        if isinstance(root, dict):  # else that is a fault of the file, reported as such
            set_path(root, key, value)
    except YamlError as error:
        yield Fault(path=key, message=f"{text!r} {error}")
    except OverrideError as error:
        yield Fault(path=key, message=str(error))


def _value(key: str, text: str) -> object:
    """Read the value of a setting."""
    value = read_yaml(text)
    if key.startswith(_VARIABLES) and not isinstance(value, str):
        return text  # a variable is text, also one that holds a number
    return _absolute(key, value, Path.cwd()) if key in _FILE_FIELDS else value


def _refusal(raw: dict[str, Any], key: str) -> str:
    """Say why a setting cannot be applied; empty if it can."""
    first = key.partition(".")[0]
    is_scaling = raw.get("kind") == "scaling"
    if key == "experiment":
        return "is the whole experiment; set a field of it, such as seed=1"
    if first == "grid" and is_scaling:
        return "a scaling study has none; it varies strategies, sizes and repeats"
    if first == "grid":
        return "a setting changes the base; change the grid in the file"
    experiment = raw.get("experiment")
    base = experiment if isinstance(experiment, dict) else {}
    for axis, path, value in _varied(raw):
        if path.startswith(f"{key}.") or undoes(base, path, value, key):
            if is_scaling:
                return f"{axis} set {path} and would win; change it there"
            return f"the grid axis '{axis}' sets {path} and would win; change it in the file"
    return ""


def _root(raw: dict[str, Any], key: str) -> object:
    """Return what a path begins at: the study, or its experiment."""
    of_study = _OF_SCALING_STUDY if raw.get("kind") == "scaling" else _OF_STUDY
    return raw if key.partition(".")[0] in of_study else raw.get("experiment")


def _varied(raw: dict[str, Any]) -> Iterator[tuple[str, str, object]]:
    """List the grid's axes with what each sets, as far as the file is well formed."""
    if raw.get("kind") == "scaling":
        experiment = raw.get("experiment")
        if isinstance(experiment, dict) and experiment.get("kind") == "training":
            yield "sizes", "ranks", None  # of others, a field of the study has the name of theirs
        yield from _settings_of("strategies", raw.get("strategies"))
    grid = raw.get("grid")
    for name, axis in grid.items() if isinstance(grid, dict) else ():
        if isinstance(axis, dict):
            yield from _settings_of(name, axis)
        elif isinstance(axis, list):
            yield from ((name, name, value) for value in axis)


def _settings_of(name: str, labelled: object) -> Iterator[tuple[str, str, object]]:
    for overrides in labelled.values() if isinstance(labelled, dict) else ():
        if isinstance(overrides, dict):
            yield from ((name, path, value) for path, value in overrides.items())


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
