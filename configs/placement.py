"""What the points of a study need, compared with what its launcher gives."""

from collections.abc import Iterator, Sequence

from configs.base import Fault
from configs.federated import FederatedExperiment
from configs.launchers import LauncherConfig, SlurmLauncherConfig
from configs.training import TrainingExperiment

_POINTS = ("experiment.arrivals", "experiment.ranks", "experiment.topology", "grid")


def placement_faults(
    launcher: LauncherConfig, experiments: Sequence[FederatedExperiment | TrainingExperiment]
) -> Iterator[Fault]:
    """Find what the points of a study cannot have from its launcher.

    Args:
        launcher: The study's launcher.
        experiments: Its points; all of one kind.

    Yields:
        The faults, with paths below ``launcher``, each once.
    """
    trained = [one for one in experiments if isinstance(one, TrainingExperiment)]
    if trained:
        if isinstance(launcher, SlurmLauncherConfig):
            faults = [fault for one in trained for fault in _training_faults(launcher, one)]
            yield from dict.fromkeys(faults)
        return
    is_anarchic = any(
        isinstance(one, FederatedExperiment) and one.arrivals.kind == "slurm" for one in experiments
    )
    yield from _federated_faults(launcher, is_anarchic=is_anarchic)


def nodes_and_tasks(experiment: FederatedExperiment | TrainingExperiment) -> tuple[int, int]:
    """Return the nodes that a point's job needs, and the tasks on each of them.

    Args:
        experiment: The point.

    Returns:
        Nodes and tasks a node; of a federated job, which is one process, 1 and 1.
    """
    if not isinstance(experiment, TrainingExperiment):
        return 1, 1
    per_node = experiment.topology.node_ranks(experiment.ranks)
    return experiment.ranks // per_node, per_node


def _federated_faults(launcher: LauncherConfig, *, is_anarchic: bool) -> Iterator[Fault]:
    if launcher.kind == "local":
        if is_anarchic:
            yield Fault(
                path="launcher",
                message=(
                    "arrivals slurm are jobs of a cluster, but the launcher is local; use "
                    "launcher: {kind: slurm, ...}, or simulate with arrivals event_driven"
                ),
                related=_POINTS,
            )
        return
    if is_anarchic and launcher.pack == "allocation":
        message = "workers packed into one allocation would run one after another; use array"
        yield Fault(path="launcher.pack", message=message, related=_POINTS)
    num_nodes, num_tasks = launcher.nodes or 1, launcher.tasks_per_node or 1
    if num_nodes > 1 or (num_tasks > 1 and launcher.pack != "allocation"):
        field = "nodes" if num_nodes > 1 else "tasks_per_node"
        yield Fault(
            path=f"launcher.{field}",
            message=(
                f"{getattr(launcher, field)} is too many, a federated job is one process; use "
                "1 (and launcher.cpus_per_task for more cores)"
            ),
        )


def _training_faults(
    launcher: SlurmLauncherConfig, experiment: TrainingExperiment
) -> Iterator[Fault]:
    """Compare the allocation with the machine: a task for each rank, whole nodes of the levels."""
    if launcher.pack == "allocation":
        message = "the ranks of a training are the tasks of its own job; use array or single"
        yield Fault(path="launcher.pack", message=message, related=_POINTS)
    ranks, topology = experiment.ranks, experiment.topology
    nodes, per_node = nodes_and_tasks(experiment)
    asked = (launcher.nodes or nodes, launcher.tasks_per_node or per_node)
    if asked != (nodes, per_node):
        field = "nodes" if asked[0] != nodes else "tasks_per_node"
        yield Fault(
            path=f"launcher.{field}",
            message=(
                f"{asked[0]} nodes of {asked[1]} tasks do not match "
                f"{ranks} ranks on nodes of {topology.ranks_per_node} ({topology.name}); set "
                f"launcher.nodes: {nodes} and launcher.tasks_per_node: {per_node}, or leave both "
                "out, or change ranks or topology"
            ),
            related=("launcher.nodes", "launcher.tasks_per_node", *_POINTS),
        )
    elif experiment.device != "cpu" and 0 < launcher.gpus_per_node < per_node:
        yield Fault(
            path="launcher.gpus_per_node",
            message=(
                f"{launcher.gpus_per_node} GPUs are too few for the {per_node} ranks of a node, of "
                f"which each takes one; set launcher.gpus_per_node: {per_node}, or device: cpu"
            ),
            related=_POINTS,
        )
