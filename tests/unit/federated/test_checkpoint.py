"""Checkpoints are whole or absent, and never of another experiment."""

from pathlib import Path

import pytest
import torch

from tasks.federated import checkpoint
from tasks.federated.checkpoint import Checkpoint
from tasks.runtime.errors import JobError


def made_at(version: int, config_hash: str = "abc") -> Checkpoint:
    """A checkpoint whose model tells its version."""
    tensors = {"server/model": torch.full((3,), float(version))}
    return Checkpoint(tensors, {"version": version, "config_hash": config_hash, "more": [1.5, "x"]})


def saved(directory: Path, *versions: int) -> list[Path]:
    """Save checkpoints; return the files, oldest first."""
    for version in versions:
        checkpoint.save(directory, made_at(version))
    return sorted(directory.iterdir())


def test_what_is_read_is_what_was_saved(tmp_path: Path) -> None:
    """Tensors and facts come back; tensors can be asked for by prefix."""
    checkpoint.save(tmp_path / "checkpoints", made_at(7))

    found = checkpoint.load_newest(tmp_path / "checkpoints", "abc")

    assert found is not None
    assert found.facts == made_at(7).facts
    assert list(found.under("server")) == ["model"]
    assert torch.equal(found.under("server")["model"], torch.full((3,), 7.0))


@pytest.mark.parametrize("exists", [False, True])
def test_without_a_checkpoint_there_is_nothing_to_read(*, exists: bool, tmp_path: Path) -> None:
    """A run that never saved begins at the beginning."""
    directory = tmp_path / "checkpoints"
    if exists:
        directory.mkdir()

    assert checkpoint.load_newest(directory, "abc") is None


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    """Versions are compared as numbers, and nothing else is left in the directory."""
    files = saved(tmp_path, 8, 9, 10, 100)

    assert [file.name for file in files] == [
        "round-0000000010.safetensors",
        "round-0000000100.safetensors",
    ]


@pytest.mark.parametrize("damage", ["cut", "emptied", "overwritten"])
def test_a_corrupt_newest_file_falls_back_to_the_one_before(damage: str, tmp_path: Path) -> None:
    """A damaged file costs the rounds since the checkpoint before it, no more."""
    _, newest = saved(tmp_path, 5, 6)
    content = newest.read_bytes()
    newest.write_bytes(
        {"cut": content[:-4], "emptied": b"", "overwritten": b"\xff" * len(content)}[damage]
    )

    found = checkpoint.load_newest(tmp_path, "abc")

    assert found is not None
    assert found.facts["version"] == 5
    assert torch.equal(found.tensors["server/model"], torch.full((3,), 5.0))


def test_when_none_can_be_read_it_does_not_begin_again_by_itself(tmp_path: Path) -> None:
    """Beginning again would contradict the journal, so the user decides."""
    for file in saved(tmp_path, 5, 6):
        file.write_bytes(b"")

    with pytest.raises(
        JobError, match=r"none of the 2 checkpoints in .* can be read; begin a new run"
    ):
        checkpoint.load_newest(tmp_path, "abc")


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    """A checkpoint of another experiment is never continued; the message says what to do."""
    checkpoint.save(tmp_path, made_at(5, config_hash="abc"))

    with pytest.raises(
        JobError,
        match=r"is of configuration abc, the job is xyz; begin a new run",
    ):
        checkpoint.load_newest(tmp_path, "xyz")


def test_what_killed_savers_left_is_removed(tmp_path: Path) -> None:
    """Half-written temporaries go, checkpoints and other files stay."""
    files = saved(tmp_path, 5, 6)
    for version, process in ((6, 111), (7, 222)):
        (tmp_path / f".round-{version:010d}.safetensors.{process}").write_bytes(b"half")

    checkpoint.remove_temporaries(tmp_path)

    assert sorted(tmp_path.iterdir()) == files


def test_before_the_first_save_there_are_no_temporaries(tmp_path: Path) -> None:
    """An absent directory is no error: the run has not saved yet."""
    directory = tmp_path / "checkpoints"

    checkpoint.remove_temporaries(directory)

    assert not directory.exists()
