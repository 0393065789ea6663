"""How far a run was sent, on disk."""

from pathlib import Path

from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.cursor import Cursor, read_cursor, read_untaken, write_cursor

_URI = "http://alice:s3cret@mlflow.site:5000"


def test_a_cursor_has_no_password_and_belongs_to_every_login(tmp_path: Path) -> None:
    """Another password is no other store, to which all would be sent anew."""
    run = RunDirectory(tmp_path)
    first = read_cursor(run, _URI)
    write_cursor(run, first.model_copy(update={"run_id": "r1"}))

    again = read_cursor(run, "http://alice:changed@mlflow.site:5000")
    elsewhere = read_cursor(run, "http://alice:s3cret@other.site:5000")

    assert again.run_id == "r1"
    assert (elsewhere.key, elsewhere.run_id) == (first.key, "")
    assert "s3cret" not in run.tracking.read_text()


def test_the_password_of_an_earlier_version_goes_with_the_next_writing(tmp_path: Path) -> None:
    """The run stays the same one."""
    run = RunDirectory(tmp_path)
    write_cursor(run, Cursor(key="k", tracking_uri=_URI, run_id="r1"))

    cursor = read_cursor(run, _URI)
    write_cursor(run, cursor)

    assert cursor.run_id == "r1"
    assert "s3cret" not in run.tracking.read_text()


def test_what_was_not_taken_is_read_without_writing(tmp_path: Path) -> None:
    """A run that was never sent has no file, and gets none."""
    run = RunDirectory(tmp_path)

    before = read_untaken(run)
    is_written = run.tracking.exists()
    write_cursor(run, Cursor(key="k", tracking_uri="sqlite:///x", untaken="413"))

    assert (before, is_written, read_untaken(run)) == ("", False, "413")
