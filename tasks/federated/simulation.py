"""One simulation in its run directory."""

from configs.federated import FederatedExperiment
from configs.stability import step_warnings
from models.partition import label_shares
from tasks.federated import algorithms, arrivals
from tasks.federated.evaluation import Evaluator
from tasks.federated.local_training import LocalTrainer
from tasks.federated.problem import build_problem, check_memory
from tasks.federated.simulator import Simulator
from tasks.federated.training import Assembly, train
from tasks.runtime.fence import Fence
from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory


def assemble(experiment: FederatedExperiment) -> Assembly[Simulator]:
    """Build everything that an experiment names.

    Args:
        experiment: A validated experiment.

    Returns:
        The parts, ready to run.

    Raises:
        JobError: The data cannot be had or divided, the device is absent, memory is too small, or
            the workers are real.
    """
    problem = build_problem(experiment)
    model, dataset, shards = problem.model, problem.dataset, problem.shards
    doubts = check_memory(experiment, problem)
    evaluator = Evaluator(model, dataset, shards, experiment.evaluate_samples)
    shares = label_shares(shards, dataset.labels, dataset.num_labels)
    trainer = LocalTrainer(model, dataset, shards, experiment)
    simulator = Simulator(
        arrivals.build(experiment, shares),
        trainer,
        algorithms.build(experiment.algorithm, experiment.workers, experiment.worker),
        initial=problem.initial,
        num_workers=experiment.workers,
        batch_size=trainer.batch_size,
    )
    doubts += tuple(step_warnings(experiment, evaluator.smoothness()))
    return Assembly(simulator, evaluator, doubts)


def simulate(directory: RunDirectory) -> Result:
    """Run the simulation of a run directory to its end, from its newest checkpoint.

    Args:
        directory: The run's directory, with ``job.json``.

    Returns:
        The result: finished, or failed in the middle.

    Raises:
        Interrupted: It was asked to stop; unless its round took too long, it has saved.
        Overtaken: A newer attempt of the run has begun.
        JobError: It cannot begin, for a reason that the user can act on.
        OSError: A file cannot be written.
    """
    fence = Fence.of_environment(directory.path)
    job = directory.read_job()
    return train(directory, job, assemble(job.federated), fence)
