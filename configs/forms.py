"""The run forms: a preset, the few fields that people change, and overrides for all others.

A form is what a person fills in at the Prefect UI; ``study()`` makes a study of it. A field that is
left empty is as in the preset. What the preset's grid varies gives way to what the form says, see
``configs.choices.choose``.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue, ValidatorFunctionWrapHandler, WrapValidator

from configs.algorithms import Algorithm
from configs.allowed import Allowed
from configs.arrivals import Arrivals
from configs.base import (
    MOST_ROUNDS,
    MOST_WORKERS,
    Fault,
    PositiveFloat,
    Record,
    Whole,
    raise_faults,
)
from configs.data import DATASETS
from configs.faults import faults_in
from configs.form_base import StudyForm
from configs.gpt import PRESETS
from configs.loading import ConfigError, load_study
from configs.models import Model
from configs.presets import shipped_studies, study_path
from configs.quantities import count_of
from configs.scaling import ScalingStudy
from configs.sharding import ROWS
from configs.study import Study
from configs.topology import shipped_topologies
from configs.training import MOST_STEPS, TrainingExperiment
from configs.transport import TRANSPORTS
from configs.words import OneOf

_MOST_SEEDS = 1000

Seed = Annotated[Whole, Field(ge=0, lt=2**63)]
AlgorithmName = Annotated[str, OneOf(tuple(Allowed.of(Algorithm).options))]
ArrivalsName = Annotated[str, OneOf(tuple(Allowed.of(Arrivals).options))]
ModelName = Annotated[str, OneOf(tuple(Allowed.of(Model).options))]
DatasetName = Annotated[str, OneOf(tuple(DATASETS))]
GptName = Annotated[str, OneOf(tuple(PRESETS))]
RowName = Annotated[str, OneOf(ROWS)]
TransportName = Annotated[str, OneOf(TRANSPORTS)]
TopologyName = Annotated[str, OneOf(tuple(shipped_topologies()))]


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
        max_length=_MOST_SEEDS,
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
        max_length=_MOST_SEEDS,
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


def _told_apart(form: type[StudyForm], *studies: type[Record]) -> WrapValidator:
    """Tell a form from a whole study by its keys, and list the faults of what was meant alone."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401  raw JSON
        if not isinstance(value, Mapping):
            return handler(value)
        record: type[Record] = form
        if "experiment" in value:
            record = studies[-1] if value.get("kind") == "scaling" else studies[0]
        raise_faults(record.__name__, faults_in(record, value))
        return record.model_validate(value)

    return WrapValidator(validate)


_TITLE = Field(json_schema_extra={"title": "Study"})
FederatedInput = Annotated[FederatedForm | Study, _told_apart(FederatedForm, Study), _TITLE]
TrainingInput = Annotated[TrainingForm | Study, _told_apart(TrainingForm, Study), _TITLE]
ScalingInput = Annotated[
    ScalingForm | Study | ScalingStudy, _told_apart(ScalingForm, Study, ScalingStudy), _TITLE
]
"""What the flows take: a form, as the Prefect UI fills it in, or a whole study."""
