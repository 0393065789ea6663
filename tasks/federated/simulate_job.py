"""Run one simulation: ``python -m tasks.federated.simulate_job <run directory>/job.json``."""

import sys

from tasks.federated.simulation import simulate
from tasks.runtime.job import run_from_command_line


def main(argv: list[str] | None = None) -> int:
    """Run the job of a run directory.

    Args:
        argv: The path of ``job.json``; default: the process's arguments.

    Returns:
        The exit code, see ``tasks.runtime.job``.
    """
    return run_from_command_line("tasks.federated.simulate_job", simulate, argv)


if __name__ == "__main__":
    sys.exit(main())
