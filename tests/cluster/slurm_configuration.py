"""Texts of the configuration files of a test cluster: pure functions of its options.

Slurm 22.05 (Debian 12) to 24.11 (Debian 13) read them. Nothing in them needs cgroups, real
hardware or an MPI library; the scheduler and the detection of failures are made quick.
"""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """What a test cluster looks like.

    Attributes:
        nodes: Number of nodes, named node01, node02, ...
        cpus: CPUs that each node pretends to have.
        memory_mb: Memory that each node pretends to have.
        gpus_per_node: GPUs that each node pretends to have.
        accounting: Whether slurmdbd keeps accounts (sacct, sacctmgr, refusal of unknown accounts).
        kill_wait_s: From SIGTERM to SIGKILL at the end of a job.
        min_job_age_s: How long squeue knows a job that has ended.
        message_timeout_s: How long commands wait for a dead controller, and the controller for a
            dead node.
        node_timeout_s: A dead node is DOWN after about this and twice message_timeout_s.
        preempt_grace_s: What a preempted job gets between SIGTERM and its end, beside kill_wait_s.
        max_array_size: Array indices end below this.
    """

    nodes: int = 4
    cpus: int = 16
    memory_mb: int = 64_000
    gpus_per_node: int = 0
    accounting: bool = False
    kill_wait_s: int = 5
    min_job_age_s: int = 300
    message_timeout_s: int = 10
    node_timeout_s: int = 15
    preempt_grace_s: int = 0
    max_array_size: int = 1001

    @property
    def node_names(self) -> tuple[str, ...]:
        """Names of all nodes."""
        return tuple(f"node{number:02d}" for number in range(1, self.nodes + 1))


@dataclass(frozen=True)
class Ports:
    """The TCP ports of one cluster.

    Attributes:
        first: All ports from this on are free, two and one for each node.
    """

    first: int

    @property
    def controller(self) -> int:
        """Port of slurmctld."""
        return self.first

    @property
    def accounting(self) -> int:
        """Port of slurmdbd."""
        return self.first + 1

    def node(self, index: int) -> int:
        """Return the port of a node's slurmd.

        Args:
            index: Which node, from 0 on.

        Returns:
            The port.
        """
        return self.first + 2 + index


def slurm_conf(options: ClusterOptions, ports: Ports, cluster_dir: Path, *, host: str) -> str:
    """Return slurm.conf.

    Args:
        options: What the cluster looks like.
        ports: Its ports.
        cluster_dir: Its directory.
        host: Name of this machine, as ``uname -n`` gives it up to the first dot.

    Returns:
        The text of the file.
    """
    sections = [_daemons(options, ports, cluster_dir, host), _SCHEDULING, _limits(options)]
    if options.accounting:
        sections.append(_accounting(options, ports, cluster_dir))
    if options.gpus_per_node:
        sections.append("GresTypes=gpu\n")
    sections.append(_nodes(options, ports, host))
    sections.append(_partitions(options))
    return "\n".join(sections)


def _daemons(options: ClusterOptions, ports: Ports, cluster_dir: Path, host: str) -> str:
    return f"""\
ClusterName=watershed
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports.controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={cluster_dir}/munge/socket
CredType=cred/munge
StateSaveLocation={cluster_dir}/controller
SlurmdSpoolDir={cluster_dir}/spool/%n
SlurmctldPidFile={cluster_dir}/run/slurmctld.pid
SlurmdPidFile={cluster_dir}/run/%n.pid
SlurmctldLogFile={cluster_dir}/log/slurmctld.log
SlurmdLogFile={cluster_dir}/log/%n.log
SlurmctldDebug=info
SlurmdDebug=info
SlurmdTimeout={options.node_timeout_s}
SlurmctldTimeout=10
MessageTimeout={options.message_timeout_s}
# With 2 a node that a test has set DOWN would be undone by its next registration.
ReturnToService=1
"""


# Without batch_sched_delay=0 a job waits 3 s for its start.
_SCHEDULING = """\
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5
SlurmdParameters=config_overrides
MpiDefault=none
PropagateResourceLimits=NONE
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,\
default_queue_depth=1000,bf_interval=1,bf_continue,bf_max_job_test=1000
PriorityType=priority/multifactor
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
CompleteWait=0
InactiveLimit=0
UnkillableStepTimeout=60
"""


def _limits(options: ClusterOptions) -> str:
    return f"""\
MaxArraySize={options.max_array_size}
MaxJobCount=50000
DefMemPerCPU={options.memory_mb // options.cpus}
MinJobAge={options.min_job_age_s}
KillWait={options.kill_wait_s}
"""


def _accounting(options: ClusterOptions, ports: Ports, cluster_dir: Path) -> str:
    return f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports.accounting}
AccountingStoragePass={cluster_dir}/munge/socket
AccountingStorageEnforce=associations
AccountingStoreFlags=job_comment
{"AccountingStorageTRES=gres/gpu" if options.gpus_per_node else ""}
"""


def _nodes(options: ClusterOptions, ports: Ports, host: str) -> str:
    gpus = f" Gres=gpu:a100:{options.gpus_per_node}" if options.gpus_per_node else ""
    return "".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports.node(index)}"
        f" CPUs={options.cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={options.cpus}"
        f" ThreadsPerCore=1 RealMemory={options.memory_mb}{gpus}\n"
        for index, name in enumerate(options.node_names)
    )


def _partitions(options: ClusterOptions) -> str:
    return f"""\
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=01:00:00 \
PriorityTier=10 PreemptMode=OFF
PartitionName=debug Nodes=ALL MaxTime=00:30:00 DefaultTime=00:05:00 \
PriorityTier=20 PreemptMode=OFF
PartitionName=preempt Nodes=ALL MaxTime=INFINITE DefaultTime=01:00:00 \
PriorityTier=1 PreemptMode=REQUEUE GraceTime={options.preempt_grace_s}
"""


def gres_conf(options: ClusterOptions, cluster_dir: Path) -> str:
    """Return gres.conf, which says what files the GPUs are.

    Args:
        options: What the cluster looks like.
        cluster_dir: Its directory; ``dev/gpu<n>`` are links to a character device.

    Returns:
        The text of the file.
    """
    return "".join(
        f"Name=gpu Type=a100 File={cluster_dir}/dev/gpu{index}\n"
        for index in range(options.gpus_per_node)
    )


def cgroup_conf(version: str) -> str:
    """Return cgroup.conf.

    slurmd asks for a version of cgroups even if nothing uses them, and dies of what it finds in
    some containers; being told one, it looks no further.

    Args:
        version: What ``slurmd -V`` printed.

    Returns:
        The text of the file.

    Raises:
        ValueError: There is no version in that.
    """
    match = re.search(r"(\d+)\.(\d+)", version)
    if match is None:
        raise ValueError(f"{version!r} of slurmd -V names no version such as 22.05.8")
    can_disable = (int(match[1]), int(match[2])) >= (23, 11)
    return f"CgroupPlugin={'disabled' if can_disable else 'cgroup/v1'}\n"


def slurmdbd_conf(ports: Ports, cluster_dir: Path) -> str:
    """Return slurmdbd.conf.

    Args:
        ports: The cluster's ports.
        cluster_dir: Its directory.

    Returns:
        The text of the file.
    """
    return f"""\
AuthType=auth/munge
AuthInfo=socket={cluster_dir}/munge/socket
DbdHost=localhost
DbdPort={ports.accounting}
SlurmUser=root
LogFile={cluster_dir}/log/slurmdbd.log
PidFile={cluster_dir}/run/slurmdbd.pid
DebugLevel=info
CommitDelay=1
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=accounts
"""
