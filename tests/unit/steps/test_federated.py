"""Parts of the steps that need no Prefect to run."""

from pathlib import Path

from tasks.steps.federated import with_figures
from tasks.steps.flow_record import FlowRecord, read_flow_record, write_flow_record


def test_figures_are_put_into_the_report(tmp_path: Path) -> None:
    """A figure that is there becomes part of the text; one that is not stays a name."""
    (tmp_path / "curves.png").write_bytes(b"\x89PNG")
    report = "# R\n\n![c](curves.png)\n\n![s](speedup.png) [x](other.md)"

    shown = with_figures(report, tmp_path)

    assert shown == (
        "# R\n\n![c](data:image/png;base64,iVBORw==)\n\n![s](speedup.png) [x](other.md)"
    )


def test_the_record_of_a_flow_is_read_back(tmp_path: Path) -> None:
    """What is written is read; a directory without a record has none."""
    record = FlowRecord(flow_run_id="f", tracking_uri="sqlite:///x", comparison="/#/c")

    before = read_flow_record(tmp_path)
    write_flow_record(tmp_path, record)

    assert before is None
    assert read_flow_record(tmp_path) == record
