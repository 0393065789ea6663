"""One simulation in its run directory: assembled, journalled, checkpointed, continued.

Order of writing, so that a kill at any moment loses and doubles nothing: journal lines as they are
measured; before a checkpoint the journal and the trace are made durable; the checkpoint says how
many lines and bytes they had. A restart computes again from the checkpoint; lines that already
stand in the journal are not written again, a longer trace is cut back.
"""

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from configs.models import Quadratic
from configs.sizes import in_flight_bytes, server_memory_bytes
from configs.stability import step_warnings
from configs.study import Experiment
from models.datasets import Dataset, load
from models.errors import DataError
from models.partition import Shards, label_shares, partition, single_samples
from models.registry import build as build_model
from tasks.federated import algorithms, arrivals, checkpoint
from tasks.federated.arrivals.recorder import TraceRecorder
from tasks.federated.evaluation import Evaluator
from tasks.federated.local_training import LocalTrainer
from tasks.federated.randomness import Stream, generator
from tasks.federated.simulator import Simulator
from tasks.runtime.errors import JobError
from tasks.runtime.journal import Journal, finite
from tasks.runtime.metrics import Metric
from tasks.runtime.records import JobFile, Result, Status
from tasks.runtime.run_directory import RunDirectory

_MOST_REFUSALS_SHOWN = 20


@dataclass(frozen=True)
class Assembly:
    """The parts of one simulation.

    Attributes:
        simulator: At version 0.
        evaluator: Of its models.
        warnings: What the user should know before it starts.
    """

    simulator: Simulator
    evaluator: Evaluator
    warnings: tuple[str, ...]


def assemble(experiment: Experiment) -> Assembly:
    """Build everything that an experiment names.

    Args:
        experiment: A validated experiment.

    Returns:
        The parts, ready to run.

    Raises:
        JobError: The data cannot be had or divided, the device is absent, or memory is too small.
    """
    device = _device(experiment)
    dtype = getattr(torch, experiment.dtype)
    try:
        dataset, shards = _divided_data(experiment)
    except DataError as error:
        raise JobError("data", str(error)) from error
    dataset = dataset.to(dtype, device)
    model = build_model(experiment.model, dataset, dtype=dtype, device=device)
    _check_memory(experiment, model.num_parameters, device)
    evaluator = Evaluator(model, dataset, shards, experiment.evaluate_samples)
    seeds = generator(experiment.seed, Stream.INITIAL_MODEL)
    initial = model.initial(torch.Generator().manual_seed(int(seeds.integers(2**62)))).to(device)
    shares = label_shares(shards, dataset.labels, dataset.num_labels)
    trainer = LocalTrainer(model, dataset, shards, experiment)
    simulator = Simulator(
        arrivals.build(experiment, shares),
        trainer,
        algorithms.build(experiment.algorithm, experiment.workers, experiment.worker),
        initial=initial,
        num_workers=experiment.workers,
        batch_size=trainer.batch_size,
    )
    return Assembly(simulator, evaluator, tuple(step_warnings(experiment, evaluator.smoothness())))


def _divided_data(experiment: Experiment) -> tuple[Dataset, Shards]:
    if isinstance(experiment.model, Quadratic):
        return load(experiment.model), single_samples(experiment.workers)
    if experiment.data is None:
        raise AssertionError("validated: only the quadratic model has no data")
    dataset = load(experiment.data)
    shards = partition(
        dataset.labels,
        dataset.owners,
        experiment.data.partition,
        workers=experiment.workers,
        seed=experiment.data.seed,
    )
    return dataset, shards


def simulate(directory: RunDirectory) -> Result:
    """Run the simulation of a run directory to its end, from its newest checkpoint.

    Args:
        directory: The run's directory, with ``job.json``.

    Returns:
        The result: finished, or failed in the middle.

    Raises:
        JobError: It cannot begin, for a reason that the user can act on.
        OSError: A file cannot be written.
    """
    job = directory.read_job()
    for saved_in in (directory.path, directory.checkpoints):
        checkpoint.remove_temporaries(saved_in)
    parts = assemble(job.experiment)
    for warning in parts.warnings:
        _say(f"warning: {warning}")
    simulator, experiment = parts.simulator, job.experiment
    saved = checkpoint.load_newest(directory.checkpoints, job.config_hash)
    sequence, trace_bytes, earlier_s = 0, 0, 0.0
    if saved is not None:
        simulator.restore(saved)
        sequence, trace_bytes = saved.facts["journal_lines"], saved.facts["trace_bytes"]
        earlier_s = saved.facts["wall_s"]
        _say(f"continues from round {simulator.state.version}")
    recorder = TraceRecorder(directory.trace, trace_bytes) if experiment.record_trace else None
    with _open_journal(directory, sequence) as journal:
        run = _Run(job, directory, parts, journal, recorder, earlier_s=earlier_s)
        try:
            last_metrics = run.to_the_end()
        except JobError as error:
            return _result(parts, status="failed", reason=error.reason, message=str(error))
    checkpoint.save_tensors(directory.model, {"model": simulator.state.model})
    return _result(parts, status="finished", metrics=last_metrics)


def _result(
    parts: Assembly,
    *,
    status: Status,
    reason: str = "",
    message: str = "",
    metrics: Mapping[str, float] | None = None,
) -> Result:
    totals = parts.simulator.totals
    return Result(
        status=status,
        reason=reason,
        message=message,
        rounds=parts.simulator.state.version,
        metrics=dict(metrics or {}),
        warnings=(*parts.warnings, *totals.refusals()[:_MOST_REFUSALS_SHOWN]),
        refused=totals.refused,
    )


class _Run:
    """The loop over rounds, with what is written on the way."""

    def __init__(
        self,
        job: JobFile,
        directory: RunDirectory,
        parts: Assembly,
        journal: Journal,
        recorder: TraceRecorder | None,
        *,
        earlier_s: float,
    ) -> None:
        self._job, self._directory, self._parts = job, directory, parts
        self._journal, self._recorder = journal, recorder
        self._start = parts.simulator.state.version
        self._began = time.monotonic() - earlier_s
        self._refusals_said = len(parts.simulator.totals.first_refused)

    def to_the_end(self) -> dict[str, float]:
        """Run all rounds that are left; return the metrics of the last line."""
        experiment, simulator = self._job.experiment, self._parts.simulator
        while (version := simulator.state.version) < experiment.rounds:
            # Checkpoint before line: a restart at this round comes to the line as a killed run did.
            if version > self._start and version % experiment.checkpoint_every == 0:
                self._save()
            if version % experiment.evaluate_every == 0:
                self._write_line()
            buffer = simulator.step()
            if self._recorder is not None:
                self._recorder.add(buffer)
            self._say_refusals()
        last_metrics = self._write_line()
        if self._recorder is not None:
            self._recorder.flush()
        return last_metrics

    def _write_line(self) -> dict[str, float]:
        simulator = self._parts.simulator
        totals = simulator.totals
        metrics = finite(
            self._parts.evaluator.measure(simulator.state.model)
            | totals.since_line()
            | {
                Metric.RETURNS_REFUSED: sum(totals.refused.values()),
                Metric.RETURNS_DROPPED: totals.num_dropped,
                Metric.VIRTUAL_S: totals.virtual_s,
                Metric.WALL_S: self._wall_s(),
                Metric.SAMPLES_TOTAL: totals.num_samples,
            }
        )
        self._journal.write(simulator.state.version, metrics)
        totals.start_line()
        return metrics

    def _wall_s(self) -> float:
        return time.monotonic() - self._began

    def _save(self) -> None:
        self._journal.sync()
        trace_bytes = self._recorder.flush() if self._recorder is not None else 0
        tensors, facts = self._parts.simulator.checkpoint()
        facts |= {
            "config_hash": self._job.config_hash,
            "journal_lines": self._journal.sequence,
            "trace_bytes": trace_bytes,
            "wall_s": self._wall_s(),
        }
        checkpoint.save(self._directory.checkpoints, checkpoint.Checkpoint(tensors, facts))

    def _say_refusals(self) -> None:
        refusals = self._parts.simulator.totals.refusals()
        for text in refusals[self._refusals_said : _MOST_REFUSALS_SHOWN]:
            _say(text)
        self._refusals_said = len(refusals)


def _open_journal(directory: RunDirectory, sequence: int) -> Journal:
    try:
        return Journal(directory.journal, sequence)
    except ValueError as error:
        raise JobError("journal", str(error)) from error


def _device(experiment: Experiment) -> torch.device:
    if experiment.device == "cuda" and not torch.cuda.is_available():
        raise JobError("device", "device: cuda, but this machine has no CUDA device; use cpu")
    return torch.device(experiment.device)


def _check_memory(experiment: Experiment, num_parameters: int, device: torch.device) -> None:
    needed = server_memory_bytes(experiment, num_parameters)
    in_flight = in_flight_bytes(experiment, num_parameters)
    if device.type == "cuda":
        has = int(torch.cuda.get_device_properties(device).total_memory)
    else:
        has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    _say(f"keeps {needed:,} bytes of its workers, and at most {in_flight:,} of models in flight")
    if needed > has:
        raise JobError(
            "memory",
            f"{experiment.algorithm.name} with {experiment.workers} workers keeps "
            f"{needed / 2**30:.1f} GiB, the {device.type} has {has / 2**30:.1f} GiB; use fewer "
            "workers, a smaller model, or an algorithm without memory (afa_cd)",
        )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
