"""Registers the deployments of ``prefect.yaml``, as ``prefect deploy`` does."""

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tasks.services.errors import ServicesError
from tasks.services.plan import POOL

_TIMEOUT_S = 300.0
_GIT_TIMEOUT_S = 20.0
_LAST_LINES = 15


def deployments_of(checkout: Path) -> dict[str, str]:
    """Return the deployments that are written down.

    Args:
        checkout: Where ``prefect.yaml`` is.

    Returns:
        Name -> entry point.

    Raises:
        ServicesError: The file cannot be read.
    """
    return {str(one["name"]): str(one["entrypoint"]) for one in _read(checkout)["deployments"]}


def name_in_pool(name: str, pool: str) -> str:
    """Return what a deployment is called in a pool: in one of one's own, it is another one.

    Args:
        name: As in ``prefect.yaml``.
        pool: The work pool.
    """
    return name if pool == POOL else f"{name}-{pool}"


def render(
    written: Mapping[str, Any], names: Sequence[str], pool: str, found: Mapping[str, str]
) -> str:
    """Write ``prefect.yaml`` for some deployments and a pool.

    A schedule of a deployment in another pool than the default is kept, but off: the same night
    would run twice. The build steps, which Prefect runs anew for each deployment, are left out:
    what they find is given.

    Args:
        written: The file's content.
        names: The deployments.
        pool: The work pool.
        found: Id of a build step -> its output.

    Returns:
        The content of a file.
    """
    chosen = [
        {
            **one,
            "name": name_in_pool(one["name"], pool),
            "work_pool": {**one.get("work_pool", {}), "name": pool},
            "tags": [*one.get("tags", []), *([pool] if pool != POOL else [])],
            "schedules": [
                {**schedule, "active": schedule.get("active", True) and pool == POOL}
                for schedule in one.get("schedules", [])
            ],
        }
        for one in written["deployments"]
        if one["name"] in names
    ]
    text = yaml.safe_dump({**written, "build": None, "deployments": chosen}, sort_keys=False)
    for step, output in found.items():
        quoted = output.replace("'", "''")  # a place in braces is written between single quotes
        text = text.replace(f"{{{{ {step}.stdout }}}}", quoted)
    return text


def commit_of(checkout: Path) -> str:
    """Return what git calls this version of the code; ``unknown`` if it is not from git.

    Args:
        checkout: Its directory.
    """
    try:
        ended = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=checkout,
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return ended.stdout.strip() or "unknown"


def chosen_names(checkout: Path, wanted: Sequence[str]) -> list[str]:
    """Return the deployments that a user means.

    Args:
        checkout: Where ``prefect.yaml`` is.
        wanted: Their names, or FLOW/NAME; none for all.

    Raises:
        ServicesError: There is none of that name; the message has those that there are.
    """
    known = deployments_of(checkout)
    names = [name.rpartition("/")[2] for name in wanted] or list(known)
    if unknown := [name for name in names if name not in known]:
        raise ServicesError(
            f"--name {', '.join(unknown)}: no such deployment; there are {', '.join(known)}"
        )
    return names


def deploy_command(file: Path) -> tuple[str, ...]:
    """Return the command that registers the deployments of a file; it runs in the checkout.

    Args:
        file: From ``render``.
    """
    command = ("-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file))
    return (sys.executable, *command)


def write_deployments(checkout: Path, names: Sequence[str], pool: str, file: Path) -> None:
    """Write what ``deploy_command`` registers.

    Args:
        checkout: Where ``prefect.yaml`` is.
        names: The deployments.
        pool: The work pool.
        file: Where to write it.

    Raises:
        ServicesError: ``prefect.yaml`` cannot be read.
        OSError: The file cannot be written.
    """
    found = {"commit": commit_of(checkout), "checkout": str(checkout)}
    file.write_text(render(_read(checkout), names, pool, found), encoding="utf-8")


def deploy(
    checkout: Path, names: Sequence[str], pool: str, environment: Mapping[str, str]
) -> list[str]:
    """Register deployments; what is there under the same name is renewed.

    Args:
        checkout: Where ``prefect.yaml`` is; flow runs use this directory.
        names: The deployments.
        pool: The work pool, which must be there.
        environment: From ``client_environment``.

    Returns:
        What they are called at the server, in the order of the file.

    Raises:
        ServicesError: Prefect has not taken them; the message has its last words.
    """
    with tempfile.TemporaryDirectory(prefix="watershed-") as directory:
        file = Path(directory, "prefect.yaml")
        write_deployments(checkout, names, pool, file)
        try:
            ended = subprocess.run(
                deploy_command(file),
                cwd=checkout,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ServicesError(f"`prefect deploy` took over {_TIMEOUT_S:.0f} s") from error
    if ended.returncode:
        lines = [line.rstrip() for line in ended.stdout.splitlines() if line.strip()]
        raise ServicesError("\n".join(["`prefect deploy` has failed:", *lines[-_LAST_LINES:]]))
    return [name_in_pool(name, pool) for name in deployments_of(checkout) if name in names]


def _read(checkout: Path) -> dict[str, Any]:
    path = checkout / "prefect.yaml"
    try:
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ServicesError(f"{path} cannot be read: {error}") from error
    if not isinstance(written, dict) or not isinstance(written.get("deployments"), list):
        raise ServicesError(f"{path} has no deployments")
    return written
