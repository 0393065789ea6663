"""The wrapper with real processes and real signals: each run once, each end told."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tasks.runtime.attempt import Claimant, claim
from tasks.runtime.records import Started
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.liveness import is_alive
from tests.integration.wrapped import (
    finish,
    ignore_usr1,
    install_scontrol,
    install_srun,
    is_running,
    make_run,
    read_exit,
    run,
    shell,
    start,
    until,
)

BEGIN = "echo $$ > $RUN/begun; "
SAVES = BEGIN + "trap 'mkdir $RUN/checkpoints; touch $RUN/checkpoints/round-1; exit 143' TERM; "
STOPS = BEGIN + "trap 'exit 143' TERM; "
WAITS = "while :; do sleep 0.02; done"


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    """A run directory."""
    return make_run(tmp_path / "run")


def begun(directory: RunDirectory) -> int:
    """Wait until user code runs; return its process."""
    path = directory.path / "begun"
    until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 1", 1), ("exit 77", 77), ("kill -KILL $$", 137), ("kill -SEGV $$", 139)],
)
def test_the_exit_code_is_the_jobs(directory: RunDirectory, script: str, code: int) -> None:
    """It is passed on and written down; a signal that killed the job is told as shells do."""
    assert run(directory, shell(script)) == code

    assert read_exit(directory).code == code
    assert not is_alive(directory)


def test_a_job_finds_what_it_needs(directory: RunDirectory) -> None:
    """It gets job.json, its attempt, no input, plain signals, and both outputs in one file."""
    script = (
        "echo $WATERSHED_ATTEMPT $WATERSHED_RUN $0; cat; echo wrong >&2; "
        "grep -E 'Sig(Blk|Ign)' /proc/$$/status | cut -f2"
    )

    run(directory, shell(script))

    ran, wrong, *masks = directory.stdout.read_text().splitlines()
    assert ran == f"1 {directory.path} {directory.job}"
    assert wrong == "wrong"
    blocked, ignored = (int(mask, 16) for mask in masks)
    asked_by = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    assert blocked == 0
    # Others may be ignored since before the tests began: SIGHUP by nohup, SIGQUIT by a shell.
    assert not any(ignored & 1 << (signum - 1) for signum in asked_by)
    started = Started.model_validate_json((directory.attempt(1) / "started.json").read_bytes())
    assert (started.submission, started.slurm_job, started.restarts) == (1, "7", 0)


def test_a_command_that_is_not_there_is_said(directory: RunDirectory) -> None:
    """The codes are those of a shell, and the end is written all the same."""
    code, said = finish(start(directory, ["/absent/python"]))

    assert (code, read_exit(directory).code) == (127, 127)
    assert "cannot run /absent/python" in said


def test_a_duplicate_ends_before_user_code(directory: RunDirectory) -> None:
    """While a job runs, and after it, another copy of it does nothing and says so."""
    first = start(directory, shell(f"{BEGIN} until [ -e $RUN/go ]; do sleep 0.02; done"))
    begun(directory)
    code, said = finish(start(directory, shell("touch $RUN/twice")))
    (directory.path / "go").touch()
    first_code, _ = finish(first)

    assert (code, first_code) == (75, 0)
    assert "WATERSHED_SUBMISSION=2 sbatch job.sh" in said
    assert run(directory, shell("touch $RUN/twice")) == 75
    assert not (directory.path / "twice").exists()
    assert len(directory.attempts()) == 1


def test_of_copies_that_start_together_one_runs(directory: RunDirectory) -> None:
    """Ten wrappers of one job at the same moment: user code begins once."""
    wrappers = [start(directory, shell("echo x >> $RUN/runs; sleep 0.5")) for _ in range(10)]

    codes = [finish(wrapper)[0] for wrapper in wrappers]

    assert sorted(codes) == [0] + [75] * 9
    assert (directory.path / "runs").read_text() == "x\n"


def test_what_a_job_leaves_running_is_killed(directory: RunDirectory) -> None:
    """Processes of its group do not outlive it."""
    run(directory, shell("sleep 1000 & echo $! > $RUN/left; exit 0"))

    left = int((directory.path / "left").read_text())
    until(lambda: not is_running(left), 5)
    assert read_exit(directory).code == 0


def test_a_job_dies_with_its_wrapper(directory: RunDirectory) -> None:
    """When the wrapper is killed the job does not go on unwatched."""
    wrapper = start(directory, shell(BEGIN + WAITS))
    child = begun(directory)

    wrapper.kill()
    wrapper.communicate()

    until(lambda: not is_running(child), 5)
    assert not (directory.attempt(1) / "exit.json").exists()


def test_a_running_job_has_a_heartbeat(directory: RunDirectory) -> None:
    """It says which process works, and that the run is alive."""
    wrapper = start(directory, shell(STOPS + WAITS))
    child = begun(directory)
    heartbeat = directory.attempt(1) / "heartbeat.json"
    until(heartbeat.exists)

    assert json.loads(heartbeat.read_text())["child_pid"] == child
    assert is_alive(directory)
    wrapper.terminate()
    finish(wrapper)


def test_a_heartbeat_that_cannot_be_written_ends_nothing(directory: RunDirectory) -> None:
    """The job runs on, and its end is written where that is possible."""
    script = "mkdir -p $RUN/attempts/1/heartbeat.json/x; sleep 1.5; exit 3"

    code = run(directory, shell(script))

    assert (code, read_exit(directory).code) == (3, 3)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_job_that_is_asked_to_stop_stops(directory: RunDirectory, signum: signal.Signals) -> None:
    """The signal reaches the job as SIGTERM; nobody asks Slurm for another start."""
    wrapper = start(directory, shell(SAVES + WAITS), requeue=True)
    begun(directory)

    wrapper.send_signal(signum)
    code, _ = finish(wrapper)

    ended = read_exit(directory)
    assert (code, ended.code, ended.signals) == (143, 143, (signum.name,))
    assert (ended.requeued, ended.checkpoint_moved) == (False, True)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("script", ["trap 'exit 143' USR1; ", ""], ids=["ready", "not ready"])
def test_a_job_behind_srun_is_not_killed(
    directory: RunDirectory, tmp_path: Path, script: str, signum: signal.Signals
) -> None:
    """Srun would kill its tasks on SIGTERM, so it gets a signal that it passes on."""
    command = install_srun(tmp_path / "bin") + shell(BEGIN + script + WAITS)
    wrapper = start(directory, command, before=ignore_usr1)
    begun(directory)
    time.sleep(0.1)  # srun has its traps by then

    wrapper.send_signal(signum)
    code, _ = finish(wrapper)

    assert (code, read_exit(directory).code) == (143, 143)


@pytest.mark.parametrize(("status", "expected"), [("interrupted", 143), ("failed", 1)])
def test_a_good_exit_that_the_result_denies_is_none(
    directory: RunDirectory, status: str, expected: int
) -> None:
    """Srun was seen to leave code 0 for a cancelled job whose ranks had stopped too early."""
    said = json.dumps({"status": status})

    code = run(directory, shell(f"echo '{said}' >$RUN/result.json; exit 0"))

    assert (code, read_exit(directory).code) == (expected, expected)


def test_the_result_of_an_earlier_attempt_denies_nothing(directory: RunDirectory) -> None:
    """A job that leaves no result of its own is known by its exit code alone."""
    directory.result.write_text('{"status": "interrupted"}')

    code = run(directory, shell("exit 0"))

    assert (code, read_exit(directory).code) == (0, 0)


def test_a_job_that_does_not_stop_is_left_to_slurm(directory: RunDirectory) -> None:
    """However often it is asked; only the kill that Slurm sends to all ends it."""
    wrapper = start(directory, shell("trap '' TERM; " + BEGIN + WAITS))
    child = begun(directory)

    for _ in range(3):
        wrapper.terminate()
        time.sleep(0.3)
    still_runs = is_running(child), wrapper.poll()
    os.kill(child, signal.SIGKILL)
    code, _ = finish(wrapper)

    assert still_runs == (True, None)
    assert code == 137
    assert read_exit(directory).signals == ("SIGTERM",) * 3


@pytest.mark.parametrize("array", [{}, {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3"}])
def test_before_its_time_limit_a_job_is_queued_again(
    directory: RunDirectory, tmp_path: Path, array: dict[str, str]
) -> None:
    """It saves; its exit says that it asks for another start before that is asked for."""
    slurm = install_scontrol(tmp_path / "bin", directory)
    wrapper = start(
        directory, shell(SAVES + WAITS), requeue=True, environment=slurm | array, before=ignore_usr1
    )
    begun(directory)

    wrapper.send_signal(signal.SIGUSR1)
    code, _ = finish(wrapper)

    told = json.loads((tmp_path / "bin" / "exit.json").read_text())
    ended = read_exit(directory)
    assert (tmp_path / "bin" / "calls").read_text() == f"requeue {'5_3' if array else '7'}\n"
    assert told["requeued"] is True
    assert (code, ended.code, ended.signals) == (143, 143, ("SIGUSR1",))
    assert (ended.requeued, ended.checkpoint_moved) == (True, True)
    assert run(directory, shell("exit 0"), restarts=1, environment=array) == 0


@pytest.mark.parametrize(
    ("script", "requeue", "signals", "moved"),
    [
        (STOPS, True, [signal.SIGUSR1], False),
        (SAVES, False, [signal.SIGUSR1], True),
        (BEGIN + "trap 'sleep 0.5; touch $RUN/checkpoints/new; exit 143' TERM; "
         "mkdir $RUN/checkpoints; ", True, [signal.SIGUSR1, signal.SIGTERM], True),
    ],
    ids=["nothing saved", "not wanted", "cancelled meanwhile"],
)  # fmt: skip
def test_when_it_is_no_use_no_other_start_is_asked_for(
    directory: RunDirectory,
    tmp_path: Path,
    script: str,
    requeue: bool,  # noqa: FBT001
    signals: list[signal.Signals],
    moved: bool,  # noqa: FBT001
) -> None:
    """Without a newer checkpoint it would do the same again; a cancelled job is not revived."""
    slurm = install_scontrol(tmp_path / "bin", directory)
    wrapper = start(directory, shell(script + WAITS), requeue=requeue, environment=slurm)
    begun(directory)

    for signum in signals:
        wrapper.send_signal(signum)
        time.sleep(0.1)
    code, _ = finish(wrapper)

    ended = read_exit(directory)
    assert not (tmp_path / "bin" / "calls").exists()
    assert (code, ended.code) == (143, 143)
    assert (ended.requeued, ended.checkpoint_moved) == (False, moved)


@pytest.mark.parametrize("has_scontrol", [True, False], ids=["refuses", "missing"])
def test_if_slurm_cannot_be_asked_the_exit_says_so(
    directory: RunDirectory, tmp_path: Path, *, has_scontrol: bool
) -> None:
    """The job has stopped, resumable, and nobody believes that it comes back by itself."""
    slurm = install_scontrol(tmp_path / "bin", directory, code=1)
    if not has_scontrol:
        (tmp_path / "bin" / "scontrol").unlink()
        for tool in ("sh", "sleep", "mkdir", "touch", "dirname"):
            (tmp_path / "bin" / tool).symlink_to(f"/bin/{tool}")
        slurm = {"PATH": str(tmp_path / "bin")}
    wrapper = start(directory, shell(SAVES + WAITS), requeue=True, environment=slurm)
    begun(directory)

    wrapper.send_signal(signal.SIGUSR1)
    code, said = finish(wrapper)

    ended = read_exit(directory)
    assert (code, ended.code) == (143, 143)
    assert (ended.requeued, ended.checkpoint_moved) == (False, True)
    assert ("not queued again" in said) is not has_scontrol


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_before_the_job_exists_is_not_lost(
    directory: RunDirectory, signum: signal.Signals
) -> None:
    """What came before there was anything to stop keeps it from starting."""

    def receive() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signum])  # Python would start with it pending
        os.kill(os.getpid(), signum)

    code, _ = finish(start(directory, shell("touch $RUN/begun"), before=receive))

    assert code == 143
    assert directory.attempts() == []
    assert not (directory.path / "begun").exists()


def test_signals_at_any_moment_of_the_start_are_understood(tmp_path: Path) -> None:
    """From the interpreter's first instruction on: it ends soon, and what has begun has an exit."""
    rng = random.Random(1)
    outcomes = set()
    for number in range(25):
        directory = make_run(tmp_path / str(number))
        wrapper = start(directory, shell("exec sleep 1000"), before=ignore_usr1)
        time.sleep(rng.uniform(0, 0.15))

        wrapper.terminate()
        code, _ = finish(wrapper, 10)

        outcomes.add((code, len(directory.attempts())))
        if directory.attempts():
            assert read_exit(directory).code == 143
    # Killed before it could hold signals back, before its claim, and after it.
    assert outcomes <= {(-15, 0), (143, 0), (143, 1)}
    assert (143, 1) in outcomes


def test_an_overtaken_attempt_is_ended(directory: RunDirectory) -> None:
    """When Slurm runs the job elsewhere, the old one is killed, and writes its own exit alone."""
    old = start(directory, shell("trap '' TERM; " + BEGIN + WAITS))
    child = begun(directory)

    claim(RunDirectory(directory.path), Claimant(1, "7", restarts=1))
    code, _ = finish(old, 10)

    assert (code, read_exit(directory).code) == (75, 75)
    assert not is_running(child)
    assert {path.name for path in directory.attempt(2).iterdir()} == {"outgoing", "started.json"}


def write_list(tmp_path: Path, number: int) -> tuple[Path, list[RunDirectory]]:
    """Make runs, and the list that names them."""
    directories = [make_run(tmp_path / f"run-{index}") for index in range(number)]
    path = tmp_path / "runs.json"
    path.write_text(json.dumps([str(directory.path) for directory in directories]))
    return path, directories


def test_a_task_of_an_array_takes_its_own_run(tmp_path: Path) -> None:
    """The index picks one of the list."""
    path, directories = write_list(tmp_path, 3)

    code = run(["--runs", str(path), "--index", "1"], shell("exit 4"))

    assert code == 4
    assert [len(directory.attempts()) for directory in directories] == [0, 1, 0]


def test_an_allocation_runs_all_so_many_at_a_time(tmp_path: Path) -> None:
    """Each run has its own end; the exit code tells of the worst."""
    path, directories = write_list(tmp_path, 6)
    script = (
        "cd $RUN/..; touch now-$$; ls -d now-* | wc -l >> counts; sleep 0.3; rm now-$$; "
        "case $RUN in *2) exit 5;; *4) kill -KILL $$;; esac"
    )

    code = run(["--runs", str(path), "--parallel", "2"], shell(script))

    counts = [int(count) for count in (tmp_path / "counts").read_text().split()]
    assert [read_exit(directory).code for directory in directories] == [0, 0, 5, 0, 137, 0]
    assert code == 137
    assert len(counts) == 6
    assert max(counts) == 2


def test_an_allocation_that_is_queued_again_does_what_is_left(tmp_path: Path) -> None:
    """Stopped before its limit, it runs what had not finished: the rest, and what had not begun."""
    path, directories = write_list(tmp_path, 4)
    slurm = install_scontrol(tmp_path / "bin", directories[1])
    which = ["--runs", str(path), "--parallel", "2"]
    script = f"echo x >> $RUN/runs; case $RUN in *0) exit 0;; esac; {SAVES}{WAITS}"
    wrapper = start(which, shell(script), requeue=True, environment=slurm)
    until(lambda: all((directory.path / "begun").exists() for directory in directories[1:3]))
    wrapper.send_signal(signal.SIGUSR1)
    stopped, _ = finish(wrapper)
    requeued = [read_exit(directory).requeued for directory in directories[:3]]

    finished = run(which, shell("echo x >> $RUN/runs"), restarts=1)

    assert (stopped, finished) == (143, 0)
    assert requeued == [False, True, True]
    assert (tmp_path / "bin" / "calls").read_text() == "requeue 7\n"
    runs = [(directory.path / "runs").read_text().count("x") for directory in directories]
    assert runs == [1, 2, 2, 1]


def test_the_wrapper_needs_no_installed_package(directory: RunDirectory) -> None:
    """It runs without site-packages, from a directory that has nothing to do with it."""
    wrapper = start(directory, shell("pwd"), before=lambda: os.chdir("/"))

    assert finish(wrapper)[0] == 0
    assert directory.stdout.read_text() == "/\n"
