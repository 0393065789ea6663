"""The process that runs a night by hand: ``python -m flows.run_nightly PARAMETERS_AS_JSON``.

Of its own it prints what came out, in one line; what Prefect says goes to stderr.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.exit_codes import EXIT_CTRL_C

if TYPE_CHECKING:
    from prefect import State

EXIT_ALREADY_RUNNING = 75
EXIT_CONFIGURATION = 2


def main(argv: list[str] | None = None) -> int:
    """Run one night.

    Args:
        argv: The parameters of ``flows.nightly.nightly``, a JSON object; default: the process's.

    Returns:
        0 no regression, or skipped for a maintenance; 1 a regression, failed points, or not
        compared; 2 the configuration is faulty; 75 another night of this study runs; 130 stopped.
    """
    (text,) = sys.argv[1:] if argv is None else argv
    from prefect.exceptions import Pause  # noqa: PLC0415  Prefect takes seconds to import

    from flows.nightly import nightly  # noqa: PLC0415

    try:
        state = nightly(**json.loads(text), return_state=True)
    except (KeyboardInterrupt, Pause):
        sys.stdout.write("stopped\n")
        return EXIT_CTRL_C
    sys.stdout.write(f"{state.message or state.name or ''}\n")
    report = state.result(raise_on_failure=False)
    if isinstance(report, str) and report and Path(report).is_file():
        sys.stdout.write(f"{report}\n")
    sys.stdout.flush()
    return exit_code(state)


def exit_code(state: "State[Any]") -> int:
    """Return the code that a night's process ends with.

    Args:
        state: In which the flow has ended.

    Returns:
        As ``main`` says.
    """
    from flows.nightly import ALREADY_RUNNING  # noqa: PLC0415

    if state.is_cancelled():
        return EXIT_CTRL_C
    if state.name == ALREADY_RUNNING:
        return EXIT_ALREADY_RUNNING
    if (state.message or "").startswith("configuration:"):
        return EXIT_CONFIGURATION
    return 0 if state.is_completed() else 1


if __name__ == "__main__":
    sys.exit(main())
