"""How servers, worker and work pool are, asked every few seconds while all is up."""

from collections.abc import Sequence
from typing import NamedTuple

from tasks.services.errors import ServicesError
from tasks.services.plan import Plan, Service
from tasks.services.pools import num_flow_runs, own_pool, workers_of
from tasks.services.serving import Served

_SLOW = 2.0
"""Seconds that a healthy server may take to answer while it is watched."""


class Health(NamedTuple):
    """What was found.

    Attributes:
        ill: What is not well: name -> what is known of it.
        num_runs: Flow runs of the pool at work; None if that is not known.
        is_served: Whether Prefect has heard of our worker lately.
    """

    ill: dict[str, str]
    num_runs: int | None
    is_served: bool


def look(plan: Plan, served: Sequence[Served]) -> Health:
    """Ask all how they are.

    Another worker at our pool is no fault of a server, but takes flow runs that it cannot run: it
    has another checkout or other data. ``up`` refuses to start beside one; this finds one that has
    come later, or that was away.

    Args:
        plan: What was started.
        served: It, as it runs.
    """
    ill = {
        one.service.name: f"does not answer (process {one.process.pid})"
        for one in served
        if one.service.server is not None and not answers(one.service)
    }
    num_runs, is_served = None, False
    try:
        if plan.worker:
            online = {one.name for one in workers_of(plan.prefect, plan.pool) if one.is_online}
            is_served = plan.worker in online
            if not is_served:
                ill["worker"] = "has not been heard of"
            if others := sorted(online - {plan.worker}):
                ill[f"the work pool '{plan.pool}'"] = (
                    f"is served by {', '.join(others)}, too, and a flow run goes to either: stop "
                    f"one, or serve a pool of your own, such as --pool {own_pool()}"
                )
        num_runs = num_flow_runs(plan.prefect, plan.pool)
    except ServicesError as error:
        if not ill:
            ill["Prefect server"] = str(error)
    return Health(ill, num_runs, is_served)


def answers(service: Service) -> bool:
    """Say whether a server is well; what is no server, is.

    Args:
        service: The server.
    """
    return service.server is None or service.server.answers(service.health, _SLOW)
