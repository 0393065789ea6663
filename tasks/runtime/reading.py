"""Reads the records of run directories; of what cannot be read, path and next step are told."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tasks.runtime.errors import DamagedFileError
from tasks.runtime.ownership import is_own

_Model = TypeVar("_Model", bound=BaseModel)

_ANOTHER_VERSION = "another version of Watershed has made it: look at it with the checkout of then"
_INPUTS = {"job.json", "study.json"}
_ENDS = {"result.json", "exit.json"}
_MOST_TOLD = 3


def load_record(kind: type[_Model], path: Path) -> _Model:
    """Read a JSON file as a record.

    Args:
        kind: The record.
        path: The file.

    Returns:
        The record.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be read.
        DamagedFileError: It is cut off, or of another version.
    """
    content = path.read_bytes()
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        fault, advice = _fault(content, details), _next_step(path)
        if details[0]["type"] != "json_invalid":
            advice = f"{_ANOTHER_VERSION}; or, {advice}"
        raise DamagedFileError(path, fault, advice) from error


def directory_with(
    name: str, runs_dir: Path, read: Callable[[Path], Collection[str]], wanted: str
) -> Path | None:
    """Find the directory of ours below another one whose record names something.

    Those of other users are not looked at: a record says what it likes.

    Args:
        name: The record's file name.
        runs_dir: Where to look; it need not exist.
        read: Returns what the record of a directory names; nothing if there is no record.
        wanted: What the record names.

    Returns:
        The directory; None if there is none.

    Raises:
        DamagedFileError: There is one, but its record is cut off, or of another version.
    """
    damage: DamagedFileError | None = None
    for path in runs_dir.glob(f"*/{name}"):
        if not is_own(path.parent):
            continue
        try:
            found = read(path.parent)
        except DamagedFileError as fault:
            damage = fault if _mentions(path, wanted) else damage
            continue
        except OSError:  # being removed
            continue
        if wanted in found:
            return path.parent
    if damage is not None:
        raise damage
    return None


def _mentions(path: Path, wanted: str) -> bool:
    """Whether a file that is no record has a word all the same."""
    try:
        return wanted.encode() in path.read_bytes()
    except OSError:
        return False


def _fault(content: bytes, details: list[ErrorDetails]) -> str:
    """Say what is wrong with a file."""
    if not content.strip(b"\0 \r\n\t"):
        return "is empty, as after a crash or on a full disk"
    if details[0]["type"] == "json_invalid":
        where = details[0]["msg"].removeprefix("Invalid JSON: ")
        return f"is cut off or no JSON ({where})"
    told = [_in_words(detail) for detail in details[:_MOST_TOLD]]
    told += [f"{len(details) - _MOST_TOLD} more faults"] if len(details) > _MOST_TOLD else []
    return ", ".join(told)


def _in_words(detail: ErrorDetails) -> str:
    name = ".".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        return f"has the field '{name}', which this version does not know"
    if detail["type"] == "missing":
        return f"lacks the field '{name}'"
    return f"has a value that this version does not take at '{name}' ({detail['msg']})"


def _next_step(path: Path) -> str:
    if path.name in _INPUTS:
        return "restore it from a copy, or begin a new run with: watershed run"
    if path.name in _ENDS:
        return "to run the point again, remove it and then: watershed resume"
    return "remove it to go on without it"
