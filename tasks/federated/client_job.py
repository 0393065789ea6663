"""Run one real worker: ``python -m tasks.federated.client_job <run directory>/job.json``."""

import sys

from tasks.federated.client import work
from tasks.runtime.job import run_from_command_line


def main(argv: list[str] | None = None) -> int:
    """Run the job of a run directory.

    Args:
        argv: The path of ``job.json``; default: the process's arguments.

    Returns:
        The exit code, see ``tasks.runtime.job``.
    """
    return run_from_command_line("tasks.federated.client_job", work, argv)


if __name__ == "__main__":
    sys.exit(main())
