"""How the job of a grid point ended."""

import os
from pathlib import Path

from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.launcher import JobState
from tasks.slurm.results import write_result
from tasks.steps.points import last_word


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
    assert stale.startswith("not known to have stopped: it may go on in Slurm")
    assert fresh == "stopped"
