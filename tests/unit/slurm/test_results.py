"""The launchers' last word on a run."""

from pathlib import Path

import pytest

from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.results import STOPPED, write_result


@pytest.mark.parametrize(
    ("before", "wall_s"),
    [("", 0.0), ('{"status": "interr', 0.0), ('{"status": "failed", "wall_s": 7.5}', 7.5)],
)
def test_what_an_attempt_left_is_replaced(before: str, wall_s: float, tmp_path: Path) -> None:
    """Its wall time is kept, if it can be read: a crash may have torn the file."""
    run = RunDirectory(tmp_path)
    run.result.write_text(before)

    write_result(run, Result(status="failed", message="no word"))

    assert run.read_result() == Result(status="failed", message="no word", wall_s=wall_s)


def test_a_run_without_a_result_gets_one(tmp_path: Path) -> None:
    """As it stands."""
    write_result(RunDirectory(tmp_path), STOPPED)

    assert RunDirectory(tmp_path).read_result() == STOPPED
