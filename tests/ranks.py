"""Ranks for tests: processes that stay alive from test to test, joined by gloo.

They are forked from a server that has loaded torch once, so that eight of them start within a
second. What they run is named, not sent: a function of an importable module.
"""

import multiprocessing
import multiprocessing.connection
import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

_PRELOADED = ["torch", "torch.distributed", "torch.distributed.checkpoint", "tests.ranks"]
_GIVE_UP_S = 60


class RanksFailedError(AssertionError):
    """Some ranks failed; the message holds their tracebacks."""


class RankPool:
    """A world of gloo ranks in one default process group.

    Args:
        num_ranks: N.
        give_up_s: How long a collective may wait; a call may take three times as long.
    """

    def __init__(self, num_ranks: int, *, give_up_s: float = _GIVE_UP_S) -> None:
        self.num_ranks = num_ranks
        self._give_up_s = give_up_s
        self._ends: list[multiprocessing.connection.Connection] = []
        self._processes: list[Any] = []
        self._meeting: tempfile.TemporaryDirectory[str] | None = None

    def run(self, function: Callable[..., Any], *arguments: object) -> list[Any]:
        """Call a function on all ranks at once.

        Args:
            function: At the top of an importable module; gets the rank, N, and the arguments.
            arguments: The same for all ranks.

        Returns:
            What it returned, by rank.

        Raises:
            RanksFailedError: A rank raised, or died; the pool starts anew at the next call.
        """
        if not self._processes:
            self._start()
        for end in self._ends:
            end.send((function, arguments))
        answers = [self._answer(rank) for rank in range(self.num_ranks)]
        failures = [f"rank {rank}:\n{text}" for rank, (ok, text) in enumerate(answers) if not ok]
        if failures:
            self.close()
            raise RanksFailedError("\n".join(failures))
        return [value for _, value in answers]

    def close(self) -> None:
        """End the processes, and remove the file by which they met."""
        for process in self._processes:
            process.kill()
            process.join()
        for end in self._ends:
            end.close()
        self._processes, self._ends = [], []
        if self._meeting is not None:
            self._meeting.cleanup()
            self._meeting = None

    def _answer(self, rank: int) -> tuple[bool, Any]:
        end, process = self._ends[rank], self._processes[rank]
        ready = multiprocessing.connection.wait(
            [end, process.sentinel], timeout=3 * self._give_up_s
        )
        try:
            if end in ready or end.poll():
                answer: tuple[bool, Any] = end.recv()
                return answer
        except EOFError:
            pass
        process.join(5)
        return False, f"ended with {process.exitcode}" if ready else "did not answer"

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        self._meeting = tempfile.TemporaryDirectory(prefix="watershed-ranks-")
        store = Path(self._meeting.name) / "store"
        for rank in range(self.num_ranks):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve,
                args=(theirs, rank, self.num_ranks, str(store), self._give_up_s),
                daemon=True,
            )
            process.start()
            theirs.close()
            self._ends.append(ours)
            self._processes.append(process)


def _serve(
    end: multiprocessing.connection.Connection,
    rank: int,
    num_ranks: int,
    store: str,
    give_up_s: float,
) -> None:
    import torch  # noqa: PLC0415  in the forked process only
    import torch.distributed as dist  # noqa: PLC0415

    os.nice(5)  # eight ranks would leave little to the tests that run beside them
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=num_ranks,
        timeout=timedelta(seconds=give_up_s),
    )
    while True:
        try:
            function, arguments = end.recv()
        except EOFError:
            return
        try:
            answer = (True, function(rank, num_ranks, *arguments))
        except BaseException:  # noqa: BLE001  whatever it is, the test is to see it
            answer = (False, traceback.format_exc())
        end.send(answer)
