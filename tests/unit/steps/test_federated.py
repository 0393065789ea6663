"""Parts of the steps that need no Prefect to run."""

import os
from pathlib import Path

from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.launcher import JobState
from tasks.slurm.results import write_result
from tasks.steps.federated import last_word, with_figures
from tasks.steps.flow_record import FlowRecord, read_flow_record, write_flow_record


def test_figures_are_put_into_the_report(tmp_path: Path) -> None:
    """A figure that is there becomes part of the text; one that is not stays a name."""
    (tmp_path / "curves.png").write_bytes(b"\x89PNG")
    report = "# R\n\n![c](curves.png)\n\n![s](speedup.png) [x](other.md)"

    shown = with_figures(report, tmp_path)

    assert shown == (
        "# R\n\n![c](data:image/png;base64,iVBORw==)\n\n![s](speedup.png) [x](other.md)"
    )


def test_the_result_of_an_earlier_attempt_says_nothing_of_a_later_one(tmp_path: Path) -> None:
    """A point that was given up while its second job ran has not stopped, as far as is known."""
    directory = RunDirectory(tmp_path)
    unstarted = last_word(directory, JobState.INTERRUPTED)
    for number, begun_s in ((1, 100), (2, 300)):
        directory.attempt(number).mkdir(parents=True)
        started = directory.attempt(number) / "started.json"
        started.touch()
        os.utime(started, (begun_s, begun_s))
    write_result(directory, Result(status="interrupted", message="stopped"))

    os.utime(directory.result, (200, 200))
    stale = last_word(directory, JobState.INTERRUPTED)
    os.utime(directory.result, (400, 400))
    fresh = last_word(directory, JobState.INTERRUPTED)

    assert unstarted == "not started"
    assert stale == "not known to have stopped; run: watershed cancel"
    assert fresh == "stopped"


def test_the_record_of_a_flow_is_read_back(tmp_path: Path) -> None:
    """What is written is read; a directory without a record has none."""
    record = FlowRecord(flow_run_id="f", tracking_uri="sqlite:///x", comparison="/#/c")

    before = read_flow_record(tmp_path)
    write_flow_record(tmp_path, record)

    assert before is None
    assert read_flow_record(tmp_path) == record
