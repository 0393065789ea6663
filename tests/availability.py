"""What happens with tests whose programs are not there: they run, are skipped, or fail."""

from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Verdict:
    """What is to happen with tests that need more than Python.

    Attributes:
        runs: Whether they can run.
        is_failure: Whether it is a failure that they cannot.
        message: Why they cannot, and what to do; one line.
    """

    runs: bool
    is_failure: bool = False
    message: str = ""

    def carry_out(self) -> None:
        """Go on, skip or fail; pytest folds equal skips into one line."""
        if self.is_failure:
            pytest.fail(self.message, pytrace=False)
        if not self.runs:
            pytest.skip(self.message)
