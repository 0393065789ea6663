"""Run a server: ``python -m tasks.federated.server_job <run directory>/job.json``."""

import sys
from pathlib import Path

from tasks.federated.serving import serve
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
        sys.stderr.write("usage: python -m tasks.federated.server_job RUN_DIRECTORY/job.json\n")
        return 2
    return run_job(Path(arguments[0]), serve)


if __name__ == "__main__":
    sys.exit(main())
