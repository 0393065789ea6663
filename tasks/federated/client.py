"""A real worker: pulls the newest model, trains for as long as it may, returns, and goes on.

It may be ended at any moment, and started again later, or never. What it computes is claimed before
and handed in whole or not at all, so that the worst that an end can cost is the return at hand.

It hands in a return only when its last one was taken: a server that is slow, or away, shall not
find a heap of returns that all started from the same old model.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from configs.arrivals import Slurm
from tasks.federated.local_training import LocalTrainer
from tasks.federated.messages import ReturnHeader, read_model, write_return
from tasks.federated.problem import Problem, build_problem
from tasks.federated.published import MOST_BEHIND
from tasks.runtime.attempt import slurm_job
from tasks.runtime.errors import Reason
from tasks.runtime.fence import Fence
from tasks.runtime.output import say
from tasks.runtime.records import ClientJobFile, Result
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.spool import Claim, Done, Spool, Watch, waits_s
from tasks.runtime.stopping import Interrupted, StopRequest, stop_asked

_Found = TypeVar("_Found")


def work(directory: RunDirectory) -> Result:
    """Work for the server of a client's run directory until that has ended.

    Args:
        directory: The client's run directory, with ``job.json``.

    Returns:
        Finished when the server has, failed when it has failed.

    Raises:
        Interrupted: It was asked to stop, and has returned what it had; or the server has given no
            sign of life for too long.
        Overtaken: A newer attempt of this client has begun.
        JobError: It cannot begin, for a reason that the user can act on.
        OSError: A file cannot be read or written.
    """
    fence = Fence.of_environment(directory.path)
    job = directory.read_client_job()
    server = RunDirectory((directory.path / job.server_dir).resolve())
    problem = build_problem(job.experiment)
    token = fence.attempt or int(directory.attempts()[-1].name)
    client = Client(job, Spool(server), problem, fence, token)
    with stop_asked() as stop:
        done = client.until_done(stop)
    if done.status == "failed":
        message = f"the server has failed: {done.message}"
        return Result(status="failed", reason=Reason.SERVER, message=message)
    return Result(status="finished")


class _ServerDone(Exception):  # noqa: N818  no error
    def __init__(self, done: Done) -> None:
        self.done = done
        super().__init__()


class Client:
    """One real worker.

    Args:
        job: Which worker, of which experiment.
        spool: The server's.
        problem: What is trained.
        fence: Of the client's attempt.
        token: Number of the client's attempt.
    """

    def __init__(
        self, job: ClientJobFile, spool: Spool, problem: Problem, fence: Fence, token: int
    ) -> None:
        arrivals = job.experiment.arrivals
        if not isinstance(arrivals, Slurm):
            raise TypeError(f"arrivals {arrivals.kind} have no real workers")
        self._job, self._spool, self._fence, self._token = job, spool, fence, token
        self._budget_s, self._max_steps = arrivals.budget_s, arrivals.max_steps
        self._like = problem.initial
        self._trainer = LocalTrainer(problem.model, problem.dataset, problem.shards, job.experiment)
        self._watch = Watch(spool, arrivals.server_patience_s)
        self._partition = os.environ.get("SLURM_JOB_PARTITION", arrivals.partition_of(job.worker))
        self._slurm_job = slurm_job()
        claim = spool.claim_of(job.worker)
        self._sequence = claim.sequence + 1 if claim else 0
        self._claimed: Claim | None = None
        self._handed_in: Path | None = None

    def until_done(self, stop: StopRequest) -> Done:
        """Work until the server has ended.

        Args:
            stop: Looked at after each local step.

        Returns:
            How the server has ended.

        Raises:
            Interrupted: It was asked to stop, and has returned what it had; or the server has given
                no sign of life for too long.
            Overtaken: A newer attempt of this client has begun.
            OSError: A file cannot be read or written.
        """
        self._spool.sweep(self._job.worker)
        try:
            while True:
                self._round(stop)
        except _ServerDone as end:
            return end.done

    def _round(self, stop: StopRequest) -> None:
        """Pull, train and return, once.

        Raises:
            Interrupted: The client is to stop.
        """
        pulled = self._wait_for(self._pull, stop)
        if pulled is None:
            raise Interrupted
        version, model = pulled
        pulled_at_s, began_s = time.time(), time.monotonic()
        delta, num_steps = self._trainer.train_until(
            model,
            self._job.worker,
            self._sequence,
            most_steps=self._max_steps,
            is_enough=lambda: stop.is_made or time.monotonic() - began_s >= self._budget_s,
        )
        duration_s = time.monotonic() - began_s
        # Whoever is to stop hands in what it has, taken or not.
        goes_on = not stop.is_made and self._wait_for(self._is_taken, stop) is not None
        header = ReturnHeader(
            worker=self._job.worker,
            sequence=self._sequence,
            pulled=version,
            token=self._token,
            config_hash=self._job.config_hash,
            num_steps=num_steps,
            pulled_at_s=pulled_at_s,
            returned_at_s=pulled_at_s + duration_s,
            partition=self._partition,
            slurm_job=self._slurm_job,
        )
        self._handed_in = write_return(self._spool.returns, header, delta, self._fence)
        say(f"return {self._sequence}: {num_steps} local steps from version {version}")
        self._sequence += 1
        if not goes_on:
            raise Interrupted

    def _pull(self) -> tuple[int, Tensor] | None:
        """Claim the next number and pull the newest model; None if there is none, or not yet whole.

        The version is held before it is read, so that the server keeps it. What it removes is older
        than the newest by more than ``MOST_BEHIND``; who has held one so old too late pulls again.
        """
        newest = self._spool.newest()
        if newest is None:
            return None
        claim = Claim(
            worker=self._job.worker,
            sequence=self._sequence,
            version=newest.version,
            partition=self._partition,
            slurm_job=self._slurm_job,
        )
        if claim != self._claimed:  # else it looks again for the same file
            self._spool.claim(claim, self._fence)
            self._claimed = claim
        found = read_model(self._spool.model(newest.version), self._like)
        if found is None or found[1] != newest.sha256:
            return None
        latest = self._spool.newest() or newest
        if latest.version - newest.version > MOST_BEHIND:
            return None
        return newest.version, found[0]

    def _is_taken(self) -> bool | None:
        """Whether the server has taken the last return; None while it has not."""
        return True if self._handed_in is None or not self._handed_in.exists() else None

    def _wait_for(self, look: Callable[[], _Found | None], stop: StopRequest) -> _Found | None:
        """Look until something is found; None if the client is to stop.

        Raises:
            _ServerDone: The server has ended.
        """
        for wait_s in waits_s():
            if done := self._spool.done():
                raise _ServerDone(done)
            if (found := look()) is not None:
                return found
            if stop.is_made:
                break
            if self._watch.is_lost():
                say("no sign of life of the server; continue when it runs again")
                break
            time.sleep(wait_s)
        return None
