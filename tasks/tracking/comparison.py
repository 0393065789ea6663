"""What is compared with what: runs of studies side by side, from their directories alone.

A *subject* is what the user named: a study, or one point of it. A *case* is what has a counterpart
in another subject: the points that stand at the same place of the grid, seeds apart. Where every
subject is one point (seeds apart), these are compared whatever they are called.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from configs.study import label_of
from tasks.runtime.errors import DamagedFileError
from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.axes import SEED_AXES
from tasks.tracking.costs import TotalCost, read_costs, total
from tasks.tracking.history import RunHistory, read_history
from tasks.tracking.machine import machine_of
from tasks.tracking.parameters import flatten

_MOST_VALUES = 6
_ABSENT = "-"


@dataclass(frozen=True)
class Subject:
    """One of the things compared.

    Attributes:
        name: As it is told; each subject has another.
        runs: Its runs, in the order of the grid.
        damaged: What cannot be read of its other runs, for the user.
    """

    name: str
    runs: tuple[RunHistory, ...]
    damaged: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """What a step of its journals is: a round, or a train step."""
        return self.runs[0].job.experiment.unit

    def cost(self) -> TotalCost | None:
        """Add up what its attempts cost; None where Slurm has told nothing.

        Raises:
            OSError: A file cannot be read.
        """
        ran = [run for run in self.runs if run.reused is None]
        return total(attempt for run in ran for attempt in read_costs(run.directory))

    def standing(self) -> str:
        """Count its runs by state."""
        states = [run.state for run in self.runs]
        return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))

    def what(self) -> str:
        """Name its only point, or count its points."""
        return self.runs[0].job.point if len(self.runs) == 1 else str(len(self.runs))

    def machines(self) -> str:
        """Say where it ran; empty if that is not known."""
        found = dict.fromkeys(machine_of(run.directory) for run in self.runs)
        return ", ".join(name for name in found if name)


@dataclass(frozen=True)
class Case:
    """Runs that are compared with each other.

    Attributes:
        label: What they have in common; empty if there is only one case.
        members: Its runs in each subject, by the subject's name; they differ in their seed only.
    """

    label: str
    members: Mapping[str, tuple[RunHistory, ...]]


def read_subject(name: str, directories: Sequence[RunDirectory]) -> Subject:
    """Read the runs of a subject.

    Args:
        name: Of the subject.
        directories: Of its runs, at least one.

    Returns:
        The subject.

    Raises:
        OSError: A file cannot be read.
        DamagedFileError: Of no run can all files be read.
        ValueError: There is no run.
    """
    if not directories:
        raise ValueError(f"{name} has no runs yet")
    runs: list[RunHistory] = []
    faults: list[DamagedFileError] = []
    for directory in directories:
        try:
            runs.append(read_history(directory))
        except DamagedFileError as fault:
            faults.append(fault)
    if not runs:
        raise faults[0]
    return Subject(name, tuple(runs), tuple(map(str, faults)))


def match(subjects: Sequence[Subject]) -> tuple[list[Case], dict[str, list[str]]]:
    """Find what can be compared.

    Args:
        subjects: At least two.

    Returns:
        The cases that at least two subjects have, in the order of the first that has them; and the
        labels of the points without a counterpart, by the subject's name.
    """
    groups = {subject.name: _groups(subject) for subject in subjects}
    if all(len(found) == 1 for found in groups.values()):
        members = {name: next(iter(found.values())) for name, found in groups.items()}
        return [Case("", members)], {}
    labels = dict.fromkeys(label for found in groups.values() for label in found)
    cases = []
    alone: dict[str, list[str]] = {}
    for label in labels:
        members = {name: found[label] for name, found in groups.items() if label in found}
        if len(members) > 1:
            cases.append(Case(label, members))
        else:
            alone.setdefault(next(iter(members)), []).append(label)
    return cases, alone


def _groups(subject: Subject) -> dict[str, tuple[RunHistory, ...]]:
    found: dict[str, list[RunHistory]] = {}
    for run in subject.runs:
        place = {n: label for n, label in run.job.coordinates.items() if n not in SEED_AXES}
        found.setdefault(label_of(place), []).append(run)
    return {label: tuple(runs) for label, runs in found.items()}


def configuration_differences(subjects: Sequence[Subject]) -> dict[str, list[str]]:
    """Find what differs between the configurations of subjects.

    Args:
        subjects: At least two.

    Returns:
        Dotted path -> for each subject the values that its points have there, ``-`` where none has
        it; only paths whose values differ.
    """
    values = [_values(subject) for subject in subjects]
    paths = dict.fromkeys(path for one in values for path in one)
    told = {path: [_told(one.get(path, ())) for one in values] for path in paths}
    full = {path: {tuple(one.get(path, ())) for one in values} for path in paths}
    return {path: texts for path, texts in told.items() if len(full[path]) > 1}


def _values(subject: Subject) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for run in subject.runs:
        for path, text in flatten(run.job.experiment.model_dump(mode="json")).items():
            values = found.setdefault(path, [])
            if text not in values:
                values.append(text)
    return {path: sorted(values) for path, values in found.items()}


def _told(values: Sequence[str]) -> str:
    more = f", ... ({len(values)} values)" if len(values) > _MOST_VALUES else ""
    return ", ".join(values[:_MOST_VALUES]) + more if values else _ABSENT


def unique_names(names: Sequence[str]) -> Iterator[str]:
    """Tell subjects apart that the user has named twice.

    Args:
        names: As they are told.

    Yields:
        The names; the second of a kind with ``(2)`` behind it.
    """
    for number, name in enumerate(names):
        count = names[:number].count(name)
        yield f"{name} ({count + 1})" if count else name
