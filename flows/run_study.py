"""The process that runs a study's flow: ``python -m flows.run_study STUDY_DIRECTORY [N]``.

The command line starts it in a session of its own, so that its terminal belongs to the display
alone: Prefect's output goes to a file, and Ctrl-C reaches the flow as one signal at a time of our
choosing, not the Prefect server beside it.
"""

import argparse
import sys
from pathlib import Path

from flows.exit_codes import EXIT_CTRL_C
from tasks.runtime.errors import DamagedFileError
from tasks.steps.study_lock import study_lock
from tasks.tracking.study_directory import StudyDirectory

EXIT_ALREADY_RUNNING = 75


def main(argv: list[str] | None = None) -> int:
    """Run the flow of a study that has its directory.

    Args:
        argv: The directory, the number of local jobs at a time, the numbers of the points; default:
            the process's arguments.

    Returns:
        0 finished, 1 some points failed, 75 another process runs this study, 130 interrupted.
    """
    parser = argparse.ArgumentParser(prog="flows.run_study")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--parallel", type=int)
    parser.add_argument("--points", type=int, nargs="*")
    arguments = parser.parse_args(argv)
    directory = StudyDirectory(arguments.directory.resolve())
    with study_lock(directory.path) as holder:
        if holder:
            return EXIT_ALREADY_RUNNING
        try:
            return _run(directory, arguments.parallel, arguments.points)
        except KeyboardInterrupt:
            return EXIT_CTRL_C


def _run(directory: StudyDirectory, num_parallel: int | None, points: list[int] | None) -> int:
    # Prefect takes seconds to import; the lock is to be held by then.
    from prefect.exceptions import Pause  # noqa: PLC0415

    from flows.choosing import flow_of  # noqa: PLC0415
    from tasks.steps.launching import default_parallel  # noqa: PLC0415
    from tasks.steps.prefect_check import prefect_fault  # noqa: PLC0415

    if fault := prefect_fault():
        sys.stderr.write(f"{fault}\n")
        return 1
    try:
        study = directory.read_study()
    except DamagedFileError as fault:
        sys.stderr.write(f"{fault}\n")
        return 1
    num_parallel = num_parallel or default_parallel(study)
    try:
        state = flow_of(study, directory.path.name, num_parallel)(
            study,
            study_dir=directory.path,
            num_parallel=num_parallel,
            points=points,
            return_state=True,
        )
    except Pause:
        return EXIT_CTRL_C
    if state.is_completed():
        return 0
    return EXIT_CTRL_C if state.is_cancelled() else 1


if __name__ == "__main__":
    sys.exit(main())
