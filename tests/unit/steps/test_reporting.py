"""The report of a study, as Prefect shows it."""

from pathlib import Path

from tasks.runtime.run_directory import RunDirectory
from tasks.steps.reporting import with_figures, with_pages
from tasks.tracking.cursor import Cursor, write_cursor


def test_figures_are_put_into_the_report(tmp_path: Path) -> None:
    """A figure that is there becomes part of the text; one that is not stays a name."""
    (tmp_path / "curves.png").write_bytes(b"\x89PNG")
    report = "# R\n\n![c](curves.png)\n\n![s](speedup.png) [x](other.md)"

    shown = with_figures(report, tmp_path)

    assert shown == (
        "# R\n\n![c](data:image/png;base64,iVBORw==)\n\n![s](speedup.png) [x](other.md)"
    )


def test_a_page_is_at_the_server_that_has_the_study(tmp_path: Path) -> None:
    """Its artifact of the study's run, at an address without a password."""
    tracking_uri = "http://me:secret@mlflow.example:5000"
    cursor = Cursor(key="k", tracking_uri="http://***@mlflow.example:5000", run_id="abc")
    write_cursor(RunDirectory(tmp_path), cursor)

    shown = with_pages("Interactive: [scaling.html](scaling.html).", tmp_path, tracking_uri)

    address = "http://mlflow.example:5000/get-artifact?path=scaling.html&run_uuid=abc"
    assert shown == f"Interactive: [scaling.html]({address})."


def test_without_a_server_a_page_is_a_path(tmp_path: Path) -> None:
    """As it is before MLflow has the study, and where that cannot be read."""
    report = "[scaling.html](scaling.html) [x](other.md) ![c](curves.png)"
    told = f"`{tmp_path}/scaling.html` [x](other.md) ![c](curves.png)"

    local = with_pages(report, tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    not_sent = with_pages(report, tmp_path, "http://127.0.0.1:9")
    RunDirectory(tmp_path).tracking.write_text("{")
    damaged = with_pages(report, tmp_path, "http://127.0.0.1:9")

    assert (local, not_sent, damaged) == (told, told, told)
