"""A ``watershed`` process of a user of a test cluster."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.tracking.study_directory import StudyDirectory
from tests.cluster.slurm_cluster import SlurmCluster

WATERSHED = Path(sys.executable).with_name("watershed")


def user_environment(
    cluster: SlurmCluster, home: Path, *, prefect_api: str | None = None
) -> dict[str, str]:
    """Return the environment of a user who has never used Prefect, MLflow or Watershed.

    Args:
        cluster: Where the user submits.
        home: The user's home.
        prefect_api: A Prefect server, if there is one.
    """
    hidden = ("PREFECT_", "MLFLOW_", "SLURM_", "WATERSHED_", "COV_", "XDG_")
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(hidden)}
    chosen = {"PREFECT_API_URL": prefect_api} if prefect_api else {}
    return inherited | cluster.environment() | {"HOME": str(home), "OMP_NUM_THREADS": "1"} | chosen


@contextmanager
def running(
    arguments: list[str], directory: Path, environment: dict[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run ``watershed`` for the time of a block; its output goes to ``watershed.log``.

    Args:
        arguments: Of the command.
        directory: Where it runs.
        environment: Its environment.

    Yields:
        The process; it is killed at the end.
    """
    with (directory / "watershed.log").open("ab") as log:
        process = subprocess.Popen(
            [WATERSHED, *arguments], cwd=directory, env=environment, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def only_study(directory: Path, name: str) -> StudyDirectory:
    """Return the one run of a study.

    Args:
        directory: Where it was started.
        name: Name of the study.

    Raises:
        ValueError: There is none, or more than one.
    """
    (path,) = directory.glob(f"runs/{name}-*")
    return StudyDirectory(path)


def logs(directory: Path) -> str:
    """Return the ends of the command's and the flows' logs, for the message of a failure.

    Args:
        directory: Where they ran.
    """
    paths = [directory / "watershed.log", *sorted(directory.glob("runs/*/flow.log"))]
    return "\n".join(f"--- {path}\n{path.read_text()[-3000:]}" for path in paths if path.exists())
