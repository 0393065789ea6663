"""What is wrong with a scaling study, said in terms of its own file."""

import copy
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from configs.algorithms import Algorithm, Area
from configs.base import Fault
from configs.faults import faults_in
from configs.federated import FederatedExperiment
from configs.overrides import OverrideError, set_path
from configs.scaling_points import (
    RANKS,
    RETURNS_AND_STEPS,
    SEED,
    SERVER_RATE,
    STRATEGY,
    grows_with_steps,
)
from configs.study import Overrides, Study
from configs.training import TrainingExperiment

if TYPE_CHECKING:
    from configs.scaling import ScalingStudy

_FIELDS = {STRATEGY: "strategies", RANKS: "sizes", RETURNS_AND_STEPS: "sizes", SEED: "repeats"}
_SET_BY_SIZES = {
    "training": ("ranks",),
    "federated": ("algorithm.collect", "local_steps"),
}
"""What the sizes set, by kind of the experiment; in strong scaling the batch, too."""
_BATCH = ("micro_batch", "accumulation")
_MOST_DIVISORS = 12


def faults_together(study: "ScalingStudy") -> list[Fault]:
    """Find all that is wrong.

    Args:
        study: What was read; each of its fields is valid on its own.
    """
    faults = list(_faults(study))
    strong = list(_faults_of_strong(study))
    unusable = {*_FIELDS.values(), "local_steps"}
    if not any(fault.path.partition(".")[0] in unusable for fault in faults):
        checked = study.model_copy(update={"mode": "weak"}) if strong else study
        faults += _faults_of_study(checked)
    return faults + strong


def _faults(study: "ScalingStudy") -> Iterator[Fault]:
    """Find what is wrong before there is a grid."""
    for field in ("sizes", "local_steps"):
        values = getattr(study, field)
        if small := [value for value in values if value < 1]:
            yield Fault(path=field, message=f"{small[0]} is none; use 1 or more")
        if twice := [value for value in values if values.count(value) > 1]:
            yield Fault(path=field, message=f"{twice[0]} stands twice; remove one")
    if isinstance(study.experiment, TrainingExperiment):
        yield from _faults_of_training(study)
    else:
        yield from _faults_of_federated(study)
    yield from _faults_of_strategies(study)
    yield from _faults_of_published(study)


def _faults_of_training(study: "ScalingStudy") -> Iterator[Fault]:
    for field in ("local_steps", "server_rate"):
        if field in study.model_fields_set and getattr(study, field) not in ((), "sqrt"):
            message = "a training has none; it is of federated studies. Remove it"
            yield Fault(path=field, message=message)


def _faults_of_strong(study: "ScalingStudy") -> Iterator[Fault]:
    base = study.experiment
    if study.mode == "weak" or not isinstance(base, TrainingExperiment) or min(study.sizes) < 1:
        return
    first = min(study.sizes)
    batch = first * base.micro_batch * base.accumulation
    if left := [size for size in study.sizes if batch % size]:
        per_node = base.topology.ranks_per_node
        divisors = [
            n for n in _divisors(batch) if n >= first and (n <= per_node or n % per_node == 0)
        ]
        some = ", ".join(map(str, divisors[:_MOST_DIVISORS]))
        more = ", ..." if len(divisors) > _MOST_DIVISORS else ""
        yield Fault(
            path="sizes",
            message=(
                f"{', '.join(map(str, left))} do not divide the {batch} sequences of a train "
                f"step ({first} ranks x micro_batch {base.micro_batch} x accumulation "
                f"{base.accumulation}), which strong scaling keeps; use {some}{more}, or "
                "another accumulation"
            ),
            related=("experiment.micro_batch", "experiment.accumulation"),
        )


def _faults_of_federated(study: "ScalingStudy") -> Iterator[Fault]:
    if study.mode == "strong":
        message = "strong keeps the batch of a train step, and federated averaging has none; "
        yield Fault(path="mode", message=f"{message}use weak")
    if study.measure != "all":
        message = "federated averaging is not predicted, so every point runs; use all"
        yield Fault(path="measure", message=message)
    if study.server_rate == "sqrt":
        yield from _faults_of_server_rate(study)


def _faults_of_server_rate(study: "ScalingStudy") -> Iterator[Fault]:
    """Find algorithms whose rate the sizes cannot set, or not together with that of the base."""
    base = study.experiment
    if not isinstance(base, FederatedExperiment):
        return
    no_step = "the server_lr of area is a share of the mean model, no step that sqrt could scale"
    if isinstance(base.algorithm, Area):
        message = f"{no_step}; use server_rate: constant"
        yield Fault(path="server_rate", message=message, related=("experiment.algorithm",))
        return
    for label, overrides in study.strategies.items():
        algorithm = _algorithm_with(base, overrides)
        if isinstance(algorithm, Area):
            message = f"{no_step}; use server_rate: constant"
            yield Fault(path=f"strategies.{label}", message=message)
        elif study.local_steps and algorithm is not None:
            one, other = grows_with_steps(base.algorithm), grows_with_steps(algorithm)
            if one != other:
                words = {True: "grows with K", False: "does not depend on K"}
                message = (
                    f"its step {words[other]} at one server_lr, while the base's {words[one]}, and "
                    "the sizes set one server_lr for both; use server_rate: constant, or a study "
                    "for each"
                )
                yield Fault(path=f"strategies.{label}", message=message)


def _algorithm_with(base: FederatedExperiment, overrides: Overrides) -> Algorithm | None:
    """Return a strategy's algorithm; None if it is not valid, or has a rate of its own."""
    if any(_sets(path, value, SERVER_RATE) for path, value in overrides.items()):
        return None
    raw = base.model_dump(mode="json", exclude_unset=True)
    try:
        for path, value in overrides.items():
            set_path(raw, path, value)
        return FederatedExperiment.model_validate(raw).algorithm
    except (OverrideError, ValidationError):  # told by _faults_of_each_strategy
        return None


def _faults_of_strategies(study: "ScalingStudy") -> Iterator[Fault]:
    taken = [*_SET_BY_SIZES[study.experiment.kind]]
    if study.mode == "strong":
        taken += _BATCH
    if study.experiment.kind == "federated" and study.server_rate == "sqrt":
        taken.append(SERVER_RATE)
    if study.repeats > 1:
        taken.append(SEED)
    for label, overrides in study.strategies.items():
        for path, value in overrides.items():
            if clash := [one for one in taken if _sets(path, value, one)]:
                field = "repeats" if clash[0] == SEED else "sizes"
                remedy = (
                    "use server_rate: constant" if clash[0] == SERVER_RATE else "remove it here"
                )
                message = f"sets {clash[0]}, which the {field} set; {remedy}"
                yield Fault(path=f"strategies.{label}", message=message)


def _faults_of_published(study: "ScalingStudy") -> Iterator[Fault]:
    for number, one in enumerate(study.published):
        for field, label in (("strategy", one.strategy), ("over", one.over)):
            if label is not None and label not in study.strategies:
                known = ", ".join(study.strategies) or "none"
                message = f"'{label}' is no strategy; known: {known}"
                yield Fault(path=f"published.{number}.{field}", message=message)
        if one.size not in study.sizes:
            known = ", ".join(map(str, study.sizes))
            message = f"{one.size} is none of the sizes {known}; add it there"
            yield Fault(path=f"published.{number}.size", message=message)


def _faults_of_study(study: "ScalingStudy") -> list[Fault]:
    """Find what is wrong with the points, said in terms of this file."""
    raw = study.raw_study()
    alone = _faults_of_each_strategy(study, raw["experiment"])
    if alone:
        return alone
    return [
        Fault(path=_own_path(fault.path), message=fault.message) for fault in faults_in(Study, raw)
    ]


def _faults_of_each_strategy(study: "ScalingStudy", base: dict[str, Any]) -> list[Fault]:
    """Find keys that are no fields, each at its strategy and not at all of its points."""
    faults = []
    for label, overrides in study.strategies.items():
        raw = copy.deepcopy(base)
        if isinstance(study.experiment, TrainingExperiment):
            raw["ranks"] = min(study.sizes)
        try:
            for path, value in overrides.items():
                set_path(raw, path, value)
            type(study.experiment).model_validate(raw)
        except OverrideError as error:
            faults.append(Fault(path=f"strategies.{label}", message=str(error)))
        except ValidationError:
            faults += [
                Fault(path=f"strategies.{label}", message=str(fault))
                for fault in faults_in(type(study.experiment), raw)
                if fault.path != "ranks"  # is of the sizes, and said there
            ]
    return faults


def _divisors(number: int) -> list[int]:
    low = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*low, *(number // n for n in low)})


def _sets(path: str, value: object, taken: str) -> bool:
    """Whether an override sets a field: by its name, below it, or with all of a record above it.

    A whole algorithm brings a server's rate of its own, named or not; a word keeps the base's.
    """
    if path == taken or path.startswith(f"{taken}."):
        return True
    if not taken.startswith(f"{path}.") or not isinstance(value, Mapping):
        return False
    return taken == SERVER_RATE or taken.removeprefix(f"{path}.") in value


def _own_path(path: str) -> str:
    """Say where in the file of a scaling study a fault of the grid comes from."""
    for axis, field in _FIELDS.items():
        if path == f"grid.{axis}" or path.startswith(f"grid.{axis}."):
            return f"{field}{path.removeprefix(f'grid.{axis}')}"
    return path.removeprefix("scaling.") or "sizes"
