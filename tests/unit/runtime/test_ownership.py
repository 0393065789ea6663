"""Directories that other users have made."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tasks.runtime.ownership import foreign_fault, is_own
from tasks.runtime.reading import directory_with

_OTHER = 54_321
_only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")


def _foreign(path: Path) -> Path:
    path.mkdir()
    os.chown(path, _OTHER, _OTHER)
    return path


def test_what_we_make_is_ours(tmp_path: Path) -> None:
    """Also by a link of ours; what is not there is nobody's."""
    (tmp_path / "link").symlink_to(tmp_path)

    assert is_own(tmp_path)
    assert is_own(tmp_path / "link")
    assert not is_own(tmp_path / "absent")


@_only_root
def test_neither_a_foreign_directory_nor_a_foreign_link_is_ours(tmp_path: Path) -> None:
    """A link could give an old run of ours another date."""
    foreign, own = _foreign(tmp_path / "foreign"), tmp_path / "own"
    own.mkdir()
    (tmp_path / "to-foreign").symlink_to(foreign)
    (tmp_path / "foreign-link").symlink_to(own)
    os.chown(tmp_path / "foreign-link", _OTHER, _OTHER, follow_symlinks=False)

    verdicts = [is_own(tmp_path / name) for name in ("own", "foreign", "to-foreign")]

    assert [*verdicts, is_own(tmp_path / "foreign-link")] == [True, False, False, False]
    assert f"belongs to user {_OTHER}: what lies there" in foreign_fault(foreign)
    assert f"belongs to user {_OTHER}: what lies there" in foreign_fault(tmp_path / "to-foreign")
    assert foreign_fault(own) == ""


@_only_root
def test_another_user_owns_what_he_has_made() -> None:
    """And root's directories are not everybody's."""
    code = (
        "import os, sys; from pathlib import Path; from tasks.runtime.ownership import is_own\n"
        "os.chdir(sys.argv[1]); os.setuid(54321)\n"
        "print(is_own(Path('roots')), is_own(Path('own')))"
    )
    with TemporaryDirectory() as place:  # the way to tmp_path is closed to others
        Path(place).chmod(0o755)
        Path(place, "roots").mkdir()
        _foreign(Path(place, "own"))

        told = subprocess.run(
            [sys.executable, "-c", code, place], capture_output=True, text=True, check=True
        )

    assert told.stdout == "False True\n"


@_only_root
def test_records_of_other_users_name_nothing(tmp_path: Path) -> None:
    """Nor are they read: a pipe in place of one would never end."""
    os.mkfifo(_foreign(tmp_path / "foreign") / "flow.json")
    read: list[Path] = []

    def names(path: Path) -> list[str]:
        read.append(path)
        return ["wanted"]

    assert directory_with("flow.json", tmp_path, names, "wanted") is None
    assert read == []

    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "flow.json").touch()

    assert directory_with("flow.json", tmp_path, names, "wanted") == tmp_path / "own"
