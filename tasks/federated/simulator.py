"""The simulator: an arrival process, local training and a server algorithm on a virtual clock.

Round t: the arrival process names the m returns that make x_t into x_{t+1}; each is computed from
the version that its worker pulled; the server algorithm aggregates them. Models are kept as long as
a worker in flight holds their version.

Every random draw is keyed (see ``randomness``), so a simulator restored from a checkpoint goes on
with the same bits.

Symbols: M workers, m returns a round, P parameters, t version.
"""

import math
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from tasks.federated.algorithms.interface import Returns, ServerAlgorithm, ServerState
from tasks.federated.algorithms.worker_memory import newest_returns, untouched_zeros
from tasks.federated.arrivals.interface import ArrivalProcess, Arrivals
from tasks.federated.checkpoint import Checkpoint
from tasks.federated.local_training import LocalTrainer
from tasks.runtime.errors import JobError, Reason
from tasks.runtime.metrics import Metric

_MOST_BARREN_ROUNDS = 50


@dataclass
class Totals:
    """What has been counted; ``since_line`` values start again with every journal line.

    Attributes:
        virtual_s: Virtual time.
        num_samples: Samples of all stochastic gradients so far.
        num_dropped: Returns dropped as older than the maximum delay.
        refused: Worker id -> returns refused as not finite.
        first_refused: Worker id -> round of its first refusal.
        barren_rounds: Rounds in a row in which every return was refused.
        delay_sum: Of the returns since the last line.
        delay_max: Of the returns since the last line.
        steps_sum: Local steps of the returns since the last line.
        num_returns: Since the last line.
    """

    virtual_s: float = 0.0
    num_samples: int = 0
    num_dropped: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    first_refused: dict[str, int] = field(default_factory=dict)
    barren_rounds: int = 0
    delay_sum: int = 0
    delay_max: int = 0
    steps_sum: int = 0
    num_returns: int = 0

    def count(self, arrivals: Arrivals, version: int, batch_size: int) -> None:
        """Count one buffer."""
        delay = version - arrivals.pulled
        self.virtual_s = float(arrivals.returned_at_s.max())
        self.num_samples += int(arrivals.num_steps.sum()) * batch_size
        self.num_dropped += arrivals.num_dropped
        self.delay_sum += int(delay.sum())
        self.delay_max = max(self.delay_max, int(delay.max()))
        self.steps_sum += int(arrivals.num_steps.sum())
        self.num_returns += len(delay)

    def refuse(self, worker: int, version: int) -> None:
        """Count a return that is not finite."""
        key = str(worker)  # as JSON has it
        self.refused[key] = self.refused.get(key, 0) + 1
        self.first_refused.setdefault(key, version)

    def refusals(self) -> list[str]:
        """Name the workers whose returns were refused, in the order of their first one."""
        return [
            f"round {version}: return of worker {worker} refused, not finite"
            for worker, version in self.first_refused.items()
        ]

    def since_line(self) -> dict[str, float]:
        """What is said of the returns since the last line; nothing if there were none."""
        if not self.num_returns:
            return {}
        return {
            Metric.DELAY_MEAN: self.delay_sum / self.num_returns,
            Metric.DELAY_MAX: self.delay_max,
            Metric.LOCAL_STEPS_MEAN: self.steps_sum / self.num_returns,
        }

    def line(self) -> dict[str, float]:
        """What a line of the journal says of returns."""
        return self.since_line() | {
            Metric.RETURNS_REFUSED: sum(self.refused.values()),
            Metric.RETURNS_DROPPED: self.num_dropped,
            Metric.VIRTUAL_S: self.virtual_s,
            Metric.SAMPLES_TOTAL: self.num_samples,
        }

    def start_line(self) -> None:
        """Begin to count for the next journal line."""
        self.delay_sum = self.delay_max = self.steps_sum = self.num_returns = 0


def advance(algorithm: ServerAlgorithm, state: ServerState, returns: Returns) -> ServerState:
    """Do one server update.

    Args:
        algorithm: The server algorithm.
        state: Its state; not to be used again.
        returns: The buffer, finite.

    Returns:
        The next state.

    Raises:
        JobError: Its model is no longer finite.
    """
    following = algorithm.aggregate(state, returns)
    if not math.isfinite(float(following.model.abs().max())):
        raise JobError(
            Reason.DIVERGED,
            f"the model overflowed at round {following.version}; lower algorithm.server_lr or "
            "worker.lr",
        )
    return following


class Simulator:
    """One federated training on a virtual clock.

    Args:
        process: Who returns when.
        trainer: What a worker computes.
        algorithm: What the server makes of it.
        initial: The initial model, shape (P,).
        num_workers: M.
        batch_size: Samples of one local step, for the count of samples.
    """

    def __init__(
        self,
        process: ArrivalProcess,
        trainer: LocalTrainer,
        algorithm: ServerAlgorithm,
        *,
        initial: Tensor,
        num_workers: int,
        batch_size: int,
    ) -> None:
        self._process = process
        self._trainer = trainer
        self._algorithm = algorithm
        self._batch_size = batch_size
        self.state: ServerState = algorithm.init(initial)
        self.totals = Totals()
        self._models: dict[int, Tensor] = {}
        self._controls: dict[int, Tensor] = {}
        self._worker_control = (
            untouched_zeros(num_workers, initial) if "control" in self.state.memory else None
        )
        self._publish()

    def step(self) -> Arrivals:
        """Do one server update.

        Returns:
            Who took part.

        Raises:
            JobError: The training diverged: the model is no longer finite, or has given no finite
                return for many rounds.
        """
        version = self.state.version
        arrivals = self._process.next_buffer(version)
        self.totals.count(arrivals, version, self._batch_size)
        returns = self._compute(arrivals, version)
        kept = self._refuse_non_finite(returns)
        if len(kept):
            self.state = advance(self._algorithm, self.state, self._remember_control(kept))
        else:
            self.state = replace(self.state, version=version + 1)
        self._publish()
        for old in arrivals.released:
            self._models.pop(old, None)
            self._controls.pop(old, None)
        return arrivals

    def _publish(self) -> None:
        """Keep the newest version for the workers that pull it."""
        version = self.state.version
        self._models[version] = self.state.model.clone()
        if self._worker_control is not None:
            self._controls[version] = self.state.memory["control"].clone()

    def _compute(self, arrivals: Arrivals, version: int) -> Returns:
        start = torch.stack([self._models[mu] for mu in arrivals.pulled.tolist()])
        device = start.device
        worker = torch.from_numpy(arrivals.worker).to(device)
        num_steps = torch.from_numpy(arrivals.num_steps).to(device)
        who = (arrivals.worker, arrivals.sequence, arrivals.num_steps)
        control_change = None
        if self._worker_control is None:
            delta = self._trainer.train(start, *who)
        else:
            delta, control_change = self._trainer.train_with_control(
                start,
                *who,
                server_control=torch.stack([self._controls[v] for v in arrivals.pulled.tolist()]),
                worker_control=self._worker_control[worker],
            )
        return Returns(
            worker=worker,
            start=start,
            delta=delta,
            num_steps=num_steps,
            delay=torch.from_numpy(version - arrivals.pulled).to(device),
            returned_at_s=torch.from_numpy(arrivals.returned_at_s).to(device),
            control=control_change,
        )

    def _refuse_non_finite(self, returns: Returns) -> Returns:
        """Leave out returns that are NaN or infinite; name and count their workers.

        Raises:
            JobError: No return was finite for many rounds in a row.
        """
        # One sum a row is cheap; it may overflow for finite rows, so suspects are looked at again.
        suspect = ~torch.isfinite(returns.delta.sum(dim=1))
        if not bool(suspect.any()):
            self.totals.barren_rounds = 0
            return returns
        finite = torch.isfinite(returns.delta).all(dim=1)
        for worker in returns.worker[~finite].tolist():
            self.totals.refuse(worker, self.state.version)
        kept = Returns(
            worker=returns.worker[finite],
            start=returns.start[finite],
            delta=returns.delta[finite],
            num_steps=returns.num_steps[finite],
            delay=returns.delay[finite],
            returned_at_s=returns.returned_at_s[finite],
            control=None if returns.control is None else returns.control[finite],
        )
        self.totals.barren_rounds = 0 if len(kept) else self.totals.barren_rounds + 1
        if self.totals.barren_rounds >= _MOST_BARREN_ROUNDS:
            raise JobError(
                Reason.DIVERGED,
                f"no finite return in {_MOST_BARREN_ROUNDS} rounds (up to round "
                f"{self.state.version}); lower worker.lr, or set worker.clip_norm",
            )
        return kept

    def _remember_control(self, kept: Returns) -> Returns:
        """Change the workers' control variates; of two returns of one worker, the newest does.

        Both changes start from the same c_i. Added up, n of them would carry c_i to
        c_i + n (g - c_i), which does not contract for n = 2 and explodes beyond.
        """
        if self._worker_control is None or kept.control is None:
            return kept
        newest = newest_returns(kept.worker)
        control = torch.zeros_like(kept.control)
        control[newest] = kept.control[newest]
        self._worker_control.index_add_(0, kept.worker[newest], control[newest])
        return replace(kept, control=control)

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Return everything needed to go on: named tensors, and JSON values."""
        tensors = {"server/model": self.state.model}
        tensors |= {f"server/memory/{k}": v for k, v in self.state.memory.items()}
        tensors |= {f"models/{version}": model for version, model in self._models.items()}
        tensors |= {f"controls/{version}": control for version, control in self._controls.items()}
        tensors |= {
            f"arrivals/{k}": torch.from_numpy(np.ascontiguousarray(v))
            for k, v in self._process.state().items()
        }
        if self._worker_control is not None:
            tensors["worker_control"] = self._worker_control
        return tensors, {"version": self.state.version, "totals": asdict(self.totals)}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Args:
            checkpoint: What ``checkpoint()`` gave, read from its file.
        """
        device = self.state.model.device

        def tensors(prefix: str) -> dict[str, Tensor]:
            return {k: v.to(device) for k, v in checkpoint.under(prefix).items()}

        self.state = ServerState(
            model=checkpoint.tensors["server/model"].to(device),
            version=checkpoint.facts["version"],
            # Of a checkpoint of an earlier version a name may be missing.
            memory=self.state.memory | tensors("server/memory"),
        )
        self.totals = Totals(**checkpoint.facts["totals"])
        self._models = {int(k): v for k, v in tensors("models").items()}
        self._controls = {int(k): v for k, v in tensors("controls").items()}
        if self._worker_control is not None:
            self._worker_control = checkpoint.tensors["worker_control"].to(device)
        self._process.restore({k: v.numpy() for k, v in checkpoint.under("arrivals").items()})
