"""From what a flow was given to a study that can run here, with what is to be said about it."""

from collections.abc import Sequence
from pathlib import Path

from prefect import State
from prefect.logging import get_run_logger
from prefect.states import Failed

from configs.base import Fault
from configs.checks import check_study
from configs.form_base import StudyForm
from configs.loading import ConfigError
from configs.scaling import ScalingStudy
from configs.study import Study
from tasks.runtime.errors import DamagedFileError
from tasks.runtime.ownership import foreign_fault
from tasks.steps.launching import launch_faults
from tasks.steps.predictability import predictability
from tasks.tracking.study_directory import StudyDirectory


def resolved(
    given: StudyForm | Study | ScalingStudy,
    *,
    study_dir: Path | None = None,
    points: Sequence[int] | None = None,
) -> Study | list[Fault]:
    """Turn what a flow was given into a study, and check it as the command line does.

    Warnings and notes go to the log of the flow run.

    Args:
        given: A form, or a study.
        study_dir: A directory that was made before: its study, which was checked then, is taken.
        points: Numbers of the points to run, from 0; None for all.

    Returns:
        The study; or all that is wrong with it, never empty.
    """
    try:
        study = _study_in(study_dir) if study_dir else _asked_for(given)
    except ConfigError as error:
        return error.faults
    faults = [] if study_dir else checked(study)
    return [*faults, *_unknown(study, points or ()), *launch_faults(study)] or study


def _asked_for(given: StudyForm | Study | ScalingStudy) -> Study:
    return given if isinstance(given, Study) else given.study()


def _study_in(study_dir: Path) -> Study:
    """Read the study of a directory.

    Raises:
        ConfigError: There is none, or it is another user's.
    """
    try:
        study = StudyDirectory(study_dir).read_study()
        if not (problem := foreign_fault(study_dir)):
            return study
    except OSError as error:
        reason = error.strerror or str(error)
        problem = f"{study_dir} is no directory of a study (study.json: {reason})"
    except DamagedFileError as fault:
        problem = str(fault)
    message = f"{problem}; empty: a new one"
    raise ConfigError("study_dir", [Fault(path="study_dir", message=message)])


def _unknown(study: Study, points: Sequence[int]) -> list[Fault]:
    last = len(study.points()) - 1
    if not (unknown := [str(number) for number in points if number > last]):
        return []
    found = ", ".join(unknown)
    message = f"there is no point {found}; those of {study.name} are 0 to {last}"
    return [Fault(path="points", message=message)]


def checked(study: Study) -> list[Fault]:
    """Check a study against the machine; log what is to be said about it.

    Args:
        study: The study.

    Returns:
        Why it cannot run; what only Slurm can tell is not asked for.
    """
    findings, predictable = check_study(study), predictability(study)
    log = get_run_logger()
    for note in (*findings.notes, *predictable.notes):
        log.info("note: %s", note)
    for warning in findings.warnings:
        log.warning("warning: %s", warning)
    return [*findings.faults, *predictable.faults]


def refused(faults: Sequence[Fault]) -> State[str]:
    """Return the state of a flow run whose parameters are faulty: ``field: reason; ...``.

    Args:
        faults: What is wrong.
    """
    return Failed(message="; ".join(map(str, faults)), data="")
