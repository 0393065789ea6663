"""The run form of a study over sizes, see ``configs.forms``."""

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from configs.base import MOST_ROUNDS, Fault, Whole
from configs.form_base import StudyForm
from configs.form_words import GptName, Seed, TopologyName
from configs.presets import shipped_studies
from configs.training import MOST_STEPS
from configs.words import OneOf


class ScalingForm(StudyForm):
    """A study over sizes from a preset. What is empty is as in the preset."""

    _kind = "scaling"
    _paths: ClassVar[Mapping[str, str]] = {
        "model": "model.preset",
        "measure_up_to": "measure",
    }

    preset: Annotated[str, OneOf(shipped_studies("scaling"))] = Field(
        default="scaling-mini",
        description="Study to begin with; what is left empty below is as it has it. scaling-mini "
        "runs on any laptop; frontier-20b predicts only.",
    )
    sizes: tuple[Annotated[Whole, Field(ge=1)], ...] = Field(
        default=(),
        max_length=100,
        description="Ranks of a training; returns m of a round of federated averaging.",
    )
    repeats: Whole | None = Field(
        default=None, ge=1, le=100, description="Runs of each point, with seeds from the base's on."
    )
    mode: Literal["weak", "strong"] | None = Field(
        default=None,
        description="Trainings: weak keeps the work of a rank; strong keeps the batch of a train "
        "step.",
    )
    measure: Literal["all", "none"] | None = Field(
        default=None, description="Which points run: all that fit in memory, or none."
    )
    measure_up_to: Whole | None = Field(
        default=None,
        ge=1,
        description="Run the points up to so many ranks; the others are predicted only.",
    )
    steps: Whole | None = Field(
        default=None,
        ge=1,
        le=MOST_STEPS,
        title="Train steps",
        description="Train steps of a training.",
    )
    rounds: Whole | None = Field(
        default=None,
        ge=1,
        le=MOST_ROUNDS,
        description="T: server updates of federated averaging.",
    )
    seed: Seed | None = Field(default=None, description="First seed.")
    model: GptName | None = Field(default=None, description="Sizes of the GPT, of a training.")
    micro_batch: Whole | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Sequences of a rank in one micro-batch, of a training.",
    )
    topology: TopologyName | None = Field(
        default=None,
        description="The machine of a training; another one by topology=FILE in the settings.",
    )

    def _faults(self) -> Iterator[Fault]:
        yield from super()._faults()
        if self.measure is not None and self.measure_up_to is not None:
            message = f"measure is {self.measure}; leave one of the two empty"
            yield Fault(path="measure_up_to", message=message)
