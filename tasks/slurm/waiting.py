"""Why a job waits: Slurm's reasons in words, and what helps where waiting does not."""

import re

from tasks.slurm.diagnosis import Diagnosis
from tasks.slurm.sightings import HELD_AFTER_REQUEUE

PATIENCE = "Nothing has to be done."
"""What helps where waiting does."""
# Slurm's reason (the beginning of it, or a pattern), what it means, and what to do.
_REASONS = (
    (r"None$|$", "Slurm has not looked at it yet", PATIENCE),
    ("Priority", "other jobs come first", PATIENCE),
    ("Resources", "it is among the next, as soon as nodes are free", PATIENCE),
    (
        HELD_AFTER_REQUEUE,
        "it was queued again, after which Slurm holds a job for two minutes, or --begin was asked "
        "for",
        PATIENCE,
    ),
    ("JobArrayTaskLimit", "launcher.max_running tasks of its array run already", PATIENCE),
    (
        "DependencyNeverSatisfied",
        "what it depends on has failed, so it will never start",
        "Cancel it (watershed cancel) and correct launcher.dependency.",
    ),
    ("Dependency", "it waits for the jobs of launcher.dependency", PATIENCE),
    (
        "JobHeldUser|job requeued in held state|Held",
        "it is held",
        "Release it: scontrol release {job}.",
    ),
    (
        "JobHeldAdmin|launch failed requeued held",
        "Slurm or an administrator holds it, perhaps as it could not be launched on its node",
        "Look for the node's fault (scontrol show job {job}), then release it: scontrol release "
        "{job}; or ask the cluster's support.",
    ),
    (
        "PartitionTimeLimit|.*TimeLimit|.*MaxWall",
        "it asks for more time than a limit allows, so it may never start",
        "Cancel it (watershed cancel) and lower launcher.time_limit.",
    ),
    (
        "PartitionNodeLimit|PartitionConfig|BadConstraints|NodeDown|.*MaxNodePerJob|.*PerJobLimit",
        "it asks for nodes that its partition does not give, so it may never start",
        "Compare launcher.nodes, launcher.constraint and launcher.partition with sinfo; cancel it "
        "(watershed cancel) if they do not fit.",
    ),
    ("Partition(Down|Inactive)", "its partition is closed for now", PATIENCE),
    (
        "ReqNodeNotAvail|Nodes_required_for_job",
        "nodes that it needs are down, drained or reserved, perhaps for maintenance",
        "See sinfo -R. A shorter launcher.time_limit may fit in before a maintenance.",
    ),
    (
        "Reservation",
        "its reservation has not begun, or is full",
        "See: scontrol show reservation.",
    ),
    ("Licenses", "all of launcher.licenses are in use", PATIENCE),
    (
        "InvalidAccount|InvalidQOS|AccountNotAllowed|QOSNotAllowed",
        "its account or QoS is not allowed there any more",
        "Cancel it (watershed cancel) and correct launcher.account or launcher.qos.",
    ),
    (
        "(Assoc|QOS).*(Minutes|Billing)",
        "the node-hours of its account or QoS are used up",
        "Ask for more, or use another launcher.account or launcher.qos.",
    ),
    ("Assoc|QOS|.*(Max|Grp)", "you, or your account, may have no more at a time", PATIENCE),
)


def why_waiting(reason: str, slurm_job: str) -> Diagnosis:
    """Explain why a job waits.

    Args:
        reason: Slurm's reason, as squeue shows it.
        slurm_job: Slurm's id of the job.

    Returns:
        The explanation, with Slurm's own word in it.
    """
    found = next((row for row in _REASONS if re.match(row[0], reason)), None)
    meaning, resolution = found[1:] if found else ("Slurm has a reason of its own", PATIENCE)
    word = f" ({reason})" if reason not in {"", "None"} else ""
    return Diagnosis(
        category="waiting",
        summary="waiting",
        detail=f"Job {slurm_job} waits: {meaning}{word}.",
        resolution=resolution.format(job=slurm_job),
    )
