"""From start to end, with small processes in the place of servers."""

import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tasks.services.errors import UnreachableError
from tasks.services.lifecycle import Lifecycle, Screen
from tasks.services.plan import Addresses, Plan, Service
from tasks.services.processes import identify, is_running
from tasks.services.state import STATE_NAME, Services, read_services, write_services
from tasks.services.web import Server

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="/proc and prctl are Linux's"
)


class _Prefect(Server):
    """Knows the pool, and no flow runs; to its first questions it may have no time to answer."""

    num_unanswered = 0

    def ask(self, path: str, *_: object, **__: object) -> Any:
        """Answer.

        Raises:
            UnreachableError: It has no time.
        """
        if _Prefect.num_unanswered:
            _Prefect.num_unanswered -= 1
            raise UnreachableError("the Prefect server does not answer: timed out")
        return 0 if path.endswith("count") else [{"type": "process"}]


@dataclass
class _Watched:
    """A lifecycle, and what it has shown."""

    data: Path
    stops: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def run(self, is_up: Any, health: Any) -> bool:
        """Run it with what is to happen when it is up, and when its health is shown."""
        prefect = _Prefect("the Prefect server", "http://127.0.0.1:1")
        plan = Plan(
            data=self.data,
            addresses=Addresses(f"{prefect.url}/api", prefect.url, prefect.url),
            pool="watershed",
            worker="",
            prefect=prefect,
            mlflow=None,
            own=(self._service("server", "sleep 60"),),
            deploy=self._service("registration", "true"),
            serve=None,
            host="127.0.0.1",
            database="",
        )

        def note(services: Services) -> None:
            self.pids += [one.pid for one in services.processes]
            is_up(services)

        screen = Screen(
            waiting=lambda *_: None,
            health=lambda *_: health(),
            stopping=lambda *_: self.ended.append("cancelled"),
            handing_over=lambda *_: self.ended.append("handed over"),
            tell=self.warnings.append,
            warn=self.warnings.append,
            is_up=note,
        )
        return Lifecycle(plan, self.stops, screen).run()

    def _service(self, name: str, script: str) -> Service:
        return Service(
            name=name,
            command=("bash", "-c", script),
            environment=dict(os.environ),
            log=self.data / "logs" / f"{name}.log",
        )


def test_a_record_that_somebody_has_removed_is_written_again(tmp_path: Path) -> None:
    """Other commands would not find the servers any more."""
    watched = _Watched(tmp_path)
    found: list[Services | None] = []

    def look() -> None:
        found.append(read_services(tmp_path))
        watched.stops.append(2)

    went_well = watched.run(lambda _: (tmp_path / STATE_NAME).unlink(), look)

    assert went_well
    assert found[0] is not None
    assert found[0].pid == os.getpid()
    assert not (tmp_path / STATE_NAME).exists()


def test_who_has_pressed_ctrl_c_already_gets_no_servers(tmp_path: Path) -> None:
    """A database may take seconds to be asked, before anything is started."""
    watched = _Watched(tmp_path, stops=[2])

    assert watched.run(lambda _: None, lambda: None)
    assert not (tmp_path / "logs").exists()


def test_a_server_that_is_slow_to_answer_is_asked_again(tmp_path: Path) -> None:
    """It has been well; that a machine has other work is no reason to stop it."""
    watched = _Watched(tmp_path)
    _Prefect.num_unanswered = 3

    went_well = watched.run(lambda _: watched.stops.append(2), lambda: None)

    assert (went_well, watched.warnings, _Prefect.num_unanswered) == (True, [], 0)


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (signal.SIGINT, "cancelled"),
        (signal.SIGTERM, "handed over"),
        (signal.SIGHUP, "handed over"),
    ],
)
def test_only_ctrl_c_is_a_wish_to_cancel(
    tmp_path: Path, stop: signal.Signals, expected: str
) -> None:
    """A machine that shuts down, or a terminal that is closed, cancels no jobs."""
    watched = _Watched(tmp_path)

    assert watched.run(lambda _: None, lambda: watched.stops.append(stop))
    assert set(watched.ended) == {expected}


def test_of_two_hosts_in_one_directory_one_gives_way(tmp_path: Path) -> None:
    """Where locks are not seen from host to host, two would write to one SQLite database."""
    watched = _Watched(tmp_path)

    went_well = watched.run(
        lambda own: write_services(tmp_path, own.model_copy(update={"host": "elsewhere"})),
        lambda: watched.stops.append(2),
    )

    other = read_services(tmp_path)
    assert not went_well
    assert "an `up` on elsewhere" in watched.warnings[0]
    assert other is not None  # its record is not ours to remove
    assert (other.host, other.phase) == ("elsewhere", "up")
    assert watched.pids
    assert not any(is_running(identify(pid)) for pid in watched.pids)
