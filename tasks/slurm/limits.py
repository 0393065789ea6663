"""What Slurm does not take now: limits of users, partitions that are closed, policies unexplained.

Each of them concerns some jobs, and must not hold back others: a limit is of a partition, an
account and a QoS; a partition that is drained closes to its own jobs alone; a policy that Slurm
does not explain may be about one study's sizes.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from tasks.slurm.calls import Clock
from tasks.slurm.leader_ledger import LeaderLedger
from tasks.slurm.plan import Batch
from tasks.slurm.quota import Quota

_log = logging.getLogger(__name__)

_BUSY_S = (2.0, 30.0, 60.0, 120.0)
_CLOSED_S = (60.0, 120.0, 300.0)
MOST_VAGUE = 5
"""So often a job is tried again that a policy does not allow, with nothing else in the queue."""

_Line = tuple[str, ...]
"""Where jobs are counted together: partition, account and QoS; or a study by itself."""


@dataclass(frozen=True)
class _Closed:
    """A partition that takes no jobs.

    Attributes:
        until_s: When it is asked again, by the steady clock.
        times: How often it has said so.
    """

    until_s: float
    times: int


class Limits:
    """What is known of limits; a successor finds it out anew.

    Args:
        ledger: What Slurm has.
        clock: The time.
    """

    def __init__(self, ledger: LeaderLedger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._quotas: dict[_Line, Quota] = {}
        self._num_busy: Counter[_Line] = Counter()
        self._num_vague: Counter[tuple[str, str]] = Counter()
        self._closed: dict[str, _Closed] = {}

    def room(self, study_dir: str, num_ready: Mapping[str, int]) -> int | None:
        """Return how many more jobs of a study may be tried; None if no limit is known.

        Args:
            study_dir: The study.
            num_ready: Study -> jobs that are submitted next.
        """
        if not self._quotas:
            return None
        now_s = self._clock.steady()
        rooms = [
            quota.room(self._num_queued(line, num_ready), now_s)
            for line in self._lines(study_dir)
            if (quota := self._quotas.get(line)) is not None and quota.is_known(now_s)
        ]
        return min((room for room in rooms if room is not None), default=None)

    def accepted(self, study_dir: str, batch: Batch) -> bool:
        """Take note that Slurm has taken a batch; say whether a limit is known all the same."""
        self._num_vague.pop(_alike(study_dir, batch), None)
        if self._closed.pop(_partition(batch), None) is not None:
            _log.warning("%s takes jobs again", _named(batch))
        is_known = False
        for line in self._lines(study_dir) if self._quotas else ():
            self._num_busy.pop(line, None)
            quota = self._quotas.get(line)
            if quota is not None and quota.is_known(self._clock.steady()):
                quota.accepted(self._num_queued(line))
                is_known = True
        return is_known

    def busy(self, study_dir: str, batch: Batch) -> float:
        """Take note that a user's limit is reached.

        Returns:
            Seconds after which a smaller batch, or the same one, may be tried.
        """
        line, _ = self._lines(study_dir)
        return self._refused(line, batch)

    def vague(self, study_dir: str, batch: Batch) -> float | None:
        """Take note that a policy does not allow a batch, whichever that is.

        It may be a limit on the number of jobs, which a smaller batch or patience would keep to. It
        is not if one job alone is refused again and again while Slurm has none of the user's.

        Returns:
            As ``busy``; None if trying is no use.
        """
        line, own = self._lines(study_dir)
        alike = _alike(study_dir, batch)
        is_alone = self._num_queued(line) == len(batch.jobs)
        self._num_vague[alike] += len(batch.jobs) == 1 and is_alone
        if self._num_vague[alike] > MOST_VAGUE:
            return None
        return self._refused(own, batch)

    def close(self, batch: Batch, said: str) -> str:
        """Take note that the partition of a batch takes no jobs now; return that for people."""
        name = _partition(batch)
        before = self._closed.get(name)
        times = 0 if before is None else before.times
        delay_s = _CLOSED_S[min(times, len(_CLOSED_S) - 1)]
        self._closed[name] = _Closed(self._clock.steady() + delay_s, times + 1)
        text = f"{_named(batch)} takes no jobs now ({said}); it is asked again every few minutes"
        if before is None:
            _log.warning("%s; jobs for it wait", text)
        return text

    def is_closed(self, batch: Batch) -> bool:
        """Say whether a batch waits for its partition."""
        closed = self._closed.get(_partition(batch)) if self._closed else None
        return closed is not None and self._clock.steady() < closed.until_s

    def is_beside(self, batch: Batch, other: Batch) -> bool:
        """Say whether two batches go to the same partition."""
        return _partition(batch) == _partition(other)

    def _refused(self, line: _Line, batch: Batch) -> float:
        quota = self._quotas.setdefault(line, Quota())
        num_queued = self._num_queued(line)
        quota.refused(num_queued, len(batch.jobs), self._clock.steady())
        if len(batch.jobs) > 1:
            return _BUSY_S[0]
        self._num_busy[line] = min(self._num_busy[line] + 1, len(_BUSY_S) - 1)
        return _BUSY_S[self._num_busy[line]]

    def _lines(self, study_dir: str) -> tuple[_Line, _Line]:
        config = self._ledger.launcher(study_dir)
        shared = (config.partition or "", config.account or "", config.qos or "")
        return shared, (study_dir,)

    def _num_queued(self, line: _Line, num_ready: Mapping[str, int] | None = None) -> int:
        """Count the jobs of a line that Slurm has, or gets next."""
        counts = Counter(self._ledger.num_followed_by_study())
        counts.update(num_ready or {})
        return sum(num for study, num in counts.items() if line in self._lines(study))


def _partition(batch: Batch) -> str:
    resources = batch.jobs[0].resources
    return (resources.partition or "") if resources is not None else ""


def _named(batch: Batch) -> str:
    name = _partition(batch)
    return f"partition {name}" if name else "the default partition"


def _alike(study_dir: str, batch: Batch) -> tuple[str, str]:
    """What jobs share that the same policy is about."""
    resources = batch.jobs[0].resources
    return study_dir, "" if resources is None else resources.model_dump_json()
