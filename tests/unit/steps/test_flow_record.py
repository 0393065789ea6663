"""The record of a flow run."""

from pathlib import Path

from tasks.steps.flow_record import (
    FlowRecord,
    begin_flow_record,
    directory_of,
    read_flow_record,
    write_flow_record,
)


def test_the_record_of_a_flow_is_read_back(tmp_path: Path) -> None:
    """What is written is read; a directory without a record has none."""
    record = FlowRecord(flow_run_id="f", tracking_uri="sqlite:///x", comparison="/#/c")

    before = read_flow_record(tmp_path)
    write_flow_record(tmp_path, record)

    assert before is None
    assert read_flow_record(tmp_path) == record


def test_a_flow_run_finds_its_directory_again(tmp_path: Path) -> None:
    """Also after another flow run has gone on in it; what is no record is passed over."""
    for name in ("a", "b", "torn"):
        (tmp_path / name).mkdir()
    (tmp_path / "torn" / "flow.json").write_text("{")
    begin_flow_record(tmp_path / "a", "first", "sqlite:///x")
    begin_flow_record(tmp_path / "b", "other", "sqlite:///x")
    begin_flow_record(tmp_path / "a", "resumed", "sqlite:///x")

    assert directory_of("first", tmp_path) == tmp_path / "a"
    assert directory_of("resumed", tmp_path) == tmp_path / "a"
    assert directory_of("new", tmp_path) is None
    assert directory_of("first", tmp_path / "absent") is None


def test_a_flow_run_that_works_again_is_told_once(tmp_path: Path) -> None:
    """A retry is the same flow run; those before it stay known."""
    for name in ("first", "second", "first"):
        record = begin_flow_record(tmp_path, name, "sqlite:///x")

    assert record.flow_run_id == "first"
    assert record.earlier_flow_run_ids == ("second",)
