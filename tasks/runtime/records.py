"""Records that cross from a job to its watchers, as JSON files in the run directory."""

from typing import Literal

from pydantic import Field, TypeAdapter, model_validator

from configs.base import Record
from configs.federated import FederatedExperiment
from configs.study import Experiment
from configs.training import TrainingExperiment
from tasks.runtime.errors import JobError, Reason


class JobFile(Record):
    """``job.json``: the whole input of one job."""

    study: str = Field(description="Name of the study.")
    point: str = Field(description="Label of the grid point.")
    coordinates: dict[str, str] = Field(default={}, description="Grid axis -> label of its value.")
    config_hash: str = Field(description="Hash of the experiment.")
    experiment: Experiment = Field(description="The experiment.")

    @property
    def federated(self) -> FederatedExperiment:
        """The experiment of an engine that trains with workers.

        Raises:
            JobError: It is of another kind.
        """
        if not isinstance(self.experiment, FederatedExperiment):
            raise self._of_another_kind("federated")
        return self.experiment

    @property
    def training(self) -> TrainingExperiment:
        """The experiment of an engine that trains on ranks.

        Raises:
            JobError: It is of another kind.
        """
        if not isinstance(self.experiment, TrainingExperiment):
            raise self._of_another_kind("training")
        return self.experiment

    def _of_another_kind(self, wanted: str) -> JobError:
        message = f"job.json is of kind {self.experiment.kind}, this engine runs kind {wanted}; "
        return JobError(Reason.CONFIGURATION, f"{message}run it with: watershed run")


class ClientJobFile(Record):
    """``job.json`` of a client: one real worker of an anarchic run."""

    study: str = Field(description="Name of the study.")
    point: str = Field(description="Label of the grid point.")
    worker: int = Field(ge=0, description="Id of the worker.")
    server_dir: str = Field(
        description="Run directory of the server; a relative path begins at this file's directory."
    )
    config_hash: str = Field(description="Hash of the experiment.")
    experiment: FederatedExperiment = Field(description="The experiment, the same as the server's.")


class ReturnLine(Record):
    """One line of ``returns.jsonl``: a return that the server has taken, for good.

    Times are seconds since the beginning of the run; those of the client are by its own clock.
    """

    round: int = Field(ge=1, description="The round (server update) that it takes part in.")
    worker: int = Field(ge=0, description="Id of the worker.")
    sequence: int = Field(
        ge=0, description="With the worker it names the return; it rises, with gaps."
    )
    pulled: int = Field(ge=0, description="The version that the worker pulled.")
    num_steps: int = Field(ge=1, description="Local steps.")
    delay: int = Field(ge=0, description="Rounds between the pull and the use.")
    token: int = Field(ge=0, description="Attempt of the client that computed it.")
    partition: str = Field(default="", description="Where it was computed.")
    slurm_job: str = Field(default="", description="Slurm's id of the client.")
    pulled_at_s: float = Field(ge=0, description="When the client pulled.")
    returned_at_s: float = Field(ge=0, description="When the client returned.")
    taken_at_s: float = Field(ge=0, description="When the server took it; never decreasing.")


class JournalLine(Record):
    """One line of ``metrics.jsonl``: what was measured at one round or train step.

    Metric names are MLflow's: ``train/loss``, ``train/grad_sq_norm``, ``test/accuracy``,
    ``delay/mean``, ``time/virtual_s``, ... (grouped by slash).
    """

    sequence: int = Field(ge=0, description="Number of the line, from 0; none is left out.")
    step: int = Field(ge=0, description="Rounds (server updates) or train steps done.")
    timestamp_ms: int = Field(ge=0, description="Wall-clock time of writing, Unix milliseconds.")
    metrics: dict[str, float] = Field(description="Name -> value; never NaN or infinite.")


Status = Literal["finished", "failed", "interrupted"]


class Result(Record):
    """``result.json``: how a run ended."""

    status: Status = Field(description="finished, failed (see reason) or interrupted (resumable).")
    reason: str = Field(default="", description="One word for the class of failure, see Reason.")
    message: str = Field(default="", description="For the user: what happened, what to do.")
    steps: int = Field(
        default=0,
        ge=0,
        description="Rounds or train steps done, of a run that has finished or diverged; 0 of one "
        "that was interrupted or lost a process: the journal says how far it came.",
    )
    metrics: dict[str, float] = Field(default={}, description="The last line's metrics.")
    warnings: tuple[str, ...] = Field(default=(), description="What the user should know.")
    refused: dict[str, int] = Field(
        default={}, description="Worker id -> returns refused, as not finite."
    )
    wall_s: float = Field(
        default=0.0,
        ge=0,
        description="Wall time of the attempts that left a result, set-up included.",
    )

    @model_validator(mode="before")
    @classmethod
    def _takes_its_earlier_name(cls, value: object) -> object:
        """Read the results of version 0.1, which had only rounds to count."""
        if isinstance(value, dict) and "rounds" in value:
            return {"steps": value["rounds"]} | {k: v for k, v in value.items() if k != "rounds"}
        return value


class PredictedOnly(Record):
    """``predicted_only.json``: a point of a scaling study that has no job."""

    reason: str = Field(description="Why: not asked for, or what does not fit and what would.")


class Reused(Record):
    """``reused.json``: the result of an earlier run stands for this one."""

    source: str = Field(description="Run directory that has computed it, absolute.")
    study: str = Field(description="Name of the directory of its study.")
    finished_ms: int = Field(ge=0, description="When it had finished, Unix milliseconds.")


class Started(Record):
    """``attempts/<k>/started.json``: who claimed the attempt.

    Attempts count all incarnations of a run; a submission (one call of sbatch) has one more of them
    each time that Slurm requeues it.
    """

    pid: int = Field(description="Process id on its host.")
    host: str = Field(description="Host name.")
    timestamp_ms: int = Field(description="Unix milliseconds.")
    submission: int = Field(default=0, ge=0, description="From 1; 0 without Slurm.")
    slurm_job: str = Field(default="", description="Slurm's id: 12, or 12_3 in an array.")
    restarts: int = Field(default=0, ge=0, description="SLURM_RESTART_COUNT.")
    cluster: str = Field(default="", description="SLURM_CLUSTER_NAME.")
    partition: str = Field(default="", description="SLURM_JOB_PARTITION.")
    node: str = Field(default="", description="SLURMD_NODENAME.")


class Heartbeat(Record):
    """``attempts/<k>/heartbeat.json``: the attempt was alive then."""

    timestamp_ms: int = Field(description="Unix milliseconds.")
    child_pid: int = Field(description="Process that does the work, on the attempt's host.")
    checkpoint_ms: int | None = Field(
        default=None,
        description="When the newest checkpoint was written, Unix milliseconds; None if untold.",
    )


class Exit(Record):
    """``attempts/<k>/exit.json``."""

    code: int = Field(description="Exit code.")
    timestamp_ms: int = Field(description="Unix milliseconds.")
    signals: tuple[str, ...] = Field(
        default=(), description="What the attempt was sent, in order: SIGUSR1, SIGTERM, ..."
    )
    requeued: bool = Field(
        default=False, description="The attempt has asked Slurm to queue the job again."
    )
    checkpoint_moved: bool = Field(
        default=True, description="Whether the newest checkpoint is newer than at its start."
    )


class AttemptCost(Record):
    """What one attempt cost, as Slurm accounts for it; None where the cluster does not tell."""

    submission: int = Field(ge=1, description="From 1.")
    slurm_job: str = Field(description="Slurm's id: 12, or 12_3 in an array.")
    restarts: int = Field(default=0, ge=0, description="How often it had been requeued before.")
    state: str = Field(description="Slurm's last state of it: COMPLETED, NODE_FAIL, ...")
    nodes: int | None = Field(default=None, ge=0, description="Nodes that it had.")
    partition: str = Field(default="", description="Where it ran.")
    queue_wait_s: float | None = Field(default=None, ge=0, description="From eligible to start.")
    elapsed_s: float | None = Field(default=None, ge=0, description="From start to end.")
    node_hours: float | None = Field(default=None, ge=0, description="Nodes times elapsed.")
    gpu_hours: float | None = Field(default=None, ge=0, description="GPUs times elapsed.")
    max_rss_bytes: int | None = Field(default=None, ge=0, description="Largest of its tasks.")
    cpu_efficiency: float | None = Field(
        default=None, ge=0, description="CPU time over allocated CPUs times elapsed."
    )
    energy_j: float | None = Field(default=None, ge=0, description="Joules, where measured.")
    lost_node_hours: float | None = Field(
        default=None, ge=0, description="Node-hours behind its last checkpoint, computed again."
    )


class Costs(Record):
    """``costs.json``: what all attempts of a run cost, oldest first."""

    attempts: tuple[AttemptCost, ...] = Field(default=(), description="One each.")


RETURN_LINE: TypeAdapter[ReturnLine] = TypeAdapter(ReturnLine)
JOURNAL_LINE: TypeAdapter[JournalLine] = TypeAdapter(JournalLine)
