"""What a launcher needs to know of a job, and of jobs that are submitted together."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from configs.base import Record, raise_faults
from configs.launchers import SlurmResources
from configs.scripts import environment_faults

NAME_PREFIX = "ws-"
"""Of the names of all our jobs."""
SERVER_MODULE = "tasks.federated.server_job"
"""Waits for workers that are jobs of the same study; it must never wait for room beside them."""
_KEY_DIGITS = 12

BatchMode = Literal["single", "array", "allocation"]
"""One job; a task of an array each; or many processes in one job."""


class JobPlan(Record):
    """One job: a module that runs on the ``job.json`` of a run directory."""

    name: str = Field(min_length=1, description="For people.")
    module: str = Field(
        pattern=r"^[a-z_]+(\.[a-z_0-9]+)+$",
        description="Python module; run as python -m MODULE RUN_DIRECTORY/job.json.",
    )
    run_dir: Path = Field(description="The run directory, absolute; it holds job.json.")
    cpus: int | None = Field(
        default=None,
        ge=1,
        description="Cores of a local job. Default: a fair share of the machine.",
    )
    environment: dict[str, str] = Field(
        default={}, description="Environment variables, on top of the launcher's own."
    )
    resources: SlurmResources | None = Field(
        default=None, description="What it asks of Slurm; local jobs need none."
    )
    code_dir: Path | None = Field(
        default=None, description="Snapshot of the packages to run; None for the installed ones."
    )
    python: str | None = Field(
        default=None, description="Python on the nodes. Default: the one that submits."
    )

    @model_validator(mode="after")
    def _environment_can_be_set(self) -> "JobPlan":
        raise_faults("JobPlan", list(environment_faults(self.environment)))
        return self

    @property
    def key(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of module and run directory.

        What identifies a job over its whole life. The rest of a plan may change between two
        submissions (more memory, newer code); a run directory never has two live jobs.
        """
        return _digest([self.module, str(self.run_dir)])


class Batch(Record):
    """Jobs that one call of sbatch submits; all share module, resources, code and environment."""

    mode: BatchMode = Field(
        description="One job; a task of an array each; or many processes in one job."
    )
    jobs: tuple[JobPlan, ...] = Field(
        min_length=1, description="The jobs; number i is task i of the array."
    )
    directory: Path = Field(
        description="Where job.sh and, but for a single job, runs.json lie, absolute."
    )
    max_running: int | None = Field(default=None, ge=1, description="Most that run at a time.")

    @property
    def key(self) -> str:
        """Of a single job its own; else a digest of the keys of all."""
        return batch_key(self.mode, self.jobs)


def batch_key(mode: BatchMode, jobs: Sequence[JobPlan]) -> str:
    """Return the key of a batch of these jobs.

    Args:
        mode: How they are batched.
        jobs: The jobs, in order.

    Returns:
        Of a single job its own key; else 12 hexadecimal digits of a digest of the keys of all.
    """
    keys = [job.key for job in jobs]
    return keys[0] if mode == "single" else _digest([mode, *keys])


def job_name(key: str, submission: int) -> str:
    """Return the name by which Slurm knows a submission: ``ws-<key>-<submission>``.

    Args:
        key: Of the batch.
        submission: Number of the submission, from 1.
    """
    return f"{NAME_PREFIX}{key}-{submission}"


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]
