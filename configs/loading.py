"""Read a study from a YAML file, with overrides from the command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from configs.base import Fault
from configs.faults import faults_in
from configs.study import OverrideError, Study, set_path


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


def load_study(path: Path, settings: Sequence[str] = ()) -> Study:
    """Read and validate a study, or a single experiment (a file with ``kind`` at the top).

    Args:
        path: The YAML file.
        settings: Overrides ``dotted.path=value`` of the base experiment; values are YAML.

    Returns:
        The study; paths inside it are absolute.

    Raises:
        ConfigError: The file cannot be read, is no YAML mapping, or has faults (all listed).
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), [Fault(path="", message=f"cannot read: {error.strerror}")]) \
            from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [Fault(path="", message=f"no valid YAML: {error}")]) \
            from error
    if not isinstance(raw, dict):
        raise ConfigError(
            str(path), [Fault(path="", message="empty, or no mapping of keys to values")]
        )
    if "experiment" not in raw:
        raw = {"name": path.stem, "experiment": raw}
    faults = _apply(raw, settings)
    _resolve_paths(raw, path.resolve().parent)
    faults += [
        fault.model_copy(update={"path": fault.path.removeprefix("experiment.")})
        for fault in faults_in(Study, raw)
    ]
    if faults:
        raise ConfigError(str(path), faults)
    return Study.model_validate(raw)


def _apply(raw: dict[str, Any], settings: Sequence[str]) -> list[Fault]:
    faults = []
    grid = raw.get("grid")
    varied = {name: name for name in grid} if isinstance(grid, dict) else {}
    for name, axis in grid.items() if isinstance(grid, dict) else ():
        if isinstance(axis, dict):
            for overrides in axis.values():
                varied.update(dict.fromkeys(overrides or (), name))
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            faults.append(Fault(path=setting, message="write --set dotted.path=value"))
            continue
        clash = next((p for p in varied if key == p or p.startswith(key + ".")
                      or key.startswith(p + ".")), None)
        if clash is not None:
            faults.append(
                Fault(path=key, message=f"the grid axis '{varied[clash]}' sets {clash}; it would "
                      "win over --set. Change the axis in the file")
            )
            continue
        try:
            root = raw if key in {"name", "description"} else raw["experiment"]
            set_path(root, key, yaml.safe_load(text))
        except (OverrideError, yaml.YAMLError, TypeError, AttributeError) as error:
            faults.append(Fault(path=key, message=str(error)))
    return faults


def _resolve_paths(raw: dict[str, Any], directory: Path) -> None:
    """Make a trace's path, and a data source that is a path, absolute."""
    experiment = raw.get("experiment")
    if not isinstance(experiment, dict):
        return
    arrivals, data = experiment.get("arrivals"), experiment.get("data")
    if isinstance(arrivals, dict) and isinstance(arrivals.get("path"), str):
        arrivals["path"] = str(directory / Path(arrivals["path"]).expanduser())
    if isinstance(data, dict) and isinstance(data.get("source"), str):
        if data["source"].startswith((".", "/", "~")):
            data["source"] = str(directory / Path(data["source"]).expanduser())
