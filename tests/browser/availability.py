"""Whether a browser can be driven here, and what to say if not."""

import os
import shutil

from tests.availability import Verdict

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def judge(program: str | None, *, is_required: bool) -> Verdict:
    """Decide whether the tests run, are skipped or fail.

    Args:
        program: Path of the browser; None where there is none.
        is_required: Whether a skip would be a failure.

    Returns:
        The decision.
    """
    if program is not None:
        return Verdict(runs=True)
    message = "no Chromium here; on Debian: sudo make browser-packages (chromium)"
    return Verdict(runs=False, is_failure=is_required, message=message)


def program() -> str | None:
    """Return the path of a Chromium or Chrome of this machine; None where there is none."""
    return next(filter(None, map(shutil.which, _PROGRAMS)), None)


def here() -> Verdict:
    """Decide for this machine; the variable REQUIRE_BROWSER=1 makes a skip a failure.

    Returns:
        The decision.
    """
    return judge(program(), is_required=os.environ.get("REQUIRE_BROWSER") == "1")
