"""Addresses of studies and points in MLflow."""

from pathlib import Path

from tasks.runtime.run_directory import RunDirectory
from tasks.steps.flow_record import (
    FlowRecord,
    begin_flow_record,
    read_flow_record,
    write_flow_record,
)
from tasks.steps.links import point_address
from tasks.tracking.cursor import Cursor, write_cursor


def test_a_point_has_an_address_once_its_run_is_there(tmp_path: Path) -> None:
    """Not before both the experiment and the run are known, and not in another store."""
    run = RunDirectory(tmp_path / "points" / "000-a")
    run.path.mkdir(parents=True)
    uri = "http://host:5000"
    absent = point_address(run)
    write_flow_record(tmp_path, FlowRecord(flow_run_id="f", tracking_uri=uri))
    write_cursor(run, Cursor(key="k", tracking_uri=uri, run_id="r1"))
    without_experiment = point_address(run)
    write_flow_record(tmp_path, FlowRecord(flow_run_id="f", tracking_uri=uri, experiment_id="7"))
    known = point_address(run)
    write_cursor(run, Cursor(key="k", tracking_uri="sqlite:///old", run_id="r1"))

    assert (absent, without_experiment) == ("", "")
    assert known == "http://host:5000/#/experiments/7/runs/r1"
    assert point_address(run) == ""


def test_a_login_in_an_address_separates_no_stores(tmp_path: Path) -> None:
    """Neither file has it; one that an earlier version has written may."""
    run = RunDirectory(tmp_path / "points" / "000-a")
    run.path.mkdir(parents=True)
    begin_flow_record(tmp_path, "f", "http://me:secret@host:5000")
    record = read_flow_record(tmp_path)
    assert record is not None
    write_flow_record(tmp_path, record.model_copy(update={"experiment_id": "7"}))
    write_cursor(run, Cursor(key="k", tracking_uri="http://me:secret@host:5000", run_id="r1"))

    assert point_address(run) == "http://host:5000/#/experiments/7/runs/r1"
