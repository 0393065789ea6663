"""Who may run: one claimant at a time, whatever comes together."""

import fcntl
import json
import multiprocessing
import re
from collections import Counter
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from tasks.runtime.attempt import Claimant, Refused, claim, write_exit
from tasks.runtime.records import Exit, Started
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import beat

# A fork of this process would take along what other tests have left in it: threads, a server.
_CONTEXT = multiprocessing.get_context("spawn")
_NUM_ROUNDS = 400


def job(submission: int = 1, slurm_job: str = "7", restarts: int = 0) -> Claimant:
    """A job of Slurm."""
    return Claimant(submission, slurm_job, restarts)


def ended(directory: RunDirectory, code: int, claimant: Claimant | None = None) -> RunDirectory:
    """Leave an attempt that has come to its end."""
    write_exit(directory.attempt(claim(directory, claimant or job())), code)
    return directory


def refusal(directory: RunDirectory, claimant: Claimant) -> Refused:
    """Return why a claimant is refused."""
    num_attempts = len(directory.attempts())
    with pytest.raises(Refused) as refused:
        claim(directory, claimant)
    assert len(directory.attempts()) == num_attempts
    return refused.value


def test_an_attempt_says_who_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record that a claim leaves is the one that watchers read."""
    for name, value in {
        "SLURM_JOB_ID": "15",
        "SLURM_ARRAY_JOB_ID": "12",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_RESTART_COUNT": "2",
        "SLURM_CLUSTER_NAME": "big",
        "SLURM_JOB_PARTITION": "batch",
        "SLURMD_NODENAME": "node01",
    }.items():
        monkeypatch.setenv(name, value)

    number = claim(RunDirectory(tmp_path), Claimant.of_environment(4))

    text = (tmp_path / "attempts" / "1" / "started.json").read_text()
    started = Started.model_validate_json(text)
    assert number == 1
    assert (started.submission, started.slurm_job, started.restarts) == (4, "12_3", 2)
    assert (started.cluster, started.partition, started.node) == ("big", "batch", "node01")


def test_an_exit_says_how_it_went(tmp_path: Path) -> None:
    """The record of an end is the one that watchers read."""
    write_exit(tmp_path, 143, signals=["SIGUSR1"], requeued=True, checkpoint_moved=True)

    record = Exit.model_validate_json((tmp_path / "exit.json").read_text())

    assert (record.code, record.signals) == (143, ("SIGUSR1",))
    assert (record.requeued, record.checkpoint_moved) == (True, True)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (job(), job(submission=2, slurm_job="8")),
        (job(), job(submission=2)),  # a controller that was killed gives ids again
        (job(), job(restarts=1)),
        (Claimant(), job()),
        (job(submission=1, slurm_job=""), job(submission=2, slurm_job="")),  # by hand
    ],
    ids=["next submission", "same id", "queued again", "after a process", "by hand"],
)
def test_who_comes_later_goes_on(tmp_path: Path, first: Claimant, second: Claimant) -> None:
    """A later submission, a restart of the job, and a job after a dead process may claim."""
    directory = RunDirectory(tmp_path)
    claim(directory, first)

    number = claim(directory, second)

    assert number == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (job(), job()),
        (job(), job(slurm_job="8")),
        (job(submission=2), job(submission=1)),
        (job(restarts=2), job(restarts=2)),
        (job(restarts=2), job(restarts=1)),
        (job(), job(slurm_job="8", restarts=3)),
        (job(slurm_job=""), job(slurm_job="")),
    ],
    ids=["same", "duplicate", "late", "same restart", "old restart", "its restart", "by hand"],
)
@pytest.mark.parametrize("code", [None, 143, 1])
def test_duplicates_and_latecomers_are_refused(
    tmp_path: Path, first: Claimant, second: Claimant, code: int | None
) -> None:
    """One submission runs once, also when the first of two duplicates has ended."""
    directory = RunDirectory(tmp_path)
    attempt = directory.attempt(claim(directory, first))
    if code is not None:
        write_exit(attempt, code)

    refused = refusal(directory, second)

    assert refused.code == 75
    assert re.search(r"begun, as job (7|\(none\)), process \d+ on ", str(refused))
    assert f"WATERSHED_SUBMISSION={first.submission + 1} sbatch job.sh" in str(refused)


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    """Code 0 is the end, for any later submission."""
    directory = ended(RunDirectory(tmp_path), 0)

    refused = refusal(directory, job(submission=2, slurm_job="8"))

    assert refused.code == 75
    assert str(refused) == f"{tmp_path} has finished"


@pytest.mark.parametrize("code", [0, 1, 127])
def test_a_job_queued_again_after_its_end_ends_as_before(tmp_path: Path, code: int) -> None:
    """A restart of a job that had ended by itself does nothing, and gives the same exit code."""
    directory = ended(RunDirectory(tmp_path), code)

    refused = refusal(directory, job(restarts=1))

    assert refused.code == code


@pytest.mark.parametrize("code", [75, 137, 143])
def test_a_job_queued_again_after_a_signal_goes_on(tmp_path: Path, code: int) -> None:
    """What was stopped, killed or overtaken is continued by its restart."""
    directory = ended(RunDirectory(tmp_path), code)

    assert claim(directory, job(restarts=1)) == 2


def test_a_process_and_a_job_give_way_to_each_other(tmp_path: Path) -> None:
    """A job waits for the lock of a process, a process for the heartbeat of a job."""
    directory = RunDirectory(tmp_path)
    with directory.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        claim(directory, Claimant())
        while_locked = refusal(directory, job())
    beat(directory.attempt(claim(directory, job())), 1)

    while_beating = refusal(directory, Claimant())

    assert "without Slurm" in str(while_locked)
    assert str(while_beating) == f"job 7 runs {tmp_path}"


def test_a_claim_that_a_crash_has_torn_holds_nobody_up(tmp_path: Path) -> None:
    """An attempt that nobody can read is of nobody who is alive."""
    directory = RunDirectory(tmp_path)
    (directory.attempt(1)).mkdir(parents=True)
    (directory.attempt(1) / "started.json").write_bytes(b'{"pid": 12, "ho')

    assert claim(directory, job()) == 2


def test_what_killed_claimants_left_is_removed(tmp_path: Path) -> None:
    """Temporary directories of claims that never came about are swept, filled or not."""
    (tmp_path / "attempts" / ".node01-12-345" / "outgoing").mkdir(parents=True)
    (tmp_path / "attempts" / ".node01-12-345" / "started.json").touch()
    (tmp_path / "attempts" / ".node02-12-345").mkdir()

    claim(RunDirectory(tmp_path), job())

    assert [path.name for path in (tmp_path / "attempts").iterdir()] == ["1"]


def test_a_run_that_is_not_there_is_not_claimed(tmp_path: Path) -> None:
    """Without its directory a run has no attempt."""
    with pytest.raises(FileNotFoundError, match="absent"):
        claim(RunDirectory(tmp_path / "absent"), job())


def race(path: Path, claimants: list[Claimant]) -> list[list[tuple[int, int]]]:
    """Let processes claim many runs at once; return each round's (number, claimant) that won."""
    barrier = _CONTEXT.Barrier(len(claimants))
    processes = [
        _CONTEXT.Process(target=_run, args=(path, barrier, which, claimant))
        for which, claimant in enumerate(claimants)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * len(processes)
    won: list[list[tuple[int, int]]] = [[] for _ in range(_NUM_ROUNDS)]
    for which in range(len(claimants)):
        for number, attempt in json.loads((path / f"{which}.json").read_text()):
            won[number].append((attempt, which))
    return won


def _run(path: Path, barrier: Barrier, which: int, claimant: Claimant) -> None:
    won = []
    for number in range(_NUM_ROUNDS):
        directory = RunDirectory(path / f"run-{number}")
        directory.path.mkdir(exist_ok=True)
        barrier.wait(30)
        try:
            won.append((number, claim(directory, claimant)))
        except Refused:
            continue
    (path / f"{which}.json").write_text(json.dumps(won))


def test_of_duplicates_that_race_exactly_one_wins(tmp_path: Path) -> None:
    """Four processes claim the same runs at the same moment, many times: one attempt a run."""
    claimants = [job(slurm_job="7")] * 3 + [job(slurm_job="8")]

    won = race(tmp_path, claimants)

    assert [[number for number, _ in attempts] for attempts in won] == [[1]] * _NUM_ROUNDS
    assert len(Counter(which for ((_, which),) in won)) > 1  # it was a race
    for number in range(_NUM_ROUNDS):
        names = [path.name for path in (tmp_path / f"run-{number}" / "attempts").iterdir()]
        assert names == ["1"]
        assert (tmp_path / f"run-{number}" / "attempts" / "1" / "started.json").exists()


def test_of_submissions_that_race_none_comes_after_a_later_one(tmp_path: Path) -> None:
    """Three submissions at once: those that win do so in their order, and the last one wins."""
    claimants = [
        job(submission=1, slurm_job="1"),
        job(submission=2, slurm_job="2"),
        job(submission=3, slurm_job="3"),
    ]

    won = race(tmp_path, claimants)

    for attempts in won:
        numbers, order = zip(*sorted(attempts), strict=True)
        assert numbers == tuple(range(1, len(attempts) + 1))
        assert list(order) == sorted(order)
        assert order[-1] == 2
