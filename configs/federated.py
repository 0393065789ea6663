"""One federated experiment: the whole input of a simulation, validated together."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from configs.algorithms import AfaCd, AfaCs, Algorithm, Mifa, Worker, WorkerSgd
from configs.arrivals import (
    Arrivals,
    BudgetSteps,
    ConstantSteps,
    LabelCorrelated,
    LocalSteps,
    Periodic,
    PerWorkerSteps,
    Schedule,
    Service,
    Slurm,
    Synchronous,
    Uniform,
    UniformSteps,
    Weighted,
)
from configs.base import MOST_ROUNDS, MOST_WORKERS, Fault, Record, Whole, raise_faults
from configs.data import DATASETS, MOST_SAMPLES, ByLabels, Data, DataField, Natural
from configs.models import Logistic, Model, Quadratic

DATASETS_OF_MODEL: dict[str, tuple[str, ...]] = {
    "logistic": ("digits", "mnist", "cifar10"),
    "mnist_cnn": ("mnist",),
    "cifar10_cnn": ("cifar10",),
    "char_lstm": ("shakespeare",),
}
"""Which data sets each model takes."""


class FederatedExperiment(Record):
    """An anarchic (or synchronous) federated training, simulated on a virtual clock or real."""

    kind: Literal["federated"] = Field(default="federated", description="Kind of the experiment.")
    workers: Whole = Field(
        default=100, ge=1, le=MOST_WORKERS, description="M: registered workers, in all."
    )
    rounds: Whole = Field(default=200, ge=1, le=MOST_ROUNDS, description="T: server updates.")
    seed: Whole = Field(default=0, ge=0, lt=2**63, description="Seed of every random draw.")
    model: Model = Field(default=Logistic(), description="What is trained.")
    data: DataField | None = Field(
        default=None, description="What it is trained on; the quadratic model has no data."
    )
    algorithm: Algorithm = Field(default=AfaCd(), description="The server side.")
    worker: Worker = Field(default=WorkerSgd(), description="The worker side.")
    local_steps: LocalSteps = Field(
        default=ConstantSteps(), description="K: local steps of each return."
    )
    arrivals: Arrivals = Field(default=Uniform(), description="Who returns when, and how stale.")
    service: Service = Field(default=Service(), description="How long workers take.")
    dtype: Literal["float32", "float64"] = Field(
        default="float32", description="Floating-point type of models and returns."
    )
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="Where to compute.")
    evaluate_every: Whole = Field(
        default=10,
        ge=1,
        le=MOST_ROUNDS,
        description="Rounds between two lines of the journal.",
    )
    evaluate_samples: Whole | None = Field(
        default=None,
        ge=1,
        le=MOST_SAMPLES,
        description=(
            "Use only so many training samples, spread evenly over the workers, for the loss and "
            "its gradient. Default: all."
        ),
    )
    record_trace: bool = Field(
        default=False,
        description=(
            "Write who returned when to trace.csv, which can be replayed; arrivals slurm always do."
        ),
    )
    checkpoint_every: Whole = Field(
        default=100, ge=1, le=MOST_ROUNDS, description="Rounds between two checkpoints."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "FederatedExperiment":
        raise_faults("FederatedExperiment", list(self._faults()))
        return self

    @property
    def num_steps(self) -> int:
        """How far it goes: rounds."""
        return self.rounds

    @property
    def unit(self) -> str:
        """What ``num_steps`` counts."""
        return "round"

    def _faults(self) -> Iterator[Fault]:
        yield from self._buffer_faults()
        yield from self._arrival_faults()
        yield from self._slurm_faults()
        yield from self._length_faults()
        yield from self._data_faults()

    def _buffer_faults(self) -> Iterator[Fault]:
        collect, workers = self.algorithm.collect, self.workers
        absent = sorted({w for w in self.arrivals.never_return if w < workers})
        available = workers - len(absent)
        without_replacement = isinstance(self.arrivals, (Synchronous, Uniform)) or (
            self.arrivals.kind == "markov"
        )
        if collect > workers:
            yield Fault(
                path="algorithm.collect",
                message=f"{collect} is more than workers={workers}; use 1 to {workers}",
                related=("workers",),
            )
        elif available == 0:
            yield Fault(
                path="arrivals.never_return",
                message=f"all {workers} workers never return; leave at least one",
                related=("workers",),
            )
        elif without_replacement and collect > available:
            yield Fault(
                path="algorithm.collect",
                message=(
                    f"{collect} is more than the {available} workers that ever return "
                    f"({len(absent)} of {workers} never do); use 1 to {available}"
                ),
                related=("workers", "arrivals"),
            )
        elif isinstance(self.arrivals, Periodic):
            groups = self.arrivals.groups
            sizes = [0] * min(groups, workers + 1)  # with more groups than workers one is empty
            for worker in range(workers):
                sizes[worker % groups] += worker not in self.arrivals.never_return
            if min(sizes) < collect:
                yield Fault(
                    path="algorithm.collect",
                    message=(
                        f"{collect} is more than the smallest of the {groups} groups has workers "
                        f"({min(sizes)}); use fewer groups or a smaller collect"
                    ),
                    related=("workers", "arrivals"),
                )
        waits = isinstance(self.algorithm, (AfaCs, Mifa)) and self.algorithm.slots == "wait"
        if waits and absent:
            yield Fault(
                path="algorithm.slots",
                message=(
                    f"wait needs every worker once, but {len(absent)} never return; use zeros or "
                    "seen"
                ),
                related=("workers", "arrivals.never_return"),
            )

    def _arrival_faults(self) -> Iterator[Fault]:
        arrivals, workers = self.arrivals, self.workers
        unknown = [w for w in arrivals.never_return if w >= workers]
        if unknown:
            yield Fault(
                path="arrivals.never_return",
                message=f"no such worker: {unknown[0]}; ids run from 0 to {workers - 1}",
                related=("workers",),
            )
        if (
            isinstance(arrivals, Weighted)
            and len(arrivals.weights) == workers
            and not any(
                weight > 0
                for worker, weight in enumerate(arrivals.weights)
                if worker not in arrivals.never_return
            )
        ):
            yield Fault(
                path="arrivals.weights",
                message="no worker that returns has a weight above zero; give at least one",
                related=("workers", "arrivals.never_return"),
            )
        if isinstance(arrivals, Schedule) and arrivals.order is not None:
            outside = [w for w in arrivals.order if w >= workers]
            if outside:
                yield Fault(
                    path="arrivals.order",
                    message=f"no such worker: {outside[0]}; ids run from 0 to {workers - 1}",
                    related=("workers",),
                )
            elif set(arrivals.order) <= set(arrivals.never_return):
                yield Fault(
                    path="arrivals.order",
                    message="every worker named never returns; name one that does",
                    related=("arrivals.never_return",),
                )
        if isinstance(arrivals, LabelCorrelated):
            labels = DATASETS[self.data.name].num_labels if self.data else None
            if labels is None:
                found = self.data.name if self.data else f"model {self.model.name}"
                yield Fault(
                    path="arrivals.kind",
                    message=f"label_correlated needs data with classes; {found} has none",
                    related=("data", "model"),
                )
            elif max(arrivals.favoured_labels) >= labels:
                yield Fault(
                    path="arrivals.favoured_labels",
                    message=(
                        f"{max(arrivals.favoured_labels)} is no label; they run from 0 to "
                        f"{labels - 1}"
                    ),
                    related=("data.name",),
                )
        if isinstance(self.local_steps, BudgetSteps) and self.service.per != "step":
            yield Fault(
                path="local_steps.kind",
                message="time_budget counts steps of known duration; set service.per to step",
                related=("service.per",),
            )
        steps = self.local_steps
        if isinstance(steps, UniformSteps) and steps.low > steps.high:
            yield Fault(
                path="local_steps.low",
                message=f"{steps.low} is more than high={steps.high}; use 1 to {steps.high}",
                related=("local_steps.high",),
            )

    def _slurm_faults(self) -> Iterator[Fault]:
        """What real workers cannot do, or have no use for."""
        arrivals = self.arrivals
        if not isinstance(arrivals, Slurm):
            return
        names = [share.partition for share in arrivals.partitions]
        if twice := [name for name in names if names.count(name) > 1]:
            yield Fault(
                path="arrivals.partitions", message=f"{twice[0]} stands twice; add up its workers"
            )
        placed = sum(share.workers for share in arrivals.partitions)
        if placed != self.workers:
            yield Fault(
                path="arrivals.partitions",
                message=(
                    f"they have {placed} workers in all, but workers={self.workers}; give every "
                    "worker one place"
                ),
                related=("workers",),
            )
        if self.worker.optimizer == "scaffold":
            yield Fault(
                path="worker.optimizer",
                message=(
                    "scaffold needs control variates, which real workers do not exchange; use sgd, "
                    "momentum or fedprox"
                ),
                related=("arrivals.kind",),
            )
        if self.local_steps != ConstantSteps():
            yield Fault(
                path="local_steps",
                message=(
                    "real workers do as many steps as arrivals.budget_s and arrivals.max_steps "
                    "allow; remove local_steps"
                ),
                related=("arrivals.kind",),
            )

    def _length_faults(self) -> Iterator[Fault]:
        """Lists with one entry a worker must have as many entries as there are workers."""
        lists: dict[str, object] = {"service.mean_s": self.service.mean_s}
        if isinstance(self.arrivals, Weighted):
            lists["arrivals.weights"] = self.arrivals.weights
        if isinstance(self.local_steps, PerWorkerSteps):
            lists["local_steps.steps"] = self.local_steps.steps
        if isinstance(self.model, Quadratic):
            lists["model.centres"] = self.model.centres
            lists["model.curvatures"] = self.model.curvatures
            dimensions = {len(c) if isinstance(c, tuple) else 1 for c in self.model.centres}
            if len(dimensions) > 1 or 0 in dimensions:
                yield Fault(
                    path="model.centres",
                    message=f"centres differ in length ({sorted(dimensions)}); use one length",
                )
        for path, values in lists.items():
            if isinstance(values, tuple) and len(values) != self.workers:
                yield Fault(
                    path=path,
                    message=f"{len(values)} values for workers={self.workers}; give one a worker",
                    related=("workers",),
                )

    def _data_faults(self) -> Iterator[Fault]:
        if isinstance(self.model, Quadratic):
            if self.data is not None:
                yield Fault(
                    path="data",
                    message="the quadratic model has no data; remove this key",
                    related=("model",),
                )
            return
        if self.data is None:
            known = ", ".join(DATASETS_OF_MODEL[self.model.name])
            yield Fault(
                path="data",
                message=f"missing; {self.model.name} takes {known}",
                related=("model",),
            )
            return
        allowed = DATASETS_OF_MODEL[self.model.name]
        if self.data.name not in allowed:
            yield Fault(
                path="data.name",
                message=f"{self.model.name} does not take {self.data.name}; use "
                + " or ".join(allowed),
                related=("model",),
            )
        yield from _partition_faults(self.data, self.workers)


def _partition_faults(data: Data, workers: int) -> Iterator[Fault]:
    facts = DATASETS[data.name]
    partition = data.partition
    if isinstance(partition, ByLabels):
        if facts.num_labels is None:
            yield Fault(
                path="data.partition.kind",
                message=f"{data.name} has no classes; use natural or iid",
                related=("data.name",),
            )
        elif partition.labels_per_worker > facts.num_labels:
            yield Fault(
                path="data.partition.labels_per_worker",
                message=(
                    f"{partition.labels_per_worker} is more than the {facts.num_labels} labels of "
                    f"{data.name}; use 1 to {facts.num_labels}"
                ),
                related=("data.name",),
            )
        elif partition.labels_per_worker * workers < facts.num_labels:
            yield Fault(
                path="data.partition.labels_per_worker",
                message=(
                    f"{workers} workers with {partition.labels_per_worker} labels each cannot hold "
                    f"all {facts.num_labels} labels of {data.name}; use "
                    f"{-(-facts.num_labels // workers)} or more, or more workers"
                ),
                related=("data.name", "workers"),
            )
    if isinstance(partition, Natural) and not facts.has_natural_partition:
        yield Fault(
            path="data.partition.kind",
            message=f"{data.name} does not say who produced its samples; use labels, "
            "dirichlet or iid",
            related=("data.name",),
        )
