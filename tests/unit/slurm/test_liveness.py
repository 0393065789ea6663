"""A run is alive if a process on this machine or a job of Slurm is at work on it."""

import fcntl
import os
from pathlib import Path

from tasks.runtime.attempt import Claimant, claim
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.liveness import is_alive


def test_a_process_is_alive_while_it_holds_the_lock(tmp_path: Path) -> None:
    """The lock alone says so; an attempt without it is over."""
    directory = RunDirectory(tmp_path)
    claim(directory, Claimant())
    before = is_alive(directory)

    with directory.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        during = is_alive(directory)

    assert (before, during, is_alive(directory)) == (False, True, False)


def test_a_job_is_alive_while_its_heart_beats(tmp_path: Path) -> None:
    """A job of Slurm holds no lock here; its files are fresh, until they are not."""
    directory = RunDirectory(tmp_path)
    attempt = directory.attempt(claim(directory, Claimant(submission=1, slurm_job="7")))
    fresh = is_alive(directory)

    os.utime(attempt / "started.json", (1e9, 1e9))

    assert (fresh, is_alive(directory)) == (True, False)
