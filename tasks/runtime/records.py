"""Records that cross from a job to its watchers, as JSON files in the run directory."""

from typing import Literal

from pydantic import Field, TypeAdapter

from configs.base import Record
from configs.study import Experiment


class JobFile(Record):
    """``job.json``: the whole input of one job."""

    study: str = Field(description="Name of the study.")
    point: str = Field(description="Label of the grid point.")
    coordinates: dict[str, str] = Field(default={}, description="Grid axis -> label of its value.")
    config_hash: str = Field(description="Hash of the experiment.")
    experiment: Experiment = Field(description="The experiment.")


class JournalLine(Record):
    """One line of ``metrics.jsonl``: what was measured at one round.

    Metric names are MLflow's: ``train/loss``, ``train/grad_sq_norm``, ``test/accuracy``,
    ``delay/mean``, ``time/virtual_s``, ... (grouped by slash).
    """

    sequence: int = Field(ge=0, description="Number of the line, from 0; none is left out.")
    step: int = Field(ge=0, description="Round: server updates done.")
    timestamp_ms: int = Field(ge=0, description="Wall-clock time of writing, Unix milliseconds.")
    metrics: dict[str, float] = Field(description="Name -> value; never NaN or infinite.")


Status = Literal["finished", "failed", "interrupted"]


class Result(Record):
    """``result.json``: how a run ended."""

    status: Status = Field(description="finished, failed (see reason) or interrupted (resumable).")
    reason: str = Field(default="", description="One word for the class of failure.")
    message: str = Field(default="", description="For the user: what happened, what to do.")
    rounds: int = Field(default=0, ge=0, description="Server updates done.")
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


class Started(Record):
    """``attempts/<k>/started.json``."""

    pid: int = Field(description="Process id on its host.")
    host: str = Field(description="Host name.")
    timestamp_ms: int = Field(description="Unix milliseconds.")


class Exit(Record):
    """``attempts/<k>/exit.json``."""

    code: int = Field(description="Exit code.")
    timestamp_ms: int = Field(description="Unix milliseconds.")


JOURNAL_LINE: TypeAdapter[JournalLine] = TypeAdapter(JournalLine)
