"""What the parts of the reconciler work with."""

from dataclasses import dataclass

from tasks.slurm.agenda import Agenda
from tasks.slurm.calls import Calls, Clock
from tasks.slurm.leader_ledger import LeaderLedger
from tasks.slurm.watching import Watch


@dataclass(frozen=True)
class Desk:
    """The leader's desk.

    Attributes:
        ledger: What is to be done, and how it stands.
        calls: The line to Slurm.
        watch: The eye on the run directories.
        agenda: When to look at Slurm next.
        clock: The time.
    """

    ledger: LeaderLedger
    calls: Calls
    watch: Watch
    agenda: Agenda
    clock: Clock
