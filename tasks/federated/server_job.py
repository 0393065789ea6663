"""Run a server: ``python -m tasks.federated.server_job <run directory>/job.json``."""

import sys
from pathlib import Path

from tasks.federated.serving import serve
from tasks.runtime.job import EXIT_FINISHED, run_job
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.spool import Spool


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
    job_path = Path(arguments[0])
    code = run_job(job_path, serve)
    if code == EXIT_FINISHED:  # the result is written, so nobody needs the spool again
        Spool(RunDirectory(job_path.resolve().parent)).clear()
    return code


if __name__ == "__main__":
    sys.exit(main())
