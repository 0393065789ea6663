"""Slurm's reasons for letting a job wait, in words."""

import re

import pytest

from configs.launchers import SlurmLauncherConfig
from tasks.slurm.waiting import why_waiting

REASONS = [
    ("", "has not looked at it yet", False),
    ("None", "has not looked at it yet", False),
    ("Priority", "other jobs come first", False),
    ("Resources", "as soon as nodes are free", False),
    ("BeginTime", "for two minutes", False),
    ("JobArrayTaskLimit", "launcher.max_running", False),
    ("Dependency", "launcher.dependency", False),
    ("DependencyNeverSatisfied", "will never start", True),
    ("JobHeldUser", "it is held", True),
    ("job requeued in held state", "it is held", True),
    ("launch failed requeued held", "could not be launched", True),
    ("JobHeldAdmin", "an administrator holds it", True),
    ("PartitionTimeLimit", "more time than a limit allows", True),
    ("AssocMaxWallDurationPerJobLimit", "more time than a limit allows", True),
    ("PartitionConfig", "does not give", True),
    ("PartitionNodeLimit", "does not give", True),
    ("QOSMaxNodePerUserLimit", "no more at a time", False),
    ("PartitionDown", "closed for now", False),
    ("ReqNodeNotAvail, UnavailableNodes:node[01-02]", "perhaps for maintenance", True),
    ("Reservation", "has not begun", True),
    ("Licenses", "launcher.licenses", False),
    ("InvalidQOS", "not allowed there", True),
    ("AssocGrpCPUMinutesLimit", "used up", True),
    ("AssocGrpNodeLimit", "no more at a time", False),
    ("QOSMaxJobsPerUserLimit", "no more at a time", False),
    ("MaxGRESPerAccount", "no more at a time", False),
    ("SomethingNew", "a reason of its own", False),
]


@pytest.mark.parametrize(("reason", "words", "needs_action"), REASONS)
def test_a_reason_is_put_in_words(reason: str, words: str, needs_action: bool) -> None:  # noqa: FBT001
    """Who has to do something learns what, and who has not learns that; Slurm's word is kept."""
    diagnosis = why_waiting(reason, "12_3")

    assert words in diagnosis.detail
    assert diagnosis.detail.startswith("Job 12_3 waits: ")
    assert reason in {"", "None"} or f"({reason})" in diagnosis.detail
    assert (diagnosis.resolution != "Nothing has to be done.") == needs_action
    assert "{" not in diagnosis.resolution
    named = set(re.findall(r"launcher\.(\w+)", str(diagnosis)))
    assert named <= set(SlurmLauncherConfig.model_fields)
