"""The process that runs a night by hand: ``python -m flows.run_nightly PARAMETERS_AS_JSON``.

Of its own it prints what came out, in one line; what Prefect says goes to stderr.
"""

import json
import sys
from pathlib import Path

from flows.exit_codes import EXIT_CTRL_C

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
    message = state.message or state.name or ""
    sys.stdout.write(f"{message}\n")
    report = state.result(raise_on_failure=False)
    if isinstance(report, str) and report and Path(report).is_file():
        sys.stdout.write(f"{report}\n")
    sys.stdout.flush()
    if state.is_cancelled():
        return EXIT_CTRL_C
    if "runs already" in message and state.name == "Skipped":
        return EXIT_ALREADY_RUNNING
    if message.startswith("configuration:"):
        return EXIT_CONFIGURATION
    return 0 if state.is_completed() else 1


if __name__ == "__main__":
    sys.exit(main())
