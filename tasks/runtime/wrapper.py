"""What a batch script runs: claims a run, starts its job, watches it, says how it ended.

    python -m tasks.runtime.wrapper --submission 1 --run DIRECTORY [--requeue] -- COMMAND...

``COMMAND... DIRECTORY/job.json`` is the job. Instead of ``--run`` there may be ``--runs FILE``, a
JSON list of run directories, with ``--index I`` for one of them (a task of an array) or with
``--parallel P`` for all, P at a time.

While the job runs, its attempt has a heartbeat every 10 s, and ends within 5 s when a newer attempt
of the run has begun. SIGUSR1, which Slurm sends before the time limit, and SIGTERM reach the job as
SIGTERM, through ``srun`` as SIGUSR1. When it ends, whatever it has left of its process group is
killed. After SIGUSR1 a job that has stopped, and has left a checkpoint that was not there at its
start, is queued again (``--requeue``).

Exit codes are the job's, 128 + n if signal n killed it, and 75 if the run is with somebody else.
If SIGKILL ends the wrapper itself, the kernel kills the job, too (PR_SET_PDEATHSIG of Linux).

The standard library alone is imported, and little of it: this is on the way to every job, and a
cluster's file system may take milliseconds for each module.

SIGUSR1 kills a process that does not expect it, so the first thing is to hold all signals back.
Until the interpreter has come so far, some 15 ms, ``job.sh`` has it ignored (``trap '' USR1``): a
warning to a job that has not begun is lost. SIGTERM in that time ends the job unclaimed.
"""

import signal
import sys


def main(argv: list[str] | None = None) -> int:
    """Run the wrapper.

    Args:
        argv: Its arguments; default: the process's.

    Returns:
        The exit code.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    from tasks.runtime.invocation import run  # noqa: PLC0415  once signals are held back

    return run(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
