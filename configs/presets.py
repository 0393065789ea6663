"""The studies that Watershed ships, by name."""

from pathlib import Path

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
    for directory in _DIRECTORIES:
        if (path := directory / f"{name}.yaml").is_file():
            return path
    known = sorted(path.stem for directory in _DIRECTORIES for path in directory.glob("*.yaml"))
    raise LookupError(f"{name!r} is no study; use the path of a YAML file, or {', '.join(known)}")
