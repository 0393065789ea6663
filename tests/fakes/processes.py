"""Fake nodes that really run batch scripts, as processes on this machine."""

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.fakes.jobs import Incarnation, Work

_MARK = "FAKE_SLURM_INCARNATION"


class ProcessNode:
    """Nodes that are processes: a job's batch script, and all that it starts, on this machine.

    Args:
        spool_dir: Where scripts are kept as they were when they were submitted.
    """

    beat_every_s = 0.0  # the jobs do so themselves

    def __init__(self, spool_dir: Path) -> None:
        self._spool_dir = spool_dir
        self._processes: dict[Incarnation, subprocess.Popen[bytes]] = {}

    def begin(self, run: Incarnation, now_s: float) -> Work:  # noqa: ARG002
        """Start the batch script of a job."""
        script = Path(tempfile.mkdtemp(dir=self._spool_dir)) / "slurm_script"
        script.write_text(run.request.text, encoding="utf-8", errors="surrogateescape")
        script.chmod(0o700)
        output = run.request.directory / _named(run.request.output, run)
        with output.open("ab") as file:
            self._processes[run] = subprocess.Popen(
                [script],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=run.request.directory,
                env={**run.request.environment, **_variables(run)},
                start_new_session=True,
            )
        return Work(duration_s=float("inf"), saves_in_s=None)

    def ended(self) -> Iterator[tuple[Incarnation, int]]:
        """Yield the jobs whose batch script has ended, and its return code."""
        for run, process in list(self._processes.items()):
            if process.poll() is not None:
                yield run, process.returncode

    def beat(self, now_s: float) -> None:
        """Do nothing."""

    def signal(self, run: Incarnation, name: str, now_s: float) -> None:  # noqa: ARG002
        """Send SIGUSR1 to the batch shell, any other signal to all processes of the job."""
        pids = [self._processes[run].pid] if name == "SIGUSR1" else _processes_of(run)
        _send(pids, signal.Signals[name])

    def end(self, run: Incarnation, now_s: float) -> None:
        """Kill what the batch script has left behind."""
        self.vanish(run, now_s)

    def vanish(self, run: Incarnation, now_s: float) -> None:  # noqa: ARG002
        """Kill all processes of a job."""
        process = self._processes.pop(run, None)
        if process is not None:
            _send(_processes_of(run), signal.SIGKILL)
            process.wait()

    def kill_all(self) -> None:
        """Kill all processes of all jobs."""
        for run in list(self._processes):
            self.vanish(run, 0.0)


def _mark(run: Incarnation) -> str:
    return f"{os.getpid()}-{run.slurm_job}-{run.restarts}"


def _processes_of(run: Incarnation) -> list[int]:
    """Find them by their environment, as a process may leave every group that it was born in."""
    mark = f"{_MARK}={_mark(run)}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:  # it has ended, or is none of ours
            continue
    return found


def _send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _variables(run: Incarnation) -> Mapping[str, str]:
    request = run.request
    variables = {
        _MARK: _mark(run),
        "SLURM_JOB_ID": str(run.job),
        "SLURM_JOB_NAME": request.name,
        "SLURM_JOB_PARTITION": request.partition,
        "SLURM_JOB_NODELIST": ",".join(run.nodes),
        "SLURM_JOB_NUM_NODES": str(request.nodes),
        "SLURM_CPUS_ON_NODE": str(request.cpus),
        "SLURM_CLUSTER_NAME": "fake",
        "SLURM_SUBMIT_DIR": str(request.directory),
        "SLURMD_NODENAME": run.nodes[0],
    }
    if run.task is not None:
        position = list(request.tasks).index(run.task)
        variables |= {
            "SLURM_JOB_ID": str(run.job + position),
            "SLURM_ARRAY_JOB_ID": str(run.job),
            "SLURM_ARRAY_TASK_ID": str(run.task),
        }
    if run.restarts:
        variables["SLURM_RESTART_COUNT"] = str(run.restarts)
    return variables


def _named(pattern: str, run: Incarnation) -> str:
    values = {
        "%%": "%",
        "%A": str(run.job),
        "%a": str(run.task),
        "%j": str(run.job),
        "%N": run.nodes[0],
        "%x": run.request.name,
    }
    return re.sub("%[%AajNx]", lambda match: values[match[0]], pattern)
