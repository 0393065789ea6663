"""The record of a flow run."""

import os
from datetime import date
from pathlib import Path

import pytest

from tasks.runtime.errors import DamagedFileError
from tasks.steps.flow_record import (
    FlowRecord,
    begin_flow_record,
    directory_of,
    flow_record_path,
    read_flow_record,
    write_flow_record,
)
from tasks.tracking.nightly_record import NightRecord, directory_of_night, write_night


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


def test_a_directory_whose_record_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    """Of another version, but it names the flow run: a new directory would run all jobs twice."""
    (tmp_path / "a").mkdir()
    begin_flow_record(tmp_path / "a", "first", "sqlite:///x")
    record = flow_record_path(tmp_path / "a")
    record.write_text(record.read_text().replace("comparison", "since_then"))

    with pytest.raises(DamagedFileError, match=r"a/flow.json has the field 'since_then'"):
        directory_of("first", tmp_path)
    assert directory_of("other", tmp_path) is None


def test_a_flow_run_that_works_again_is_told_once(tmp_path: Path) -> None:
    """A retry is the same flow run; those before it stay known."""
    for name in ("first", "second", "first"):
        record = begin_flow_record(tmp_path, name, "sqlite:///x")

    assert record.flow_run_id == "first"
    assert record.earlier_flow_run_ids == ("second",)


def test_the_password_of_a_store_stands_in_no_record(tmp_path: Path) -> None:
    """Whoever may read the runs may read the record."""
    begin_flow_record(tmp_path, "f", "http://alice:s3cret@mlflow.site:5000")

    text = flow_record_path(tmp_path).read_text()
    assert "s3cret" not in text
    assert "http://***@mlflow.site:5000" in text


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")
def test_a_flow_run_is_not_led_into_another_users_directory(tmp_path: Path) -> None:
    """Whoever knows its id can write a record of it, of a flow and of a night."""
    planted = tmp_path / "planted"
    planted.mkdir()
    begin_flow_record(planted, "one", "sqlite:///x")
    night = NightRecord(night=date(2026, 1, 1), time_zone="UTC", flow_run_id="one")
    write_night(planted, night)
    before = [find("one", tmp_path) for find in (directory_of, directory_of_night)]

    os.chown(planted, 54_321, 54_321)

    assert before == [planted] * 2
    assert directory_of("one", tmp_path) is None
    assert directory_of_night("one", tmp_path) is None
