"""The fake slurmctld: a queue, nodes, time; simplified, with the traps of the real one.

What was measured on a real cluster and is kept: a requeued job is held for 121 s; signals come up
to 30 s early and time limits up to 30 s late; a dead node is noticed after 28 to 48 s, and after a
cut of the network the old incarnation runs on beside the new one; a controller that is killed
forgets the last seconds and gives their ids to others, but the accounting does not forget.
"""

import heapq
import itertools
import math
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from tasks.runtime.signs import EXIT_INTERRUPTED
from tasks.slurm.states import SlurmState
from tests.fakes.jobs import Incarnation, Node, Request, Work


@dataclass(frozen=True)
class Timing:
    """How long things take, in seconds; the defaults as measured, or as Slurm has them.

    Attributes:
        requeue_hold: For how long a job that is queued again is held.
        imprecision: How much too early signals come at most, and time limits too late.
        dead_after: After how long a dead node is noticed, from and to.
        start_delay: From submission to start, where there is room, from and to.
        settle_delay: From the end of a job to its state, from and to.
        kill_wait: From SIGTERM to SIGKILL.
        min_job_age: For how long squeue lists jobs that have ended.
    """

    requeue_hold: float = 121.0
    imprecision: float = 30.0
    dead_after: tuple[float, float] = (28.0, 48.0)
    start_delay: tuple[float, float] = (0.1, 1.0)
    settle_delay: tuple[float, float] = (0.02, 0.5)
    kill_wait: float = 30.0
    min_job_age: float = 300.0


QUICK = Timing(
    requeue_hold=2.0,
    imprecision=0.5,
    dead_after=(0.5, 1.0),
    start_delay=(0.01, 0.05),
    settle_delay=(0.01, 0.05),
    kill_wait=5.0,
)
"""For jobs that really run."""


@dataclass
class Host:
    """A node of the cluster.

    Attributes:
        name: Its name.
        cpus: Free CPUs.
        gpus: Free GPUs.
        is_up: Whether the controller can use it.
        runs: What runs on it, as far as the controller knows.
    """

    name: str
    cpus: int
    gpus: int
    is_up: bool = True
    runs: dict[Incarnation, None] = field(default_factory=dict)


class Controller:
    """Queues jobs, starts and ends them as time is made to pass by ``advance_to``.

    Args:
        node: What happens on the nodes.
        rng: Where all chances come from.
        hosts: The nodes.
        now_s: Unix time at the start.
        down: Times from and until which the controller does not answer.
        timing: How long things take.

    Attributes:
        now_s: Until when everything has happened.
        next_job: The next id.
        known: Job -> task -> its newest incarnation, as long as squeue knows it.
        history: Job -> all incarnations of jobs that ever had this id.
        merged: Arrays that were cancelled by a filter: squeue lists their tasks that had not
            started by the array's id alone.
        hosts: The nodes.
    """

    def __init__(
        self,
        node: Node,
        rng: Random,
        hosts: Sequence[Host],
        *,
        now_s: float,
        down: Sequence[tuple[float, float]] = (),
        timing: Timing | None = None,
    ) -> None:
        self.now_s = now_s
        self.next_job = 1
        self.known: dict[int, dict[int | None, Incarnation]] = {}
        self.history: dict[int, list[Incarnation]] = {}
        self.merged: set[int] = set()
        self.hosts = {host.name: host for host in hosts}
        self._node = node
        self._rng = rng
        self._down = sorted(down)
        self._timing = timing or Timing()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self._queues: dict[int, deque[Incarnation]] = {}
        self._num_running: dict[int, int] = {}
        self._is_scheduling = False
        if node.beat_every_s:
            self.at(now_s + node.beat_every_s, self._beat)

    # --- time ----------------------------------------------------------------------------------

    def advance_to(self, now_s: float) -> None:
        """Let everything happen that is due until then."""
        while self._events and self._events[0][0] <= now_s:
            self.now_s, _, happen = heapq.heappop(self._events)
            happen()
        self.now_s = max(self.now_s, now_s)

    def is_up(self) -> bool:
        """Whether it answers now."""
        return self.up_from(self.now_s) == self.now_s

    def up_from(self, at_s: float) -> float:
        """Return the first moment from then on at which it answers."""
        for begin, end in self._down:
            if begin <= at_s < end:
                at_s = end
        return at_s

    def at(self, at_s: float, happen: Callable[[], None]) -> None:
        """Plan something."""
        heapq.heappush(self._events, (at_s, next(self._sequence), happen))

    def _at_controller(self, at_s: float, happen: Callable[[], None]) -> None:
        self.at(self.up_from(at_s), happen)

    # --- what users ask for --------------------------------------------------------------------

    def submit(self, request: Request) -> int:
        """Queue a job or an array, and return its id."""
        job, self.next_job = self.next_job, self.next_job + max(len(request.tasks), 1)
        eligible_s = None if request.hold else self.now_s
        runs = [
            Incarnation(
                job,
                task,
                request,
                submitted_s=self.now_s,
                eligible_s=eligible_s,
                reason="JobHeldUser" if request.hold else "None",
            )
            for task in (request.tasks or (None,))
        ]
        self.known[job] = {run.task: run for run in runs}
        self.history.setdefault(job, []).extend(runs)
        self._queues[next(self._sequence)] = deque(runs)
        self._schedule_soon()
        return job

    def cancel(self, runs: Iterable[Incarnation]) -> None:
        """Stop what runs and drop what waits."""
        for run in runs:
            if run.is_running:
                self.stop(run, SlurmState.CANCELLED)
            elif run.is_waiting:
                run.ended_s = self.now_s
                self._final(run, SlurmState.CANCELLED)

    def requeue(self, run: Incarnation) -> None:
        """Queue a running job again, as ``scontrol requeue``."""
        if run.is_alive:
            run.is_alive = False
            self._node.vanish(run, self.now_s)
        run.requeues = True
        self._settle(run, SlurmState.CANCELLED)

    def start_now(self, run: Incarnation) -> None:
        """Take back the time for which a job is held; one that its user holds stays where it is."""
        if run.eligible_s is not None:
            run.eligible_s = min(run.eligible_s, self.now_s)
            self._schedule_soon()

    def release(self, run: Incarnation) -> None:
        """Let a job go that its user holds."""
        run.eligible_s, run.reason = self.now_s, "None"
        self._schedule_soon()

    # --- what happens to them ------------------------------------------------------------------

    def stop(self, run: Incarnation, state: SlurmState) -> None:
        """Send SIGTERM, and SIGKILL after a while; the job will have that state."""
        if not run.is_running or run.stops_as is not None:
            return
        run.stops_as = state
        if state is SlurmState.CANCELLED:
            run.requeues = False
        if not run.is_alive:
            return
        self._node.signal(run, "SIGTERM", self.now_s)
        if run.work is not None and run.work.saves_in_s is not None:
            self._end_soon(run, run.work.saves_in_s)
        self.at(self.now_s + self._timing.kill_wait, lambda: self._kill(run))

    def preempt(self, run: Incarnation) -> None:
        """Take the nodes of a job for a better one."""
        self.stop(run, SlurmState.PREEMPTED)

    def finished(self, run: Incarnation, code: int, killed_by: int = 0) -> None:
        """Let the batch script of a job end."""
        if not run.is_alive:
            return
        run.is_alive = False
        run.exit_code, run.signal = code, killed_by
        state = SlurmState.COMPLETED if code == killed_by == 0 else SlurmState.FAILED
        if run.work is not None and run.work.ends_as is not None and run.stops_as is None:
            state = run.work.ends_as
        if killed_by:
            self._node.vanish(run, self.now_s)
        else:
            self._node.end(run, self.now_s)
        settled_s = self.now_s + self._rng.uniform(*self._timing.settle_delay)
        self._at_controller(settled_s, lambda: self._settle(run, run.stops_as or state))

    def fail_node(self, name: str) -> None:
        """Cut the power of a node."""
        for run in list(self.hosts[name].runs):
            if run.is_alive:
                run.is_alive = False
                self._node.vanish(run, self.now_s)
        self.cut_node(name)

    def cut_node(self, name: str) -> None:
        """Cut the network of a node; its processes run on."""
        host = self.hosts[name]
        host.is_up = False
        noticed_s = self.now_s + self._rng.uniform(*self._timing.dead_after)
        self._at_controller(noticed_s, lambda: self._lose(host))

    def revive_node(self, name: str) -> None:
        """Let a node come back; what runs there of jobs that have moved on is killed."""
        self.hosts[name].is_up = True
        for run in itertools.chain.from_iterable(self.history.values()):
            if run.is_alive and name in run.nodes and (run.ended_s is not None or run.is_lost):
                run.is_alive = False
                self._node.vanish(run, self.now_s)
        self._schedule_soon()

    def crash(self, forgets_s: float, down_s: float) -> None:
        """Kill the controller: it starts again with the state of some seconds ago.

        Jobs that were submitted since are forgotten, and their ids given to others; jobs that were
        started since wait again, as if they never had been started.
        """
        saved_s = self.now_s - forgets_s
        self._down.append((self.now_s, self.now_s + down_s))
        self._down.sort()
        for job, runs in list(self.known.items()):
            if all(run.restarts == 0 and run.submitted_s > saved_s for run in runs.values()):
                del self.known[job]
                self.next_job = min(self.next_job, job)
                for run in runs.values():
                    self._forget(run)
                continue
            for run in runs.values():
                if run.is_running and run.started_s is not None and run.started_s > saved_s:
                    self._forget(run)
                    self.history[job].remove(run)
                    self._queue_again(run, run.submitted_s, self.now_s, run.restarts)
        self._schedule_soon()

    # --- the rest of a life --------------------------------------------------------------------

    def _schedule_soon(self) -> None:
        if not self._is_scheduling:
            self._is_scheduling = True
            delay_s = self._rng.uniform(*self._timing.start_delay)
            self._at_controller(self.now_s + delay_s, self._schedule)

    def _schedule(self) -> None:
        self._is_scheduling = False
        for number, queue in list(self._queues.items()):
            while queue and (not queue[0].is_waiting or self._start(queue[0])):
                queue.popleft()
            if not queue:
                del self._queues[number]

    def _start(self, run: Incarnation) -> bool:
        request = run.request
        if run.eligible_s is None or run.eligible_s > self.now_s:
            return False
        if request.throttle and self._num_running.get(run.job, 0) >= request.throttle:
            run.reason = "JobArrayTaskLimit"
            return False
        if len(self.hosts.keys() - request.exclude) < request.nodes:
            run.reason, run.eligible_s = "BadConstraints", None  # held for good
            return False
        hosts = list(itertools.islice(self._free(request), request.nodes))
        if len(hosts) < request.nodes:
            run.reason = "Resources"
            return False
        for host in hosts:
            host.cpus -= request.cpus
            host.gpus -= request.gpus
            host.runs[run] = None
        self._num_running[run.job] = self._num_running.get(run.job, 0) + 1
        run.nodes = tuple(host.name for host in hosts)
        run.started_s, run.state, run.reason = self.now_s, SlurmState.RUNNING, "None"
        run.is_split = run.is_alive = True
        run.work = self._node.begin(run, self.now_s)
        self._plan_end(run, run.work)
        return True

    def _beat(self) -> None:
        if self._node.beat_every_s:  # a test may have set it to 0 meanwhile
            self._node.beat(self.now_s)
            self.at(self.now_s + self._node.beat_every_s, self._beat)

    def _free(self, request: Request) -> Iterator[Host]:
        for host in self.hosts.values():
            is_free = host.cpus >= request.cpus and host.gpus >= request.gpus
            if is_free and host.is_up and host.name not in request.exclude:
                yield host

    def _plan_end(self, run: Incarnation, work: Work) -> None:
        limit_s = self.now_s + run.request.time_limit_s
        warning_s = (
            limit_s - run.request.signal_before_s - self._rng.uniform(0, self._timing.imprecision)
        )
        over_s = limit_s + self._rng.uniform(0, self._timing.imprecision)
        ends_s = self.now_s + work.duration_s
        if ends_s < math.inf:
            self.at(ends_s, lambda: self.finished(run, work.exit_code, work.signal))
        if run.request.signal_before_s and warning_s < ends_s:
            self._at_controller(max(warning_s, self.now_s), lambda: self._warn(run))
        if over_s < ends_s:
            self._at_controller(over_s, lambda: self.stop(run, SlurmState.TIMEOUT))

    def _warn(self, run: Incarnation) -> None:
        if run.is_alive and run.is_running and run.stops_as is None:
            self._node.signal(run, "SIGUSR1", self.now_s)
            if run.work is not None and run.work.saves_in_s is not None:
                run.requeues = run.request.requeue and run.work.moves_on
                self._end_soon(run, run.work.saves_in_s)

    def _end_soon(self, run: Incarnation, after_s: float) -> None:
        self.at(self.now_s + after_s, lambda: self.finished(run, EXIT_INTERRUPTED))

    def _kill(self, run: Incarnation) -> None:
        if run.is_alive:
            self.finished(run, 0, signal.SIGKILL)

    def _lose(self, host: Host) -> None:
        if not host.is_up:
            for run in list(host.runs):
                self._settle(run, run.stops_as or SlurmState.NODE_FAIL)

    def _settle(self, run: Incarnation, state: SlurmState) -> None:
        """Let the controller notice that a job has ended."""
        if not run.is_running:
            return
        run.ended_s = self.now_s
        self._release(run)
        is_again = run.request.requeue and state in {SlurmState.PREEMPTED, SlurmState.NODE_FAIL}
        if run.requeues or is_again:
            run.state = state if is_again else SlurmState.REQUEUED
            self._queue_again(
                run, self.now_s, self.now_s + self._timing.requeue_hold, run.restarts + 1
            )
        else:
            self._final(run, state)

    def _release(self, run: Incarnation) -> None:
        for name in run.nodes:
            host = self.hosts[name]
            if host.runs.pop(run, self) is not self:
                host.cpus += run.request.cpus
                host.gpus += run.request.gpus
        self._num_running[run.job] -= 1
        self._schedule_soon()

    def _final(self, run: Incarnation, state: SlurmState) -> None:
        run.state = state
        self.at(self.now_s + self._timing.min_job_age, lambda: self._purge(run))

    def _purge(self, run: Incarnation) -> None:
        runs = self.known.get(run.job, {})
        if runs.get(run.task) is run:
            del runs[run.task]
            if not runs:
                del self.known[run.job]

    def _forget(self, run: Incarnation) -> None:
        if run.is_running:
            self._release(run)
        run.is_lost = True
        if run.is_alive:
            run.is_alive = False
            self._node.vanish(run, self.now_s)

    def _queue_again(
        self, run: Incarnation, submitted_s: float, eligible_s: float, restarts: int
    ) -> None:
        again = Incarnation(
            run.job,
            run.task,
            run.request,
            submitted_s=submitted_s,
            restarts=restarts,
            eligible_s=eligible_s,
            reason="BeginTime",
            is_split=True,
        )
        self.known[run.job][run.task] = again
        self.history[run.job].append(again)
        self._queues[next(self._sequence)] = deque([again])
        self._at_controller(eligible_s, self._schedule_soon)
