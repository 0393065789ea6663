"""What is looked at while all is up."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.services.health import look
from tasks.services.plan import Addresses, Plan, Service
from tasks.services.web import prefect_server
from tests.unit.services.site import Site, serving


@pytest.fixture
def site() -> Iterator[Site]:
    """A Prefect server with a pool, and two flow runs at work."""
    with serving() as server:
        server.answers["/work_pools/filter"] = (200, [{"name": "p", "type": "process"}])
        server.answers["/flow_runs/count"] = (200, 2)
        yield server


def _plan(site: Site) -> Plan:
    prefect = prefect_server(site.url, {})
    return Plan(
        data=Path("/data"),
        addresses=Addresses(prefect.url, prefect.url, ""),
        pool="p",
        worker="ours",
        prefect=prefect,
        mlflow=None,
        own=(),
        deploy=Service("registration", ("true",), {}, Path("/log")),
        serve=None,
        host="",
        database="",
    )


def _plant(site: Site, **workers: str) -> None:
    found = [{"name": name, "status": status} for name, status in workers.items()]
    site.answers["/work_pools/p/workers/filter"] = (200, found)


def test_a_worker_that_came_later_is_shown_with_what_to_do(site: Site) -> None:
    """Flow runs go to either of two workers, and one of them does not have their studies."""
    _plant(site, ours="ONLINE", gone="OFFLINE")
    alone = look(_plan(site), ())
    _plant(site, ours="ONLINE", theirs="ONLINE")
    beside = look(_plan(site), ())

    assert alone == ({}, 2, True)
    ((what, told),) = beside.ill.items()
    assert what == "the work pool 'p'"
    assert "is served by theirs, too" in told
    assert "--pool watershed-" in told


def test_a_worker_that_is_not_heard_of_serves_nobody(site: Site) -> None:
    """Nor is anything set to go on then."""
    _plant(site, ours="OFFLINE")

    health = look(_plan(site), ())

    assert health == ({"worker": "has not been heard of"}, 2, False)


def test_a_server_that_does_not_answer_is_told(site: Site) -> None:
    """And nothing is known of the flow runs."""
    del site.answers["/work_pools/filter"]

    health = look(_plan(site), ())

    assert "404" in health.ill["Prefect server"]
    assert (health.num_runs, health.is_served) == (None, False)
