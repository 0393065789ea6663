"""The step that takes over what an earlier study has finished already."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from prefect import State, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from configs.launchers import SlurmLauncherConfig
from configs.study import Study
from tasks.runtime.atomic_files import write_atomically, write_json
from tasks.runtime.errors import DamagedFileError
from tasks.runtime.ownership import is_own
from tasks.runtime.reading import load_record
from tasks.runtime.records import Exit, Reused
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import EXIT
from tasks.slurm.local import num_cores
from tasks.steps.launching import cores_of, default_parallel
from tasks.tracking.damage import sound_points
from tasks.tracking.study_directory import StudyDirectory

_NOT_ABOUT_SPEED = {
    "account", "time_limit", "licenses", "dependency", "requeue", "signal_before_s", "mail_user",
    "mail_type", "max_running", "max_retries", "calls_per_minute", "call_burst",
}  # fmt: skip
"""Fields of a launcher of Slurm that change nothing in what a job measures."""
_ABOUT_CLUSTER = ("SLURM_CLUSTERS", "SLURM_CONF")
_ABOUT_DEVICES = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


@task(task_run_name="reuse", cache_policy=NO_CACHE)
def reuse_points(study_dir: Path, num_parallel: int | None) -> State[str]:
    """Take over finished points of earlier studies in the same directory of runs.

    Nothing is done for a study that does not want it, nor for points that have been submitted, nor
    for those that another point of the study equals but for numbers that predictions are made from:
    on one machine, they would be one measurement.

    Args:
        study_dir: The study's directory.
        num_parallel: Local jobs at a time; None for the default.

    Returns:
        Completed, which says how many were taken over.

    Raises:
        OSError: A file of the study cannot be read or written.
        DamagedFileError: ``study.json`` is cut off, or of another version.
    """
    directory = StudyDirectory(study_dir)
    study = directory.read_study()
    note_conditions(directory, num_parallel)
    num_reused = 0
    if study.scaling is not None and study.scaling.reuse:
        earlier = Finished(directory)
        runs = sound_points(directory)
        alike = Counter(run.read_job().config_hash for run in runs)
        for run in runs:
            if alike[run.read_job().config_hash] == 1:
                num_reused += take_over(run, earlier) is not None
    return Completed(message=f"{num_reused} points taken over", data=str(study_dir))


def note_conditions(directory: StudyDirectory, num_parallel: int | None) -> None:
    """Write beside each point that has not begun what its speed will depend on.

    Args:
        directory: The study's directory.
        num_parallel: Local jobs at a time; None for the default.

    Raises:
        OSError: A file of the study cannot be read or written.
        DamagedFileError: ``study.json`` is cut off, or of another version.
    """
    study = directory.read_study()
    for run in sound_points(directory):
        if not _has_begun(run):
            write_json(run.conditions, _conditions(study, run, num_parallel))


def _conditions(study: Study, run: RunDirectory, num_parallel: int | None) -> dict[str, object]:
    launcher = study.launcher
    if isinstance(launcher, SlurmLauncherConfig):
        asked = launcher.model_dump(mode="json", exclude=_NOT_ABOUT_SPEED)
        return asked | {name: os.environ.get(name, "") for name in _ABOUT_CLUSTER}
    return {
        "kind": launcher.kind,
        "host": os.uname().nodename,
        "cores": num_cores(),
        "cores_of_job": cores_of(study, run.read_job().experiment),
        "jobs_at_a_time": num_parallel or default_parallel(study),
        **{name: os.environ.get(name, "") for name in _ABOUT_DEVICES},
    }


def _has_begun(run: RunDirectory) -> bool:
    """Whether it has been submitted, or an attempt of it has begun."""
    return run.script.exists() or bool(run.attempts())


class Finished:
    """The finished points of the other studies in a directory of runs, but those of other users.

    Args:
        directory: The study's directory; its neighbours are looked at.
    """

    def __init__(self, directory: StudyDirectory) -> None:
        self._directory = directory
        self._by_hash: dict[str, list[RunDirectory]] | None = None

    def newest(self, point: RunDirectory) -> RunDirectory | None:
        """Return the last run that has finished with a point's configuration and conditions.

        Args:
            point: The point.

        Raises:
            OSError: A file of the point cannot be read.
            DamagedFileError: It is cut off, or of another version.
        """
        if self._by_hash is None:
            self._by_hash = {}
            for found, run in self._runs():
                self._by_hash.setdefault(found, []).append(run)
        runs = self._by_hash.get(point.read_job().config_hash, [])
        alike = [run for run in runs if _read(run.conditions) == _read(point.conditions)]
        return max(alike, key=_written, default=None)

    def _runs(self) -> Iterator[tuple[str, RunDirectory]]:
        own = self._directory.path.resolve()
        for study in own.parent.glob("*/study.json"):
            directory = StudyDirectory(study.parent)
            if directory.path == own or directory.path.name.startswith("."):
                continue
            if not is_own(directory.path):
                continue
            for run in directory.points():
                try:
                    found = run.read_job().config_hash if _is_original(run) else ""
                except (OSError, DamagedFileError):
                    continue  # of another version, or being removed; it is only not taken over
                if found:
                    yield found, run


def _read(path: Path) -> bytes | None:
    """Return what a file holds; None if it is gone."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def _written(run: RunDirectory) -> float:
    try:
        return run.result.stat().st_mtime
    except OSError:
        return 0.0


def _is_original(run: RunDirectory) -> bool:
    """Whether a run has finished, and has computed its result itself, in known conditions."""
    if not run.conditions.exists():
        return False
    result = run.read_result() if run.result.exists() and not run.reused.exists() else None
    is_finished = result is not None and result.status == "finished"
    return is_finished and bool(run.attempts()) and (run.attempts()[-1] / EXIT).exists()


def take_over(run: RunDirectory, earlier: Finished) -> RunDirectory | None:
    """Make the result of an earlier run that of a point, if there is one and the point has none.

    What is measured is copied, so that the earlier run can be removed; checkpoints and models are
    not.

    Args:
        run: The point.
        earlier: Where to look.

    Returns:
        The earlier run; None if nothing was taken over now.

    Raises:
        OSError: A file cannot be read or written.
        DamagedFileError: A file of the point is cut off, or of another version.
    """
    reused = run.read_reused()
    if run.predicted_only.exists() or (reused is None and _has_begun(run)):
        return None
    if reused is not None and run.result.exists():
        return None
    found = earlier.newest(run)
    if reused is not None:  # a copy that was cut off
        _undo(run)
    if found is None:
        return None
    try:
        _copy(found, run)
    except DamagedFileError:  # nothing was copied
        return None
    except OSError:
        if found.result.exists():
            raise
        _undo(run)  # the earlier run is being removed
        return None
    return found


def _copy(found: RunDirectory, run: RunDirectory) -> None:
    ended = load_record(Exit, found.attempts()[-1] / EXIT)
    source = Reused(
        source=str(found.path.resolve()),
        study=found.path.parent.parent.name,
        finished_ms=ended.timestamp_ms,
    )
    write_json(run.reused, source.model_dump(mode="json"))
    shutil.copytree(found.path / "attempts", run.path / "attempts", dirs_exist_ok=True)
    for path, target in ((found.journal, run.journal), (found.costs, run.costs)):
        if path.exists():
            shutil.copy2(path, target)
    write_atomically(run.result, found.result.read_bytes())  # last: it is whole now


def _undo(run: RunDirectory) -> None:
    shutil.rmtree(run.path / "attempts", ignore_errors=True)
    for path in (run.journal, run.costs, run.reused):
        path.unlink(missing_ok=True)
