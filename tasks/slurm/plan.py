"""What a launcher needs to know of a job."""

from pathlib import Path

from pydantic import Field

from configs.base import Record


class JobPlan(Record):
    """One job: a module that runs on the ``job.json`` of a run directory."""

    name: str = Field(min_length=1, description="For people.")
    module: str = Field(
        pattern=r"^[a-z_]+(\.[a-z_0-9]+)+$",
        description="Python module; run as python -m MODULE RUN_DIRECTORY/job.json.",
    )
    run_dir: Path = Field(description="The run directory, absolute; it holds job.json.")
    cpus: int | None = Field(
        default=None, ge=1, description="Cores. Default: a fair share of the machine."
    )
    environment: dict[str, str] = Field(
        default={}, description="Environment variables, on top of the launcher's own."
    )
