"""Run one real worker: ``python -m tasks.federated.client_job <run directory>/job.json``."""

import sys
from pathlib import Path

from tasks.federated.client import work
from tasks.runtime.job import run_job


def main(argv: list[str] | None = None) -> int:
    """Run the job of a run directory.

    Args:
        argv: The path of ``job.json``; default: the process's arguments.

    Returns:
        The exit code, see ``tasks.runtime.job``.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m tasks.federated.client_job RUN_DIRECTORY/job.json\n")
        return 2
    return run_job(Path(arguments[0]), work)


if __name__ == "__main__":
    sys.exit(main())
