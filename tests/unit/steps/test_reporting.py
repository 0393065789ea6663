"""The report of a study, as Prefect shows it."""

from pathlib import Path

from tasks.steps.reporting import with_figures


def test_figures_are_put_into_the_report(tmp_path: Path) -> None:
    """A figure that is there becomes part of the text; one that is not stays a name."""
    (tmp_path / "curves.png").write_bytes(b"\x89PNG")
    report = "# R\n\n![c](curves.png)\n\n![s](speedup.png) [x](other.md)"

    shown = with_figures(report, tmp_path)

    assert shown == (
        "# R\n\n![c](data:image/png;base64,iVBORw==)\n\n![s](speedup.png) [x](other.md)"
    )
