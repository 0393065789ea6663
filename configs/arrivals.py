"""Who returns when, how stale, and after how many local steps.

Round-based processes draw the returns of every round directly; ``event_driven`` and ``trace`` let
them follow from a virtual clock. In a round-based process a worker's delay is drawn too. With
``slurm`` nothing is drawn: the workers are jobs of a cluster.
"""

from typing import Annotated, Literal

from pydantic import Field

from configs.base import (
    MOST_ROUNDS,
    MOST_WORKERS,
    Number,
    PositiveFloat,
    Probability,
    Record,
    Whole,
    WorkerId,
    tagged_by,
)
from configs.scripts import Word

_LARGEST_DELAY = 1_000_000
_MOST_STEPS = 100_000
_LARGEST_SPREAD = 10
"""Of logarithms: a factor of e^10 is a standard deviation away."""

NumSteps = Annotated[Whole, Field(ge=1, le=_MOST_STEPS)]


class Service(Record):
    """How long a worker takes: the law of its service time on the virtual clock."""

    law: Literal["constant", "exponential", "lognormal"] = Field(
        default="exponential", description="Law of the duration around its mean."
    )
    mean_s: PositiveFloat | tuple[PositiveFloat, ...] = Field(
        default=1.0,
        description="Mean duration in virtual seconds: for all workers, or one a worker.",
    )
    per: Literal["return", "step"] = Field(
        default="return", description="Whether mean_s is of a whole return or of one local step."
    )
    sigma: PositiveFloat = Field(
        default=1.0,
        le=_LARGEST_SPREAD,
        description="Standard deviation of the logarithm (law: lognormal).",
    )
    spread: Number = Field(
        default=0.0,
        ge=0,
        le=_LARGEST_SPREAD,
        description=(
            "Workers of different speeds: each worker's mean is multiplied, once, by a log-normal "
            "factor of median 1 whose logarithm has this standard deviation."
        ),
    )


class ArrivalsBase(Record):
    """What all arrival processes have."""

    never_return: tuple[WorkerId, ...] = Field(
        default=(), description="Workers that never take part."
    )


class RoundBased(ArrivalsBase):
    """What all processes have that draw the returns of each round directly."""

    max_delay: Whole = Field(
        default=0,
        ge=0,
        le=_LARGEST_DELAY,
        description="Largest delay of a return, in server rounds.",
    )
    delay: Literal["uniform", "constant"] = Field(
        default="uniform",
        description="uniform: drawn from 0..max_delay for each return; constant: always max_delay.",
    )
    round_s: PositiveFloat = Field(default=1.0, description="Virtual seconds that a round takes.")


class Synchronous(ArrivalsBase):
    """Each round, a uniform sample of workers pulls the newest model; the server waits for all."""

    kind: Literal["synchronous"] = "synchronous"


class Uniform(RoundBased):
    """A uniform sample of workers, without replacement, independent of the model."""

    kind: Literal["uniform"] = "uniform"


class Weighted(RoundBased):
    """Independent draws with fixed probabilities; a worker may be in one buffer twice."""

    kind: Literal["weighted"] = "weighted"
    # Only compared with each other, without overflow: any finite weight will do.
    weights: tuple[Annotated[Number, Field(ge=0)], ...] = Field(
        min_length=1, description="One weight a worker; they need not sum to one."
    )


class LabelCorrelated(RoundBased):
    """Independent draws, likelier for workers that hold certain labels."""

    kind: Literal["label_correlated"] = "label_correlated"
    favoured_labels: tuple[Annotated[Whole, Field(ge=0, le=1_000_000)], ...] = Field(
        default=(0, 1, 2, 3, 4), min_length=1, description="Labels whose holders arrive more often."
    )
    ratio: PositiveFloat = Field(
        default=9.0,
        description=(
            "How much more often a worker arrives all of whose samples have favoured labels than "
            "one with none; linear in between."
        ),
    )


class Schedule(RoundBased):
    """A fixed order of workers, repeated for ever; round-robin by default."""

    kind: Literal["schedule"] = "schedule"
    order: tuple[WorkerId, ...] | None = Field(
        default=None, min_length=1, description="Worker ids in order; default 0, 1, ..., M-1."
    )


class Periodic(RoundBased):
    """Groups of workers (time zones) that take turns; only one group is awake at a time."""

    kind: Literal["periodic"] = "periodic"
    groups: Whole = Field(
        default=2, ge=1, le=MOST_WORKERS, description="Worker i belongs to group i mod groups."
    )
    period: Whole = Field(
        default=10, ge=1, le=MOST_ROUNDS, description="Rounds for which a group stays awake."
    )


class Markov(RoundBased):
    """Each worker is on or off, a Markov chain of its own; the buffer is drawn from those on."""

    kind: Literal["markov"] = "markov"
    turn_on: Annotated[Probability, Field(gt=0)] = Field(
        default=0.1, description="Probability, each round, that a worker that is off turns on."
    )
    turn_off: Probability = Field(
        default=0.1, description="Probability, each round, that a worker that is on turns off."
    )


class EventDriven(ArrivalsBase):
    """Every worker works without pause: pulls, works for its service time, returns, pulls again."""

    kind: Literal["event_driven"] = "event_driven"
    max_delay: Whole | None = Field(
        default=None,
        ge=0,
        le=_LARGEST_DELAY,
        description="A return older than so many rounds is dropped and counted. Default: none is.",
    )


class Trace(ArrivalsBase):
    """A recorded trace: CSV with worker, pull_time, return_time and, better, further columns."""

    kind: Literal["trace"] = "trace"
    path: str = Field(min_length=1, description="The CSV file; relative to the study's directory.")
    max_delay: Whole | None = Field(
        default=None,
        ge=0,
        le=_LARGEST_DELAY,
        description="A return older than so many rounds is dropped and counted. Default: none is.",
    )


class PartitionWorkers(Record):
    """The workers of one partition."""

    partition: Word = Field(description="Name of the partition.")
    workers: Whole = Field(
        ge=1, le=MOST_WORKERS, description="Workers there, each a job; those that never return too."
    )


class Slurm(ArrivalsBase):
    """Real workers: client jobs that come and go as Slurm starts, preempts and ends them."""

    kind: Literal["slurm"] = "slurm"
    partitions: tuple[PartitionWorkers, ...] = Field(
        min_length=1,
        description="Where the workers are, in the order of their ids: the first has 0, 1, ...",
    )
    budget_s: PositiveFloat = Field(
        default=10.0,
        description=(
            "Seconds of wall time for the local steps of a return; at least one step is done."
        ),
    )
    max_steps: NumSteps = Field(
        default=_MOST_STEPS, description="Most local steps of a return, however fast the worker."
    )
    max_delay: Whole | None = Field(
        default=None,
        ge=0,
        le=_LARGEST_DELAY,
        description="A return older than so many rounds is dropped and counted. Default: none is.",
    )
    server_patience_s: PositiveFloat = Field(
        default=600.0,
        ge=30,  # a server beats every 5 s, and a busy file system holds one back
        description=(
            "A worker that sees no sign of life of its server for so many seconds ends as "
            "interrupted; started again, it goes on."
        ),
    )

    def partition_of(self, worker: int) -> str:
        """Return the partition of a worker.

        Args:
            worker: Its id, from 0.

        Returns:
            Name of the partition.

        Raises:
            IndexError: No partition has it.
        """
        behind = 0
        for share in self.partitions:
            behind += share.workers
            if worker < behind:
                return share.partition
        raise IndexError(f"no partition has worker {worker}; ids run from 0 to {behind - 1}")


Arrivals = Annotated[
    Synchronous
    | Uniform
    | Weighted
    | LabelCorrelated
    | Schedule
    | Periodic
    | Markov
    | EventDriven
    | Trace
    | Slurm,
    tagged_by("kind", "uniform"),
    Field(discriminator="kind"),
]


class ConstantSteps(Record):
    """The same number of local steps for everybody."""

    kind: Literal["constant"] = "constant"
    steps: NumSteps = Field(default=5, description="K: local steps of each return.")


class UniformSteps(Record):
    """A fresh number of local steps for each return."""

    kind: Literal["uniform"] = "uniform"
    low: NumSteps = Field(default=1, description="Fewest local steps.")
    high: NumSteps = Field(default=9, description="Most local steps, included.")


class PerWorkerSteps(Record):
    """Each worker has its own number of local steps."""

    kind: Literal["per_worker"] = "per_worker"
    steps: tuple[NumSteps, ...] = Field(min_length=1, description="One number a worker.")


class SpeedSteps(Record):
    """Local steps in proportion to the worker's speed (1 / its mean service time)."""

    kind: Literal["speed"] = "speed"
    mean: PositiveFloat = Field(
        default=5.0, le=_MOST_STEPS, description="Mean over the workers, at least 1 each."
    )


class BudgetSteps(Record):
    """As many local steps as fit into a time budget (needs ``service.per: step``)."""

    kind: Literal["time_budget"] = "time_budget"
    budget_s: PositiveFloat = Field(default=5.0, description="Virtual seconds of each return.")
    max_steps: NumSteps = Field(default=1000, description="Never more than this.")


LocalSteps = Annotated[
    ConstantSteps | UniformSteps | PerWorkerSteps | SpeedSteps | BudgetSteps,
    tagged_by("kind", "constant"),
    Field(discriminator="kind"),
]
