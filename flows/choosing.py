"""Which flow runs a study."""

from prefect import Flow, State
from prefect.task_runners import ThreadPoolTaskRunner

from configs.study import Study
from flows.federated import federated_study
from flows.scaling import scaling_study
from flows.training import training_run

_MOST_WAITING = 1000
"""Tasks that wait for jobs of Slurm at a time; each is a thread that sleeps."""


def flow_of(study: Study, run_name: str, num_parallel: int) -> Flow[..., State[str]]:
    """Return the flow of a study, with as many threads as it has jobs to wait for.

    Args:
        study: The study.
        run_name: Name of the flow run.
        num_parallel: Most local jobs at a time.
    """
    if study.scaling is not None:
        flow: Flow[..., State[str]] = scaling_study
    else:
        flow = training_run if study.experiment.kind == "training" else federated_study
    num_threads = num_parallel if study.launcher.kind == "local" else _MOST_WAITING
    return flow.with_options(
        flow_run_name=run_name,
        task_runner=ThreadPoolTaskRunner(max_workers=num_threads),  # type: ignore[arg-type]  # generic
    )
