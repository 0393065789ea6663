"""From what a flow was given to a study that can run here, with what is to be said about it."""

from collections.abc import Sequence

from prefect import State
from prefect.logging import get_run_logger
from prefect.states import Failed

from configs.base import Fault
from configs.checks import check_study
from configs.form_base import StudyForm
from configs.loading import ConfigError
from configs.scaling import ScalingStudy
from configs.study import Study
from tasks.steps.launching import launch_faults
from tasks.steps.predictability import predictability


def resolved(given: StudyForm | Study | ScalingStudy, *, is_new: bool) -> Study | list[Fault]:
    """Turn what a flow was given into a study, and check it as the command line does.

    Warnings and notes go to the log of the flow run.

    Args:
        given: A form, or a study.
        is_new: Whether the study has no directory yet; one that has was checked before.

    Returns:
        The study; or all that is wrong with it, never empty.
    """
    try:
        study = given if isinstance(given, Study) else given.study()
    except ConfigError as error:
        return error.faults
    faults = [*checked(study), *launch_faults(study)] if is_new else []
    return faults or study


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
