"""A training in its run directory, round after round: journalled, checkpointed, continued.

What goes from round to round is an engine: the simulator, or the server of real workers.

Order of writing, so that a kill at any moment loses and doubles nothing: journal lines as they are
measured; before a checkpoint the journal and the trace are made durable; the checkpoint says how
many lines and bytes they had. A restart computes again from the checkpoint; lines that already
stand in the journal are not written again, a longer trace is cut back.

Asked to stop, it finishes its round and saves, so that the next start has nothing to compute again.
Everything is written through the fence: an incarnation that Slurm has replaced changes nothing.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from configs.federated import FederatedExperiment
from tasks.federated import checkpoint
from tasks.federated.algorithms.interface import ServerState
from tasks.federated.algorithms.memory_ages import age_metrics
from tasks.federated.arrivals.interface import Arrivals
from tasks.federated.arrivals.recorder import TraceRecorder
from tasks.federated.checkpoint import Checkpoint
from tasks.federated.evaluation import Evaluator
from tasks.federated.simulator import Totals
from tasks.runtime.errors import JobError, Reason
from tasks.runtime.fence import Fence
from tasks.runtime.journal import Journal, finite
from tasks.runtime.metrics import Metric
from tasks.runtime.output import say
from tasks.runtime.records import JobFile, Result, Status
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.stopping import Interrupted, StopRequest, stop_asked

_MOST_REFUSALS_SHOWN = 20
_GRACE_S = 2.0
"""Without Slurm somebody waits at a terminal: a round that takes longer is computed again."""
_AT_FIRST = {"journal_lines": 0, "trace_bytes": 0, "wall_s": 0.0, "round_of_line": None}
"""What a checkpoint knows of the files beside it, before there is one."""


class Engine(Protocol):
    """What goes from round to round."""

    @property
    def state(self) -> ServerState:
        """The global model, its version, and the algorithm's memory."""
        ...

    @property
    def totals(self) -> Totals:
        """What has been counted."""
        ...

    def step(self) -> Arrivals | None:
        """Do one server update.

        Returns:
            Who took part; None if it is not time yet: ask again.
        """
        ...

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Return everything needed to go on: named tensors, and JSON values."""
        ...

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from what ``checkpoint()`` gave."""
        ...


EngineT_co = TypeVar("EngineT_co", bound=Engine, covariant=True)


@dataclass(frozen=True)
class Assembly(Generic[EngineT_co]):
    """The parts of one training.

    Attributes:
        engine: At version 0.
        evaluator: Of its models.
        warnings: What the user should know before it starts.
    """

    engine: EngineT_co
    evaluator: Evaluator
    warnings: tuple[str, ...]


def train(directory: RunDirectory, job: JobFile, parts: Assembly[Engine], fence: Fence) -> Result:
    """Go from the newest checkpoint of a run directory to its last round.

    Args:
        directory: The run's directory.
        job: Its ``job.json``.
        parts: What the job names.
        fence: Of the attempt.

    Returns:
        The result: finished, or failed in the middle.

    Raises:
        Interrupted: It was asked to stop; unless its round took too long, it has saved.
        Overtaken: A newer attempt of the run has begun.
        JobError: It cannot begin, for a reason that the user can act on.
        OSError: A file cannot be written.
    """
    for saved_in in (directory.path, directory.checkpoints):
        checkpoint.remove_temporaries(saved_in)
    for warning in parts.warnings:
        say(f"warning: {warning}")
    engine, experiment = parts.engine, job.federated
    saved = checkpoint.load_newest(directory.checkpoints, job.config_hash)
    facts: dict[str, Any] = dict(_AT_FIRST)
    if saved is not None:
        engine.restore(saved)
        facts |= saved.facts
        say(f"continues from round {engine.state.version}")
    recorder = None
    if experiment.record_trace or experiment.arrivals.kind == "slurm":
        recorder = TraceRecorder(directory.trace, facts["trace_bytes"], fence)
    with _open_journal(directory, facts["journal_lines"], fence) as journal:
        run = _Run(job, directory, parts, journal, recorder, fence=fence, facts=facts)
        try:
            last_metrics = run.to_the_end()
        except JobError as error:
            if recorder is not None:  # what led to it
                recorder.flush()
            return _result(parts, status="failed", reason=error.reason, message=str(error))
    checkpoint.save_tensors(directory.model, {"model": engine.state.model}, fence=fence)
    unfilled = _unfilled(experiment, engine.state)
    return _result(parts, status="finished", metrics=last_metrics, warnings=unfilled)


def _unfilled(experiment: FederatedExperiment, state: ServerState) -> tuple[str, ...]:
    """Say that the model is the initial one, as an algorithm has waited to the end."""
    num_filled = state.memory.get("num_filled")
    if not experiment.algorithm.waits_for_all or num_filled is None:
        return ()
    missing = experiment.workers - int(num_filled)
    if not missing:
        return ()
    return (
        f"the model was never updated: slots wait for every worker, and {missing} of "
        f"{experiment.workers} have not returned in {state.version} rounds; use "
        "algorithm.slots: zeros or seen, or more rounds",
    )


def _result(
    parts: Assembly[Engine],
    *,
    status: Status,
    reason: str = "",
    message: str = "",
    metrics: Mapping[str, float] | None = None,
    warnings: tuple[str, ...] = (),
) -> Result:
    totals = parts.engine.totals
    return Result(
        status=status,
        reason=reason,
        message=message,
        steps=parts.engine.state.version,
        metrics=dict(metrics or {}),
        warnings=(*parts.warnings, *warnings, *totals.refusals()[:_MOST_REFUSALS_SHOWN]),
        refused=totals.refused,
    )


class _Run:
    """The loop over rounds, with what is written on the way."""

    def __init__(
        self,
        job: JobFile,
        directory: RunDirectory,
        parts: Assembly[Engine],
        journal: Journal,
        recorder: TraceRecorder | None,
        *,
        fence: Fence,
        facts: Mapping[str, Any],
    ) -> None:
        self._job, self._directory, self._parts = job, directory, parts
        self._journal, self._recorder, self._fence = journal, recorder, fence
        self._start = parts.engine.state.version
        self._round_of_line: int | None = facts["round_of_line"]
        self._began: float = time.monotonic() - facts["wall_s"]
        self._refusals_said = set(parts.engine.totals.refusals())

    def to_the_end(self) -> dict[str, float]:
        """Run all rounds that are left; return the metrics of the last line."""
        # With the wrapper it is Slurm that says how long saving may take.
        with stop_asked(None if self._fence.attempt else _GRACE_S) as stop:
            self._rounds(stop)
        last_metrics = self._write_line()
        if self._recorder is not None:
            self._recorder.flush()
        return last_metrics

    def _rounds(self, stop: StopRequest) -> None:
        """Run all rounds that are left.

        Raises:
            Interrupted: It was asked to stop, and has saved.
        """
        experiment, engine = self._job.federated, self._parts.engine
        while (version := engine.state.version) < experiment.rounds:
            self._stop_if_asked(stop)
            # Checkpoint before line: a restart at this round comes to the line as a killed run did.
            if version > self._start and version % experiment.checkpoint_every == 0:
                self._save()
            if version % experiment.evaluate_every == 0 and version != self._round_of_line:
                self._write_line()
            while (buffer := engine.step()) is None:
                self._stop_if_asked(stop)
            if self._recorder is not None:
                self._recorder.add(buffer)
            self._say_refusals()

    def _stop_if_asked(self, stop: StopRequest) -> None:
        if stop.is_made:
            if self._parts.engine.state.version > self._start:
                self._save()
            raise Interrupted

    def _write_line(self) -> dict[str, float]:
        engine = self._parts.engine
        totals = engine.totals
        metrics = finite(
            self._parts.evaluator.measure(engine.state.model)
            | totals.line()
            | age_metrics(engine.state)
            | {Metric.WALL_S: self._wall_s()}
        )
        self._journal.write(engine.state.version, metrics)
        self._round_of_line = engine.state.version
        totals.start_line()
        return metrics

    def _wall_s(self) -> float:
        return time.monotonic() - self._began

    def _save(self) -> None:
        self._journal.sync()
        trace_bytes = self._recorder.flush() if self._recorder is not None else 0
        tensors, facts = self._parts.engine.checkpoint()
        facts |= {
            "config_hash": self._job.config_hash,
            "journal_lines": self._journal.sequence,
            "round_of_line": self._round_of_line,
            "trace_bytes": trace_bytes,
            "wall_s": self._wall_s(),
        }
        saved = checkpoint.Checkpoint(tensors, facts)
        checkpoint.save(self._directory.checkpoints, saved, self._fence)

    def _say_refusals(self) -> None:
        for text in self._parts.engine.totals.refusals():
            if text not in self._refusals_said and len(self._refusals_said) < _MOST_REFUSALS_SHOWN:
                say(text)
                self._refusals_said.add(text)


def _open_journal(directory: RunDirectory, sequence: int, fence: Fence) -> Journal:
    try:
        return Journal(directory.journal, sequence, fence)
    except ValueError as error:
        raise JobError(Reason.JOURNAL, str(error)) from error
