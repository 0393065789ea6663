"""A training in its run directory, step after step: journalled, checkpointed, continued.

All ranks run this, side by side. Rank 0 alone writes: the journal, the facts of checkpoints, the
model; all through the fence, so that an incarnation that Slurm has replaced changes nothing.

Order of writing, so that a kill at any moment loses and doubles nothing: a line when its train step
is done, then the checkpoint of that step, if one is due, which says how many lines there were. A
restart computes again from the checkpoint; lines that already stand in the journal are not written
again. A request to stop may reach some ranks only, so they agree on it after each train step.
"""

import math
import time
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor
from torch import distributed as dist

from models.tokens import Batches
from tasks.runtime.errors import JobError, Reason
from tasks.runtime.fence import Fence
from tasks.runtime.journal import Journal
from tasks.runtime.metrics import Metric
from tasks.runtime.output import say
from tasks.runtime.records import JobFile, Result
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.stopping import Interrupted, StopRequest, stop_asked
from tasks.zero.checkpoints import Checkpoints, Found
from tasks.zero.continuity import what_stays
from tasks.zero.engines import build_engine
from tasks.zero.export import write_model
from tasks.zero.identity import Identity
from tasks.zero.interface import StepReport, TrainEngine
from tasks.zero.memory import peak_bytes
from tasks.zero.preparation import describe, device_of, open_batches, pack_tokens
from tasks.zero.progress import Progress
from tasks.zero.rendezvous import join
from tasks.zero.schedule import lr_at
from tasks.zero.speed import rates

_MOST_SKIPPED_IN_A_ROW = 10


def train(
    directory: RunDirectory, job: JobFile, attempt: Path, fence: Fence, identity: Identity
) -> Result:
    """Be one rank of a training, from its newest checkpoint to its last train step.

    Args:
        directory: The run directory.
        job: Its ``job.json``.
        attempt: Directory of the attempt.
        fence: Of the attempt.
        identity: Of this rank.

    Returns:
        The result, finished or diverged; that of rank 0 has the metrics.

    Raises:
        Interrupted: It was asked to stop, and has saved.
        Overtaken: A newer attempt of the run has begun.
        JobError: It cannot begin, for a reason that the user can act on.
        OSError: A file cannot be written.
        RuntimeError: Another rank is lost, see ``errors.lost_peer``.
    """
    experiment = job.training
    device = device_of(experiment, identity)
    if identity.rank == 0:  # before the others come together to wait for it
        describe(experiment)
        pack_tokens(experiment)
    per_node = experiment.topology.node_ranks(experiment.ranks)
    is_one_node = per_node == experiment.ranks
    join(identity, attempt, device=device, is_one_node=is_one_node, timeout_s=experiment.timeout_s)
    batches, fingerprint = open_batches(experiment)
    checkpoints = Checkpoints(
        directory,
        fence,
        dist.new_group(backend="gloo"),
        config_hash=job.config_hash,
        stays=what_stays(experiment, fingerprint),
    )
    found = checkpoints.newest()
    engine = build_engine(experiment, device, is_continued=found is not None)
    run = _Run(directory, job, engine, batches, fence=fence, identity=identity, device=device)
    result = run.to_the_end(checkpoints, found)
    # Not after an error: NCCL gives a communicator back by all of its ranks together, so that one
    # that has failed alone would wait for the others' time limit before it could say why.
    engine.close()
    return result


class _Run:
    """The loop over train steps, with what is written on the way; on one rank."""

    def __init__(
        self,
        directory: RunDirectory,
        job: JobFile,
        engine: TrainEngine,
        batches: Batches,
        *,
        fence: Fence,
        identity: Identity,
        device: torch.device,
    ) -> None:
        self._directory, self._job, self._experiment = directory, job, job.training
        self._engine, self._batches, self._fence = engine, batches, fence
        self._identity, self._device = identity, device
        self._agreement = dist.new_group(
            backend="gloo", timeout=timedelta(seconds=self._experiment.timeout_s)
        )
        self._progress = Progress()
        self._began = time.monotonic()

    def to_the_end(self, checkpoints: Checkpoints, found: Found | None) -> Result:
        """Go from the newest checkpoint, if there is one, to the end; see ``train``."""
        if found is not None:
            self._continue_from(found)
        self._began = time.monotonic() - self._progress.wall_s
        journal = self._open_journal()
        try:
            # With the wrapper it is Slurm that says how long saving may take, else our parent.
            with stop_asked() as stop:
                self._steps(journal, checkpoints, stop)
            checkpoints.finish()
            self._write_model()
            dist.barrier(self._agreement)
        except _DivergedError as error:
            checkpoints.finish()
            message = str(error)
            return self._result().model_copy(
                update={"status": "failed", "reason": Reason.DIVERGED, "message": message}
            )
        finally:
            if journal is not None:
                journal.close()
        return self._result()

    def _continue_from(self, found: Found) -> None:
        self._engine.load(found.path)
        self._progress = Progress.of_facts(found.step, found.facts)
        self._say(f"continues from train step {found.step}")

    def _open_journal(self) -> Journal | None:
        """Open the journal on rank 0.

        Raises:
            JobError: It has fewer lines than the checkpoint says.
        """
        if self._identity.rank != 0:
            return None
        try:
            return Journal(self._directory.journal, self._progress.lines, self._fence)
        except ValueError as error:
            raise JobError(Reason.JOURNAL, str(error)) from error

    def _steps(self, journal: Journal | None, checkpoints: Checkpoints, stop: StopRequest) -> None:
        """Do all train steps that are left.

        Raises:
            Interrupted: The ranks were asked to stop, and have saved.
        """
        experiment, progress = self._experiment, self._progress
        while progress.step < experiment.steps:
            self._train_step()
            checkpoints.poll()
            is_last = progress.step == experiment.steps
            is_validated = self._is_validated()
            if is_last or is_validated or progress.step % experiment.log_every == 0:
                self._write_line(journal, is_validated=is_validated)
            is_stopped = self._agree(stop)
            if is_stopped or (progress.step % experiment.checkpoint_every == 0 and not is_last):
                self._save(journal, checkpoints)
            if is_stopped:
                checkpoints.finish()
                dist.barrier(self._agreement)  # the first that ends may end the others
                raise Interrupted

    def _train_step(self) -> None:
        """Do one train step, and see that it went well.

        Raises:
            _DivergedError: It did not.
        """
        experiment, step = self._experiment, self._progress.step + 1
        began = time.perf_counter()
        tokens = self._batches.step(
            step - 1,
            self._identity.rank,
            experiment.ranks,
            experiment.micro_batch,
            experiment.accumulation,
        )
        report = self._engine.train_step(
            tokens, lr_at(step, experiment.optimizer, experiment.steps)
        )
        self._progress.add(report, time.perf_counter() - began)
        self._check(report)

    def _check(self, report: StepReport) -> None:
        """See that a train step went well, or changed nothing and may be the last bad one.

        Raises:
            _DivergedError: Too many were skipped, or the weights have taken what is no number.
        """
        step, in_a_row = self._progress.step, self._progress.skipped_in_a_row
        advice = "use a smaller optimizer.lr, more warmup_steps or a stronger clip"
        if not math.isfinite(report.loss) and not report.is_skipped:
            raise _DivergedError(f"the loss of train step {step} is {report.loss}; {advice}")
        if in_a_row >= _MOST_SKIPPED_IN_A_ROW:
            raise _DivergedError(
                f"the losses or gradients of the last {in_a_row} train steps, up to step {step}, "
                f"were not finite; {advice}"
            )

    def _agree(self, stop: StopRequest) -> bool:
        """Say whether any rank was asked to stop; the same on all ranks."""
        flag = torch.tensor(int(stop.is_made))
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._agreement)
        return bool(flag.item())

    def _write_line(self, journal: Journal | None, *, is_validated: bool) -> None:
        """Write what the train steps since the previous line gave; all ranks take part."""
        experiment, progress = self._experiment, self._progress
        metrics = progress.since_line.means()
        metrics |= rates(experiment, metrics[Metric.STEP_S])
        metrics |= {
            Metric.TRAIN_LR: lr_at(progress.step, experiment.optimizer, experiment.steps),
            Metric.TRAIN_SKIPPED: progress.skipped,
            Metric.TOKENS_TOTAL: progress.step * experiment.tokens_per_step,
            Metric.WALL_S: time.monotonic() - self._began,
        }
        largest = torch.tensor([self._engine.state_bytes, peak_bytes(self._device)])
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self._agreement)
        metrics |= dict(zip((Metric.STATE_BYTES, Metric.PEAK_BYTES), largest.tolist(), strict=True))
        if is_validated and (batches := self._validation()):
            metrics[Metric.VALIDATION_LOSS] = self._engine.evaluate(batches)
        progress.end_line(metrics)
        if journal is not None:
            journal.write(progress.step, metrics)

    def _is_validated(self) -> bool:
        every, step = self._experiment.evaluate_every, self._progress.step
        return step == self._experiment.steps or (every is not None and step % every == 0)

    def _validation(self) -> list[Tensor]:
        experiment = self._experiment
        return self._batches.validation(
            self._identity.rank,
            experiment.ranks,
            experiment.micro_batch,
            experiment.evaluate_sequences,
        )

    def _save(self, journal: Journal | None, checkpoints: Checkpoints) -> None:
        if journal is not None:
            journal.sync()
        self._progress.wall_s = time.monotonic() - self._began
        checkpoints.begin(self._progress.step, self._progress.facts(), self._engine.begin_save)

    def _write_model(self) -> None:
        write_model(
            self._directory.model,
            self._engine.full_weights(),
            {"config_hash": self._job.config_hash, "step": str(self._progress.step)},
            fence=self._fence,
            is_first=self._identity.rank == 0,
        )

    def _result(self) -> Result:
        return Result(
            status="finished", steps=self._progress.step, metrics=self._progress.last_line
        )

    def _say(self, text: str) -> None:
        if self._identity.rank == 0:
            say(text)


class _DivergedError(Exception):
    """The training has come to numbers that are none."""
