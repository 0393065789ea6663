"""What a cluster cannot give is said before submission."""

from dataclasses import replace

import pytest

from configs.launchers import SlurmResources
from tasks.slurm.preflight import doubts, faults
from tasks.slurm.sightings import Partition

BATCH = Partition(
    name="batch",
    is_default=True,
    num_nodes=8,
    cpus_per_node=64,
    memory_mb_per_node=512_000,
    gpus_per_node=8,
)
DEBUG = Partition(
    name="debug",
    time_limit_s=1800,
    num_nodes=8,
    cpus_per_node=64,
    memory_mb_per_node=512_000,
    max_nodes=2,
)
CLUSTER = [BATCH, DEBUG]


def _messages(resources: SlurmResources, cluster: list[Partition] = CLUSTER) -> list[str]:
    return [str(fault) for fault in faults(resources, cluster)]


def _doubts(resources: SlurmResources, cluster: list[Partition] = CLUSTER) -> list[str]:
    return [str(fault) for fault in doubts(resources, cluster)]


@pytest.mark.parametrize(
    "resources",
    [
        SlurmResources(),
        SlurmResources(nodes=8, tasks_per_node=8, cpus_per_task=8, gpus_per_node=8),
        SlurmResources(partition="debug", time_limit="30", nodes=2),
        SlurmResources(time_limit="365-0", memory="500G"),
        SlurmResources(memory="0"),
    ],
)
def test_what_fits_exactly_is_fine(resources: SlurmResources) -> None:
    """Limits can be used up; a partition without a limit takes any time."""
    assert _messages(resources) == []
    assert _doubts(resources) == []


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (
            SlurmResources(partition="debug", time_limit="30:01"),
            "launcher.time_limit: 30:01 is over the limit of debug; use 00:30:00 at most; "
            "partitions that can: batch",
        ),
        (
            SlurmResources(nodes=9),
            "launcher.nodes: 9 are too many: batch has 8 nodes",
        ),
        (
            SlurmResources(partition="debug", nodes=3, time_limit="10"),
            "launcher.nodes: 3 are too many: debug gives a job 2 nodes at most; partitions that "
            "can: batch",
        ),
        (
            SlurmResources(cpus_per_task=65),
            "launcher.cpus_per_task: 65 CPUs a node (tasks_per_node x cpus_per_task) are too many: "
            "no node of batch has more than 64 CPUs",
        ),
        (
            SlurmResources(tasks_per_node=65),
            "launcher.tasks_per_node: 65 CPUs a node (tasks_per_node x cpus_per_task) are too "
            "many: no node of batch has more than 64 CPUs",
        ),
        (
            SlurmResources(gpus_per_node=9),
            "launcher.gpus_per_node: 9 are too many: no node of batch has more than 8 GPUs",
        ),
        (
            SlurmResources(memory="501G"),
            "launcher.memory: 501G is too much: no node of batch has more than 512000M",
        ),
    ],
)
def test_what_no_node_has_is_said(resources: SlurmResources, message: str) -> None:
    """The fault names the field, what the partition has, and where it would fit."""
    assert _messages(resources) == [message]


def test_all_faults_are_said_at_once() -> None:
    """A job that is too large in several ways learns all of them."""
    resources = SlurmResources(partition="debug", nodes=9, gpus_per_node=1, time_limit="1-0")

    paths = [fault.path for fault in faults(resources, CLUSTER)]

    assert paths == ["launcher.time_limit", "launcher.nodes", "launcher.gpus_per_node"]


def test_an_unknown_partition_is_told_from_those_that_exist() -> None:
    """Every unknown name of a list is a fault, with the known ones and the nearest."""
    resources = SlurmResources(partition="debgu,batch,gpu")

    assert _messages(resources) == [
        "launcher.partition: 'debgu' is unknown (did you mean 'debug'?); known: batch, debug",
        "launcher.partition: 'gpu' is unknown; known: batch, debug",
    ]


def test_without_a_default_partition_the_cluster_may_choose_one() -> None:
    """By a job_submit plugin: it is said, and not refused, unless no partition could take it."""
    cluster = [DEBUG, replace(BATCH, is_default=False)]

    assert _messages(SlurmResources(account="p"), cluster) == []
    assert _doubts(SlurmResources(account="p"), cluster) == [
        "launcher.partition: none is named and the cluster has no default: sbatch takes it only if "
        "the cluster chooses the partition by itself; else use one of debug, batch"
    ]
    assert [one.split(":")[0] for one in _messages(SlurmResources(nodes=100), cluster)] == [
        *("launcher.time_limit", "launcher.nodes", "launcher.nodes")
    ]


def test_a_short_default_partition_may_not_be_where_the_job_goes() -> None:
    """A job that names none may be routed by its time; the one that names it may not."""
    cluster = [replace(DEBUG, is_default=True), replace(BATCH, is_default=False)]
    resources = SlurmResources(time_limit="12:00:00")

    assert _messages(resources, cluster) == []
    (doubt,) = _doubts(resources, cluster)
    assert doubt.startswith("launcher.time_limit: 12:00:00 is over the limit of debug")
    assert "partitions that can: batch; sbatch takes it only if the cluster chooses" in doubt
    assert _messages(SlurmResources(partition="debug", time_limit="12:00:00"), cluster) != []


def test_a_qos_may_set_a_time_limit_aside() -> None:
    """With the flag PartitionTimeLimit; nothing here tells whether it has that."""
    resources = SlurmResources(partition="debug", qos="long", time_limit="3-0")

    assert _messages(resources) == []
    assert _doubts(resources) == [
        "launcher.time_limit: 3-0 is over the limit of debug, 00:30:00, which QoS long may set "
        "aside; partitions that can: batch"
    ]
    assert _messages(resources.model_copy(update={"nodes": 9})) == [
        "launcher.nodes: 9 are too many: debug has 8 nodes"
    ]


def test_of_several_partitions_one_that_fits_is_enough() -> None:
    """Slurm starts the job where it can."""
    assert _messages(SlurmResources(partition="debug,batch", time_limit="1-0")) == []


def test_if_none_of_several_partitions_fits_each_says_why() -> None:
    """The faults of all are listed, each with the partition's name."""
    resources = SlurmResources(partition="debug,batch", gpus_per_node=9, time_limit="10")

    assert _messages(resources) == [
        "launcher.gpus_per_node: 9 are too many: no node of debug has more than 0 GPUs",
        "launcher.gpus_per_node: 9 are too many: no node of batch has more than 8 GPUs",
    ]


def test_a_partition_that_is_down_is_waited_for() -> None:
    """It takes jobs, or will when it is up again: it is said, with the partitions that can now."""
    down = Partition(
        name="old", is_up=False, num_nodes=8, cpus_per_node=64, memory_mb_per_node=512_000
    )

    assert _messages(SlurmResources(partition="old"), [BATCH, down]) == []
    assert _doubts(SlurmResources(partition="old"), [BATCH, down]) == [
        "launcher.partition: old takes no jobs now, or starts none; they wait until it does; "
        "partitions that can: batch"
    ]
    assert _doubts(SlurmResources(partition="old,batch"), [BATCH, down]) == []
    assert _messages(SlurmResources(partition="old", nodes=9), [BATCH, down]) == [
        "launcher.nodes: 9 are too many: old has 8 nodes"
    ]


@pytest.mark.parametrize(
    ("memory", "is_too_much"),
    [
        ("512000", False),
        ("512001", True),
        ("524288000K", False),
        ("524288001K", True),
        ("1T", True),
        ("1025M", False),
    ],
)
def test_memory_is_compared_in_its_unit(memory: str, *, is_too_much: bool) -> None:
    """Without a letter it is megabytes; kilobytes are rounded up, as Slurm does."""
    assert bool(_messages(SlurmResources(memory=memory))) is is_too_much
