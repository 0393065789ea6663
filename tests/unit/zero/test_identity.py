"""Which rank a process is, and whether that suits the training."""

import pytest

from configs.training import TrainingExperiment
from tasks.runtime.errors import JobError
from tasks.zero.identity import Identity, all_ranks, check_identity

OURS = {
    "WATERSHED_RANK": "5",
    "WATERSHED_RANKS": "8",
    "WATERSHED_LOCAL_RANK": "1",
    "WATERSHED_NODE": "1",
}
SLURMS = {
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


def experiment(ranks: int) -> TrainingExperiment:
    """Return a training on nodes of four."""
    return TrainingExperiment.model_validate(
        {"kind": "training", "ranks": ranks, "topology": "mini", "partition": "zero3"}
    )


@pytest.mark.parametrize("variables", [OURS, SLURMS], ids=["ours", "Slurm's"])
def test_a_rank_is_told_by_the_environment(variables: dict[str, str]) -> None:
    """By our variables, or by those of a step of srun."""
    assert Identity.of_environment(variables) == Identity(5, 8, local_rank=1, node=1)


def test_ours_go_first() -> None:
    """Who starts ranks himself inside a step of srun means what he says."""
    found = Identity.of_environment(SLURMS | OURS | {"WATERSHED_RANK": "4"})

    assert found is not None
    assert found.rank == 4


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"},
        SLURMS | {"SLURM_STEP_NUM_TASKS": "1"},
    ],
    ids=["no Slurm", "a batch script", "a step of one task"],
)
def test_a_process_that_is_told_no_rank_starts_all(variables: dict[str, str]) -> None:
    """A batch script is no step, though it knows how many tasks the job may have."""
    assert Identity.of_environment(variables) is None


def test_half_a_rank_is_refused() -> None:
    """What is missing is named, with all that is needed."""
    with pytest.raises(JobError, match=r"WATERSHED_NODE=''; set all of WATERSHED_RANK, "):
        Identity.of_environment({k: v for k, v in OURS.items() if k != "WATERSHED_NODE"})


def test_the_right_number_on_the_right_nodes_is_taken() -> None:
    """Ranks of a node are neighbours, as Slurm's block distribution has them."""
    for identity in all_ranks(experiment(8)):
        check_identity(identity, experiment(8))

    assert all_ranks(experiment(8))[5] == Identity(5, 8, local_rank=1, node=1)


def test_another_number_of_tasks_is_refused() -> None:
    """Both numbers are said, and what to set."""
    message = "8 tasks were started, but experiment.ranks is 4; set launcher.nodes times"

    with pytest.raises(JobError, match=message):
        check_identity(Identity(5, 8, local_rank=1, node=1), experiment(4))


@pytest.mark.parametrize(
    "identity",
    [Identity(2, 8, local_rank=0, node=1), Identity(1, 8, local_rank=0, node=1)],
    ids=["two tasks a node", "cyclic"],
)
def test_ranks_that_lie_otherwise_are_refused(identity: Identity) -> None:
    """Levels of the machine would be counted wrongly, and slow links taken for fast ones."""
    with pytest.raises(JobError, match=r"with 4 ranks a node, .*set launcher.tasks_per_node to 4 "):
        check_identity(identity, experiment(8))
