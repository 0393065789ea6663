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
    if launcher.nodes > 1 or (launcher.tasks_per_node > 1 and launcher.pack != "allocation"):
        field = "nodes" if launcher.nodes > 1 else "tasks_per_node"
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
    per_node = topology.node_ranks(ranks)
    nodes = ranks // per_node
    if (launcher.nodes, launcher.tasks_per_node) != (nodes, per_node):
        field = "nodes" if launcher.nodes != nodes else "tasks_per_node"
        yield Fault(
            path=f"launcher.{field}",
            message=(
                f"{launcher.nodes} nodes of {launcher.tasks_per_node} tasks do not match "
                f"{ranks} ranks on nodes of {topology.ranks_per_node} ({topology.name}); set "
                f"launcher.nodes: {nodes} and launcher.tasks_per_node: {per_node}, or change "
                "ranks or topology"
            ),
            related=_POINTS,
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
