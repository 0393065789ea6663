"""Brings servers up, watches them until they are to stop, and stops them in order."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeVar

from tasks.services.diagnosis import diagnose
from tasks.services.errors import ServicesError, UnreachableError
from tasks.services.handover import continue_left, flow_runs_of, tell_left
from tasks.services.health import answers, look
from tasks.services.notes import note_at_work, notes_directory, read_notes
from tasks.services.plan import Plan, Service
from tasks.services.pools import (
    end_orphans,
    ensure_process_pool,
    forget_worker,
    is_online,
    num_flow_runs,
    pool_type,
)
from tasks.services.processes import boot_id
from tasks.services.serving import Served, ask_to_stop, end_rest, restart, start
from tasks.services.state import (
    BEAT_S,
    Services,
    beat,
    forget_services,
    read_services,
    write_services,
)

_T = TypeVar("_T")

_POLL_S = 0.2
_LOOK_S = 5.0
_START_TIMEOUT_S = 600.0
"""All was there after 20 to 60 s; after 240 s, not yet, on two cores with 30 others at work."""
_LAST_LINES = 12


@dataclass(frozen=True)
class Screen:
    """What a person is shown.

    Attributes:
        waiting: Called several times a second with what is waited for (name -> how long it takes)
            and the seconds since the start.
        health: Called with what is not well (name -> what is known of it), the number of flow runs
            at work, or None, and the seconds since the start.
        stopping: Called with the names of what is still to stop, the number of flow runs, or None,
            and the seconds since the end was asked for; the flow runs are being cancelled.
        handing_over: Called with the same, where the flow runs are handed over to the next ``up``.
        tell: Called with news, which stays.
        warn: Called with bad news, which stays.
        is_up: Called once everything is up.
    """

    waiting: Callable[[Mapping[str, str], float], None]
    health: Callable[[Mapping[str, str], int | None, float], None]
    stopping: Callable[[Sequence[str], int | None, float], None]
    handing_over: Callable[[Sequence[str], int | None, float], None]
    tell: Callable[[str], None]
    warn: Callable[[str], None]
    is_up: Callable[[Services], None]


class _StopAskedError(Exception):
    """Somebody wants all to stop."""


class Lifecycle:
    """Servers, from their start to their end.

    Args:
        plan: What to start.
        stops: Requests to stop so far, signals; it grows. Ctrl-C (SIGINT) as the first cancels the
            flow runs, all else hands them over to the next ``up``. The second ends the patience.
        screen: What a person is shown.
    """

    def __init__(self, plan: Plan, stops: Sequence[int], screen: Screen) -> None:
        self._plan = plan
        self._stops = stops
        self._screen = screen
        self._began_s = time.monotonic()
        self._began = datetime.now(UTC)
        self._served: list[Served] = []
        self._lasting: dict[str, str] = {}
        self._is_ours = True
        self._notes = notes_directory(plan.data)
        self._phase: Literal["starting", "up", "stopping"] = "starting"

    def run(self) -> bool:
        """Run until somebody asks to stop, or something cannot go on.

        Returns:
            Whether all went well.
        """
        try:
            self._start_all()
            self._phase = "up"
            self._screen.is_up(self._write())
            self._watch()
        except _StopAskedError:
            pass
        except ServicesError as error:
            self._screen.warn(str(error))
            return False
        except OSError as error:
            self._screen.warn(f"{error.filename or self._plan.data}: {error.strerror}")
            return False
        finally:
            self._stop_all()
        return True

    def _start_all(self) -> None:
        for service in self._plan.own:
            self._start(service)
        self._wait_for_answers(self._served)
        self._patiently(self._make_pool)
        # A worker of another kind may have been at work while our servers were not up.
        if self._plan.serve and (ended := self._patiently(self._end_orphans)):
            self._screen.warn(f"flow runs that had lost their processes: {', '.join(ended)}")
        deploying = self._start(self._plan.deploy)
        if self._plan.serve is not None:
            self._start(self._plan.serve)
        self._wait_for_worker(deploying)

    def _make_pool(self) -> None:
        if self._plan.serve is not None or pool_type(self._plan.prefect, self._plan.pool) is None:
            ensure_process_pool(self._plan.prefect, self._plan.pool)

    def _end_orphans(self) -> list[str]:
        """End the flow runs of an earlier ``up``; at a site's server, those that it has noted."""
        noted = None if self._plan.own else read_notes(self._notes)
        return end_orphans(self._plan.prefect, self._plan.pool, noted)

    def _patiently(self, ask: Callable[[], _T]) -> _T:
        """Ask a server again that does not answer in time: a machine may have other work.

        Raises:
            UnreachableError: It has not answered until all should be up.
            _StopAskedError: Somebody does not want to wait.
        """
        while True:
            try:
                return ask()
            except UnreachableError:
                if time.monotonic() - self._began_s > _START_TIMEOUT_S:
                    raise
            if self._stops:
                raise _StopAskedError
            time.sleep(_POLL_S)

    def _start(self, service: Service) -> Served:
        if self._stops:
            raise _StopAskedError
        served = start(service)
        self._served.append(served)
        self._write()
        return served

    def _write(self) -> Services:
        plan = self._plan
        services = Services(
            phase=self._phase,
            host=socket.gethostname(),
            boot_id=boot_id(),
            pid=os.getpid(),
            started=self._began,
            prefect_api=plan.addresses.prefect_api,
            prefect_ui=plan.addresses.prefect_ui,
            mlflow=plan.addresses.mlflow,
            pool=plan.pool,
            worker=plan.worker,
            is_external=not plan.own,
            has_login=plan.login is not None,
            processes=tuple(served.kept() for served in self._served if not served.has_ended),
        )
        write_services(plan.data, services)
        return services

    def _wait_for_answers(self, served: Sequence[Served]) -> None:
        waiting = list(served)
        while waiting:
            self._pause(waiting)
            for one in waiting:
                if one.has_ended:
                    raise ServicesError(self._last_words(one))
            waiting = [one for one in waiting if not answers(one.service)]

    def _wait_for_worker(self, deploying: Served) -> None:
        plan = self._plan
        waiting = [one for one in self._served if one.service in {plan.deploy, plan.serve}]
        while waiting:
            self._pause(waiting)
            for one in self._served:
                if one.has_ended and one is not deploying:
                    raise ServicesError(self._last_words(one))
            if deploying.has_ended:
                waiting = [one for one in waiting if one is not deploying]
            if plan.serve and self._is_worker_online():
                waiting = [one for one in waiting if one.service is not plan.serve]
        self._served.remove(deploying)
        if deploying.process.returncode:  # the servers, with what they know, are of use without it
            self._screen.warn(self._last_words(deploying))
            self._lasting["deployments"] = "are not registered; mend that, then: watershed deploy"

    def _is_worker_online(self) -> bool:
        """Whether Prefect has heard of the worker; a server that is busy now is asked again.

        Raises:
            RefusedError: It refuses who asks.
        """
        plan = self._plan
        try:
            return is_online(plan.prefect, plan.pool, plan.worker)
        except UnreachableError:
            return False

    def _pause(self, waiting: Sequence[Served]) -> None:
        elapsed_s = time.monotonic() - self._began_s
        told = {one.service.name: one.service.takes for one in waiting}
        self._screen.waiting(told, elapsed_s)
        if self._stops:
            raise _StopAskedError
        if elapsed_s > _START_TIMEOUT_S:
            names = " and ".join(told)
            logs = ", ".join(str(one.service.log) for one in waiting)
            raise ServicesError(f"{names}: not there after {_START_TIMEOUT_S:.0f} s; see {logs}")
        time.sleep(_POLL_S)

    def _watch(self) -> None:
        look_s = beat_s = 0.0
        while not self._stops:
            now = time.monotonic()
            for served in list(self._served):
                if served.has_ended:
                    self._mend(served)
            if now >= beat_s:
                self._beat()
                beat_s = now + BEAT_S
            if now >= look_s:
                self._look()
                look_s = time.monotonic() + _LOOK_S
            time.sleep(_POLL_S)

    def _beat(self) -> None:
        """Show that we are up.

        Raises:
            ServicesError: Another host, which does not see our lock, has taken the directory.
        """
        data = self._plan.data
        written = read_services(data)
        if written is None:  # somebody has removed it
            with contextlib.suppress(OSError):
                self._write()
        elif (written.host, written.pid) != (socket.gethostname(), os.getpid()):
            self._is_ours = False
            raise ServicesError(
                f"an `up` on {written.host} (process {written.pid}) has taken {data}, too; two "
                "must not write to the same databases: stop one, or name another --data"
            )
        beat(data)

    def _look(self) -> None:
        health = look(self._plan, self._served)
        self._note_at_work()
        if health.is_served:
            self._continue_left()
        ill = self._lasting | health.ill
        self._screen.health(ill, health.num_runs, time.monotonic() - self._began_s)

    def _continue_left(self) -> None:
        with contextlib.suppress(ServicesError):  # it is tried again
            for line in continue_left(self._plan.prefect, self._plan.pool, self._notes):
                self._screen.tell(line)

    def _note_at_work(self) -> None:
        for one in self._served:
            if one.service is self._plan.serve:
                note_at_work(self._notes, flow_runs_of(one.process.pid))

    def _mend(self, served: Served) -> None:
        """Start again what has ended.

        Raises:
            ServicesError: It has ended soon after its start, or again and again.
        """
        words = self._last_words(served)
        end_rest(served)
        if not served.may_restart:
            raise ServicesError(words)
        self._screen.warn(f"{words}\nIt is started again.")
        self._served[self._served.index(served)] = restart(served)
        self._write()

    def _last_words(self, served: Served) -> str:
        service, code = served.service, served.process.returncode
        log = served.log()
        lines = [line.rstrip() for line in log.splitlines() if line.strip()]
        cause = diagnose(log, data=self._plan.data, database=self._plan.database)
        told = f"the {service.name} has ended (exit code {code})"
        if cause:
            return f"{told}: {cause}. Its log is {service.log}"
        shown = "\n".join(f"  {line}" for line in lines[-_LAST_LINES:])
        return f"{told}\nLast lines of {service.log}:\n{shown}" if lines else told

    def _stop_all(self) -> None:
        self._phase = "stopping"
        with contextlib.suppress(OSError):
            if self._is_ours:
                self._write()
        began_s = time.monotonic()
        servers = [one for one in self._served if one.service in self._plan.own]
        others = [one for one in self._served if one not in servers]
        self._stop(others, began_s)
        if self._plan.worker and others:
            with contextlib.suppress(ServicesError):
                self._tell_left()
            with contextlib.suppress(ServicesError):
                forget_worker(self._plan.prefect, self._plan.pool, self._plan.worker)
        self._stop(servers, began_s)
        if self._is_ours:
            forget_services(self._plan.data)

    def _tell_left(self) -> None:
        """Say what the next ``up`` goes on with.

        Raises:
            ServicesError: Prefect does not answer, or refuses.
        """
        if names := tell_left(self._plan.prefect, self._plan.pool, self._notes):
            self._screen.tell(
                f"handed over to the next `up` with {self._plan.data}: {', '.join(names)}; their "
                "jobs of Slurm go on (watershed cancel RUN stops those of a study)"
            )

    def _stop(self, served: Sequence[Served], began_s: float) -> None:
        """Stop some servers, and wait until they are gone."""
        for one in served:
            if one.has_ended:
                end_rest(one)
        going = [one for one in served if not one.has_ended]
        num_before = len(self._stops)
        cancels = num_before > 0 and self._stops[0] == signal.SIGINT
        show = self._screen.stopping if cancels else self._screen.handing_over
        for one in going:
            ask_to_stop(one, cancels=cancels)
        is_worker = any(one.service.first for one in going)
        while going := [one for one in going if not one.has_ended]:
            num_runs: int | None = None
            if is_worker:
                with contextlib.suppress(ServicesError):
                    num_runs = num_flow_runs(self._plan.prefect, self._plan.pool)
            names = [one.service.name for one in going]
            show(names, num_runs, time.monotonic() - began_s)
            if len(self._stops) > max(1, num_before):
                num_before = len(self._stops)
                for one in going:
                    ask_to_stop(one, cancels=cancels)
            time.sleep(_POLL_S)
