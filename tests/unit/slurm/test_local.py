"""The local launcher, with small real jobs."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.study import Study
from tasks.runtime.records import JobFile
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.launcher import JobId, JobState
from tasks.slurm.liveness import is_alive
from tasks.slurm.local import LocalLauncher, num_cores
from tasks.slurm.plan import JobPlan

# What a job does is the label of its grid point. It says "begun" when it can be interrupted.
JOB = """
import os, signal, sys, time
from pathlib import Path
from tasks.runtime.errors import JobError, Reason
from tasks.runtime.job import run_job
from tasks.runtime.records import Result

def work(directory):
    what, _, seconds = directory.read_job().point.partition(" ")
    with (directory.path / "log").open("a") as log:
        threads, is_safe = os.environ["OMP_NUM_THREADS"], os.environ["PYTHONSAFEPATH"]
        print(what, threads, is_safe, file=log, flush=True)
    if what == "fail":
        raise JobError(Reason.DATA, "there are none")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (directory.path / "begun").touch()
    time.sleep(float(seconds or 0))
    print("done")
    return Result(status="finished", steps=1)

sys.exit(run_job(Path(sys.argv[1]), work))
"""

Make = Callable[[str], JobPlan]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Make the plan of a job that does what its name says."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    package = tmp_path / "library" / "toy"
    package.mkdir(parents=True)
    (package / "job.py").write_text(JOB)
    (package / "broken.py").write_text("raise SystemExit(3)")
    experiment = Study.model_validate({"name": "s", "experiment": {"data": "digits"}}).experiment

    def _make(what: str) -> JobPlan:
        number = len(list(tmp_path.glob("run-*")))
        directory = RunDirectory(tmp_path / f"run-{number}")
        directory.path.mkdir()
        job = JobFile(study="s", point=what, config_hash="0", experiment=experiment)
        directory.job.write_text(job.model_dump_json())
        return JobPlan(
            name=what,
            module="toy.broken" if what == "broken" else "toy.job",
            run_dir=directory.path,
            environment={"PYTHONPATH": str(tmp_path / "library")},
        )

    return _make


def _until(condition: Callable[[], object]) -> None:
    """Wait for a condition; 20 s are much more than any of these jobs needs."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def _result(plan: JobPlan) -> tuple[str, str]:
    result = RunDirectory(plan.run_dir).read_result()
    assert result is not None
    return result.status, result.message


def test_a_job_runs_to_its_end(make: Make) -> None:
    """The module runs on job.json; its output is in the run directory, its state is final."""
    launcher, plan = LocalLauncher(1), make("work")

    state = launcher.wait(launcher.submit(plan), 20)

    assert state is JobState.FINISHED
    assert state.is_final
    assert RunDirectory(plan.run_dir).stdout.read_text() == "done\n"
    assert _result(plan) == ("finished", "")


def test_a_job_is_told_by_its_process_and_its_cores(make: Make) -> None:
    """While it waits, for what; while it runs, its process; then how it ended."""
    launcher, first, second = LocalLauncher(1), make("work 30"), make("work")
    running, waiting = launcher.submit_all([first, second])
    _until((first.run_dir / "begun").exists)
    pid = json.loads((RunDirectory(first.run_dir).attempt(1) / "started.json").read_text())["pid"]

    told = launcher.describe(running), launcher.describe(waiting)
    launcher.close()
    launcher.wait(running, 20)

    cores = f"{num_cores()} core{'s' * (num_cores() > 1)}"
    assert told == (
        f"process {pid} on {cores}: running",
        "waits until fewer than 1 jobs run here",
    )
    assert launcher.describe(running) == f"process {pid} on {cores}: interrupted"
    assert launcher.describe(waiting) == "it was never started: interrupted"
    assert launcher.describe(JobId("unknown")) == ""


def test_a_failed_job_keeps_its_own_reason(make: Make) -> None:
    """A job that wrote why it failed is not written over."""
    launcher, plan = LocalLauncher(1), make("fail")

    state = launcher.wait(launcher.submit(plan), 20)

    assert state is JobState.FAILED
    assert _result(plan) == ("failed", "there are none")


@pytest.mark.parametrize(
    ("what", "cause"),
    [
        ("die", "the job was killed by SIGKILL, perhaps for want of memory; see "),
        ("broken", "the job ended with exit code 3 before it could say why; see "),
    ],
)
def test_a_job_that_could_not_say_why_it_ended_gets_a_result(
    make: Make, what: str, cause: str
) -> None:
    """However a job dies, its run directory says that it failed, and where to look."""
    launcher, plan = LocalLauncher(1), make(what)

    state = launcher.wait(launcher.submit(plan), 20)

    status, message = _result(plan)
    assert (state, status) == (JobState.FAILED, "failed")
    assert message.startswith(cause)
    (attempt,) = RunDirectory(plan.run_dir).attempts()
    assert (attempt / "exit.json").exists()


def test_no_more_run_at_a_time_than_allowed(make: Make) -> None:
    """The third job waits until one of the two before it has ended."""
    launcher = LocalLauncher(2)
    plans = [make("work 0.5"), make("work 60"), make("work")]

    jobs = [launcher.submit(plan) for plan in plans]
    states = [launcher.poll(job) for job in jobs]
    last = launcher.wait(jobs[2], 20)

    assert states == [JobState.RUNNING, JobState.RUNNING, JobState.WAITING]
    assert last is JobState.FINISHED
    assert launcher.poll(jobs[0]) is JobState.FINISHED
    launcher.cancel(jobs[1])
    assert launcher.wait(jobs[1], 20) is JobState.INTERRUPTED


def test_the_cores_are_shared_out(make: Make) -> None:
    """Numerical libraries get a fair share of the cores, and imports come from safe places."""
    launcher, plan = LocalLauncher(1), make("work")

    launcher.wait(launcher.submit(plan), 20)

    assert (plan.run_dir / "log").read_text() == f"work {num_cores()} 1\n"


def test_a_users_number_of_threads_wins(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """OMP_NUM_THREADS set by the user is left alone."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    launcher, plan = LocalLauncher(1), make("work")

    launcher.wait(launcher.submit(plan), 20)

    assert (plan.run_dir / "log").read_text() == "work 7 1\n"


def test_a_cancelled_job_stops_and_can_go_on(make: Make) -> None:
    """SIGTERM interrupts a running job, which says so; submitted again it has a second attempt."""
    launcher, plan = LocalLauncher(1), make("work 60")
    job = launcher.submit(plan)
    _until((plan.run_dir / "begun").exists)

    launcher.cancel(job)
    state = launcher.wait(job, 20)
    status = _result(plan)[0]
    launcher.submit(plan)
    _until(lambda: len(RunDirectory(plan.run_dir).attempts()) == 2)

    assert (state, status) == (JobState.INTERRUPTED, "interrupted")
    launcher.cancel(job)
    assert launcher.wait(job, 20) is JobState.INTERRUPTED


def test_a_job_that_does_not_stop_is_killed(make: Make) -> None:
    """After the grace period a job that ignores SIGTERM is killed, and counts as interrupted."""
    launcher, plan = LocalLauncher(1, grace_s=0.3), make("deaf 60")
    job = launcher.submit(plan)
    _until((plan.run_dir / "begun").exists)

    launcher.cancel(job)
    state = launcher.wait(job, 20)

    assert state is JobState.INTERRUPTED
    assert _result(plan)[0] == "interrupted"
    assert not is_alive(RunDirectory(plan.run_dir))


def test_a_waiting_job_is_cancelled_without_a_trace(make: Make) -> None:
    """A job that never started leaves nothing behind and is interrupted at once."""
    launcher = LocalLauncher(1)
    first, second = make("work 60"), make("work")
    running, waiting = launcher.submit(first), launcher.submit(second)

    launcher.cancel(waiting)
    state = launcher.poll(waiting)

    launcher.cancel(running)
    launcher.wait(running, 20)
    assert state is JobState.INTERRUPTED
    assert sorted(path.name for path in second.run_dir.iterdir()) == ["job.json"]


def test_a_closed_launcher_stops_everything(make: Make) -> None:
    """After ``close`` what runs is stopped, what waits is dropped, what comes is not started."""
    launcher = LocalLauncher(1)
    first, second, third = make("work 60"), make("work"), make("work")
    jobs = [launcher.submit(first), launcher.submit(second)]
    _until((first.run_dir / "begun").exists)

    launcher.close()
    jobs.append(launcher.submit(third))
    states = [launcher.wait(job, 20) for job in jobs]

    assert states == [JobState.INTERRUPTED] * 3
    assert RunDirectory(third.run_dir).attempts() == []


def _start_by_hand(plan: JobPlan) -> "subprocess.Popen[bytes]":
    environment = os.environ | plan.environment | {"OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", plan.module, str(plan.run_dir / "job.json")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _until((plan.run_dir / "begun").exists)
    return process


def test_a_job_that_runs_already_is_adopted(make: Make) -> None:
    """A job left by a killed launcher is waited for, and not run a second time."""
    plan = make("work 1")
    process = _start_by_hand(plan)
    launcher = LocalLauncher(1)

    job = launcher.submit(plan)
    states = launcher.poll(job), launcher.wait(job, 20)

    assert states == (JobState.RUNNING, JobState.FINISHED)
    assert process.wait(20) == 0
    assert len(RunDirectory(plan.run_dir).attempts()) == 1


@pytest.mark.parametrize("how", ["cancelled", "killed"])
def test_an_adopted_job_that_ends_early_is_understood(make: Make, how: str) -> None:
    """An adopted job can be cancelled; if somebody kills it, it has failed."""
    plan = make("work 60")
    process = _start_by_hand(plan)
    launcher = LocalLauncher(1)
    job = launcher.submit(plan)

    if how == "cancelled":
        launcher.cancel(job)
    else:
        process.send_signal(signal.SIGKILL)
    process.wait(20)
    state = launcher.wait(job, 20)

    expected = JobState.INTERRUPTED if how == "cancelled" else JobState.FAILED
    assert state is expected
    assert _result(plan)[0] == expected.value


def test_an_adopted_job_whose_end_is_damaged_keeps_its_result(make: Make) -> None:
    """It did end by itself, so nothing is written over what it left; it is not said to be well."""
    plan = make("work 60")
    run = RunDirectory(plan.run_dir)
    run.attempt(1).mkdir(parents=True)
    (run.attempt(1) / "started.json").write_text("{")
    launcher = LocalLauncher(1)
    with run.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        job = launcher.submit(plan)
        _until(lambda: launcher.poll(job) is JobState.RUNNING)
        run.result.write_text('{"status": "finished"}')
        (run.attempt(1) / "exit.json").write_text('{"code"')

    state = launcher.wait(job, 20)

    assert state is JobState.FAILED
    assert _result(plan)[0] == "finished"
    assert len(run.attempts()) == 1


def test_a_job_that_loses_the_race_is_adopted(make: Make) -> None:
    """If another attempt takes the lock first, ours gives way, and the other one is waited for."""
    plan = make("work 2")
    launcher = LocalLauncher(1)

    job = launcher.submit(plan)  # both take about as long to import
    process = _start_by_hand(plan)
    state = launcher.wait(job, 20)

    assert state is JobState.FINISHED
    assert process.wait(20) in {0, 75}
    assert len(RunDirectory(plan.run_dir).attempts()) == 1


def test_submitting_twice_runs_once(make: Make) -> None:
    """A run directory has one job, however often it is submitted."""
    launcher, plan = LocalLauncher(2), make("work 0.5")

    first, second = launcher.submit(plan), launcher.submit(plan)
    state = launcher.wait(first, 20)

    assert first == second
    assert state is JobState.FINISHED
    assert len(RunDirectory(plan.run_dir).attempts()) == 1
