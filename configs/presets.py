"""The studies that Watershed ships, by name."""

from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

Kind = Literal["federated", "training", "scaling"]
"""What a study is, and so which flow runs it."""

_DIRECTORIES = tuple(Path(__file__).parent / name for name in ("studies", "runs"))


def study_path(name: str) -> Path:
    """Return the file of a study.

    Args:
        name: Path of a YAML file, or name of a shipped study, such as ``nightly``.

    Returns:
        The file; one that is named by its path need not exist.

    Raises:
        LookupError: There is no shipped study of that name; the message lists them.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        return Path(name).expanduser()
    if path := _shipped().get(name):
        return path
    raise LookupError(
        f"{name!r} is no study; use the path of a YAML file, or {', '.join(shipped_studies())}"
    )


@cache
def shipped_studies(kind: Kind | None = None) -> tuple[str, ...]:
    """List the shipped studies.

    Args:
        kind: Of which kind; None for all of them.

    Returns:
        Their names, ascending.
    """
    shipped = sorted(_shipped().items())
    return tuple(name for name, path in shipped if kind is None or _kind_of(path) == kind)


@cache
def _shipped() -> dict[str, Path]:
    return {path.stem: path for one in reversed(_DIRECTORIES) for path in one.glob("*.yaml")}


def _kind_of(path: Path) -> Kind:
    raw: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    if raw.get("kind") == "scaling":
        return "scaling"
    return "training" if raw["experiment"].get("kind") == "training" else "federated"
