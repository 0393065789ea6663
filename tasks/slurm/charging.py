"""Calls to Slurm beside the leader's rounds: made at once, and paid from the leader's bucket.

They are few, and a person waits for most of them; what the leader does next waits instead.
"""

import contextlib
import sqlite3
import time

from tasks.slurm.bucket import TokenBucket, narrowest
from tasks.slurm.leader_view import LeaderView
from tasks.slurm.ledger_file import FILE_NAME, LedgerError, LedgerFile, ledgers_here


def charge(file: LedgerFile, calls: int) -> None:
    """Charge the bucket of a ledger; not if that stays locked: a call more or less is no reason.

    Args:
        file: The ledger.
        calls: How many calls are made.
    """
    with contextlib.suppress(sqlite3.OperationalError):
        rate = narrowest(LeaderView(file).launchers())
        TokenBucket(file).charge(rate, time.time(), calls=calls)


def charge_here(calls: int) -> None:
    """Charge the buckets of all ledgers here, by a command that does not know its cluster's name.

    To ask for that would be one call more. A ledger that cannot be used is told by who needs it.

    Args:
        calls: How many calls are made.
    """
    for path in ledgers_here(FILE_NAME):
        with contextlib.suppress(LedgerError, OSError, sqlite3.Error):
            file = LedgerFile(path)
            try:
                charge(file, calls)
            finally:
                file.close()
