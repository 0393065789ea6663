"""The job of a flow run: Prefect's engine as a child, which is asked to stop when we are.

    python -m tasks.prefect_slurm.flow_run_job RUN_DIRECTORY/job.json

This module itself imports no Prefect. What the flow run has come to is between the engine and
Prefect's server; the files here say how its process ended.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from tasks.prefect_slurm.environment import UnsafeFile, child_environment
from tasks.prefect_slurm.records import MODULE, FlowRunJob, read_flow_run_job
from tasks.runtime.errors import JobError, Reason
from tasks.runtime.job import run_from_command_line
from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.stopping import StopRequest, stop_asked

_LOOK_S = 0.2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job whose ``job.json`` is the only argument; see ``run_job`` for the exit code."""
    return run_from_command_line(MODULE, _run, argv)


def command_of(job: FlowRunJob) -> list[str]:
    """Return what runs a flow run.

    Args:
        job: The job.

    Returns:
        The pool's command, else Prefect's own; ``prefect`` is that of this Python.
    """
    own = [sys.executable, "-m", "prefect"]
    if not job.command:
        return [*own, "flow-run", "execute"]
    first, *others = job.command
    return [*own, *others] if first == "prefect" else [first, *others]


def _run(directory: RunDirectory) -> Result:
    job = read_flow_run_job(directory.path)
    try:
        environment = child_environment(os.environ, job)
    except UnsafeFile as error:
        raise JobError(Reason.CONFIGURATION, str(error)) from error
    command = command_of(job)
    with stop_asked() as request:
        try:
            process = subprocess.Popen(
                command, cwd=directory.path, env=environment, stdin=subprocess.DEVNULL
            )
        except OSError as error:
            message = f"cannot run {shlex.join(command)}: {error}; set the pool's command or python"
            raise JobError(Reason.CONFIGURATION, message) from error
        code = _ended(process, request)
    if request.is_made and code:  # without one the flow run has come to its end all the same
        if job.continue_at_time_limit:
            _leave_checkpoint(directory)
        return Result(status="interrupted", message="stopped; the flow run may go on in a new job")
    if code:
        message = f"the process of flow run {job.flow_run_name} ended with code {code}"
        return Result(status="failed", reason=Reason.PROCESS, message=message)
    return Result(status="finished")


def _ended(process: "subprocess.Popen[bytes]", request: StopRequest) -> int:
    """Wait for the end of the engine; pass a wish to stop on, once.

    The engine's process may have had the signal from Slurm, too. It takes that for the same wish.
    """
    is_told = False
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_LOOK_S)
        if request.is_made and not is_told:
            process.terminate()
            is_told = True


def _leave_checkpoint(directory: RunDirectory) -> None:
    """Tell the wrapper that another job would come further, so that it asks Slurm for one."""
    with suppress(OSError):
        directory.checkpoints.mkdir(exist_ok=True)
        number = len(list(directory.checkpoints.iterdir()))
        (directory.checkpoints / f"stopped-{number}").touch()


if __name__ == "__main__":
    sys.exit(main())
