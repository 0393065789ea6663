"""Run a server: ``python -m tasks.federated.server_job <run directory>/job.json``."""

import sys

from tasks.federated.serving import serve
from tasks.runtime.job import run_from_command_line
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.spool import Spool


def main(argv: list[str] | None = None) -> int:
    """Run the job of a run directory.

    Args:
        argv: The path of ``job.json``; default: the process's arguments.

    Returns:
        The exit code, see ``tasks.runtime.job``.
    """
    return run_from_command_line(
        "tasks.federated.server_job", serve, argv, when_finished=_clear_spool
    )


def _clear_spool(directory: RunDirectory) -> None:
    """Delete what workers sent: the result is written, so nobody needs it again."""
    Spool(directory).clear()


if __name__ == "__main__":
    sys.exit(main())
