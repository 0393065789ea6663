"""Work pools of a Prefect server: made where they are absent, and who serves them."""

import socket
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from tasks.services.errors import ServicesError, UnreachableError
from tasks.services.plan import POOL
from tasks.services.processes import all_processes, has_variable
from tasks.services.web import Server

_MOST = 200
ACTIVE = ["RUNNING", "PENDING", "CANCELLING"]
"""Types of the states of a flow run that has a process, or is about to get one."""


class Worker(NamedTuple):
    """A worker as Prefect knows it.

    Attributes:
        name: Its name; ours are made by ``worker_name``.
        is_online: Whether it has been heard of in the last minute and a half.
        last_seen: When, in ISO 8601; empty if never.
    """

    name: str
    is_online: bool
    last_seen: str


def pool_type(server: Server, pool: str) -> str | None:
    """Return the type of a work pool; None if there is no such pool.

    Args:
        server: The Prefect server.
        pool: Its name.

    Raises:
        ServicesError: Prefect does not answer, or refuses.
    """
    body = {"work_pools": {"name": {"any_": [pool]}}, "limit": 1}
    found = server.ask("/work_pools/filter", body)
    return str(found[0]["type"]) if found else None


def ensure_process_pool(server: Server, pool: str) -> None:
    """Make a work pool of type process, unless it is there.

    Args:
        server: The Prefect server.
        pool: Its name.

    Raises:
        ServicesError: It is there with another type; Prefect does not answer, or refuses.
    """
    found = pool_type(server, pool)
    if found is None:
        described = "Runs studies as processes of the machine where `watershed up` runs."
        body = {"name": pool, "type": "process", "description": described}
        server.ask("/work_pools/", body)  # its worker adds the form of the job variables
    elif found != "process":
        raise ServicesError(
            f"the work pool '{pool}' is of type {found}, and is served by: prefect worker start "
            f"--pool {pool}; name another one with --pool, or use --no-worker"
        )


def workers_of(server: Server, pool: str) -> list[Worker]:
    """Return the workers that have served a pool; none if there is no such pool.

    Args:
        server: The Prefect server.
        pool: Its name.

    Raises:
        ServicesError: Prefect does not answer, or refuses.
    """
    if pool_type(server, pool) is None:
        return []
    found = server.ask(f"/work_pools/{quote(pool, safe='')}/workers/filter", {"limit": _MOST})
    return [
        Worker(
            str(one["name"]), one.get("status") == "ONLINE", str(one.get("last_heartbeat_time", ""))
        )
        for one in found or ()
    ]


def is_online(server: Server, pool: str, worker: str) -> bool:
    """Say whether a worker serves a pool now.

    Args:
        server: The Prefect server.
        pool: The pool.
        worker: Name of the worker.

    Raises:
        ServicesError: Prefect does not answer, or refuses.
    """
    return any(one.name == worker and one.is_online for one in workers_of(server, pool))


def forget_worker(server: Server, pool: str, worker: str) -> None:
    """Tell Prefect that a worker has gone, which it would notice in a minute and a half.

    Args:
        server: The Prefect server.
        pool: The pool.
        worker: Name of the worker.

    Raises:
        ServicesError: Prefect does not answer, or refuses.
    """
    path = f"/work_pools/{quote(pool, safe='')}/workers/{quote(worker, safe='')}"
    server.ask(path, method="DELETE", timeout_s=5.0)


def refuse_other_servers(
    server: Server, pool: str, ours: str, deploying_from: Path | None = None
) -> None:
    """Refuse to serve a pool that another machine, checkout or data directory serves.

    A deployment names the checkout that flow runs use; a worker elsewhere would not find it, or run
    another version. With other data, a flow run that is retried would not find its study. What
    serves is known from the pool's workers, which Prefect hears of every 30 seconds.

    Args:
        server: The Prefect server.
        pool: The pool.
        ours: Name of our worker, which may be a restarted one.
        deploying_from: Checkout whose deployments are to be registered, without serving them. Any
            worker may then serve the pool, unless it does so for another checkout.

    Raises:
        ServicesError: Another one serves it; or Prefect does not answer, or refuses.
    """
    others = [one for one in workers_of(server, pool) if one.is_online and one.name != ours]
    if not others:
        return
    places = checkouts_of(server, pool)
    if deploying_from is not None and {*places} <= {str(deploying_from)}:
        return
    told = ", ".join(f"{one.name} (last seen {one.last_seen[:19]})" for one in others)
    where = f", with the deployments of {' and '.join(places)}" if places else ""
    raise ServicesError(
        f"the work pool '{pool}' at {server.url} is served already, by {told}{where}. Stop that "
        f"one (a worker that is gone is forgotten after 90 s), or serve a pool of your own, "
        f"such as --pool {own_pool()}"
    )


def own_pool() -> str:
    """Return a name for a pool of this machine alone."""
    return f"{POOL}-{socket.gethostname().partition('.')[0]}"


def end_orphans(server: Server, pool: str, only: Collection[str] | None = None) -> list[str]:
    """Tell Prefect that flow runs have ended whose processes are gone, which it never notices.

    To be called when nothing serves the pool: after a power cut, say. What was to be cancelled is
    Cancelled, the others have Crashed; both can be retried, and go on from their checkpoints.

    Args:
        server: The Prefect server.
        pool: The pool; the flow runs in question are, or were, processes of this machine.
        only: Ids of the flow runs in question; None for all of the pool.

    Returns:
        Names of the flow runs.

    Raises:
        ServicesError: Prefect does not answer, or refuses.
    """
    if only is not None and not only:
        return []
    runs: dict[str, object] = {"state": {"type": {"any_": ACTIVE}}}
    if only is not None:
        runs["id"] = {"any_": list(only)}
    body = {"work_pools": {"name": {"any_": [pool]}}, "flow_runs": runs, "limit": _MOST}
    ended = []
    pids = all_processes()
    for run in server.ask("/flow_runs/filter", body) or ():
        run_id = str(run["id"])
        if any(has_variable(pid, "PREFECT__FLOW_RUN_ID", run_id) for pid in pids):
            continue
        kind = "CANCELLED" if run["state_type"] == "CANCELLING" else "CRASHED"
        message = "its process is gone; retry it to go on from the last checkpoints"
        state = {"type": kind, "name": kind.capitalize(), "message": message}
        server.ask(f"/flow_runs/{run_id}/set_state", {"state": state, "force": True})
        ended.append(str(run["name"]))
    return ended


def checkouts_of(server: Server, pool: str) -> list[str]:
    """Return the checkouts that the deployments of a pool run in.

    Args:
        server: The Prefect server.
        pool: The pool.

    Raises:
        ServicesError: Prefect does not answer, or refuses.
    """
    body = {"work_pools": {"name": {"any_": [pool]}}, "limit": _MOST}
    found = server.ask("/deployments/filter", body) or []
    directories = {
        str(options["directory"])
        for one in found
        for step in one.get("pull_steps") or ()
        for options in step.values()
        if isinstance(options, dict) and "directory" in options
    }
    return sorted(directories)


def num_flow_runs(server: Server, pool: str) -> int:
    """Count the flow runs of a pool that are at work.

    Args:
        server: The Prefect server.
        pool: The pool.

    Raises:
        UnreachableError: Prefect does not answer.
        ServicesError: It refuses.
    """
    body = {
        "work_pools": {"name": {"any_": [pool]}},
        "flow_runs": {"state": {"type": {"any_": ACTIVE}}},
    }
    found = server.ask("/flow_runs/count", body)
    if not isinstance(found, int):
        raise UnreachableError(f"{server.name} at {server.url} does not count flow runs: {found}")
    return found


def checkout() -> Path:
    """Return the directory that this code lies in.

    Raises:
        ServicesError: It is no checkout: there is no ``prefect.yaml``.
    """
    directory = Path(__file__).resolve().parents[2]
    if not (directory / "prefect.yaml").is_file():
        raise ServicesError(
            f"{directory} has no prefect.yaml: deployments run from a checkout of Watershed; "
            "clone it and install it there (make setup)"
        )
    return directory
