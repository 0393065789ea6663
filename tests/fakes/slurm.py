"""A fake Slurm: its commands, answered in the very formats of the real ones, on any clock.

    slurm = FakeSlurm(seed=1, faults=Faults(accept_then_timeout=0.2))
    cli = SlurmCli(slurm.run)
    cli.submit(script)
    slurm.advance(60)

The same seed, calls and times give the same answers. What it knows of Slurm is in ``controller``.
"""

import calendar
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from subprocess import CompletedProcess

from tests.fakes.clock import Clock, VirtualClock
from tests.fakes.controller import Controller, Host, Timing
from tests.fakes.jobs import IdleNode, Incarnation, Node, Request
from tests.fakes.listings import accounting_rows, queue_rows, table
from tests.fakes.scripts import Invalid, Size, expand_hosts, read_request, tasks_of

RETRIES_S = 9.0
"""For how long the commands try to reach a controller that does not answer."""


@dataclass(frozen=True)
class Faults:
    """What goes wrong; times are seconds after the start.

    Attributes:
        accept_then_timeout: Share of sbatch calls that are accepted and never answered.
        timeout: Share of all calls that are neither.
        truncate: Share of the listings that are cut off at any byte, with exit code 0.
        controller_down: From and until when the controller does not answer.
        accounting_down: From and until when the accounting does not.
        sacct_lag_s: How late the accounting hears of what happens.
        no_accounting: There is none.
        crash_at: When the controller is killed and starts again.
        crash_forgets_s: From how long before its end a killed controller has saved nothing.
        crash_down_s: For how long it is then down.
        stranger_takes_id: Another job of the user gets the first id after a crash.
        maintenance: Reservations with the flag MAINT: name, from and until when, of how many nodes.
        max_submit: Most jobs and tasks that the user may have in the queue; 0 for no limit.
        drained: Partition, and from and until when it takes no jobs; those that it has go on.
        min_gpus: QoS -> fewest GPUs of a job (MinTRES); what asks for fewer is refused for good.
        is_terse: A refusal by a policy does not name it.
        failing: Command, and from and until when it fails at once, as without munged.
    """

    accept_then_timeout: float = 0.0
    timeout: float = 0.0
    truncate: float = 0.0
    controller_down: tuple[tuple[float, float], ...] = ()
    accounting_down: tuple[tuple[float, float], ...] = ()
    sacct_lag_s: float = 1.5
    no_accounting: bool = False
    crash_at: tuple[float, ...] = ()
    crash_forgets_s: float = 5.0
    crash_down_s: float = 3.0
    stranger_takes_id: bool = False
    maintenance: tuple[tuple[str, float, float, int], ...] = ()
    max_submit: int = 0
    drained: tuple[tuple[str, float, float], ...] = ()
    min_gpus: tuple[tuple[str, int], ...] = ()
    is_terse: bool = False
    failing: tuple[tuple[str, float, float], ...] = ()


@dataclass(frozen=True)
class Call:
    """A command that was run.

    Attributes:
        at_s: When, Unix time.
        argv: The command line.
    """

    at_s: float
    argv: tuple[str, ...]

    @property
    def command(self) -> str:
        """The command."""
        return self.argv[0]


@dataclass(frozen=True)
class Answer:
    """What a command prints.

    Attributes:
        stdout: On stdout.
        stderr: On stderr.
        returncode: Its exit code.
        delay_s: After how long; infinite if it never ends.
    """

    stdout: str = ""
    stderr: str = ""
    returncode: int = 0
    delay_s: float = 0.02


class FakeSlurm:
    """A cluster behind the commands sbatch, squeue, sacct, scancel, scontrol and sinfo.

    Args:
        seed: Of all chances.
        size: What the cluster offers.
        node: What happens on the nodes; default: every job runs a minute and succeeds.
        faults: What goes wrong.
        clock: Tells the time; default: one that ``advance``, and waiting for an answer, move.
        timing: How long things take; default: as on a real cluster.

    Attributes:
        calls: Every command that was run, in order.
        controller: The fake slurmctld.
        start_s: Time at the start.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        size: Size | None = None,
        node: Node | None = None,
        faults: Faults | None = None,
        clock: Clock | None = None,
        timing: Timing | None = None,
    ) -> None:
        self.calls: list[Call] = []
        self.clock = clock or VirtualClock()
        self.start_s = self.clock.now()
        self._size = size or Size()
        self._faults = faults or Faults()
        self._rng = Random(seed)
        width = max(len(str(self._size.num_nodes)), 2)
        self.controller = Controller(
            node or IdleNode(),
            Random(seed + 1),
            [
                Host(f"node{number + 1:0{width}d}", self._size.cpus, self._size.gpus)
                for number in range(self._size.num_nodes)
            ],
            now_s=self.start_s,
            down=[(self.start_s + a, self.start_s + b) for a, b in self._faults.controller_down],
            timing=timing,
        )
        for after_s in self._faults.crash_at:
            self.controller.at(self.start_s + after_s, self._crash)

    # --- for tests -----------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)
        self.controller.advance_to(self.clock.now())

    def num_calls(self, *commands: str, since_s: float = 0.0, until_s: float = math.inf) -> int:
        """Count calls of some commands, or of all, in a span of Unix time."""
        return sum(
            since_s <= call.at_s < until_s and (not commands or call.command in commands)
            for call in self.calls
        )

    def most_calls(self, window_s: float, *commands: str) -> int:
        """Return the most calls of some commands, or of all, within any span of that length."""
        times = [c.at_s for c in self.calls if not commands or c.command in commands]
        most = first = 0
        for last, at_s in enumerate(times):
            while times[first] <= at_s - window_s:
                first += 1
            most = max(most, last - first + 1)
        return most

    def incarnations(self, name: str) -> list[Incarnation]:
        """Return every incarnation of the jobs of that name, also of those that were forgotten."""
        runs = (run for runs in self.controller.history.values() for run in runs)
        return [run for run in runs if run.request.name == name]

    def job(self, slurm_job: str) -> Incarnation:
        """Return the newest incarnation of a job or task."""
        job, _, task = slurm_job.partition("_")
        of_task = int(task) if task else None
        return [run for run in self.controller.history[int(job)] if run.task == of_task][-1]

    def submit_other(self, name: str = "other", *, is_mine: bool = True) -> int:
        """Let the user, or another one, submit a job by hand."""
        nowhere = Path("/nowhere")
        script = nowhere / "job.sh"
        request = Request(script, name, self._size.partitions[0], nowhere, is_mine=is_mine)
        return self.controller.submit(request)

    def cancel_all(self) -> None:
        """Let the user type ``scancel --me``."""
        mine = [run for runs in self.controller.known.values() for run in runs.values()]
        mine = [run for run in mine if run.request.is_mine]
        self.controller.merged |= {run.job for run in mine if run.is_waiting}
        self.controller.cancel(mine)

    # --- the commands --------------------------------------------------------------------------

    def run(self, argv: Sequence[str], timeout_s: float) -> "CompletedProcess[str]":
        """Run a command; waiting for its answer moves the clock.

        Args:
            argv: The command and its arguments.
            timeout_s: For how long to wait.

        Returns:
            What it printed, and its exit code.

        Raises:
            TimeoutError: There was no answer in that time.
        """
        self.advance(self.waits_s(argv))
        answer = self.answer(argv)
        self.advance(min(answer.delay_s, timeout_s))
        if answer.delay_s > timeout_s:
            raise TimeoutError(f"{argv[0]} has not answered within {timeout_s:g} s")
        return CompletedProcess(list(argv), answer.returncode, answer.stdout, answer.stderr)

    def waits_s(self, argv: Sequence[str]) -> float:
        """Return for how long a command first tries to reach a controller that is down."""
        now_s = self.clock.now()
        self.controller.advance_to(now_s)
        if argv[0] == "sacct" or "ping" in argv:
            return 0.0
        return min(self.controller.up_from(now_s) - now_s, RETRIES_S)

    def answer(
        self,
        argv: Sequence[str],
        directory: Path = Path("/"),
        environment: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return what a command prints, and after how long.

        Args:
            argv: The command line.
            directory: Where it is run.
            environment: In which environment.

        Raises:
            FileNotFoundError: There is no such command.
        """
        now_s = self.clock.now()
        self.controller.advance_to(now_s)
        command = argv[0]
        self.calls.append(Call(now_s, tuple(argv)))
        if self._rng.random() < self._faults.timeout:
            return Answer(delay_s=math.inf)
        if any(c == command and a <= now_s - self.start_s < b for c, a, b in self._faults.failing):
            return _failed(command, _NO_MUNGE)
        if command == "sacct":
            return self._cut(self._sacct(argv))
        if not self.controller.is_up():
            return self._down(argv)
        if command == "sbatch":
            return self._sbatch(argv, directory, environment or {})
        if command == "squeue":
            return self._cut(self._squeue(argv))
        if command == "scancel":
            return self._scancel(argv)
        if command == "scontrol":
            return self._scontrol(argv)
        if command == "sinfo":
            return self._cut(self._sinfo(argv))
        raise FileNotFoundError(command)

    def _sbatch(
        self, argv: Sequence[str], directory: Path, environment: Mapping[str, str]
    ) -> Answer:
        try:
            request = read_request(argv, self._size)
        except Invalid as error:
            return _failed("sbatch", str(error))
        if refusal := self._refusal(request):
            return _failed("sbatch", refusal)
        job = self.controller.submit(
            replace(request, directory=directory / request.directory, environment=environment)
        )
        if self._rng.random() < self._faults.accept_then_timeout:
            return Answer(delay_s=math.inf)
        return Answer(f"{job}\n")

    def _refusal(self, request: Request) -> str:
        """Return what sbatch says of a sound request that is not taken; empty if it is."""
        now_s = self.clock.now() - self.start_s
        if any(name == request.partition and a <= now_s < b for name, a, b in self._faults.drained):
            return _DRAINED
        limit = self._faults.max_submit
        if limit and self._num_submitted() + max(len(request.tasks), 1) > limit:
            return self._policy("QOSMaxSubmitJobPerUserLimit")
        if request.gpus < dict(self._faults.min_gpus).get(request.qos, 0):
            return self._policy("QOSMinGRES")
        return ""

    def _policy(self, reason: str) -> str:
        return _POLICY if self._faults.is_terse else f"{reason}\n{_POLICY}"

    def _num_submitted(self) -> int:
        return sum(
            run.request.is_mine and (run.is_waiting or run.is_running)
            for runs in self.controller.known.values()
            for run in runs.values()
        )

    def _squeue(self, argv: Sequence[str]) -> Answer:
        options = _options(argv, "--me", "--all", "--noheader", "--states", "--Format")
        # Without --all slurmctld leaves out jobs all of whose partitions are hidden from the user,
        # also the user's own (_all_parts_hidden in job_mgr.c); root alone sees them.
        hidden = () if "--all" in options else self._size.hidden
        rows = [row for row in queue_rows(self.controller) if row["Partition"] not in hidden]
        return Answer(table(rows, options["--Format"]))

    def _sacct(self, argv: Sequence[str]) -> Answer:
        options = _options(
            argv,
            *("--parsable", "--delimiter", "--noheader", "--noconvert", "--duplicates", "--format"),
            *("--uid", "--starttime", "--name", "--jobs"),
        )
        now_s = self.clock.now()
        if self._faults.no_accounting:
            return _failed("sacct", "Slurm accounting storage is disabled", prefix="")
        if any(a <= now_s - self.start_s < b for a, b in self._faults.accounting_down):
            return _failed("sacct", "Problem talking to the database: Connection refused")
        seen_s = now_s - self._faults.sacct_lag_s
        runs = self._asked(options, seen_s)
        end = options["--delimiter"]
        fields = "".join(f"{field}:{end}," for field in options["--format"].split(","))
        return Answer(table(accounting_rows(runs, seen_s, now_s), fields.rstrip(",")))

    def _asked(self, options: Mapping[str, str], seen_s: float) -> list[Incarnation]:
        history = self.controller.history
        if "--jobs" in options:
            jobs = [int(job) for job in options["--jobs"].split(",")]
            runs = [run for job in jobs for run in history.get(job, [])]
        else:
            # Of jobs that never were eligible, or are not yet, sacct tells nothing unless by id.
            runs = [
                run
                for runs in history.values()
                for run in runs
                if run.eligible_s is not None and run.eligible_s <= seen_s
            ]
        if "--name" in options:
            runs = [run for run in runs if run.request.name == options["--name"]]
        if "--starttime" in options:
            since = time.strptime(options["--starttime"], "%Y-%m-%dT%H:%M:%S")
            since_s = calendar.timegm(since)
            runs = [run for run in runs if run.ended_s is None or run.ended_s >= since_s]
        return [run for run in runs if run.request.is_mine]

    def _scancel(self, argv: Sequence[str]) -> Answer:
        for asked in argv[1:]:
            if not asked.startswith("-"):
                job, _, tasks = asked.partition("_")
                together = self._together(int(job))
                runs = self._found(asked)
                if tasks and together and set(together) <= set(runs):
                    # None is left that waits: squeue lists them by the array's id alone.
                    self.controller.merged.add(int(job))
                    for run in together:
                        run.is_split = False
                self.controller.cancel(runs)
        return Answer()

    def _together(self, job: int) -> list[Incarnation]:
        """Return the tasks of an array that wait in one record."""
        runs = self.controller.known.get(job, {}).values()
        return [r for r in runs if r.task is not None and r.is_waiting and not r.is_split]

    def _scontrol(self, argv: Sequence[str]) -> Answer:
        if argv[1:] == ["ping"]:
            return Answer("Slurmctld(primary) at login is UP\n")
        if argv[1:] == ["--oneliner", "show", "reservation"]:
            return Answer("".join(self._reservations()) or "No reservations in the system\n")
        if argv[1:] == ["show", "config"]:
            return Answer(_CONFIG.format(max_array_size=self._size.max_array_size))
        words = dict(word.lower().partition("=")[::2] for word in argv[2:])
        runs = self._found(words["jobid"] if argv[1] == "update" else argv[2])
        if not runs:
            return _failed("scontrol", "Invalid job id specified", prefix="")
        for run in runs:
            if argv[1] == "requeue" and run.is_running:
                self.controller.requeue(run)
            elif argv[1] == "update" and words.get("starttime") == "now" and run.is_waiting:
                if "excnodelist" in words:
                    nodes = words["excnodelist"]
                    exclude = frozenset(expand_hosts(nodes)) if nodes else frozenset()
                    run.request = replace(run.request, exclude=exclude)
                self.controller.start_now(run)
            elif argv[1] == "release" and run.is_waiting:
                self.controller.release(run)
            else:
                return _failed("scontrol", "Job has already finished", prefix="")
        return Answer()

    def _reservations(self) -> Iterator[str]:
        """Print the reservations, as ``maintenance`` of the faults has them."""
        hosts = list(self.controller.hosts)
        for name, begin, end, num_nodes in self._faults.maintenance:
            start_s, end_s = int(self.start_s + begin), int(self.start_s + end)
            if end_s > self.clock.now():
                yield (
                    f"ReservationName={name} StartTime={start_s} EndTime={end_s} "
                    f"Duration=01:00:00 Nodes={','.join(hosts[:num_nodes])} NodeCnt={num_nodes} "
                    "CoreCnt=1 Features=(null) PartitionName=(null) Flags=MAINT,SPEC_NODES "
                    "TRES=cpu=1 Users=root Groups=(null) Accounts=(null) Licenses=(null) "
                    "State=ACTIVE BurstBuffer=(null) Watts=n/a\n"
                )

    def _sinfo(self, argv: Sequence[str]) -> Answer:
        options = _options(
            argv, "--all", "--noheader", "--exact", "--noconvert", "--format", "--Node"
        )
        size = self._size
        if "--Node" in options:
            return Answer(
                "".join(
                    options["--format"].replace("%N", host).replace("%P", name) + "\n"
                    for host in self.controller.hosts
                    for name in size.partitions
                )
            )
        gres = f"gpu:{size.gpus}" if size.gpus else "(null)"
        text = ""
        for number, name in enumerate(size.partitions):
            line = options["--format"]
            values = {
                "%P": name if number else f"{name}*",
                "%a": "up",
                "%l": "30:00" if name == "debug" else "infinite",
                "%D": str(size.num_nodes),
                "%c": str(size.cpus),
                "%m": str(size.memory_mb),
                "%s": "1-infinite",
                "%G": gres,
            }
            for field, value in values.items():
                line = line.replace(field, value)
            text += line + "\n"
        return Answer(text)

    def _found(self, asked: str) -> list[Incarnation]:
        """Return the jobs of the user behind ``12``, ``12_3`` or ``12_[3-5]``."""
        job, _, tasks = asked.partition("_")
        runs = self.controller.known.get(int(job), {})
        if tasks:
            wanted = set(tasks_of(tasks.strip("[]")))
            found = [run for task, run in runs.items() if task in wanted]
            for run in found:
                run.is_split = True
        else:
            found = list(runs.values())
        return [run for run in found if run.request.is_mine]

    def _down(self, argv: Sequence[str]) -> Answer:
        if "ping" in argv:
            return Answer("Slurmctld(primary) at login is DOWN\n", returncode=1)
        failure = "Unable to contact slurm controller (connect failure)"
        what = "Batch job submission failed: " if argv[0] == "sbatch" else ""
        return _failed(argv[0], what + failure)

    def _cut(self, answer: Answer) -> Answer:
        if answer.returncode == 0 and self._rng.random() < self._faults.truncate:
            return replace(
                answer, stdout=answer.stdout[: self._rng.randrange(len(answer.stdout) + 1)]
            )
        return answer

    def _crash(self) -> None:
        self.controller.crash(self._faults.crash_forgets_s, self._faults.crash_down_s)
        if self._faults.stranger_takes_id:
            self.submit_other()


_POLICY = (
    "Batch job submission failed: Job violates accounting/QOS policy "
    "(job submit limit, user's size and/or time limits)"
)
_NO_MUNGE = 'Munge encode failed: Failed to access "/run/munge/munge.socket.2"'
_DRAINED = "Batch job submission failed: Required partition not available (inactive or drain)"
_CONFIG = """\
Configuration data as of 2026-01-01T00:00:00
AccountingStorageType   = accounting_storage/slurmdbd
ClusterName             = fake
MaxArraySize            = {max_array_size}
MinJobAge               = 300 sec

Slurmctld(primary) at login is UP
"""


def _failed(command: str, said: str, prefix: str | None = None) -> Answer:
    prefix = f"{command}: error: " if prefix is None else prefix
    return Answer(stderr="".join(f"{prefix}{line}\n" for line in said.splitlines()), returncode=1)


def _options(argv: Sequence[str], *known: str) -> dict[str, str]:
    """Read ``--name=value`` options.

    Raises:
        ValueError: The fake does not know one of them, though the real command may.
    """
    options = {name: value for name, _, value in (word.partition("=") for word in argv[1:])}
    unknown = set(options) - set(known)
    if unknown:
        raise ValueError(f"the fake {argv[0]} does not know {sorted(unknown)}")
    return options
