"""Where a study's files are, and how to open it in MLflow and Prefect."""

import os
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from configs.directories import RUNS_DIR_VARIABLE, runs_directory
from flows.environment import chosen_api, flow_environment, has_own_prefect, servers_up
from tasks.services.errors import ServicesError
from tasks.services.plan import MLFLOW_LOG
from tasks.services.pools import checkout
from tasks.services.state import Services
from tasks.services.web import is_loopback
from tasks.steps.flow_record import FlowRecord
from tasks.tracking.addresses import LOCAL, opening_command, server_address
from tasks.tracking.study_directory import StudyDirectory

PREFECT_ADDRESS = "http://127.0.0.1:4200"

_IN_MLFLOW, _IN_PREFECT = "Compare in MLflow", "Prefect"
_PROBE_S = 0.5

Pointer = tuple[str, str]
"""Label and text; an empty label continues the line above."""


def pointers(
    directory: StudyDirectory, record: FlowRecord | None, environment: Mapping[str, str]
) -> list[Pointer]:
    """Say where the files are and how to open MLflow and Prefect.

    Args:
        directory: The study's directory.
        record: Of the newest flow run; None if the flow has never begun.
        environment: Environment variables, which may name servers of the user's own.

    Returns:
        What to print. Where servers are up, addresses; else the command that starts them first.
    """
    told = _files(directory)
    if record is None:
        return told
    runs_dir = directory.path.resolve().parent
    mlflow, mlflow_needs = _mlflow(record, runs_dir)
    prefect, prefect_needs = _prefect(record, runs_dir, environment)
    if not (mlflow_needs or prefect_needs):
        return [*told, *mlflow, *prefect]
    if starting := _starting_command(runs_dir, environment):
        addresses = (*(mlflow_needs or mlflow), *(prefect_needs or prefect))
        return [*told, ("Servers", starting), *addresses]
    return [*told, *mlflow, *prefect]


def _files(directory: StudyDirectory) -> list[Pointer]:
    figures = [directory.scaling, directory.scaling_split, directory.curves]
    figures += [directory.speedup, directory.time_split]
    drawn = [path for path in figures if path.exists()]
    found = [
        *(("" if number else "Figure", path) for number, path in enumerate(drawn)),
        ("Interactive", directory.scaling_page),
        ("Report", directory.report),
        ("Directory", directory.path),
    ]
    return [(label, os.path.relpath(path)) for label, path in found if path.exists()]


def _starting_command(runs_dir: Path, environment: Mapping[str, str]) -> str:
    """Return how to start the servers of these runs; empty if that cannot be done from here."""
    try:
        checkout()
    except ServicesError:  # installed without prefect.yaml
        return ""
    usual = Path(environment.get(RUNS_DIR_VARIABLE) or runs_directory()).expanduser().resolve()
    data = "" if usual == runs_dir else f" --data {shlex.quote(os.path.relpath(runs_dir))}"
    return f"{program('watershed')} up{data}"


def _mlflow(record: FlowRecord, runs_dir: Path) -> tuple[list[Pointer], list[Pointer]]:
    """Return how to open the comparison, and how after ``watershed up`` if that would show it."""
    if not record.comparison:
        return [], []
    services = servers_up(runs_dir)
    if _is_of_up(record.tracking_uri, runs_dir, services):
        if services is not None:
            return [(_IN_MLFLOW, f"{services.mlflow}{record.comparison}")], []
        needs = [(_IN_MLFLOW, f"then open {LOCAL}{record.comparison}")]
    else:
        needs = []
    if server := server_address(record.tracking_uri):
        return [(_IN_MLFLOW, f"{server}{record.comparison}")], needs
    command = opening_command(record.tracking_uri, program("mlflow"))
    return [(_IN_MLFLOW, command), ("", f"then open {LOCAL}{record.comparison}")], needs


def _is_of_up(tracking_uri: str, runs_dir: Path, services: Services | None) -> bool:
    """Whether a store is what ``watershed up`` serves in a directory.

    It is so by its file; and by an address of this machine at which nothing answers any more, if
    there has been an ``up`` here: the next one may have another port.
    """
    if services is not None and services.is_external:
        return False
    if tracking_uri == f"sqlite:///{runs_dir}/mlflow.db":
        return True
    parts = urlsplit(server_address(tracking_uri))
    if not is_loopback(parts.hostname or "") or not (runs_dir / MLFLOW_LOG).exists():
        return False
    return not _listens(parts.hostname or "", parts.port or 80)


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), _PROBE_S).close()
    except OSError:
        return False
    return True


def _prefect(
    record: FlowRecord, runs_dir: Path, environment: Mapping[str, str]
) -> tuple[list[Pointer], list[Pointer]]:
    """Return how to open the flow run, and how after ``watershed up`` if that would show it."""
    address = f"/runs/flow-run/{record.flow_run_id}"
    used = chosen_api(flow_environment(runs_dir, environment))  # that of `watershed up`, say
    if used or has_own_prefect(environment):
        api = used or f"{PREFECT_ADDRESS}/api"
        server = environment.get("PREFECT_UI_URL", server_address(api).removesuffix("/api"))
        return [(_IN_PREFECT, f"{server}{address}")], []
    opening = f"then open {PREFECT_ADDRESS}{address}"
    home = shlex.quote(str(runs_dir / "prefect"))
    command = f"PREFECT_HOME={home} {program('prefect')} server start"
    return [(_IN_PREFECT, command), ("", opening)], [(_IN_PREFECT, opening)]


def program(name: str) -> str:
    """Return how to call a program of this environment: by its name if the shell finds it there.

    As a shell reads it, so that it can be pasted.
    """
    installed = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    if found is not None and Path(found).resolve() == installed.resolve():
        return name
    return shlex.quote(min(os.path.relpath(installed), str(installed), key=len))
