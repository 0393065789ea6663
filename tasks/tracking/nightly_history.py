"""Earlier nights of a study, as MLflow has them.

A night is a study's run with the tag ``watershed.night``: the date of its scheduled start in its
time zone. So neither the clock of a server nor the hour that a change of summer time leaves out or
repeats moves a run to another night. Of its runs count those of the same configuration (hash),
machine and allocation as tonight's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from tasks.tracking.nightly_metrics import present_name
from tasks.tracking.nightly_points import PointGroup
from tasks.tracking.nightly_record import (
    ALLOCATION_TAG,
    HASH_TAG,
    MACHINE_NAME_TAG,
    MACHINE_TAG,
    MARK_PREFIX,
    NIGHT_TAG,
    SINCE_TAG,
)
from tasks.tracking.nightly_statistics import Verdict
from tasks.tracking.store import Store
from tasks.tracking.stored import StoredRun

_RESULT = "result/"
_NIGHTS = f"tags.`{NIGHT_TAG}` LIKE '%' AND tags.`watershed.study_directory` LIKE '%'"
_MOST_SCANNED = 400
"""Nights that are looked at, more than a year of them."""
_LOOKED_AT = 3
"""Nights that are read for each one that is wanted."""
_CHANGES = {Verdict.WORSE, Verdict.BETTER}
_NOT_FINISHED = {
    "FAILED": "a point failed",
    "KILLED": "it was stopped before its end",
    "RUNNING": "it has no end: its process died, or it still runs",
    "SCHEDULED": "it has not begun",
}


@dataclass(frozen=True)
class PastRun:
    """One run of an earlier night.

    Attributes:
        run_id: MLflow's id.
        values: Metric -> value.
        marks: Metric -> the verdict of that night. Of a night that was compared with others than
            tonight is (another ``since``), none.
    """

    run_id: str
    values: Mapping[str, float]
    marks: Mapping[str, str]


@dataclass(frozen=True)
class PastNight:
    """An earlier night that can be compared with.

    Attributes:
        night: Its date.
        run_id: Run of its study in MLflow.
        commit: Of the code; empty if it is not known.
        is_dirty: Whether the code was changed since that commit.
        runs: Configuration's hash -> its run, those of tonight's configurations and machine.
    """

    night: date
    run_id: str
    commit: str
    is_dirty: bool
    runs: Mapping[str, PastRun]


@dataclass(frozen=True)
class UnusedNight:
    """A night that is not compared with.

    Attributes:
        night: Its date.
        why: In words.
    """

    night: date
    why: str


@dataclass(frozen=True)
class History:
    """What MLflow has of the nights before.

    Attributes:
        nights: Those that can be compared with, the newest first.
        unused: The others as far back as was looked, the newest first.
    """

    nights: tuple[PastNight, ...]
    unused: tuple[UnusedNight, ...]

    def dates(self) -> set[date]:
        """Return the dates of all nights, used or not."""
        return {one.night for one in self.nights} | {one.night for one in self.unused}


def read_nights(
    store: Store,
    experiment_id: str,
    groups: Sequence[PointGroup],
    *,
    tonight: date,
    allocation: str,
    machine: str,
    num_nights: int,
    since: date | None = None,
    page_size: int = 200,
) -> History:
    """Look for nights until every point has so many without a change, or there are no more.

    Nights that were worse or better may be no reference. A point that is new, or worse for long,
    never has so many others: three times as many nights are looked at, not more.

    A night that failed or was stopped is not used, even if some of its points have finished: what
    stopped it may have slowed them. Of several runs for one date the newest that finished counts.

    Args:
        store: Where.
        experiment_id: The study's experiment.
        groups: Tonight's points.
        tonight: Its date; runs of this date and of later ones are left out.
        allocation: What of the machine its jobs got.
        machine: Name of the machine, instead of where each run says that it ran; empty for that.
        num_nights: How many are wanted, from 1.
        since: Earlier nights are left out; None for none.
        page_size: Runs of one request.

    Returns:
        The nights.

    Raises:
        TrackingError: MLflow is not there, or refuses.
    """
    wanted = _Wanted(groups, allocation, machine, num_nights)
    nights: list[PastNight] = []
    unused: dict[date, UnusedNight] = {}
    for number, run in enumerate(store.runs(experiment_id, _NIGHTS, page_size=page_size)):
        night = _date_of(run)
        if wanted.is_met() or number == _MOST_SCANNED:
            break
        if night is None or night >= tonight or any(one.night == night for one in nights):
            continue
        if since is not None and night < since:
            continue
        if run.status != "FINISHED":
            why = _NOT_FINISHED.get(run.status, run.status)
            unused.setdefault(night, UnusedNight(night, why))
            continue
        children = store.runs(
            experiment_id, f"tags.`mlflow.parentRunId` = '{run.run_id}'", page_size=page_size
        )
        has_our_marks = run.tags.get(SINCE_TAG, "") == (since.isoformat() if since else "")
        runs, why = wanted.take(children, has_our_marks=has_our_marks)
        if not runs:
            unused.setdefault(night, UnusedNight(night, why))
            continue
        unused.pop(night, None)
        nights.append(
            PastNight(
                night=night,
                run_id=run.run_id,
                commit=run.tags.get("mlflow.source.git.commit", ""),
                is_dirty=run.tags.get("git.dirty") == "true",
                runs=runs,
            )
        )
    nights.sort(key=lambda one: one.night, reverse=True)
    others = sorted(unused.values(), key=lambda one: one.night, reverse=True)
    return History(tuple(nights), tuple(others))


def _date_of(run: StoredRun) -> date | None:
    try:
        return date.fromisoformat(run.tags.get(NIGHT_TAG, ""))
    except ValueError:
        return None


class _Wanted:
    """Which runs of earlier nights count, and how many nights are still missing.

    Args:
        groups: Tonight's points.
        allocation: What of the machine its jobs got.
        machine: Name of the machine; empty for where each run ran.
        num_nights: How many each point wants.
    """

    def __init__(
        self, groups: Sequence[PointGroup], allocation: str, machine: str, num_nights: int
    ) -> None:
        self._machines = {
            one.config_hash: machine or one.machine for group in groups for one in group.finished
        }
        self._groups = [{one.config_hash for one in group.finished} for group in groups]
        self._missing = [num_nights if hashes else 0 for hashes in self._groups]
        self._left = _LOOKED_AT * num_nights
        self._allocation = allocation

    def is_met(self) -> bool:
        """Say whether every point has its nights, or enough of them were looked at."""
        return not any(self._missing) or self._left <= 0

    def take(
        self, children: Iterator[StoredRun], *, has_our_marks: bool
    ) -> tuple[dict[str, PastRun], str]:
        """Choose among the runs of a night; return them by hash, and why there are none."""
        taken: dict[str, PastRun] = {}
        others: dict[str, None] = {}
        for child in children:
            config_hash = child.tags.get(HASH_TAG, "")
            if config_hash not in self._machines or child.status != "FINISHED":
                continue
            machine = child.tags.get(MACHINE_NAME_TAG) or child.tags.get(MACHINE_TAG, "")
            allocation = child.tags.get(ALLOCATION_TAG, "")
            if (machine, allocation) != (self._machines[config_hash], self._allocation):
                others[f"{machine or 'machine not known'} ({allocation})"] = None
                continue
            taken.setdefault(config_hash, _past_run(child, has_marks=has_our_marks))
        self._left -= bool(taken)
        for number, hashes in enumerate(self._groups):
            marks = {mark for one in hashes & taken.keys() for mark in taken[one].marks.values()}
            if hashes and hashes <= taken.keys() and not marks & _CHANGES:
                self._missing[number] = max(0, self._missing[number] - 1)
        why = f"on another machine: {', '.join(others)}" if others else "another configuration"
        return taken, why


def _past_run(run: StoredRun, *, has_marks: bool) -> PastRun:
    return PastRun(
        run_id=run.run_id,
        values={
            present_name(name.removeprefix(_RESULT)): value
            for name, value in run.metrics.items()
            if name.startswith(_RESULT)
        },
        marks={
            present_name(name.removeprefix(MARK_PREFIX)): text
            for name, text in run.tags.items()
            if has_marks and name.startswith(MARK_PREFIX)
        },
    )
