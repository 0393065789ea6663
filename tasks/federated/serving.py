"""The server's job: assembled, trained, and its workers sent home."""

import contextlib
import time

from configs.stability import step_warnings
from tasks.federated import algorithms
from tasks.federated.evaluation import Evaluator
from tasks.federated.minibatches import samples_of_step
from tasks.federated.problem import build_problem, check_memory
from tasks.federated.server import Server
from tasks.federated.training import Assembly, train
from tasks.runtime.fence import Fence
from tasks.runtime.job import earlier_result
from tasks.runtime.records import JobFile, Result
from tasks.runtime.returns import ReturnsLog
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import STARTED, read_record
from tasks.runtime.spool import Done, Spool


def serve(directory: RunDirectory) -> Result:
    """Run the server of a run directory to its last round, from its newest checkpoint.

    Its workers are sent home when it has finished or failed; while it is only interrupted, they
    wait for it.

    Args:
        directory: The run's directory, with ``job.json``.

    Returns:
        The result: finished, or failed in the middle.

    Raises:
        Interrupted: It was asked to stop, and has saved.
        Overtaken: A newer attempt of the run has begun.
        JobError: It cannot begin, for a reason that the user can act on.
        OSError: A file cannot be written.
    """
    earlier = earlier_result(directory)
    if earlier is not None and earlier.status == "finished":  # its spool may be cleared already
        return earlier.model_copy(update={"wall_s": 0.0})
    fence = Fence.of_environment(directory.path)
    job = directory.read_job()
    spool = Spool(directory)
    spool.open()
    with ReturnsLog(directory.returns, fence) as log:
        try:
            result = train(directory, job, assemble_server(directory, job, log, fence), fence)
        except Exception as error:
            with contextlib.suppress(OSError):  # what went wrong matters more
                spool.finish(Done(status="failed", message=str(error)), fence)
            raise
    status = "finished" if result.status == "finished" else "failed"
    spool.finish(Done(status=status, message=result.message), fence)
    return result


def assemble_server(
    directory: RunDirectory, job: JobFile, log: ReturnsLog, fence: Fence
) -> Assembly[Server]:
    """Build everything that a server needs.

    Args:
        directory: The run's directory.
        job: Its ``job.json``.
        log: The returns taken so far.
        fence: Of the attempt.

    Returns:
        The parts, ready to run.

    Raises:
        JobError: The data cannot be had or divided, the device is absent, or memory is too small.
    """
    experiment = job.federated
    problem = build_problem(experiment)
    doubts = check_memory(experiment, problem)
    evaluator = Evaluator(
        problem.model, problem.dataset, problem.shards, experiment.evaluate_samples
    )
    server = Server(
        experiment,
        job.config_hash,
        directory=directory,
        algorithm=algorithms.build(experiment.algorithm, experiment.workers, experiment.worker),
        initial=problem.initial,
        batch_size=samples_of_step(problem.shards, experiment.worker.batch_size),
        log=log,
        fence=fence,
        began_s=_began_s(directory),
    )
    doubts += tuple(step_warnings(experiment, evaluator.smoothness()))
    return Assembly(server, evaluator, doubts)


def _began_s(directory: RunDirectory) -> float:
    """Return when the first attempt began, Unix seconds: the zero of the run's clock."""
    started = directory.attempt(1) / STARTED
    try:
        written_s = started.stat().st_mtime  # stays when a power cut takes the content
    except FileNotFoundError:
        written_s = time.time()
    return float(read_record(started).get("timestamp_ms", 1000 * written_s)) / 1000
