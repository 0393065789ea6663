"""The environment of a flow run's process: what is written down for it, and what never is.

A job of Slurm inherits the environment of whoever calls sbatch, which is whichever process of the
user leads (see ``tasks.slurm.leader``): perhaps another worker, of another Prefect. So nothing of
Prefect is taken from there. What may be read by others stands in ``job.json``; secrets are read on
the node, from the user's Prefect profile (by Prefect) or from a file of mode 600 (here).
"""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from configs.launchers import Apptainer, Container, Pyxis, SlurmResources
from configs.scripts import environment_faults
from tasks.prefect_slurm.records import FlowRunJob
from tasks.runtime.fence import ATTEMPT_VARIABLE, RUN_VARIABLE
from tasks.slurm.redaction import redact

_OF_PREFECT = "PREFECT_"
_OF_THE_SERVER = re.compile(r"PREFECT_(SERVER|API_DATABASE|API_SERVICES|UI)_")
_ALWAYS_SECRET = {"PREFECT_CLIENT_CUSTOM_HEADERS"}
_OF_OUR_JOB = {
    # Python's guard of our own modules; the flow's may lie in its working directory.
    "PYTHONSAFEPATH",
    # Of this job alone: a job that the flow submits inherits what the flow has.
    "WATERSHED_SUBMISSION",
    ATTEMPT_VARIABLE,
    RUN_VARIABLE,
}
_OF_THE_WORKER = ("WATERSHED_RUNS_DIR", "WATERSHED_STATE_DIR", "MLFLOW_TRACKING_URI")
"""Where the worker's user keeps runs, ledgers and MLflow: the same for flows in jobs."""
_MOUNT_HOME = "--container-mount-home"
_NO_HOME = frozenset({"--no-home", "--contain", "-c", "--containall", "-C"})
_LINE = re.compile(r"(?:export\s+)?(?P<name>[A-Za-z_]\w*)=(?P<value>.*)")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class UnsafeFile(Exception):  # noqa: N818  an error all the same
    """A file of secrets is absent, readable by others, or no such file."""


def is_secret(name: str, value: str) -> bool:
    """Say whether a variable must stand in no file of ours.

    Args:
        name: The variable.
        value: Its value; an address may hold a password.
    """
    return name in _ALWAYS_SECRET or bool(list(environment_faults({name: value})))


def written_down(settings: Mapping[str, str]) -> dict[str, str]:
    """Return those of Prefect's settings that a job is told in ``job.json``.

    Args:
        settings: Variable -> value, of the worker.

    Returns:
        Those that are no secrets and do not concern a server alone.
    """
    return {
        name: value
        for name, value in settings.items()
        if not _OF_THE_SERVER.match(name) and not is_secret(name, value)
    }


def places(own: Mapping[str, str]) -> dict[str, str]:
    """Return where a worker's flows are to keep what they make.

    Args:
        own: The worker's environment.

    Returns:
        Those of the variables that are set, and whose value holds no password.
    """
    found = {name: own[name] for name in _OF_THE_WORKER if name in own}
    return {name: value for name, value in found.items() if redact(value) == value}


def hidden_home(container: Container | None) -> str:
    """Say why a job's container does not see the user's home, and with it the Prefect profile.

    Args:
        container: What the job runs in; None for none.

    Returns:
        Why, for people; empty if it sees it, as Apptainer's do unless told otherwise.
    """
    if isinstance(container, Pyxis) and _MOUNT_HOME not in container.flags:
        return f"Pyxis mounts no home without the flag {_MOUNT_HOME}"
    if isinstance(container, Apptainer) and (found := _NO_HOME.intersection(container.flags)):
        return f"Apptainer mounts no home with {' '.join(sorted(found))}"
    return ""


def with_secrets_file(resources: SlurmResources, path: Path | None) -> SlurmResources:
    """Have a file of secrets seen inside the container of a job.

    Args:
        resources: What the job asks for.
        path: The file; None for none.
    """
    container = resources.container
    if container is None or path is None:
        return resources
    bind = f"{path}:{path}:ro"
    if isinstance(container, Pyxis):
        changed: Container = container.model_copy(update={"mounts": (*container.mounts, bind)})
    else:
        changed = container.model_copy(update={"binds": (*container.binds, bind)})
    return resources.model_copy(update={"container": changed})


def unreachable_secrets(
    settings: Mapping[str, str],
    own: Mapping[str, str],
    elsewhere: Mapping[str, str],
    *,
    is_home_hidden: bool = False,
) -> list[str]:
    """Find the secrets of a worker that its jobs would not have.

    Args:
        settings: Prefect's settings of the worker, from wherever they are.
        own: The worker's environment.
        elsewhere: What a job reads on its node: the user's profile and the file of secrets.
        is_home_hidden: Whether it cannot read the profile, so that this counts for nothing.

    Returns:
        The variables that stand in the worker's environment alone, or in a profile that the job
        does not see, sorted.
    """
    return sorted(
        name
        for name, value in settings.items()
        if (name in own or is_home_hidden)
        and name not in elsewhere
        and not _OF_THE_SERVER.match(name)
        and is_secret(name, value)
    )


def read_secrets(path: Path) -> dict[str, str]:
    """Read a file of secrets.

    Args:
        path: The file; lines are ``NAME=VALUE``, empty, or begin with ``#``. Quotes around a value
            are taken off.

    Returns:
        Variable -> value.

    Raises:
        UnsafeFile: It is not there, others may read it, or a line is none of these; values are not
            repeated in the message.
    """
    try:
        with path.open(encoding="utf-8") as file:
            found = os.fstat(file.fileno())
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UnsafeFile(
            f"secrets_file {path} cannot be read ({error}); it must lie on a file system that the "
            "nodes share"
        ) from error
    if found.st_uid != os.getuid() or found.st_mode & _OTHERS:
        raise UnsafeFile(
            f"secrets_file {path} is readable by others (mode {stat.S_IMODE(found.st_mode):o}), or "
            f"not yours; run: chmod 600 {path}"
        )
    secrets = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise UnsafeFile(f"secrets_file {path}, line {number}, is not NAME=VALUE")
        secrets[match["name"]] = _unquoted(match["value"])
    return secrets


def child_environment(own: Mapping[str, str], job: FlowRunJob) -> dict[str, str]:
    """Return the environment of the process that runs a flow run.

    Args:
        own: The environment of the job.
        job: The job.

    Returns:
        The job's, without what is of Prefect and of our own job in it, but with what ``job.json``
        and the file of secrets say. The variables of Slurm stay, as the flow may want to know what
        it has; our own calls of sbatch leave them out.

    Raises:
        UnsafeFile: The file of secrets cannot be used.
    """
    kept = {
        name: value
        for name, value in own.items()
        if not name.startswith(_OF_PREFECT) and name not in _OF_OUR_JOB
    }
    secrets = read_secrets(job.secrets_file) if job.secrets_file else {}
    # On SIGTERM the engine stops and says nothing of the flow run: Slurm may run the job again, and
    # if it does not, the worker tells what has become of it.
    asked = {
        "PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR": "relinquish",
        "PREFECT__FLOW_RUN_ID": job.flow_run_id,
    }
    return kept | job.environment | secrets | asked


def _unquoted(value: str) -> str:
    is_quoted = len(value) > 1 and value[0] in "\"'" and value[-1] == value[0]
    return value[1:-1] if is_quoted else value
