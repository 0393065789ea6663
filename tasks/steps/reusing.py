"""The step that takes over what an earlier study has finished already."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from prefect import State, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed
from pydantic import ValidationError

from configs.launchers import LauncherConfig, SlurmLauncherConfig
from tasks.runtime.atomic_files import write_atomically, write_json
from tasks.runtime.records import Exit, Reused
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import EXIT
from tasks.tracking.machine import machine_of
from tasks.tracking.study_directory import StudyDirectory

_ABOUT_SPEED = (
    "partition",
    "constraint",
    "cpus_per_task",
    "gpus_per_node",
    "gpu_type",
    "exclusive",
    "modules",
    "environment",
    "setup",
    "container",
    "python",
)
"""Fields of a launcher of Slurm that change how fast a job is, or what computes it."""


@task(task_run_name="reuse", cache_policy=NO_CACHE)
def reuse_points(study_dir: Path) -> State[str]:
    """Take over finished points of earlier studies in the same directory of runs.

    Nothing is done for a study that does not want it, nor for points that have run themselves.

    Args:
        study_dir: The study's directory.

    Returns:
        Completed, which says how many were taken over.

    Raises:
        OSError: A file of the study cannot be read or written.
        ValidationError: A file of the study is not what it should be.
    """
    directory = StudyDirectory(study_dir)
    study = directory.read_study()
    num_reused = 0
    if study.scaling is not None and study.scaling.reuse:
        earlier = Finished(directory)
        for run in directory.points():
            num_reused += take_over(run, earlier) is not None
    return Completed(message=f"{num_reused} points taken over", data=str(study_dir))


class Finished:
    """The finished points of earlier studies that were run as a study is to be run.

    Args:
        directory: The study's directory; its neighbours are looked at.

    Raises:
        OSError: The study cannot be read.
        ValidationError: It is no study.
    """

    def __init__(self, directory: StudyDirectory) -> None:
        self._directory = directory
        self._launcher = directory.read_study().launcher
        self._by_hash: dict[str, list[RunDirectory]] | None = None

    def newest(self, config_hash: str) -> RunDirectory | None:
        """Return the run of a configuration that finished last; None if none has.

        Args:
            config_hash: Of the configuration.
        """
        if self._by_hash is None:
            self._by_hash = {}
            for found, run in self._runs():
                self._by_hash.setdefault(found, []).append(run)
        runs = self._by_hash.get(config_hash, [])
        return max(runs, key=lambda run: run.result.stat().st_mtime, default=None)

    def _runs(self) -> Iterator[tuple[str, RunDirectory]]:
        own = self._directory.path.resolve()
        for study in own.parent.glob("*/study.json"):
            directory = StudyDirectory(study.parent)
            if directory.path == own or directory.path.name.startswith("."):
                continue
            try:
                if _how_fast(directory.read_study().launcher) != _how_fast(self._launcher):
                    continue
                runs = [run for run in directory.points() if _is_original(run)]
                for run in runs:
                    if self._launcher.kind == "slurm" or _ran_here(run):
                        yield run.read_job().config_hash, run
            except (OSError, ValidationError):
                continue  # of another version, or being removed; it is only not taken over


def _how_fast(launcher: LauncherConfig) -> dict[str, object]:
    asked = launcher.model_dump(mode="json")
    if not isinstance(launcher, SlurmLauncherConfig):
        return {"kind": launcher.kind}
    return {"kind": launcher.kind, **{name: asked[name] for name in _ABOUT_SPEED}}


def _is_original(run: RunDirectory) -> bool:
    """Whether a run has finished, and has computed its result itself."""
    result = run.read_result() if run.result.exists() and not run.reused.exists() else None
    is_finished = result is not None and result.status == "finished"
    return is_finished and bool(run.attempts()) and (run.attempts()[-1] / EXIT).exists()


def _ran_here(run: RunDirectory) -> bool:
    return machine_of(run) == f"local: {os.uname().nodename}"


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
        ValidationError: A file of the point is not what it should be.
    """
    reused = run.read_reused()
    if run.predicted_only.exists() or (run.attempts() and reused is None):
        return None
    if reused is not None and run.result.exists():
        return None
    found = earlier.newest(run.read_job().config_hash)
    if reused is not None:  # a copy that was cut off
        _undo(run)
    if found is None:
        return None
    ended = Exit.model_validate_json((found.attempts()[-1] / EXIT).read_bytes())
    source = Reused(
        source=str(found.path.resolve()),
        study=found.path.parent.parent.name,
        finished_ms=ended.timestamp_ms,
    )
    write_json(run.reused, source.model_dump(mode="json"))
    shutil.copytree(found.path / "attempts", run.path / "attempts")
    for path, target in ((found.journal, run.journal), (found.costs, run.costs)):
        if path.exists():
            shutil.copy2(path, target)
    write_atomically(run.result, found.result.read_bytes())  # last: it is whole now
    return found


def _undo(run: RunDirectory) -> None:
    shutil.rmtree(run.path / "attempts", ignore_errors=True)
    for path in (run.journal, run.costs, run.reused):
        path.unlink(missing_ok=True)
