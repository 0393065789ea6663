"""Notes of flow runs, which two processes write beside each other."""

from pathlib import Path

from tasks.services.notes import Note, leave, note_at_work, notes_directory, read_notes, write_note


def test_what_is_at_work_is_noted_until_it_is_not(tmp_path: Path) -> None:
    """After a power cut, the notes tell what was at work."""
    directory = notes_directory(tmp_path)

    note_at_work(directory, {"a", "b"})
    note_at_work(directory, {"b", "c"})

    assert read_notes(directory) == {"b": Note(), "c": Note()}


def test_what_was_handed_over_is_kept_with_its_past(tmp_path: Path) -> None:
    """It is not at work any more, and must not be forgotten for that."""
    directory = notes_directory(tmp_path)
    write_note(directory, "a", Note(continued=(1.0, 2.0)))

    leave(directory, "a")
    note_at_work(directory, {"b"})

    notes = read_notes(directory)
    assert set(notes) == {"a", "b"}
    assert notes["a"].left_at > 0
    assert notes["a"].continued == (1.0, 2.0)


def test_a_note_that_cannot_be_read_or_written_is_none(tmp_path: Path) -> None:
    """Half a file, another version, or no place for it: nothing that keeps `up` from its work."""
    directory = notes_directory(tmp_path)
    leave(directory, "a")
    (directory / "a.json").write_text('{"left')
    (directory / "b.json").write_text("{}")

    leave(tmp_path / "absent" / "flow-runs", "c")

    assert read_notes(directory) == {"a": Note(), "b": Note()}
    assert read_notes(tmp_path / "absent") == {}
