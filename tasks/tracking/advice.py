"""The end of a report, in words: what went wrong, what to know, what to run next."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from configs.federated import FederatedExperiment
from configs.study import Study
from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.addresses import opening_command, server_address
from tasks.tracking.axes import SEED_AXES
from tasks.tracking.cursor import read_untaken
from tasks.tracking.history import GOOD
from tasks.tracking.rows import Row
from tasks.tracking.study_directory import StudyDirectory
from tasks.tracking.views import CLOCKS

_MOST_UNTRACKED = 5


def failures(rows: Sequence[Row], unit: str) -> str:
    """Say which runs have failed, were interrupted or cannot be read, and why.

    Args:
        rows: The runs.
        unit: Of the x-axis: round or train step.

    Returns:
        The section in Markdown; empty if there is none. So with all of this module.
    """
    told = [
        f"- **{row.label}** {row.state} at {unit} {row.rounds}: {row.message or 'no reason given'}"
        for row in rows
        if row.state in {"failed", "interrupted"}
    ]
    told += [f"- **{row.label}** damaged: {row.message}" for row in rows if row.state == "damaged"]
    return "## What went wrong\n\n" + "\n".join(told) if told else ""


def warnings(rows: Sequence[Row]) -> str:
    """List what the runs warn of, each once with the runs that do.

    Args:
        rows: The runs.
    """
    labels: dict[str, list[str]] = {}
    for row in rows:
        for warning in row.warnings:
            labels.setdefault(warning, []).append(row.label)
    told = [
        f"- {warning} ({_some(where)})" if len(rows) > 1 else f"- {warning}"
        for warning, where in labels.items()
    ]
    return "## Warnings\n\n" + "\n".join(told) if told else ""


def untracked(directory: StudyDirectory, rows: Sequence[Row]) -> str:
    """List the points of which MLflow's artifact store has not taken all files, and why.

    Args:
        directory: The study's directory.
        rows: Its runs.
    """
    found = {row.label: read_untaken(RunDirectory(Path(row.directory))) for row in rows}
    told = [f"- **{label}**: {reason}" for label, reason in found.items() if reason]
    if not told:
        return ""
    if len(told) > _MOST_UNTRACKED:
        told = [*told[:_MOST_UNTRACKED], f"- and {len(told) - _MOST_UNTRACKED} other runs"]
    where = shlex.quote(os.path.relpath(directory.path))
    remedy = f"`watershed resume {where}` sends it when that is mended."
    return "\n".join(["## What MLflow has not got\n", *told, "", f"All is here on disk. {remedy}"])


def _some(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - 3} more" if len(labels) > 3 else ""
    return ", ".join(labels[:3]) + more


def next_steps(
    directory: StudyDirectory, study: Study, rows: Sequence[Row], tracking_uri: str | None
) -> str:
    """Say what to run next.

    Args:
        directory: The study's directory.
        study: The study.
        rows: Its runs.
        tracking_uri: Where they are tracked, for the command that shows them.
    """
    where = shlex.quote(os.path.relpath(directory.path))
    told = []
    if failed := [row for row in rows if row.state == "failed"]:
        run = shlex.quote(os.path.relpath(failed[0].directory))
        told.append(f"Look at a failure: `watershed show {run}`")
    if any(row.state not in GOOD | {"damaged"} for row in rows) or not rows:
        told.append(f"Continue what has not finished: `watershed resume {where}`")
    refused = [row.label for row in rows if row.num_refused]
    if refused and isinstance(study.experiment, FederatedExperiment):
        told.append(
            f"Returns were refused as not finite in {_some(refused)}: try half the rate, `--set "
            f"worker.lr={study.experiment.worker.lr / 2:g}`"
        )
    if floors := [row.label for row in rows if row.rate_high is not None and row.rate_high >= 0]:
        told.append(
            f"No descent of the gradient norm is certain in {_some(floors)} (the interval of b "
            "reaches 0). Noise or bias? Halve `algorithm.server_lr`: a floor of noise falls with "
            "it, one of bias stays"
        )
    is_measured = any(row.state != "predicted" for row in rows)
    if len(rows) > 1 and is_measured and not any(name in SEED_AXES for name in study.grid):
        told.append(
            "One seed a point does not tell a difference from chance: add "
            + ("`repeats: 3`" if study.scaling else "`seed: [0, 1, 2]` to the grid")
        )
    if tracking_uri:
        told.append(_how_to_compare(study, tracking_uri))
    return "## What to run next\n\n" + "\n".join(f"- {text}." for text in told) if told else ""


def _how_to_compare(study: Study, tracking_uri: str) -> str:
    words, metric = next(iter(CLOCKS[study.experiment.kind].items()))
    clock = f"X-axis: Metric, `{metric}` compares by {words} instead of {study.experiment.unit}s"
    if server := server_address(tracking_uri):
        return f"Compare in MLflow: {server}, experiment `{study.name}`; {clock}"
    return (
        f"Compare in MLflow: `{opening_command(tracking_uri)}`, experiment `{study.name}`; {clock}"
    )
