"""Failures of jobs on this machine, in words."""

import pytest

from tasks.runtime.errors import Reason
from tasks.runtime.records import Result
from tasks.slurm.local_diagnosis import diagnose_local
from tasks.slurm.states import FailureClass

UNKNOWN = diagnose_local("planted", "no space")


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_words_of_its_own(reason: Reason) -> None:
    """What happened is told by more than that something has."""
    told = diagnose_local(reason, "no space")

    assert told.category == reason
    assert told.summary != UNKNOWN.summary
    assert told.resolution.endswith(".")


@pytest.mark.parametrize("reason", ["", "planted", *(FailureClass)])
def test_a_result_with_another_reason_is_read_and_told(reason: str) -> None:
    """Those of another version, and of Slurm, say what the message says."""
    text = Result(status="failed", reason=reason, message="no space").model_dump_json()

    found = Result.model_validate_json(text)

    assert found.reason == reason
    assert diagnose_local(found.reason, found.message).detail == "No space."
