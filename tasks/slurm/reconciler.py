"""The reconciler: makes what is written in the ledger true, step by step.

One in every process that has jobs; only the leader's does anything. A step asks little: wishes and
plans from the ledger, some run directories, and Slurm where the agenda says so. What a step does is
written down before and after, so that the process may be killed anywhere: its successor finds the
jobs by their names.
"""

import math
from collections.abc import Callable
from pathlib import Path

from tasks.runtime.signs import file_system_now
from tasks.slurm.agenda import Agenda
from tasks.slurm.bucket import Urgency, narrowest
from tasks.slurm.calls import Calls, Clock, Listing
from tasks.slurm.cancelling import Canceller
from tasks.slurm.costing import Costing
from tasks.slurm.desk import Desk
from tasks.slurm.doubts import Doubts
from tasks.slurm.following import Follower
from tasks.slurm.leader import RENEWED_EVERY_S, Leadership
from tasks.slurm.leader_ledger import LeaderLedger
from tasks.slurm.ledger_file import LedgerFile
from tasks.slurm.sightings import Slurm
from tasks.slurm.submitting import Submitter
from tasks.slurm.watching import Watch

STEP_S = 0.2
"""Longest pause between two steps: wishes and plans of other processes are found by asking."""
_STEP_ON_NETWORK_S = 1.0
"""The same where each question of the ledger takes and gives back locks over the network."""
_TRY_TO_LEAD_S = 2.0
_TRY_ON_NETWORK_S = 5.0
"""How often one that does not lead asks for the lock."""
_WATCH_EVERY_S = 1.0
_UPDATE_RATE_EVERY_S = 1.0
_ASK_BUCKET_EVERY_S = 1.0


class Reconciler:
    """Leads, if nobody else does; to be used by one thread.

    Args:
        slurm: The commands.
        file: The ledger's file.
        leadership: The lock.
        clock: The time.
        file_now: Tells the time by the clock of a directory's file system.
    """

    def __init__(
        self,
        slurm: Slurm,
        file: LedgerFile,
        leadership: Leadership,
        *,
        clock: Clock | None = None,
        file_now: Callable[[Path], float] = file_system_now,
    ) -> None:
        self._clock = clock or Clock()
        self._leadership = leadership
        self._is_on_network = file.is_on_network
        self._step_s = _STEP_ON_NETWORK_S if file.is_on_network else STEP_S
        self._try_again_s = -math.inf
        self._ledger = LeaderLedger(file)
        self._calls = Calls(slurm, self._ledger, self._clock)
        self._file_now = file_now
        self._lead()

    def _lead(self) -> None:
        """Begin with a clean desk: whoever led before us has moved things."""
        self._calls.take_over()
        watch = Watch(self._file_now)
        desk = Desk(self._ledger, self._calls, watch, Agenda(), self._clock)
        self._desk = desk
        self._canceller = Canceller(desk)
        self._doubts = Doubts(desk)
        self._follower = Follower(desk)
        self._submitter = Submitter(desk)
        self._costing = Costing(desk)
        self._renewed_s = self._clock.steady()
        self._rate_updated_s = self._watched_s = -math.inf
        self._version = self._num_changes = -1
        self._may_pay_s = 0.0
        self._next_pass_s = -math.inf
        self._is_outdated = True

    def step(self) -> float:
        """Do what is to be done now.

        Returns:
            Seconds after which to step again, one at most; 0 if there may be more to do.

        Raises:
            OSError: The leader's lock cannot be opened.
            sqlite3.Error: The ledger cannot be read or written.
        """
        now_s = self._clock.steady()
        if not self._leadership.is_held and not self._come_to_lead(now_s):
            return self._step_s
        if now_s - self._renewed_s >= RENEWED_EVERY_S:
            self._leadership.renew()
            self._renewed_s = now_s
        is_to_pass = self._is_to_pass(now_s)
        if is_to_pass:
            self._canceller.hear()
        self._follower.hear(self._desk.watch.news(now_s))
        self._look_if_due()
        if not is_to_pass:
            return self._step_s
        num_changes = self._ledger.num_changes()
        pause_s = self._submitter.submit_next()
        self._next_pass_s = now_s + pause_s
        if pause_s == 0 or self._ledger.num_changes() != num_changes:
            self._is_outdated = True
        if self._is_outdated and now_s - self._watched_s >= _WATCH_EVERY_S:
            self._watch_followed()
        self._costing.write_some()
        return min(pause_s, self._step_s)

    def _come_to_lead(self, now_s: float) -> bool:
        """Lead from now on, if nobody else does; who does is not asked at every step."""
        if now_s < self._try_again_s:
            return False
        if not self._leadership.acquire():
            every_s = _TRY_ON_NETWORK_S if self._is_on_network else _TRY_TO_LEAD_S
            self._try_again_s = now_s + every_s
            return False
        self._lead()
        return True

    def _is_to_pass(self, now_s: float) -> bool:
        """Whether the ledger is to be gone through: over a network only if something is new."""
        version, num_changes = self._ledger.version(), self._ledger.num_changes()
        is_new = version != self._version or num_changes != self._num_changes
        is_idle = not is_new and not self._is_outdated and now_s < self._next_pass_s
        if self._is_on_network and is_idle:
            return False
        self._num_changes = num_changes
        if version != self._version or now_s - self._rate_updated_s >= _UPDATE_RATE_EVERY_S:
            self._version = version  # before the first call for a new study is paid
            self._update_rate()
        return True

    def _look_if_due(self) -> None:
        now_s = self._clock.steady()
        urgency = self._desk.agenda.due(now_s)
        if urgency is None or (now_s < self._may_pay_s and urgency is not Urgency.CANCEL):
            return
        is_idle = urgency is not Urgency.CANCEL and not self._calls.trouble
        if is_idle and not self._ledger.num_followed():
            self._desk.agenda.looked(now_s, self._calls.rate, is_answered=True)
            return
        if wait_s := self._calls.pay(urgency):
            self._may_pay_s = now_s + min(wait_s, _ASK_BUCKET_EVERY_S)
            return
        listing = self._calls.queue()
        now_s = self._clock.steady()
        self._desk.agenda.looked(now_s, self._calls.rate, is_answered=listing is not None)
        if listing is None:
            return
        self._use(listing)

    def _use(self, listing: Listing) -> None:
        """Bring the ledger up to date; ten thousand jobs are read again only if some changed."""
        num_changes = self._ledger.num_changes()
        entries = self._ledger.followed()
        excess = self._doubts.settle(entries, listing)
        self._follower.culled(excess)
        if self._ledger.num_changes() != num_changes:
            entries = self._ledger.followed()
        finished = self._follower.follow(entries, listing)
        self._canceller.cancel(listing, [*excess, *finished])
        if self._is_outdated or self._ledger.num_changes() != num_changes:
            self._watch_followed()

    def _watch_followed(self) -> None:
        """Watch the run directories of all jobs that Slurm has, or may have."""
        self._watched_s = self._clock.steady()
        self._desk.watch.set(self._ledger.followed())
        self._is_outdated = False

    def _update_rate(self) -> None:
        """Keep to the narrowest limits of all studies that have jobs."""
        if launchers := self._ledger.launchers():
            self._calls.rate = narrowest(launchers)
        self._rate_updated_s = self._clock.steady()

    def resign(self) -> None:
        """Lead no more; jobs go on, and the next leader follows them."""
        self._leadership.release()
