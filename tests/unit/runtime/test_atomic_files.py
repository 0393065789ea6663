"""Atomic files: the old content or the new, never a part."""

from pathlib import Path

import pytest

from tasks.runtime.atomic_files import write_atomically, write_json


def test_content_is_replaced_whole(tmp_path: Path) -> None:
    """A second write replaces the first and leaves no other file."""
    write_atomically(tmp_path / "x", b"old")

    write_atomically(tmp_path / "x", b"new")

    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"new"


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    """If the new file cannot be put in place, the old one is as it was, and no litter stays."""
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "inside").touch()

    with pytest.raises(OSError, match="target"):
        write_json(tmp_path / "target", {"a": 1})

    assert [p.name for p in tmp_path.iterdir()] == ["target"]
    assert (tmp_path / "target" / "inside").exists()
