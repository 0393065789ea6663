"""The server's door: takes returns out of the spool, each at most once, and loses none.

A return is taken in three steps: it is read and checked; its line is written to ``returns.jsonl``
and made durable; its file is moved to ``taken/``, which tells the client that it may send another.
A server that is killed between two of them finds, when it starts again, either no line, and the
file is still to be taken, or the line, and the file counts as taken wherever it lies. Files stay in
``taken/`` until no kept checkpoint needs them.
"""

import errno
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from configs.arrivals import Slurm
from configs.federated import FederatedExperiment
from tasks.federated.messages import Refusal, Refused, ReturnHeader, read_return
from tasks.federated.published import PublishedModels
from tasks.federated.refused_returns import RefusedReturns
from tasks.federated.waiting_returns import Waiting, waiting_returns
from tasks.runtime.errors import JobError, Reason
from tasks.runtime.fence import Fence
from tasks.runtime.records import ReturnLine
from tasks.runtime.returns import ReturnsLog
from tasks.runtime.spool import ReturnName, Spool


@dataclass(frozen=True)
class Taken:
    """A return that counts.

    Attributes:
        line: What the log says of it.
        end: Bytes of the log up to that line's end.
        start: The model that the worker pulled, shape (P,).
        delta: The normalised change, shape (P,).
    """

    line: ReturnLine
    end: int
    start: Tensor
    delta: Tensor


class Reception:
    """Takes, or refuses, what the workers hand in.

    Args:
        experiment: With arrivals ``slurm``.
        config_hash: Of the experiment; other returns are refused.
        spool: Where returns lie.
        log: Where they are written down.
        models: The versions that can be pulled.
        fence: Of the server's attempt.
        began_s: When the run began, Unix seconds.

    Attributes:
        last: Worker -> sequence number and token of the last return taken.
        refused: What was refused.
    """

    def __init__(
        self,
        experiment: FederatedExperiment,
        config_hash: str,
        *,
        spool: Spool,
        log: ReturnsLog,
        models: PublishedModels,
        fence: Fence,
        began_s: float,
    ) -> None:
        if not isinstance(experiment.arrivals, Slurm):
            raise TypeError(f"arrivals {experiment.arrivals.kind} have no real workers")
        self._max_delay = experiment.arrivals.max_delay
        self._max_steps = experiment.arrivals.max_steps
        self._workers = set(range(experiment.workers)) - set(experiment.arrivals.never_return)
        self._config_hash = config_hash
        self._spool, self._log, self._models, self._fence = spool, log, models, fence
        self._began_s, self._now_s = began_s, 0.0
        self._taken = spool.taken_by(fence.attempt)
        self._round_of: dict[ReturnName, int] = {}
        self._queue: deque[Waiting] = deque()
        self.last: dict[int, tuple[int, int]] = {}
        self.refused = RefusedReturns(spool, fence)

    def restore(
        self, last: dict[int, tuple[int, int]], refusals: Mapping[str, int], now_s: float
    ) -> None:
        """Go on from a checkpoint.

        Args:
            last: Worker -> sequence number and token of the last return taken.
            refusals: How many returns were refused, by reason. Those with something wrong are
                counted by what lies in ``refused/``.
            now_s: When the last return was taken: the clock of this machine may be behind.
        """
        self.last = last
        self.refused.restore(refusals)
        self._now_s = now_s

    def open(self, version: int, lines: list[tuple[ReturnLine, int]]) -> None:
        """Bring the spool in line with the log, after a server was ended anyhow.

        Args:
            version: The round after which the server continues.
            lines: What the log has behind that, each with the offset of its end.

        Raises:
            Overtaken: There is a newer server.
            OSError: A file cannot be moved.
        """
        self.refused.recount()
        self._inherit()
        tail = {_name_of(line): line.round for line, _ in lines}
        for name in self._spool.names(self._spool.returns):
            if name in tail:
                self._move(name, self._spool.returns, self._taken)
        for name in self._spool.names(self._taken):
            if name in tail or self._is_before(name):
                self._round_of[name] = tail.get(name, version)
            else:  # an overtaken server has moved it, but could not write it down
                self._move(name, self._taken, self._spool.returns)

    def _inherit(self) -> None:
        """Take over what earlier servers have taken, and the directories in which they put it.

        Raises:
            Overtaken: There is a newer server.
            FileNotFoundError: A file is gone, and no newer server has it.
            OSError: A file cannot be moved, or a directory removed.
        """
        self._taken.mkdir(exist_ok=True)
        self._fence.check()  # a newer server that begins from here on takes it over
        try:
            for directory in set(self._spool.taken.iterdir()) - {self._taken}:
                if self._is_older(directory.name):
                    self._empty(directory)
        except FileNotFoundError:
            self._fence.check()  # a newer one has taken it over in the meantime
            raise

    def _is_older(self, attempt: str) -> bool:
        """Whether another attempt is older; without the wrapper a lock says so of all."""
        return not self._fence.attempt or (attempt.isdigit() and int(attempt) < self._fence.attempt)

    def _empty(self, directory: Path) -> None:
        while directory.exists():
            for path in directory.iterdir():
                path.rename(self._taken / path.name)
            try:
                directory.rmdir()
            except OSError as error:
                # One more may have been moved there in the meantime.
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise

    def again(self, line: ReturnLine, end: int) -> Taken:
        """Take a return that the log has.

        Args:
            line: Its line.
            end: Bytes of the log up to the line's end.

        Returns:
            The return.

        Raises:
            JobError: Its file, or the version that it started from, is no longer there.
        """
        path = self._taken / str(_name_of(line))
        start = self._models.get(line.pulled)
        try:
            _, delta = read_return(path, self._models.like)
        except (Refused, FileNotFoundError) as error:
            raise JobError(Reason.RETURNS, f"{path} cannot be used again: {error}") from error
        if start is None:
            missing = self._spool.model(line.pulled)
            raise JobError(Reason.RETURNS, f"{missing} is gone, from which {path.name} started")
        self._remember(line)
        return Taken(line, end, start, delta)

    def take(self, version: int, most: int) -> list[Taken]:
        """Take returns that lie there, earliest first.

        Args:
            version: The server's version; they help to make the next one.
            most: How many it can use.

        Returns:
            The returns, written down for good; empty if nothing usable lies there.

        Raises:
            Overtaken: There is a newer server.
            OSError: A file cannot be read, written or moved.
        """
        taken: list[tuple[ReturnHeader, ReturnLine, Tensor, Tensor]] = []
        if not self._queue:
            self._queue.extend(waiting_returns(self._spool))
        while self._queue and len(taken) < most:
            path = self._spool.returns / self._queue.popleft().text
            try:
                header, start, delta = self._admit(path, version)
            except Refused as refusal:
                self.refused.refuse(path, refusal)
                continue
            except FileNotFoundError:  # somebody has removed it
                continue
            line = self._line(header, version)
            self._remember(line)
            taken.append((header, line, start, delta))
        if not taken:
            return []
        self._log.append([line for _, line, _, _ in taken])
        end = self._log.num_bytes
        for header, line, _, _ in taken:
            self._move(header.name, self._spool.returns, self._taken)
            self._round_of[header.name] = line.round
        self.refused.num_barren = 0
        return [Taken(line, end, start, delta) for _, line, start, delta in taken]

    def forget(self, version: int) -> None:
        """Remove the files of returns that no checkpoint needs any more.

        Args:
            version: The oldest version that a server could continue from.
        """
        for name in [name for name, round_ in self._round_of.items() if round_ <= version]:
            (self._taken / str(name)).unlink(missing_ok=True)
            del self._round_of[name]

    def pulled(self) -> set[int]:
        """List the versions from which the returns started whose files are kept."""
        return {name.pulled for name in self._round_of}

    def _is_before(self, name: ReturnName) -> bool:
        """Whether a return, or a later one of its worker, was taken."""
        return name.worker in self.last and name.sequence <= self.last[name.worker][0]

    def _admit(self, path: Path, version: int) -> tuple[ReturnHeader, Tensor, Tensor]:
        """Read a return, and the model that it started from.

        Raises:
            Refused: It must not be used.
            FileNotFoundError: It is gone.
        """
        name = ReturnName.parse(path.name)
        if name is None:
            raise Refused(Refusal.HEADER, "its name is no return's")
        if name.worker not in self._workers:
            raise Refused(Refusal.WORKER, f"no worker {name.worker} takes part")
        sequence, token = self.last.get(name.worker, (-1, 0))
        if self._is_before(name):
            raise Refused(Refusal.DUPLICATE, f"return {sequence} of its worker was taken before")
        if name.token < token:
            raise Refused(Refusal.OVERTAKEN, f"attempt {token} of its client has returned before")
        try:
            header, delta = read_return(path, self._models.like)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Refused(Refusal.UNREADABLE, f"cannot be read: {error}") from error
        if header.config_hash != self._config_hash:
            raise Refused(
                Refusal.CONFIG, f"of experiment {header.config_hash}, not {self._config_hash}"
            )
        if header.num_steps > self._max_steps:
            raise Refused(
                Refusal.HEADER, f"of {header.num_steps} local steps, {self._max_steps} allowed"
            )
        if self._max_delay is not None and version - header.pulled > self._max_delay:
            raise Refused(
                Refusal.TOO_OLD, f"{version - header.pulled} rounds old, {self._max_delay} allowed"
            )
        start = self._models.get(header.pulled) if header.pulled <= version else None
        if start is None:
            raise Refused(Refusal.VERSION, f"version {header.pulled} is not kept at {version}")
        return header, start, delta

    def _line(self, header: ReturnHeader, version: int) -> ReturnLine:
        self._now_s = max(self._now_s, time.time() - self._began_s)
        pulled_at_s = min(max(header.pulled_at_s - self._began_s, 0.0), self._now_s)
        returned_at_s = min(max(header.returned_at_s - self._began_s, pulled_at_s), self._now_s)
        return ReturnLine(
            round=version + 1,
            worker=header.worker,
            sequence=header.sequence,
            pulled=header.pulled,
            num_steps=header.num_steps,
            delay=version - header.pulled,
            token=header.token,
            partition=header.partition,
            slurm_job=header.slurm_job,
            pulled_at_s=pulled_at_s,
            returned_at_s=returned_at_s,
            taken_at_s=self._now_s,
        )

    def _remember(self, line: ReturnLine) -> None:
        self.last[line.worker] = line.sequence, line.token
        self._now_s = max(self._now_s, line.taken_at_s)

    def _move(self, name: ReturnName, source: Path, target: Path) -> None:
        try:
            (source / str(name)).rename(target / str(name))
        except FileNotFoundError:
            self._fence.check()  # its directory may have been taken away
            raise


def _name_of(line: ReturnLine) -> ReturnName:
    return ReturnName(line.worker, line.sequence, line.pulled, line.token)
