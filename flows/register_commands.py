"""The command that registers a model: ``watershed register``."""

import os
from pathlib import Path
from typing import Annotated

import typer

from flows.arguments import EXIT_CONFIGURATION, EXIT_FAILED, RunsDir, give_up
from flows.environment import flow_environment
from flows.finding_points import find_runs
from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.addresses import hidden_password
from tasks.tracking.cursor import read_cursor
from tasks.tracking.errors import TrackingError
from tasks.tracking.tables import scaled

REGISTER_EXAMPLE = "Example:  watershed register digits/4 --name digits-classifier --alias champion"


def register(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN[/POINT]",
            help="A run's directory or name, or a study's name, with the point behind a slash (its "
            "number, label or directory) where there are several.",
        ),
    ],
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Of the registered model in MLflow.")
    ],
    runs_dir: RunsDir = Path("runs"),
    *,
    alias: Annotated[
        str,
        typer.Option(metavar="ALIAS", help="That points to this version from now on: champion."),
    ] = "",
) -> None:
    """Register the model of a finished run in MLflow, to be served by its name.

    Exit codes: 0 registered, 1 MLflow does not answer or refuses, 2 a wrong name, or no model.
    """
    try:
        directory = _one(*find_runs(run, runs_dir))
        job = directory.read_job()
    except LookupError as error:
        give_up(str(error.args[0]), EXIT_CONFIGURATION)
    if job.experiment.kind == "training" and directory.model.is_file():
        _check_size(run, directory)
    try:
        version = _registered(directory, name, alias=alias, runs_dir=runs_dir)
    except TrackingError as error:
        give_up(f"not registered: {error}", EXIT_FAILED)
    typer.echo(f"{job.study}, {job.point}: version {version} of {name}")
    typer.echo(
        f"Load it as models:/{name}/{version}" + (f" or models:/{name}@{alias}" * bool(alias))
    )


def _one(found: str, runs: list[RunDirectory]) -> RunDirectory:
    """Return the only run; say which there are if it is not clear which is meant.

    Raises:
        LookupError: There are several, or none.
    """
    if len(runs) == 1:
        return runs[0]
    names = ", ".join(run.path.name for run in runs[:8]) + ", ..." * (len(runs) > 8)
    raise LookupError(f"{found} has {len(runs)} points; name one as {found}/POINT: {names}")


def _check_size(run: str, directory: RunDirectory) -> None:
    """End the command where a training's model is larger than those that are logged."""
    from tasks.tracking.served_models import MOST_BYTES  # noqa: PLC0415  it loads numpy

    size = directory.model.stat().st_size
    if size > MOST_BYTES:
        give_up(
            f"the model of {run} has {scaled(size, 'B')}, and trainings' are logged up to "
            f"{scaled(MOST_BYTES, 'B')}: it stays where it is, {directory.model}",
            EXIT_CONFIGURATION,
        )


def _registered(directory: RunDirectory, name: str, *, alias: str, runs_dir: Path) -> str:
    """Register the model of a run, and return its version.

    Raises:
        TrackingError: The run is not in MLflow, or MLflow is not there, or refuses.
    """
    from tasks.tracking.model_store import register_model  # noqa: PLC0415  it is rarely needed
    from tasks.tracking.store import default_tracking_uri, open_store  # noqa: PLC0415

    os.environ |= flow_environment(runs_dir, os.environ)  # MLflow reads its login from there
    uri = os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(runs_dir)
    cursor = read_cursor(directory, uri)
    if not cursor.run_id:
        message = (
            f"{directory.path} was not sent to {hidden_password(uri)}; watershed resume sends it"
        )
        raise TrackingError(message, permanent=True)
    job = directory.read_job()
    tags = {
        "watershed.study": job.study,
        "watershed.point": job.point,
        "watershed.config_hash": job.config_hash,
    }
    return register_model(open_store(uri), cursor.run_id, name, tags=tags, alias=alias)
