"""How a run stands, by its attempts."""

from pathlib import Path

from tasks.runtime.attempt import Claimant, claim, write_exit
from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.history import read_state

INTERRUPTED = Result(status="interrupted")


def test_a_job_of_slurm_runs_until_it_has_ended(tmp_path: Path) -> None:
    """An attempt without an end runs, also if an earlier one has left a result."""
    directory = RunDirectory(tmp_path)
    before = read_state(directory, None)

    claim(directory, Claimant(submission=1, slurm_job="7"))

    states = [read_state(directory, result) for result in (None, INTERRUPTED)]
    assert (before, states) == ("waiting", ["running", "running"])


def test_a_job_that_is_queued_again_waits(tmp_path: Path) -> None:
    """What has stopped before its time limit, to be continued, is not over."""
    directory = RunDirectory(tmp_path)
    attempt = directory.attempt(claim(directory, Claimant(submission=1, slurm_job="7")))

    write_exit(attempt, 143, signals=["SIGUSR1"], requeued=True)
    requeued = read_state(directory, INTERRUPTED)
    write_exit(attempt, 143, signals=["SIGUSR1"], requeued=False)
    stopped = read_state(directory, INTERRUPTED)

    assert (requeued, stopped) == ("waiting", "interrupted")


def test_a_job_that_was_killed_runs_until_a_result_says_otherwise(tmp_path: Path) -> None:
    """A killed engine leaves no result; the launcher that knows the job's state will write one."""
    directory = RunDirectory(tmp_path)
    attempt = directory.attempt(claim(directory, Claimant(submission=1, slurm_job="7")))
    write_exit(attempt, 137)

    states = [read_state(directory, result) for result in (None, Result(status="failed"))]

    assert states == ["running", "failed"]
