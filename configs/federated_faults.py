"""What does not fit together in a federated experiment, each fault where it stands."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from configs.arrivals import (
    BudgetSteps,
    ConstantSteps,
    LabelCorrelated,
    Periodic,
    PerWorkerSteps,
    Schedule,
    Slurm,
    Synchronous,
    Uniform,
    UniformSteps,
    Weighted,
)
from configs.base import Fault
from configs.data import ByLabels, Data, Natural
from configs.models import Quadratic

if TYPE_CHECKING:
    from configs.federated import FederatedExperiment


def faults_together(experiment: "FederatedExperiment") -> Iterator[Fault]:
    """Find what contradicts what; each record is valid on its own.

    Args:
        experiment: What was read.

    Yields:
        The faults, by the paths of their fields.
    """
    yield from _buffer_faults(experiment)
    yield from _arrival_faults(experiment)
    yield from _slurm_faults(experiment)
    yield from _length_faults(experiment)
    yield from _data_faults(experiment)


def _buffer_faults(experiment: "FederatedExperiment") -> Iterator[Fault]:
    collect, workers = experiment.algorithm.collect, experiment.workers
    absent = sorted({w for w in experiment.arrivals.never_return if w < workers})
    available = workers - len(absent)
    without_replacement = isinstance(experiment.arrivals, (Synchronous, Uniform)) or (
        experiment.arrivals.kind == "markov"
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
    elif isinstance(experiment.arrivals, Periodic):
        groups = experiment.arrivals.groups
        sizes = [0] * min(groups, workers + 1)  # with more groups than workers one is empty
        for worker in range(workers):
            sizes[worker % groups] += worker not in experiment.arrivals.never_return
        if min(sizes) < collect:
            yield Fault(
                path="algorithm.collect",
                message=(
                    f"{collect} is more than the smallest of the {groups} groups has workers "
                    f"({min(sizes)}); use fewer groups or a smaller collect"
                ),
                related=("workers", "arrivals"),
            )
    if experiment.algorithm.waits_for_all and (missing := _never_seen(experiment)):
        yield Fault(
            path="algorithm.slots",
            message=(
                f"wait needs every worker once, but {len(missing)} never return "
                f"(such as {missing[0]}); use zeros or seen"
            ),
            related=("workers", "arrivals"),
        )


def _never_seen(experiment: "FederatedExperiment") -> list[int]:
    """List the workers that cannot be in any buffer, as far as the configuration says."""
    arrivals, workers = experiment.arrivals, range(experiment.workers)
    seen = set(workers) - set(arrivals.never_return)
    if isinstance(arrivals, Weighted) and len(arrivals.weights) == len(workers):
        seen -= {worker for worker in workers if arrivals.weights[worker] == 0}
    if isinstance(arrivals, Schedule) and arrivals.order is not None:
        seen &= set(arrivals.order)
    return [worker for worker in workers if worker not in seen]


def _arrival_faults(experiment: "FederatedExperiment") -> Iterator[Fault]:
    arrivals, workers = experiment.arrivals, experiment.workers
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
        labels = experiment.data.facts.num_labels if experiment.data else None
        if labels is None:
            found = experiment.data.name if experiment.data else f"model {experiment.model.name}"
            yield Fault(
                path="arrivals.kind",
                message=f"label_correlated needs data with classes; {found} has none",
                related=("data", "model"),
            )
        elif max(arrivals.favoured_labels) >= labels:
            yield Fault(
                path="arrivals.favoured_labels",
                message=(
                    f"{max(arrivals.favoured_labels)} is no label; they run from 0 to {labels - 1}"
                ),
                related=("data.name",),
            )
    if isinstance(experiment.local_steps, BudgetSteps) and experiment.service.per != "step":
        yield Fault(
            path="local_steps.kind",
            message="time_budget counts steps of known duration; set service.per to step",
            related=("service.per",),
        )
    steps = experiment.local_steps
    if isinstance(steps, UniformSteps) and steps.low > steps.high:
        yield Fault(
            path="local_steps.low",
            message=f"{steps.low} is more than high={steps.high}; use 1 to {steps.high}",
            related=("local_steps.high",),
        )


def _slurm_faults(experiment: "FederatedExperiment") -> Iterator[Fault]:
    """What real workers cannot do, or have no use for."""
    arrivals = experiment.arrivals
    if not isinstance(arrivals, Slurm):
        return
    names = [share.partition for share in arrivals.partitions]
    if twice := [name for name in names if names.count(name) > 1]:
        yield Fault(
            path="arrivals.partitions", message=f"{twice[0]} stands twice; add up its workers"
        )
    placed = sum(share.workers for share in arrivals.partitions)
    if placed != experiment.workers:
        yield Fault(
            path="arrivals.partitions",
            message=(
                f"they have {placed} workers in all, but workers={experiment.workers}; give every "
                "worker one place"
            ),
            related=("workers",),
        )
    if experiment.worker.optimizer == "scaffold":
        yield Fault(
            path="worker.optimizer",
            message=(
                "scaffold needs control variates, which real workers do not exchange; use sgd, "
                "momentum or fedprox"
            ),
            related=("arrivals.kind",),
        )
    if experiment.local_steps != ConstantSteps():
        yield Fault(
            path="local_steps",
            message=(
                "real workers do as many steps as arrivals.budget_s and arrivals.max_steps "
                "allow; remove local_steps"
            ),
            related=("arrivals.kind",),
        )


def _length_faults(experiment: "FederatedExperiment") -> Iterator[Fault]:
    """Lists with one entry a worker must have as many entries as there are workers."""
    lists: dict[str, object] = {"service.mean_s": experiment.service.mean_s}
    if isinstance(experiment.arrivals, Weighted):
        lists["arrivals.weights"] = experiment.arrivals.weights
    if isinstance(experiment.local_steps, PerWorkerSteps):
        lists["local_steps.steps"] = experiment.local_steps.steps
    if isinstance(experiment.model, Quadratic):
        lists["model.centres"] = experiment.model.centres
        lists["model.curvatures"] = experiment.model.curvatures
        dimensions = {len(c) if isinstance(c, tuple) else 1 for c in experiment.model.centres}
        if len(dimensions) > 1 or 0 in dimensions:
            yield Fault(
                path="model.centres",
                message=f"centres differ in length ({sorted(dimensions)}); use one length",
            )
    for path, values in lists.items():
        if isinstance(values, tuple) and len(values) != experiment.workers:
            yield Fault(
                path=path,
                message=f"{len(values)} values for workers={experiment.workers}; give one a worker",
                related=("workers",),
            )


def _data_faults(experiment: "FederatedExperiment") -> Iterator[Fault]:
    if isinstance(experiment.model, Quadratic):
        if experiment.data is not None:
            yield Fault(
                path="data",
                message="the quadratic model has no data; remove this key",
                related=("model",),
            )
        return
    if experiment.data is None:
        known = ", ".join(experiment.model.datasets)
        yield Fault(
            path="data",
            message=f"missing; {experiment.model.name} takes {known}",
            related=("model",),
        )
        return
    allowed = experiment.model.datasets
    if experiment.data.name not in allowed:
        yield Fault(
            path="data.name",
            message=f"{experiment.model.name} does not take {experiment.data.name}; use "
            + " or ".join(allowed),
            related=("model",),
        )
    yield from _partition_faults(experiment.data, experiment.workers)


def _partition_faults(data: Data, workers: int) -> Iterator[Fault]:
    facts = data.facts
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
