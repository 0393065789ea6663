"""Which rank a process is: told by Slurm's srun, or by variables of ours, or by nobody."""

from collections.abc import Mapping
from dataclasses import dataclass

from configs.training import TrainingExperiment
from tasks.runtime.errors import JobError, Reason

_OURS = ("WATERSHED_RANK", "WATERSHED_RANKS", "WATERSHED_LOCAL_RANK", "WATERSHED_NODE")
_SLURMS = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NODEID")
"""The number of tasks of the *step*: in a batch script, which is no rank, there is none."""


@dataclass(frozen=True)
class Identity:
    """One rank among all.

    Attributes:
        rank: From 0 to N - 1.
        num_ranks: N.
        local_rank: Number of the rank on its node, from 0.
        node: Number of its node, from 0.
        num_local: Ranks on its node; None if the topology says how many.
    """

    rank: int
    num_ranks: int
    local_rank: int
    node: int
    num_local: int | None = None

    @classmethod
    def of_environment(cls, variables: Mapping[str, str]) -> "Identity | None":
        """Return the rank that the environment makes of this process.

        Args:
            variables: Of the environment.

        Returns:
            The rank; None if this process is not told one, and starts all of them itself.

        Raises:
            JobError: Some of the variables are missing, or no numbers.
        """
        if _OURS[0] in variables:
            return cls._of(variables, _OURS)
        if variables.get(_SLURMS[1], "1") != "1":
            return cls._of(variables, _SLURMS)
        return None

    @classmethod
    def _of(cls, variables: Mapping[str, str], names: tuple[str, ...]) -> "Identity":
        values = {name: variables.get(name, "") for name in names}
        bad = [name for name, value in values.items() if not value.isdecimal()]
        if bad:
            found = ", ".join(f"{name}={values[name]!r}" for name in bad)
            raise JobError(
                Reason.RANKS, f"{found}; set all of {', '.join(names)} to numbers, or none"
            )
        rank, num_ranks, local_rank, node = (int(value) for value in values.values())
        return cls(rank, num_ranks, local_rank, node)


def all_ranks(experiment: TrainingExperiment) -> list[Identity]:
    """Return the ranks of a training, as they are numbered on its machine.

    Args:
        experiment: The training.
    """
    per_node, num_ranks = experiment.topology.node_ranks(experiment.ranks), experiment.ranks
    return [
        Identity(rank, num_ranks, rank % per_node, rank // per_node) for rank in range(num_ranks)
    ]


def ranks_here(experiment: TrainingExperiment) -> list[Identity]:
    """Return the ranks of a training that one process starts: all on this machine.

    Whatever nodes its topology has, these only pretend to be on several.

    Args:
        experiment: The training.
    """
    num_ranks = experiment.ranks
    return [Identity(rank, num_ranks, rank, 0, num_local=num_ranks) for rank in range(num_ranks)]


def check_identity(identity: Identity, experiment: TrainingExperiment) -> None:
    """Compare what has been started with what the training wants.

    Args:
        identity: The rank that this process was made.
        experiment: The training.

    Raises:
        JobError: There are more or fewer ranks, or they lie otherwise on the nodes.
    """
    wanted, found = experiment.ranks, identity.num_ranks
    if found != wanted:
        raise JobError(
            Reason.RANKS,
            f"{found} tasks were started, but experiment.ranks is {wanted}; set launcher.nodes "
            f"times launcher.tasks_per_node to {wanted}, or experiment.ranks to {found}",
        )
    expected = all_ranks(experiment)[identity.rank]
    if identity != expected:
        topology = experiment.topology
        per_node = topology.node_ranks(wanted)
        raise JobError(
            Reason.RANKS,
            f"rank {identity.rank} is number {identity.local_rank} on node {identity.node}, but on "
            f"{topology.name}, with {per_node} ranks a node, it would be number "
            f"{expected.local_rank} on node {expected.node}; set launcher.tasks_per_node to "
            f"{per_node} and launcher.nodes to {wanted // per_node}, keep Slurm's block "
            "distribution, or choose another topology",
        )
