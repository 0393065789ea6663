"""Measure a machine as a job: on this machine, or on Slurm. Torch is loaded by the job alone."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from configs.calibration import Calibration
from configs.launchers import SlurmLauncherConfig
from tasks.runtime.atomic_files import write_json
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.plan import JobPlan
from tasks.slurm.slurm_launcher import SlurmLauncher
from tasks.slurm.snapshot import take
from tasks.zero.calibrate_file import RECORD, Calibrated

MODULE = "tasks.zero.calibrate_job"
_WAIT_S = 1.0
_PATIENCE_S = 15.0
_PACKAGES_ROOT = Path(__file__).parents[2]


class CalibrationError(Exception):
    """The job has ended without a result; the message says why."""


def calibrate_locally(calibration: Calibration, directory: Path) -> Calibrated:
    """Measure with processes of this machine.

    Args:
        calibration: What to measure.
        directory: Of the run; exists.

    Returns:
        What was measured.

    Raises:
        CalibrationError: It could not be.
        KeyboardInterrupt: The user has stopped it; the processes are gone.
        OSError: The directory cannot be written.
    """
    run = RunDirectory(directory)
    write_json(run.job, calibration.model_dump(mode="json"))
    argv = [sys.executable, "-m", MODULE, str(run.job)]
    # In a session of its own, so that Ctrl-C reaches it once, from us, whoever else hears it.
    job = subprocess.Popen(argv, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        _, words = job.communicate()
    except BaseException:
        _stop(job)
        raise
    return _found(run, words or f"the job ended with exit code {job.returncode}")


def calibrate_on_slurm(
    calibration: Calibration, config: SlurmLauncherConfig, directory: Path
) -> Calibrated:
    """Measure by a job of Slurm, of as many nodes as the ranks fill.

    Args:
        calibration: What to measure.
        config: What else the job asks for.
        directory: Of the run; exists, and the nodes see it.

    Returns:
        What was measured.

    Raises:
        CalibrationError: It could not be.
        KeyboardInterrupt: The user has stopped it; so is the job.
        SlurmError: Slurm is not there, or does not answer.
        OSError: The directory cannot be written.
    """
    run = RunDirectory(directory.resolve() / "run")
    run.path.mkdir(mode=0o700)
    write_json(run.job, calibration.model_dump(mode="json"))
    launcher = SlurmLauncher(config, directory.resolve())
    try:
        job = launcher.submit(job_plan(calibration, config, run.path))
        while not launcher.wait(job, _WAIT_S).is_final:
            pass
    finally:
        launcher.close()
    return _found(run, f"the job left no result; see {run.path}")


def job_plan(calibration: Calibration, config: SlurmLauncherConfig, run_dir: Path) -> JobPlan:
    """Return the job of Slurm that measures a machine.

    Args:
        calibration: What to measure.
        config: What else the job asks for.
        run_dir: Its run directory, absolute; the code is copied beside it.
    """
    per_node = calibration.topology.node_ranks(calibration.ranks)
    return JobPlan(
        name=f"calibrate {calibration.topology.name}",
        module=MODULE,
        run_dir=run_dir,
        resources=config.resources(nodes=calibration.ranks // per_node, tasks_per_node=per_node),
        code_dir=take(_PACKAGES_ROOT, run_dir.parent / "code"),
        python=config.python,
    )


def _found(run: RunDirectory, otherwise: str) -> Calibrated:
    record, result = run.path / RECORD, run.read_result()
    if result is not None and result.status == "finished" and record.is_file():
        return Calibrated.model_validate_json(record.read_bytes())
    message = result.message if result is not None and result.message else otherwise.strip()
    raise CalibrationError(message)


def _stop(job: "subprocess.Popen[str]") -> None:
    """Stop a job and its ranks."""
    job.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        job.wait(_PATIENCE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(job.pid, signal.SIGKILL)
    job.wait()
