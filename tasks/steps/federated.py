"""Steps of a federated study: run one grid point, report on all of them."""

import base64
import re
from collections.abc import Sequence
from pathlib import Path

from prefect import State, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Cancelled, Completed, Failed

from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import STARTED
from tasks.slurm.launcher import JobId, JobState, Launcher
from tasks.tracking.report import write_report
from tasks.tracking.study_directory import StudyDirectory

_WAIT_S = 60.0
_FIGURE = re.compile(r"\]\((?P<name>[\w.-]+\.png)\)")


@task(task_run_name="{label}", cache_policy=NO_CACHE)
def run_point(
    label: str,  # noqa: ARG001  names the task run
    run_dir: Path,
    launcher: Launcher,
    job: JobId,
) -> State[str]:
    """Wait for the job of one grid point.

    Args:
        label: What varies at the point; the task run is named so.
        run_dir: The run directory, with ``job.json``.
        launcher: Where it was submitted.
        job: Its id there.

    Returns:
        The task's state, whose data is how the job ended; a failed one says why.
    """
    directory = RunDirectory(run_dir)
    while not (state := launcher.wait(job, _WAIT_S)).is_final:
        pass
    result = directory.read_result()
    message = last_word(directory, state)
    if state is JobState.FINISHED:
        return Completed(message=f"{result.rounds} rounds" if result else None, data=state.value)
    if state is JobState.INTERRUPTED:
        return Cancelled(message=message, data=state.value)
    return Failed(message=message or f"see {directory.stdout}", data=state.value)


def last_word(directory: RunDirectory, state: JobState) -> str:
    """Say why a point is not finished.

    Args:
        directory: Its run directory.
        state: How its job has ended, for the launcher.

    Returns:
        The result's message; if only an earlier attempt has left a result, what is known without.
    """
    result, attempts = directory.read_result(), directory.attempts()
    if result and result.status == state.value and not _is_older(directory.result, attempts):
        return result.message
    if state is not JobState.INTERRUPTED:
        return ""
    return "not known to have stopped; run: watershed cancel" if attempts else "not started"


def _is_older(path: Path, attempts: Sequence[Path]) -> bool:
    """Whether a file was written before the newest attempt began."""
    try:
        return bool(attempts) and path.stat().st_mtime < (attempts[-1] / STARTED).stat().st_mtime
    except OSError:
        return False


@task(task_run_name="report", cache_policy=NO_CACHE)
def report_study(study_dir: Path, tracking_uri: str) -> Path:
    """Write a study's report and figures, and show them in Prefect.

    Args:
        study_dir: The study's directory.
        tracking_uri: Where its runs are tracked.

    Returns:
        The report.

    Raises:
        OSError: A file cannot be read or written.
        ValidationError: A file of the study is not what it should be.
    """
    report = write_report(study_dir, tracking_uri=tracking_uri)
    name = StudyDirectory(study_dir).read_study().name
    create_markdown_artifact(
        key=re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "study",
        markdown=with_figures(report.read_text(encoding="utf-8"), study_dir),
        description=f"Report of {study_dir.name}",
    )
    return report


def with_figures(markdown: str, directory: Path) -> str:
    """Put the figures of a report into its text, so that it can be shown anywhere.

    Args:
        markdown: The report; its figures are PNG files named relative to it.
        directory: Where it lies.

    Returns:
        The report with the figures as data URIs; a figure that is not there stays a name.
    """

    def embedded(match: re.Match[str]) -> str:
        try:
            image = (directory / match["name"]).read_bytes()
        except OSError:
            return match[0]
        return f"](data:image/png;base64,{base64.b64encode(image).decode()})"

    return _FIGURE.sub(embedded, markdown)
