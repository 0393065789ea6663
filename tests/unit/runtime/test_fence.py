"""The fence: an attempt that was overtaken changes nothing, wherever it is stopped."""

import os
from pathlib import Path

import pytest

from tasks.runtime.attempt import Claimant, claim
from tasks.runtime.fence import Fence, Overtaken, disarm
from tasks.runtime.journal import Journal, read_journal
from tasks.runtime.run_directory import RunDirectory


def begin(path: Path, restarts: int = 0) -> Fence:
    """Claim a run as one incarnation of a job."""
    claimant = Claimant(submission=1, slurm_job="7", restarts=restarts)
    return Fence(path, claim(RunDirectory(path), claimant))


def test_the_newest_attempt_writes(tmp_path: Path) -> None:
    """A file is put in its place whole, and nothing else is left."""
    fence = begin(tmp_path)

    fence.write(tmp_path / "result.json", b"new")

    assert (tmp_path / "result.json").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attempts", "result.json"]
    assert list((tmp_path / "attempts" / "1" / "outgoing").iterdir()) == []


def test_an_overtaken_attempt_cannot_write(tmp_path: Path) -> None:
    """Once a newer attempt has begun, a file of the older one is refused before it is written."""
    old = begin(tmp_path)
    begin(tmp_path, restarts=1).write(tmp_path / "result.json", b"of the newer")

    with pytest.raises(Overtaken, match=r"attempt 1 of .* was overtaken"):
        old.write(tmp_path / "result.json", b"of the older")

    assert not old.holds()
    assert (tmp_path / "result.json").read_bytes() == b"of the newer"


def test_overtaken_between_check_and_rename_it_cannot_write(tmp_path: Path) -> None:
    """An attempt that sleeps with its file written, but not in place, does not put it there."""
    old = begin(tmp_path)
    writing = old.replacement(tmp_path / "result.json")
    writing.__enter__().write_bytes(b"of the older")
    begin(tmp_path, restarts=1).write(tmp_path / "result.json", b"of the newer")

    with pytest.raises(Overtaken):
        writing.__exit__(None, None, None)

    assert (tmp_path / "result.json").read_bytes() == b"of the newer"


def test_an_attempt_that_remembers_its_directory_cannot_write(tmp_path: Path) -> None:
    """Also by a handle, as an NFS client has it, nothing comes out of a directory that is gone."""
    begin(tmp_path)
    outgoing = os.open(tmp_path / "attempts" / "1" / "outgoing", os.O_RDONLY)
    begin(tmp_path, restarts=1)

    with pytest.raises(FileNotFoundError):
        os.open("round-1", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=outgoing)

    os.close(outgoing)


def test_a_claimant_that_died_in_the_middle_is_made_up_for(tmp_path: Path) -> None:
    """If the next attempt died before it disarmed the first, the one after it does."""
    first = begin(tmp_path)
    begin(tmp_path, restarts=1)
    (tmp_path / "attempts" / "1" / "outgoing").mkdir()  # as if the second had not come to it

    begin(tmp_path, restarts=2)

    assert not first.holds()
    assert not list((tmp_path / "attempts").glob("[12]/*outgoing*"))


def test_what_was_being_written_goes_with_the_directory(tmp_path: Path) -> None:
    """Disarming removes half-written files, and may be done again."""
    begin(tmp_path)
    attempt = tmp_path / "attempts" / "1"
    (attempt / "outgoing" / ".round-1").write_bytes(b"half")

    disarm(attempt)
    disarm(attempt)

    assert [path.name for path in attempt.iterdir()] == ["started.json"]


def test_a_failure_to_write_is_not_taken_for_being_overtaken(tmp_path: Path) -> None:
    """An error of the newest attempt stays what it is, and leaves the old file."""
    fence = begin(tmp_path)
    fence.write(tmp_path / "result.json", b"old")

    with pytest.raises(IsADirectoryError), fence.replacement(tmp_path / "result.json") as temporary:
        temporary.mkdir()

    assert (tmp_path / "result.json").read_bytes() == b"old"


def test_a_growing_file_is_continued_as_a_copy(tmp_path: Path) -> None:
    """What an older attempt appends, from then on, stands in no file that anybody reads."""
    path = tmp_path / "trace.csv"
    old = begin(tmp_path).continue_file(path, 0)
    os.write(old, b"one\ntwo\nthr")
    new = begin(tmp_path, restarts=1).continue_file(path, 8)

    os.write(old, b"ee\n")
    os.write(new, b"three\n")

    assert path.read_bytes() == b"one\ntwo\nthree\n"
    os.close(old)
    os.close(new)


def test_a_long_beginning_is_copied_whole(tmp_path: Path) -> None:
    """More than a chunk is copied, to the byte."""
    path = tmp_path / "trace.csv"
    content = os.urandom(3_000_000)
    path.write_bytes(content)

    os.close(begin(tmp_path).continue_file(path, 2_999_999))

    assert path.read_bytes() == content[:2_999_999]


def test_an_overtaken_attempt_opens_no_growing_file(tmp_path: Path) -> None:
    """An attempt that was asleep until then does not take the file from the newer one."""
    old = begin(tmp_path)
    new = begin(tmp_path, restarts=1).continue_file(tmp_path / "trace.csv", 0)
    os.write(new, b"one\n")

    with pytest.raises(Overtaken):
        old.continue_file(tmp_path / "trace.csv", 0)

    os.write(new, b"two\n")
    assert (tmp_path / "trace.csv").read_bytes() == b"one\ntwo\n"
    os.close(new)


def test_two_incarnations_of_a_journal_do_not_mix(tmp_path: Path) -> None:
    """Lines that the older one writes after the newer one has begun are not in the journal."""
    path = tmp_path / "metrics.jsonl"
    old = Journal(path, 0, begin(tmp_path))
    old.write(0, {"of": 1.0})
    new = Journal(path, 0, begin(tmp_path, restarts=1))

    for step in (10, 20, 30):
        old.write(step, {"of": 1.0})
    new.write(0, {"of": 2.0})
    new.write(10, {"of": 2.0})
    old.write(40, {"of": 1.0})

    lines = [(line.sequence, line.step, line.metrics["of"]) for line, _ in read_journal(path)]
    assert lines == [(0, 0, 1.0), (1, 10, 2.0)]
    old.close()
    new.close()


def test_without_the_wrapper_files_are_written_in_place(tmp_path: Path) -> None:
    """A process on its own has no attempt to be overtaken in, and shortens files where they are."""
    (tmp_path / "trace.csv").write_bytes(b"one\ntw")
    fence = Fence(tmp_path)

    fence.write(tmp_path / "result.json", b"new")
    descriptor = fence.continue_file(tmp_path / "trace.csv", 4)

    os.write(descriptor, b"two\n")
    os.close(descriptor)
    assert (tmp_path / "trace.csv").read_bytes() == b"one\ntwo\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.json", "trace.csv"]


def test_a_child_of_the_wrapper_knows_its_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt is found in the environment, but not for another run that a job may start."""
    (tmp_path / "run").mkdir()
    (tmp_path / "other").mkdir()
    for name, value in Fence(tmp_path / "run", 3).environment().items():
        monkeypatch.setenv(name, value)
    (tmp_path / "link").symlink_to(tmp_path / "run")

    attempts = {
        name: Fence.of_environment(tmp_path / name).attempt for name in ("run", "link", "other")
    }

    assert attempts == {"run": 3, "link": 3, "other": 0}


def test_a_directory_is_placed_whole(tmp_path: Path) -> None:
    """What others fill is hidden until it is placed, and gone whole when it is removed."""
    fence = begin(tmp_path)
    place = tmp_path / "step-1"

    staged = fence.make_directory(place)
    (staged / "part").write_bytes(b"of another process")
    was_hidden = not place.exists()
    fence.place_directory(staged, place)
    content = (place / "part").read_bytes()
    fence.remove_directory(place)

    assert (was_hidden, content) == (True, b"of another process")
    assert [path.name for path in tmp_path.iterdir()] == ["attempts"]
    assert list((tmp_path / "attempts" / "1" / "outgoing").iterdir()) == []


def test_an_overtaken_attempt_moves_no_directory(tmp_path: Path) -> None:
    """It can neither place nor remove one, and what it had begun is removed with its files."""
    old = begin(tmp_path)
    (tmp_path / "step-1").mkdir()
    staged = old.make_directory(tmp_path / "step-2")
    (staged / "below").mkdir()
    (staged / "below" / "part").write_bytes(b"half")
    begin(tmp_path, restarts=1)

    with pytest.raises(Overtaken):
        old.place_directory(staged, tmp_path / "step-2")
    with pytest.raises(Overtaken):
        old.remove_directory(tmp_path / "step-1")
    with pytest.raises(Overtaken):
        old.make_directory(tmp_path / "step-3")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["attempts", "step-1"]
    assert [path.name for path in (tmp_path / "attempts" / "1").iterdir()] == ["started.json"]


def test_after_the_check_the_rename_itself_fails(tmp_path: Path) -> None:
    """An attempt that slept between the two finds its directory gone, whatever it believes."""
    old = begin(tmp_path)
    staged = old.make_directory(tmp_path / "step-2")
    (tmp_path / "step-1").mkdir()
    disarm(tmp_path / "attempts" / "1")  # what a newer attempt does; none is to be seen yet

    with pytest.raises(FileNotFoundError):
        old.place_directory(staged, tmp_path / "step-2")
    with pytest.raises(FileNotFoundError):
        old.remove_directory(tmp_path / "step-1")

    assert old.holds()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attempts", "step-1"]
