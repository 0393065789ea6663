"""Starts the wrapper as a batch script would, in an environment that looks like a job's."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tasks.runtime.records import Exit
from tasks.runtime.run_directory import RunDirectory

ROOT = Path(__file__).parents[2]


def make_run(path: Path) -> RunDirectory:
    """Make a run directory for a job that reads nothing of it."""
    path.mkdir()
    directory = RunDirectory(path)
    directory.job.write_text("{}")
    return directory


def shell(script: str) -> list[str]:
    """Return a job that is a piece of shell; ``$RUN`` is the run directory."""
    return ["sh", "-c", f'RUN=$(dirname "$0"); {script}']


def start(
    which: RunDirectory | list[str],
    command: list[str],
    *,
    restarts: int = 0,
    requeue: bool = False,
    environment: dict[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> "subprocess.Popen[str]":
    """Start the wrapper.

    Args:
        which: The run, or the arguments that name several.
        command: The job.
        restarts: How often Slurm has queued it again.
        requeue: Whether it may ask for that.
        environment: Further variables.
        before: Runs in the new process before the wrapper.
    """
    without_slurm = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    variables = without_slurm | {
        "PYTHONPATH": str(ROOT),
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": "1",
        "SLURM_JOB_ID": "7",
        "SLURM_RESTART_COUNT": str(restarts),
    }
    runs = which if isinstance(which, list) else ["--run", str(which.path)]
    wrapper = [sys.executable, "-S", "-m", "tasks.runtime.wrapper", "--submission", "1", *runs]
    return subprocess.Popen(
        [*wrapper, *(["--requeue"] if requeue else []), "--", *command],
        env=variables | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=before,
    )


def finish(wrapper: "subprocess.Popen[str]", timeout_s: float = 120) -> tuple[int, str]:
    """Wait for the wrapper; return its exit code and what it said."""
    said, _ = wrapper.communicate(timeout=timeout_s)
    return wrapper.returncode, said


def run(
    which: RunDirectory | list[str],
    command: list[str],
    *,
    restarts: int = 0,
    environment: dict[str, str] | None = None,
) -> int:
    """Run the wrapper to its end; return its exit code."""
    return finish(start(which, command, restarts=restarts, environment=environment))[0]


def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    """Wait until something is so.

    Raises:
        TimeoutError: It does not become so.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


def read_exit(directory: RunDirectory, number: int = 1) -> Exit:
    """Read how an attempt has ended."""
    return Exit.model_validate_json((directory.attempt(number) / "exit.json").read_bytes())


def is_running(pid: int) -> bool:
    """Say whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def install_scontrol(directory: Path, run: RunDirectory, *, code: int = 0) -> dict[str, str]:
    """Make an ``scontrol`` that notes its call, and what exit.json said at the time of it.

    Returns:
        The environment in which it is found.
    """
    directory.mkdir()
    script = directory / "scontrol"
    script.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> {shlex.quote(str(directory / "calls"))}\n'
        f"cp {shlex.quote(str(run.attempt(1) / 'exit.json'))} {shlex.quote(str(directory))}\n"
        f"exit {code}\n"
    )
    script.chmod(0o755)
    return {"PATH": f"{directory}:{os.environ['PATH']}"}


def install_srun(directory: Path) -> list[str]:
    """Make an ``srun`` that treats signals as Slurm's does; return the command."""
    directory.mkdir()
    script = directory / "srun"
    script.write_text(
        "#!/bin/bash\n"
        '"$@" & task=$!\n'
        "trap 'kill -KILL $task' TERM; trap 'kill -USR1 $task' USR1\n"
        "while kill -0 $task 2>/dev/null; do wait $task; code=$?; done; exit $code\n"
    )
    script.chmod(0o755)
    return [str(script)]


def ignore_usr1() -> None:
    """Do what ``trap '' USR1`` in the batch script does."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
