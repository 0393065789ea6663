"""Calls to Slurm by the leader: paid for from the bucket, and with a memory of who answers."""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tasks.slurm.bucket import TokenBucket, Urgency, narrowest
from tasks.slurm.entries import Entry
from tasks.slurm.errors import NoAccounting, SlurmError
from tasks.slurm.leader_ledger import LeaderLedger
from tasks.slurm.plan import NAME_PREFIX
from tasks.slurm.sightings import Accounted, Queued, Slurm
from tasks.slurm.states import SlurmState

_log = logging.getLogger(__name__)

_MOST_IDS = 2000
"""Of one sacct; its command line must not become too long."""


@dataclass(frozen=True)
class Clock:
    """Two clocks, since neither does for everything.

    Attributes:
        unix: Unix time, for what is written down.
        steady: Seconds that are never set, for waiting.
    """

    unix: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic


class Listing:
    """What one squeue has told.

    Args:
        queued: Its lines.
    """

    def __init__(self, queued: Iterable[Queued]) -> None:
        self._by_id = {line.slurm_job: line for line in queued}
        self._by_name: dict[str, list[Queued]] = {}
        for line in self._by_id.values():
            self._by_name.setdefault(line.name, []).append(line)

    def line(self, entry: Entry) -> Queued | None:
        """Return the line of a job; None if it is not listed.

        An id alone proves nothing: a controller that was killed gives the ids that it has forgotten
        to other jobs. Only of a job that was submitted by hand the name is not known.
        """
        line = self._by_id.get(entry.slurm_job) or self._line_of_array(entry)
        is_ours = line is not None and (line.name == entry.name or _may_be(line.name, entry))
        return line if is_ours else None

    def _line_of_array(self, entry: Entry) -> Queued | None:
        """Return the line that stands for a task which was cancelled before it had begun.

        squeue lists such tasks by the id of the array alone, if no other one waits any more.
        """
        line = self._by_id.get(entry.slurm_job.partition("_")[0])
        is_over = line is not None and line.state.is_final
        has_waited = entry.slurm_state in {"", SlurmState.PENDING}
        return line if is_over and has_waited and entry.task is not None else None

    def named(self, name: str) -> list[Queued]:
        """Return the jobs, or tasks, of a name."""
        return self._by_name.get(name, [])

    def live_names(self) -> set[str]:
        """Return the names of jobs that wait or run."""
        return {
            name
            for name, lines in self._by_name.items()
            if not all(line.state.is_final for line in lines)
        }


class Calls:
    """Asks Slurm, if the bucket allows it.

    Args:
        slurm: The commands.
        ledger: With the bucket that they are paid from; there it is told that Slurm does not
            answer.
        clock: The time.
    """

    def __init__(self, slurm: Slurm, ledger: LeaderLedger, clock: Clock) -> None:
        self.slurm = slurm
        self.rate = narrowest(())
        self._ledger = ledger
        self._bucket = TokenBucket(ledger.file)
        self._clock = clock
        self.has_accounting = True
        self._trouble = ""
        self._max_array_size: int | None = None

    @property
    def trouble(self) -> str:
        """What Slurm's commands say instead of an answer; empty if the last one was answered."""
        return self._trouble

    def take_over(self) -> None:
        """Begin with what the leader before us knew, whose process may have died of it."""
        trouble = self._ledger.trouble()
        self._trouble = trouble.words if trouble is not None else ""

    def suspect(self, error: SlurmError) -> None:
        """Take note that a call was not answered; nothing is submitted before one is."""
        if not self._trouble:
            _log.warning("Slurm does not answer; jobs go on, and are looked for again: %s", error)
        self._trouble = str(error) or type(error).__name__
        self._ledger.suffer(self._trouble, self._clock.unix())

    def pay(self, urgency: Urgency, calls: int = 1) -> float:
        """Take tokens.

        Args:
            urgency: How much the calls matter.
            calls: How many.

        Returns:
            0 if they may be made now, else the seconds to wait.
        """
        return self._bucket.take(self.rate, urgency, self._clock.unix(), calls=calls)

    def charge(self, calls: int = 1) -> None:
        """Take tokens for calls that are made at once; see ``TokenBucket.charge``."""
        self._bucket.charge(self.rate, self._clock.unix(), calls=calls)

    def max_array_size(self) -> int:
        """Return MaxArraySize, as it was when it was asked for first.

        Raises:
            SlurmError: There is no answer.
        """
        if self._max_array_size is None:
            self.charge()
            self._max_array_size = self.slurm.max_array_size()
        return self._max_array_size

    def queue(self) -> Listing | None:
        """List the user's jobs; already paid for. None if Slurm does not answer."""
        try:
            listing = Listing(self.slurm.queue())
        except SlurmError as error:
            self.suspect(error)
            return None
        if self._trouble:
            _log.warning("Slurm answers again")
            self._ledger.recover()
        self._trouble = ""
        return listing

    def is_well(self) -> bool:
        """Ask whether the controller is well; False if the bucket is too low to ask."""
        return not self.pay(Urgency.LOOK) and self.slurm.is_up()

    def accounted(
        self, jobs: Iterable[tuple[str, str, str]], urgency: Urgency = Urgency.LOOK
    ) -> dict[str, list[Accounted]] | None:
        """Ask the accounting for the incarnations of jobs, oldest first.

        Args:
            jobs: Run directory, Slurm's id, and Slurm's name of the jobs.
            urgency: How much it matters.

        Returns:
            Run directory -> incarnations; empty where there is no accounting. None if it does not
            answer, or the bucket is too low.
        """
        found: dict[str, list[Accounted]] = {}
        wanted: dict[tuple[str, str], list[str]] = {}  # the runs of an allocation share a job
        for run_dir, slurm_job, name in jobs:
            found[run_dir] = []
            wanted.setdefault((slurm_job, name), []).append(run_dir)
        ids = sorted({slurm_job for slurm_job, _ in wanted if slurm_job})
        for start in range(0, len(ids), _MOST_IDS) if self.has_accounting else ():
            if self.pay(urgency):
                return None
            try:
                rows = self.slurm.accounting(ids[start : start + _MOST_IDS])
            except NoAccounting:
                self.has_accounting = False
                break
            except SlurmError as error:
                _log.warning("the accounting does not answer: %s", error)
                return None
            for row in rows:
                nameless = wanted.get((row.slurm_job, ""), [])
                for run_dir in wanted.get((row.slurm_job, row.name), nameless):
                    found[run_dir].append(row)
        return found

    def accounted_name(self, name: str, since_s: float) -> list[Accounted] | None:
        """Ask the accounting for jobs of a name; see ``accounted``.

        Args:
            name: The name.
            since_s: Unix time before which none of them was submitted.
        """
        if not self.has_accounting:
            return []
        if self.pay(Urgency.LOOK):
            return None
        try:
            return self.slurm.accounting(name=name, since_s=int(since_s))
        except NoAccounting:
            self.has_accounting = False
            return []
        except SlurmError as error:
            _log.warning("the accounting does not answer: %s", error)
            return None


def _may_be(name: str, entry: Entry) -> bool:
    """Whether a job of a name may be a submission whose name we do not know.

    A script that was submitted by hand may have kept the name of an earlier submission.
    """
    number = name.removeprefix(NAME_PREFIX).rpartition("-")[2]
    is_ours = name.startswith(NAME_PREFIX) and number.isdecimal()
    return not entry.name and is_ours and int(number) <= entry.submission
