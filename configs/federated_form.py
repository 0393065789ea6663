"""The run form of a federated study, see ``configs.forms``."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from configs.base import MOST_ROUNDS, MOST_WORKERS, PositiveFloat, Whole
from configs.form_base import StudyForm
from configs.form_words import (
    MOST_SEEDS,
    AlgorithmName,
    ArrivalsName,
    DatasetName,
    ModelName,
    Seed,
)
from configs.presets import shipped_studies
from configs.words import OneOf


class FederatedForm(StudyForm):
    """A study of federated averaging from a preset. What is empty is as in the preset."""

    _kind = "federated"
    _paths: ClassVar[Mapping[str, str]] = {
        "seeds": "seed",
        "algorithm": "algorithm.name",
        "arrivals": "arrivals.kind",
        "lr": "worker.lr",
        "server_lr": "algorithm.server_lr",
        "collect": "algorithm.collect",
        "model": "model.name",
        "data": "data.name",
    }

    preset: Annotated[str, OneOf(shipped_studies("federated"))] = Field(
        default="digits",
        description="Study to begin with; what is left empty below is as it has it. digits needs "
        "no download.",
    )
    rounds: Whole | None = Field(
        default=None, ge=1, le=MOST_ROUNDS, description="T: server updates."
    )
    seeds: tuple[Seed, ...] = Field(
        default=(),
        max_length=MOST_SEEDS,
        description="Seeds of all random draws; each point of the grid runs once a seed.",
    )
    workers: Whole | None = Field(
        default=None, ge=1, le=MOST_WORKERS, description="M: registered workers, in all."
    )
    algorithm: AlgorithmName | None = Field(
        default=None,
        description="The server side. Where the preset compares several, this one alone runs.",
    )
    arrivals: ArrivalsName | None = Field(
        default=None,
        description="Who returns when, and how stale. Where the preset compares several, this one "
        "alone runs.",
    )
    lr: PositiveFloat | None = Field(
        default=None,
        title="Worker learning rate",
        description="eta_L, the worker-side learning rate.",
    )
    server_lr: PositiveFloat | None = Field(
        default=None,
        description="eta, the server-side learning rate.",
    )
    collect: Whole | None = Field(
        default=None,
        ge=1,
        le=MOST_WORKERS,
        title="Returns per round",
        description="m: returns that the server collects before one update.",
    )
    model: ModelName | None = Field(default=None, description="What is trained.")
    data: DatasetName | None = Field(
        default=None,
        description="What it is trained on; digits is bundled, the others are found below "
        "WATERSHED_DATA or downloaded.",
    )
    device: Literal["cpu", "cuda"] | None = Field(default=None, description="Where to compute.")
