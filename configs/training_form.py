"""The run form of a training, see ``configs.forms``."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from configs.base import Fault, PositiveFloat, Whole
from configs.form_base import StudyForm
from configs.form_words import (
    MOST_SEEDS,
    GptName,
    RowName,
    Seed,
    TopologyName,
    TransportName,
)
from configs.loading import ConfigError, load_study
from configs.presets import shipped_studies, study_path
from configs.quantities import count_of
from configs.training import MOST_STEPS, TrainingExperiment
from configs.words import OneOf


class TrainingForm(StudyForm):
    """A training of a language model from a preset. What is empty is as in the preset."""

    _kind = "training"
    _paths: ClassVar[Mapping[str, str]] = {
        "seeds": "seed",
        "model": "model.preset",
        "lr": "optimizer.lr",
        "warmup_steps": "optimizer.warmup_steps",
        "batch_tokens": "accumulation",
    }

    preset: Annotated[str, OneOf(shipped_studies("training"))] = Field(
        default="gpt-tiny",
        description="Training to begin with; what is left empty below is as it has it. gpt-tiny "
        "runs on any laptop in about a minute.",
    )
    steps: Whole | None = Field(
        default=None, ge=1, le=MOST_STEPS, title="Train steps", description="Train steps."
    )
    seeds: tuple[Seed, ...] = Field(
        default=(),
        max_length=MOST_SEEDS,
        description="Seeds of weights and batches; each point of the grid runs once a seed.",
    )
    model: GptName | None = Field(
        default=None, description="Sizes of the GPT; those up to gpt-25m read bytes."
    )
    ranks: Whole | None = Field(
        default=None, ge=1, le=1_000_000, description="N: devices, one process each."
    )
    partition: RowName | None = Field(
        default=None,
        description="Over how many ranks each state is split. Where the preset compares several, "
        "this one alone runs.",
    )
    transport: TransportName | None = Field(
        default=None, description="Formats of weights and gradients on the wire."
    )
    lr: PositiveFloat | None = Field(
        default=None, title="Learning rate", description="Largest learning rate of AdamW."
    )
    warmup_steps: Whole | None = Field(
        default=None, ge=0, le=MOST_STEPS, description="Train steps of linear warm-up."
    )
    batch_tokens: str | None = Field(
        default=None,
        min_length=1,
        description="Tokens of one train step over all ranks, such as 4M or 512K; sets the "
        "accumulation.",
    )
    sequence: Whole | None = Field(
        default=None, ge=2, le=1_000_000, description="s: tokens of one sequence."
    )
    micro_batch: Whole | None = Field(
        default=None, ge=1, le=100_000, description="Sequences of a rank in one micro-batch."
    )
    engine: Literal["ours", "deepspeed", "fsdp2"] | None = Field(
        default=None, description="What trains: Watershed's engine, DeepSpeed, or FSDP2."
    )
    topology: TopologyName | None = Field(
        default=None, description="The machine; another one by topology=FILE in the settings."
    )
    device: Literal["auto", "cpu", "cuda"] | None = Field(
        default=None,
        description="Where to compute; auto takes CUDA devices where there are any.",
    )

    def _chosen(self) -> dict[str, list[JsonValue]]:
        chosen = super()._chosen()
        if self.batch_tokens is None:
            return chosen
        del chosen["accumulation"]
        study = load_study(study_path(self.file or self.preset), self.settings, chosen)
        bases = [point.experiment for point in study.points()]
        needed = {self._accumulation(one) for one in bases if isinstance(one, TrainingExperiment)}
        if len(needed) > 1:
            counts = ", ".join(map(str, sorted(needed)))
            message = f"points of the study's grid need {counts} micro-batches each for this; "
            message += "leave it as in the study"
            raise ConfigError(study.name, [Fault(path="accumulation", message=message)])
        return chosen | {"accumulation": [*needed]} if needed else chosen

    def _accumulation(self, base: TrainingExperiment) -> int:
        """Return the micro-batches that make up the batch.

        Raises:
            ConfigError: They do not.
        """
        source = self.file or self.preset
        try:
            tokens = count_of(self.batch_tokens or "")
        except ValueError as error:
            fault = Fault(path="accumulation", message=str(error))
            raise ConfigError(source, [fault]) from error
        each = base.ranks * base.micro_batch * base.sequence
        if tokens % each:
            lower, upper = tokens // each * each, -(-tokens // each) * each
            message = f"{tokens:,} tokens are no multiple of the {each:,} of one micro-batch "
            message += f"({base.ranks} ranks x {base.micro_batch} x {base.sequence} tokens); use "
            message += f"{lower} or {upper}" if lower else f"{upper}"
            raise ConfigError(source, [Fault(path="accumulation", message=message)])
        return tokens // each
