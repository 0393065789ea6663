"""From a study to jobs: which launcher, which engine, what each job asks for."""

import logging
import os
from pathlib import Path

from configs.arrivals import Slurm
from configs.base import Fault
from configs.federated import FederatedExperiment
from configs.launchers import SlurmLauncherConfig, SlurmResources
from configs.measuring import points_to_run
from configs.placement import nodes_and_tasks
from configs.study import Experiment, Study
from configs.training import TrainingExperiment
from tasks.runtime.records import JobFile
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm import preflight
from tasks.slurm.charging import charge_here
from tasks.slurm.commands import SlurmCli
from tasks.slurm.errors import SlurmMissing, SlurmUnreachable
from tasks.slurm.launcher import Launcher
from tasks.slurm.local import LocalLauncher, num_cores
from tasks.slurm.plan import SERVER_MODULE, JobPlan
from tasks.slurm.slurm_launcher import SlurmLauncher
from tasks.slurm.snapshot import take
from tasks.slurm.surroundings import of_plan
from tasks.tracking.study_directory import StudyDirectory

_log = logging.getLogger(__name__)

# Engines load torch, so they are named, not imported.
SIMULATION = "tasks.federated.simulate_job"
CLIENT = "tasks.federated.client_job"
TRAINING = "tasks.zero.train_job"

_PACKAGES_ROOT = Path(__file__).parents[2]


def launch_faults(study: Study) -> list[Fault]:
    """Find what the launcher of a study cannot do here, as far as Slurm tells before submission.

    Args:
        study: The study.

    Returns:
        The faults, with paths below ``launcher``; empty for a local launcher, and for a study of
        which nothing is to be run. What sbatch may take is logged, and is none.
    """
    if not isinstance(study.launcher, SlurmLauncherConfig) or not points_to_run(study):
        return []
    charge_here(1)
    try:
        partitions = SlurmCli().partitions()
        asked = asked_for(study, study.launcher)
        for doubt in dict.fromkeys(d for one in asked for d in preflight.doubts(one, partitions)):
            _log.warning("%s", doubt)
        return list(dict.fromkeys(f for one in asked for f in preflight.faults(one, partitions)))
    except SlurmMissing as error:
        message = str(error)
    except SlurmUnreachable as error:
        message = f"{error}; try again when the controller is up, or run with launcher: local"
    return [Fault(path="launcher", message=message)]


def asked_for(study: Study, launcher: SlurmLauncherConfig) -> list[SlurmResources]:
    """Return what servers and simulations ask for, and what workers ask on their partitions.

    Args:
        study: The study.
        launcher: Its launcher.
    """
    experiments = [point.experiment for point in points_to_run(study)]
    own = {
        share.partition
        for one in experiments
        if (arrivals := _real_arrivals(one))
        for share in arrivals.partitions
    }
    shapes = dict.fromkeys(nodes_and_tasks(one) for one in experiments)
    return [
        *(launcher.resources(nodes=nodes, tasks_per_node=tasks) for nodes, tasks in shapes),
        *(launcher.resources(partition=name) for name in sorted(own)),
    ]


def make_launcher(study: Study, directory: StudyDirectory, num_parallel: int | None) -> Launcher:
    """Return the launcher that a study names.

    Args:
        study: The study.
        directory: Its directory.
        num_parallel: Most local jobs at a time; None for ``default_parallel``. Slurm has limits
            of its own.

    Returns:
        The launcher; to be closed.

    Raises:
        SlurmError: Slurm is not there, or does not answer.
        OSError: The ledger cannot be opened.
    """
    if isinstance(study.launcher, SlurmLauncherConfig):
        return SlurmLauncher(study.launcher, directory.path)
    return LocalLauncher(num_parallel or default_parallel(study))


def default_parallel(study: Study) -> int:
    """Return how many local jobs of a study run at a time, if the user does not say.

    Args:
        study: The study.

    Returns:
        One a core; only one, if jobs have several processes, which share the cores, or if their
        speeds are compared.
    """
    if study.scaling is not None and study.experiment.kind == "training":
        return 1
    experiments = (point.experiment for point in study.points())
    is_wide = any(isinstance(one, TrainingExperiment) and one.ranks > 1 for one in experiments)
    return 1 if is_wide else num_cores()


def copy_code(study: Study, directory: StudyDirectory) -> Path | None:
    """Copy the code for the jobs of Slurm, so that editing the checkout changes none of them.

    Args:
        study: The study.
        directory: Its directory.

    Returns:
        The copy; None for local jobs, which run what is installed.

    Raises:
        OSError: It cannot be copied.
    """
    if not isinstance(study.launcher, SlurmLauncherConfig):
        return None
    return take(_PACKAGES_ROOT, directory.path.resolve() / "code")


def point_plan(study: Study, job: JobFile, run: RunDirectory, code_dir: Path | None) -> JobPlan:
    """Return the job of a grid point: a training, a simulation, or the server of real workers.

    Args:
        study: The study.
        job: What the job is to do.
        run: Its run directory.
        code_dir: What ``copy_code`` gave.
    """
    if isinstance(job.experiment, TrainingExperiment):
        module = TRAINING
    else:
        module = SERVER_MODULE if is_anarchic(job) else SIMULATION
    plan = JobPlan(
        name=f"{study.name} {job.point}",
        module=module,
        run_dir=run.path.resolve(),
        cpus=cores_of(study, job.experiment),
    )
    nodes, tasks_per_node = nodes_and_tasks(job.experiment)
    return _on_slurm(study, plan, code_dir, nodes=nodes, tasks_per_node=tasks_per_node)


def cores_of(study: Study, experiment: Experiment) -> int | None:
    """Give every rank of a scaling study as many cores of this machine, at all sizes.

    A fair share of the machine would make a lone rank faster than one of many, which is no scaling.

    Args:
        study: The study.
        experiment: One of its points.

    Returns:
        Cores of the point's job; None for a fair share.
    """
    is_compared = study.scaling is not None and study.launcher.kind == "local"
    if not is_compared or not isinstance(experiment, TrainingExperiment):
        return None
    trained = [point.experiment for point in points_to_run(study)]
    most = max(one.ranks for one in trained if isinstance(one, TrainingExperiment))
    return experiment.ranks * max(1, num_cores() // most)


def worker_plans(
    study: Study, job: JobFile, server: RunDirectory, code_dir: Path | None
) -> list[JobPlan]:
    """Return the jobs of the real workers of a run, each on the partition where it belongs.

    Args:
        study: The study.
        job: What the server's job is to do.
        server: Its run directory.
        code_dir: What ``copy_code`` gave.

    Returns:
        One job a worker that ever returns; none for a simulation.
    """
    arrivals = _real_arrivals(job.experiment)
    if arrivals is None:
        return []
    return [
        _on_slurm(
            study,
            JobPlan(
                name=f"{study.name} {job.point} worker {worker}",
                module=CLIENT,
                run_dir=server.worker(worker).path.resolve(),
            ),
            code_dir,
            partition=arrivals.partition_of(worker),
        )
        for worker in sorted(set(range(job.federated.workers)) - set(arrivals.never_return))
    ]


def is_anarchic(job: JobFile) -> bool:
    """Say whether the workers of a job are real: jobs of their own beside a server's."""
    return _real_arrivals(job.experiment) is not None


def _real_arrivals(experiment: Experiment) -> Slurm | None:
    if isinstance(experiment, FederatedExperiment) and isinstance(experiment.arrivals, Slurm):
        return experiment.arrivals
    return None


def _on_slurm(
    study: Study,
    plan: JobPlan,
    code_dir: Path | None,
    *,
    nodes: int = 1,
    tasks_per_node: int = 1,
    partition: str | None = None,
) -> JobPlan:
    """Add what the study asks of Slurm, if it asks anything."""
    launcher = study.launcher
    if not isinstance(launcher, SlurmLauncherConfig):
        return plan
    update = {
        "resources": launcher.resources(
            nodes=nodes, tasks_per_node=tasks_per_node, partition=partition
        ),
        "environment": of_plan(os.environ, launcher.environment, modules=bool(launcher.modules))
        | plan.environment,
        "code_dir": code_dir,
        "python": launcher.python,
    }
    return plan.model_copy(update=update)
