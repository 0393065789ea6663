"""The record of a flow run."""

from pathlib import Path

from tasks.steps.flow_record import FlowRecord, read_flow_record, write_flow_record


def test_the_record_of_a_flow_is_read_back(tmp_path: Path) -> None:
    """What is written is read; a directory without a record has none."""
    record = FlowRecord(flow_run_id="f", tracking_uri="sqlite:///x", comparison="/#/c")

    before = read_flow_record(tmp_path)
    write_flow_record(tmp_path, record)

    assert before is None
    assert read_flow_record(tmp_path) == record
