"""``job.json`` of a flow run that is a job of Slurm. No Prefect here: the compute node reads it."""

from pathlib import Path

from pydantic import Field

from configs.base import Record
from tasks.runtime.run_directory import RunDirectory

MODULE = "tasks.prefect_slurm.flow_run_job"
"""What the job runs; by this module the ledger's jobs are known to be flow runs."""


class FlowRunJob(Record):
    """One job: Prefect's engine for one flow run. It holds no secret."""

    flow_run_id: str = Field(description="Prefect's id of the flow run.")
    flow_run_name: str = Field(description="Prefect's name of it, for people.")
    flow: str = Field(default="", description="Name of the flow.")
    work_pool: str = Field(description="The pool whose workers see to it.")
    server: str = Field(description="Address of Prefect's API, without a password.")
    command: tuple[str, ...] = Field(
        default=(), description="What runs the flow run; empty for Prefect's own."
    )
    environment: dict[str, str] = Field(
        default={}, description="Variables of the flow run's process; no secrets."
    )
    secrets_file: Path | None = Field(
        default=None,
        description="File of mode 600 with further variables, NAME=VALUE on each line.",
    )
    continue_at_time_limit: bool = Field(
        default=False, description="Have the job queued again at its time limit."
    )


def read_flow_run_job(run_dir: Path) -> FlowRunJob:
    """Read ``job.json``.

    Args:
        run_dir: The run directory.

    Raises:
        OSError: It cannot be read.
        ValidationError: It is no job of a flow run.
    """
    return FlowRunJob.model_validate_json(RunDirectory(run_dir).job.read_bytes())
