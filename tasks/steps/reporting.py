"""The step that reports on a study."""

import base64
import contextlib
import re
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.runtime.run_directory import RunDirectory
from tasks.steps.artifacts import SHOWN
from tasks.tracking.addresses import artifact_address, server_address
from tasks.tracking.cursor import read_cursor
from tasks.tracking.errors import TrackingError
from tasks.tracking.report import write_report
from tasks.tracking.study_directory import StudyDirectory

_FIGURE = re.compile(r"\]\((?P<name>[\w.-]+\.png)\)")
_PAGE = re.compile(r"\[(?P<told>[^\]]*)\]\((?P<name>[\w.-]+\.html)\)")


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
        DamagedFileError: ``study.json`` is cut off, or of another version.
    """
    report = write_report(study_dir, tracking_uri=tracking_uri)
    name = StudyDirectory(study_dir).read_study().name
    text = with_figures(report.read_text(encoding="utf-8"), study_dir)
    text = with_pages(text, study_dir, tracking_uri)
    SHOWN.markdown(text, f"Report of {study_dir.name}", artifact_key(name))
    return report


def artifact_key(name: str) -> str:
    """Return a name as Prefect wants keys: lower-case letters, digits and dashes.

    Args:
        name: Any text.
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "study"


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


def with_pages(markdown: str, directory: Path, tracking_uri: str) -> str:
    """Let a report lead to its interactive page from wherever it is shown.

    Args:
        markdown: The report; its pages are HTML files named relative to it.
        directory: Where it lies, the study's.
        tracking_uri: Where its runs are tracked.

    Returns:
        The report with the pages at MLflow's server; where there is none, or it does not have the
        study, their paths.
    """
    server, run_id = server_address(tracking_uri), ""
    if server:
        with contextlib.suppress(TrackingError):
            run_id = read_cursor(RunDirectory(directory), tracking_uri).run_id

    def found(match: re.Match[str]) -> str:
        if run_id:
            return f"[{match['told']}]({server}/{artifact_address(match['name'], run_id)})"
        return f"`{directory / match['name']}`"

    return _PAGE.sub(found, markdown)
