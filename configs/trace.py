"""A recorded trace of returns: read and checked whole, replayed into buffers.

CSV with a header: ``worker,pull_time,return_time`` and, optionally, ``num_steps``, ``sequence``
(which keys the random draws of a worker's return, by default how many it had made before; it has
gaps where returns were dropped, which stand in no trace, but rises) and ``version`` (the model that
was pulled; without it the times say which, as only a virtual clock can: real ones differ from node
to node). Times are in virtual seconds. Without torch, so that ``watershed check`` sees what a run
will see.
"""

import csv
import math
from bisect import bisect_right
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from configs.arrivals import Trace
from configs.base import MOST_ROUNDS, Fault
from configs.faults import nearest
from configs.federated import FederatedExperiment

COLUMNS = ("worker", "pull_time", "return_time", "num_steps", "sequence", "version")
_OPTIONAL = {"num_steps", "sequence", "version"}
_MOST_RETURNS = 2**62
_MOST_STEPS = 100_000  # as for every law of configs.arrivals.LocalSteps
_MOST_FAULTS_SHOWN = 20


class TraceError(ValueError):
    """A trace that cannot be used.

    Attributes:
        path: The file.
        faults: Everything that is wrong with it, with line numbers; never empty.
    """

    def __init__(self, path: Path, faults: Sequence[str]) -> None:
        self.path = path
        self.faults = list(faults)
        shown = self.faults[:_MOST_FAULTS_SHOWN]
        if len(self.faults) > len(shown):
            shown.append(f"and {len(self.faults) - len(shown)} more")
        super().__init__(f"{path}: " + "; ".join(shown))


@dataclass(frozen=True)
class TracedReturn:
    """One row of a trace.

    Attributes:
        worker: Worker id.
        pulled_at_s: Virtual time of the pull.
        returned_at_s: Virtual time of the return, not before the pull.
        num_steps: Local steps, at least 1; None if the trace does not say.
        sequence: How many returns that worker had made before; None if the trace does not say and
            they have not been counted yet.
        version: The model version that was pulled; None if the trace does not say.
    """

    worker: int
    pulled_at_s: float
    returned_at_s: float
    num_steps: int | None
    sequence: int | None = None
    version: int | None = None


@dataclass(frozen=True)
class TracedBuffer:
    """The returns that make one version into the next.

    Attributes:
        returns: In order of arrival.
        pulled: The version that each of them pulled.
        num_dropped: Returns that came in the meantime and were too old.
    """

    returns: tuple[TracedReturn, ...]
    pulled: tuple[int, ...]
    num_dropped: int


def read_trace(path: Path, workers: int) -> list[TracedReturn]:
    """Read and check a trace.

    Args:
        path: The CSV file.
        workers: M; ids in the trace run from 0 to M - 1.

    Returns:
        Its returns by time of return; those of one instant in the order of the file.

    Raises:
        TraceError: The file cannot be read, has no returns, or has faults (all are listed).
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows, faults = _read_rows(file, workers)
    except FileNotFoundError:
        raise TraceError(
            path, ["no such file; set arrivals.path to a CSV of " + ",".join(COLUMNS)]
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(path, [f"cannot be read as CSV: {error}"]) from error
    if not rows and not faults:
        faults = ["has no returns; give at least one row under the header"]
    if faults:
        raise TraceError(path, faults)
    rows.sort(key=lambda row: row.returned_at_s)
    if faults := list(_sequence_faults(rows)):
        raise TraceError(path, faults)
    return list(_numbered(rows))


def replay(
    returns: Sequence[TracedReturn],
    collect: int,
    *,
    max_delay: int | None,
    absent: Container[int],
) -> Iterator[TracedBuffer]:
    """Divide a trace into buffers: every ``collect`` returns make a version.

    A worker pulls the version that the trace says, else the newest one of that moment; an update at
    the very moment of the pull comes first, as a worker that completes a buffer pulls what it has
    made.

    Args:
        returns: The returns by time of return.
        collect: m, returns in a buffer.
        max_delay: Older returns (in versions) are dropped; None drops none.
        absent: Workers whose returns are left out.

    Yields:
        The buffers; a rest that fills none is left over.

    Raises:
        ValueError: A return has pulled a version that was not there yet.
    """
    updated_at_s: list[float] = []
    taken: list[TracedReturn] = []
    pulled: list[int] = []
    num_dropped = 0
    for row in returns:
        if row.worker in absent:
            continue
        version = row.version
        if version is None:
            version = bisect_right(updated_at_s, row.pulled_at_s)
        elif version > len(updated_at_s):
            raise ValueError(
                f"worker {row.worker} returns version {version} at {row.returned_at_s} s, when "
                f"only {len(updated_at_s)} rounds of collect={collect} are done; set "
                "algorithm.collect as it was recorded, or remove the column version"
            )
        if max_delay is not None and len(updated_at_s) - version > max_delay:
            num_dropped += 1
            continue
        taken.append(row)
        pulled.append(version)
        if len(taken) == collect:
            yield TracedBuffer(tuple(taken), tuple(pulled), num_dropped)
            updated_at_s.append(row.returned_at_s)
            taken, pulled, num_dropped = [], [], 0


def read_buffers(config: Trace, experiment: FederatedExperiment) -> list[TracedBuffer]:
    """Read the trace of an experiment, and divide it into the buffers of its rounds.

    Args:
        config: The trace, as the experiment names it.
        experiment: A validated experiment.

    Returns:
        One buffer a round.

    Raises:
        TraceError: The trace cannot be read, has faults, does not fit to the size of the buffers,
            is too short for the rounds, or lacks a worker that the algorithm waits for.
    """
    path = Path(config.path)
    returns = read_trace(path, experiment.workers)
    collect = experiment.algorithm.collect
    absent = frozenset(config.never_return)
    try:
        buffers = list(replay(returns, collect, max_delay=config.max_delay, absent=absent))
    except ValueError as error:
        raise TraceError(path, [str(error)]) from error
    if len(buffers) < experiment.rounds:
        raise TraceError(
            path,
            [
                f"trace has {len(returns)} returns, enough for {len(buffers)} rounds of "
                f"collect={collect}; asked {experiment.rounds}. Lower rounds or "
                "algorithm.collect, or give a longer trace"
            ],
        )
    used = buffers[: experiment.rounds]
    if experiment.algorithm.waits_for_all:
        seen = {row.worker for buffer in used for row in buffer.returns}
        if missing := sorted(set(range(experiment.workers)) - seen):
            fault = (
                f"algorithm.slots: wait needs every worker once, but {len(missing)} (such as "
                f"{missing[0]}) do not return in the {experiment.rounds} rounds; use zeros or seen"
            )
            raise TraceError(path, [fault])
    return used


def trace_faults(experiment: FederatedExperiment) -> list[Fault]:
    """Check the trace of an experiment, if it has one.

    Args:
        experiment: A validated experiment.

    Returns:
        What is wrong with the trace; empty if nothing is, or if there is no trace.
    """
    if not isinstance(experiment.arrivals, Trace):
        return []
    try:
        read_buffers(experiment.arrivals, experiment)
    except TraceError as error:
        return [
            Fault(path="arrivals.path", message=f"{error.path}: {fault}") for fault in error.faults
        ]
    return []


def _sequence_faults(rows: Sequence[TracedReturn]) -> Iterator[str]:
    """Find returns whose number is not above those of their worker before, by time of return.

    A number that stands twice would give two returns the same minibatches. What our server and
    simulator record rises: they take a return only if its number is above the last one.
    """
    last: dict[int, int] = {}
    for row in rows:
        if row.sequence is None:
            return
        before = last.get(row.worker, -1)
        if row.sequence <= before:
            yield (
                f"worker {row.worker} returns sequence={row.sequence} at {row.returned_at_s} s, "
                f"after {before}; it keys the random draws and has to rise with the time of "
                "return: correct it, or remove the column sequence"
            )
        last[row.worker] = max(before, row.sequence)


def _numbered(rows: Sequence[TracedReturn]) -> Iterator[TracedReturn]:
    counts: dict[int, int] = {}
    for row in rows:
        sequence = counts.get(row.worker, 0) if row.sequence is None else row.sequence
        counts[row.worker] = sequence + 1
        yield replace(row, sequence=sequence)


def _read_rows(file: TextIO, workers: int) -> tuple[list[TracedReturn], list[str]]:
    """Read all rows; those with faults are described instead."""
    reader = csv.reader(file)
    header = [name.strip() for name in next(reader, [])]
    rows: list[TracedReturn] = []
    faults = _header_faults(header)
    if faults:
        return rows, faults
    for texts in reader:
        if not texts:
            continue
        fields = _Fields(header, texts)
        row = TracedReturn(
            worker=fields.integer("worker", 0, workers - 1),
            pulled_at_s=fields.time_s("pull_time"),
            returned_at_s=fields.time_s("return_time"),
            num_steps=fields.integer("num_steps", 1, _MOST_STEPS)
            if "num_steps" in header
            else None,
            sequence=fields.integer("sequence", 0, _MOST_RETURNS) if "sequence" in header else None,
            version=fields.integer("version", 0, MOST_ROUNDS) if "version" in header else None,
        )
        if row.returned_at_s < row.pulled_at_s:
            fields.faults.append(
                f"return_time={row.returned_at_s} is before pull_time={row.pulled_at_s}"
            )
        if fields.faults:
            faults.append(f"line {reader.line_num}: " + ", ".join(fields.faults))
        else:
            rows.append(row)
    return rows, faults


def _header_faults(header: Sequence[str]) -> list[str]:
    if not header:
        return ["is empty; the first line names the columns: " + ",".join(COLUMNS)]
    missing = [name for name in COLUMNS if name not in header and name not in _OPTIONAL]
    unknown = [name for name in header if name not in COLUMNS]
    twice = sorted({name for name in header if header.count(name) > 1})
    return (
        [f"line 1: the column {name} is missing" for name in missing]
        + [
            f"line 1: unknown column {name!r}{nearest(name, COLUMNS)}; known: " + ", ".join(COLUMNS)
            for name in unknown
        ]
        + [f"line 1: the column {name} stands there twice" for name in twice]
    )


class _Fields:
    """The fields of one row, turned into numbers; what is no number is noted as a fault."""

    def __init__(self, header: Sequence[str], texts: Sequence[str]) -> None:
        self.faults: list[str] = []
        if len(texts) != len(header):
            self.faults.append(f"{len(texts)} fields, but the header has {len(header)}")
        self._texts = dict(zip(header, texts, strict=False))

    def integer(self, name: str, lowest: int, highest: int) -> int:
        """Return an integer in the bounds, else ``lowest`` and a fault."""
        text = self._texts.get(name)
        if text is None:
            return lowest
        try:
            value = int(text)
        except ValueError:
            self.faults.append(f"{name}={_shown(text)} is no integer")
            return lowest
        if not lowest <= value <= highest:
            what = "no such worker" if name == "worker" else "out of range"
            self.faults.append(f"{name}={value}: {what}; use {lowest} to {highest}")
        return value

    def time_s(self, name: str) -> float:
        """Return a finite time that is not negative, else NaN and a fault."""
        text = self._texts.get(name)
        if text is None:
            return math.nan
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            self.faults.append(f"{name}={_shown(text)} is no finite time from 0 on")
            return math.nan
        return value


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
