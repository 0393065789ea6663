"""The server of real workers: the simulator's counterpart, with wall time for a virtual clock.

Round t: the first m returns that lie in the spool make x_t into x_{t+1}, by the same pure function
as in the simulator; x_{t+1} is published, and whoever comes next pulls it. What was taken is in
``returns.jsonl`` before it is used, so a server that was killed anywhere goes through the same
returns again from its checkpoint on, and comes to the same bits.

Symbols: M workers, m returns a round, P parameters, t version.
"""

import re
import time
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.arrivals import Slurm
from configs.federated import FederatedExperiment
from tasks.federated.algorithms.interface import Returns, ServerAlgorithm, ServerState
from tasks.federated.arrivals.interface import Arrivals
from tasks.federated.checkpoint import Checkpoint, kept_versions
from tasks.federated.messages import Refusal
from tasks.federated.published import MOST_BEHIND, PublishedModels
from tasks.federated.reception import Reception, Taken
from tasks.federated.simulator import Totals, advance
from tasks.runtime.errors import JobError, Reason
from tasks.runtime.fence import Fence
from tasks.runtime.metrics import PARTITION_PREFIX, REFUSED_PREFIX, Metric
from tasks.runtime.records import ReturnLine
from tasks.runtime.returns import ReturnsLog
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.spool import Spool, waits_s

_BEAT_EVERY_S = 5.0
_MOST_BARREN_ROUNDS = 50
_NO_METRIC_NAME = re.compile(r"[^\w .:/-]")
_NOT_AT_FAULT = (Refusal.DUPLICATE, Refusal.TOO_OLD)


@dataclass
class ServerTotals(Totals):
    """What has been counted of real workers.

    Attributes:
        partitions: Returns taken, by the partition of their worker.
        reasons: Returns not taken, by reason.
    """

    partitions: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)

    def count_partition(self, name: str) -> None:
        """Count a return that was taken."""
        self.partitions[name] = self.partitions.get(name, 0) + 1

    def line(self) -> dict[str, float]:
        """What a line of the journal says of returns."""
        refused = {k: v for k, v in self.reasons.items() if k not in _NOT_AT_FAULT}
        counts = {
            Metric.RETURNS_REFUSED: sum(refused.values()),
            Metric.RETURNS_DROPPED: self.reasons.get(Refusal.TOO_OLD, 0),
            Metric.RETURNS_DUPLICATE: self.reasons.get(Refusal.DUPLICATE, 0),
        }
        named = {f"{PARTITION_PREFIX}{name}": count for name, count in self.partitions.items()}
        named |= {f"{REFUSED_PREFIX}{reason}": count for reason, count in refused.items()}
        return super().line() | counts | {_NO_METRIC_NAME.sub("_", k): v for k, v in named.items()}

    def refusals(self) -> list[str]:
        """Say which returns were refused, in the order of their first ones."""
        others = [r for r in self.reasons if r not in {*_NOT_AT_FAULT, Refusal.NOT_FINITE}]
        return super().refusals() + [f"returns refused: {r}; see spool/refused" for r in others]


class Server:
    """One federated training with real workers.

    Args:
        experiment: With arrivals ``slurm``.
        config_hash: Of the experiment.
        directory: The server's run directory.
        algorithm: What the server makes of returns.
        initial: The initial model, shape (P,).
        batch_size: Samples of one local step, for the count of samples.
        log: The returns taken so far.
        fence: Of the server's attempt.
        began_s: When the run began, Unix seconds.
    """

    def __init__(
        self,
        experiment: FederatedExperiment,
        config_hash: str,
        *,
        directory: RunDirectory,
        algorithm: ServerAlgorithm,
        initial: Tensor,
        batch_size: int,
        log: ReturnsLog,
        fence: Fence,
        began_s: float,
    ) -> None:
        if not isinstance(experiment.arrivals, Slurm):
            raise TypeError(f"arrivals {experiment.arrivals.kind} have no real workers")
        self._partitions = {share.partition for share in experiment.arrivals.partitions}
        self._collect = experiment.algorithm.collect
        self._algorithm = algorithm
        self._batch_size = batch_size
        self._log, self._fence = log, fence
        self._checkpoints = directory.checkpoints
        self._spool = Spool(directory)
        self._models = PublishedModels(self._spool, initial, fence)
        self._reception = Reception(
            experiment,
            config_hash,
            spool=self._spool,
            log=log,
            models=self._models,
            fence=fence,
            began_s=began_s,
        )
        self.state: ServerState = algorithm.init(initial)
        self.totals = ServerTotals()
        self._buffer: list[Taken] = []
        self._to_replay: list[tuple[ReturnLine, int]] | None = None
        self._log_bytes = 0
        self._waits_s = waits_s()
        self._beat_at_s = 0.0

    def step(self) -> Arrivals | None:
        """Do one server update, if enough returns have come.

        Returns:
            Who took part; None if returns are missing, after a short wait for them.

        Raises:
            Overtaken: There is a newer server.
            JobError: The training diverged, or what was taken before cannot be found again.
            OSError: A file cannot be read or written.
        """
        self._beat()
        if self._to_replay is None:
            self._to_replay = self._open()
        if self._to_replay:
            missing = self._collect - len(self._buffer)
            lines, self._to_replay = self._to_replay[:missing], self._to_replay[missing:]
            self._buffer += [self._reception.again(*line) for line in lines]
        else:
            self._models.announce()
            self._receive()
        if len(self._buffer) == self._collect:
            buffer, self._buffer = self._buffer, []
            return self._advance(buffer)
        return None

    def _open(self) -> list[tuple[ReturnLine, int]]:
        """Begin, or go on; return the lines of the log that the checkpoint does not know.

        Raises:
            Overtaken: There is a newer server.
            JobError: The log, or the checkpoints, are gone.
        """
        self._fence.check()
        lines = self._log.behind(self._log_bytes)
        version = self.state.version
        published = self._spool.versions()
        if not self._log.num_bytes and published and published[-1] > 0:
            # Workers hold models, and have handed in returns, of a run that cannot be continued.
            raise JobError(
                Reason.RETURNS,
                f"version {published[-1]} was published, but the log of the returns that it was "
                "made of is gone; begin a new run",
            )
        self._reception.open(version, lines)
        self._note_refusals()
        self._models.publish(version, self.state.model)
        return lines

    def _receive(self) -> None:
        """Take what lies in the spool, or wait a moment.

        Raises:
            JobError: Nothing finite has come for many rounds.
        """
        version = self.state.version
        taken = self._reception.take(version, self._collect - len(self._buffer))
        self._buffer += taken
        self._note_refusals()
        num_barren = self._reception.refused.num_barren
        if num_barren >= _MOST_BARREN_ROUNDS * self._collect:
            raise JobError(
                Reason.DIVERGED,
                f"{num_barren} returns in a row were not finite (up to round "
                f"{version}); lower worker.lr, or set worker.clip_norm",
            )
        if taken:
            self._waits_s = waits_s()
        else:
            time.sleep(next(self._waits_s))

    def _advance(self, buffer: list[Taken]) -> Arrivals:
        version = self.state.version
        arrivals = _arrivals_of(buffer)
        self.totals.count(arrivals, version, self._batch_size)
        for taken in buffer:
            self.totals.count_partition(self._partition_of(taken.line))
        try:
            self.state = advance(self._algorithm, self.state, _returns_of(buffer))
        except JobError as error:
            workers = ", ".join(map(str, sorted({taken.line.worker for taken in buffer})))
            text = f"{error}; the round's returns are of the workers {workers}"
            raise JobError(error.reason, text) from error
        self._log_bytes = buffer[-1].end
        self._models.publish(version + 1, self.state.model)
        if not self._to_replay:
            self._models.announce()
            if version % MOST_BEHIND == 0:
                self._tidy(version + 1)
        return arrivals

    def _partition_of(self, line: ReturnLine) -> str:
        """Name the partition of a return, as far as the experiment knows it."""
        if not line.partition:
            return "none"
        return line.partition if line.partition in self._partitions else "other"

    def _tidy(self, version: int) -> None:
        """Remove what neither a worker nor a server that starts again can need."""
        kept = kept_versions(self._checkpoints) or [0]
        self._reception.forget(kept[0])
        # Versions behind the newest checkpoint are made again from it.
        needed = (pulled for pulled in self._reception.pulled() if pulled <= kept[-1])
        self._models.forget(version, needed)

    def _note_refusals(self) -> None:
        totals = self.totals
        totals.reasons = dict(self._reception.refused.reasons)
        totals.refused = {
            str(worker): n for worker, n in self._reception.refused.not_finite.items()
        }
        for worker in totals.refused:
            totals.first_refused.setdefault(worker, self.state.version)

    def _beat(self) -> None:
        if time.monotonic() >= self._beat_at_s:
            self._spool.beat()
            self._beat_at_s = time.monotonic() + _BEAT_EVERY_S

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Return everything needed to go on, beside the spool and the log.

        Returns that were taken for the next round already are in the log, and are found there.

        Raises:
            OSError: The versions that workers hold cannot be made durable.
        """
        self._models.sync()
        tensors = {"server/model": self.state.model}
        tensors |= {f"server/memory/{k}": v for k, v in self.state.memory.items()}
        return tensors, {
            "version": self.state.version,
            "totals": asdict(self.totals),
            "returns_bytes": self._log_bytes,
            "last": {str(worker): known for worker, known in self._reception.last.items()},
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Args:
            checkpoint: What ``checkpoint()`` gave, read from its file.
        """
        device = self.state.model.device
        self.state = ServerState(
            model=checkpoint.tensors["server/model"].to(device),
            version=checkpoint.facts["version"],
            memory=self.state.memory
            | {k: v.to(device) for k, v in checkpoint.under("server/memory").items()},
        )
        self.totals = ServerTotals(**checkpoint.facts["totals"])
        self._log_bytes = checkpoint.facts["returns_bytes"]
        last = checkpoint.facts["last"]
        self._reception.restore(
            last={int(worker): (sequence, token) for worker, (sequence, token) in last.items()},
            refusals=self.totals.reasons,
            now_s=self.totals.virtual_s,
        )


def _arrivals_of(buffer: list[Taken]) -> Arrivals:
    lines = [taken.line for taken in buffer]
    return Arrivals(
        worker=np.array([line.worker for line in lines], dtype=np.int64),
        pulled=np.array([line.pulled for line in lines], dtype=np.int64),
        num_steps=np.array([line.num_steps for line in lines], dtype=np.int64),
        sequence=np.array([line.sequence for line in lines], dtype=np.int64),
        pulled_at_s=np.array([line.pulled_at_s for line in lines]),
        # Not the clients' own times, which decrease where clocks differ or returns wait; see there.
        returned_at_s=np.array([line.taken_at_s for line in lines]),
    )


def _returns_of(buffer: list[Taken]) -> Returns:
    delta = torch.stack([taken.delta for taken in buffer])
    arrivals = _arrivals_of(buffer)

    def on_device(values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(values).to(delta.device)

    return Returns(
        worker=on_device(arrivals.worker),
        start=torch.stack([taken.start for taken in buffer]),
        delta=delta,
        num_steps=on_device(arrivals.num_steps),
        delay=on_device(np.array([taken.line.delay for taken in buffer], dtype=np.int64)),
        returned_at_s=on_device(arrivals.returned_at_s),
    )
