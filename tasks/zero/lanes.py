"""Lanes: collectives that run beside the computation, one after the other in the order of issue.

On the CPU a lane is a thread (gloo works outside Python's lock), on CUDA a stream. A lane that has
failed does nothing more: its collectives would no longer meet those of the other ranks.
"""

import queue
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

import torch

_PATIENCE_S = 1.0
"""How long the end of a lane waits for what is under way."""


class LaneFailedError(RuntimeError):
    """An earlier collective of this lane failed, so that this one was not tried."""


class Exposed:
    """Time that the computation waited for collectives, by level of the machine."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    def add(self, level: str, seconds: float) -> None:
        """Add a time that has been measured.

        Args:
            level: Of the machine.
            seconds: From 0.
        """
        self._seconds[level] += seconds

    def add_events(self, level: str, begin: torch.cuda.Event, end: torch.cuda.Event) -> None:
        """Add the time between two events of a stream, which it may not have reached yet.

        Args:
            level: Of the machine.
            begin: Recorded, with timing.
            end: Recorded later in the same stream.
        """
        self._events.append((level, begin, end))

    def seconds(self) -> dict[str, float]:
        """Return the sums by level since the last ``clear``; on CUDA, wait for the last event."""
        for level, begin, end in self._events:
            end.synchronize()
            self._seconds[level] += begin.elapsed_time(end) / 1000
        self._events.clear()
        return dict(self._seconds)

    def clear(self) -> None:
        """Begin at 0 again."""
        self._seconds.clear()
        self._events.clear()


class Lane(Protocol):
    """Runs what it is given, in order."""

    def submit(self, work: Callable[[], None], level: str | None) -> Callable[[], None]:
        """Begin with a piece of work as soon as all before it is done.

        Args:
            work: Touches nothing that the caller touches before it has joined.
            level: Under which a wait for it counts; None: it does not.

        Returns:
            Waits for the work, and raises what it raised, or ``LaneFailedError``.
        """
        ...

    def close(self) -> bool:
        """End; what has not begun is not done any more.

        Returns:
            Whether nothing is under way.
        """
        ...


def make_lane(device: torch.device, name: str, exposed: Exposed) -> Lane:
    """Return a lane for work on a device.

    Args:
        device: CPU or CUDA.
        name: For people.
        exposed: Where its waits are counted.
    """
    return StreamLane(device, name, exposed) if device.type == "cuda" else ThreadLane(name, exposed)


_Job = tuple[Callable[[], None], "Future[None]"]


class ThreadLane:
    """A lane of work on the CPU.

    Args:
        name: Of its thread, which never keeps the process from ending.
        exposed: Where waits are counted.
    """

    def __init__(self, name: str, exposed: Exposed) -> None:
        self._name = name
        self._exposed = exposed
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], None], level: str | None) -> Callable[[], None]:
        """See ``Lane``."""
        done: Future[None] = Future()
        if self._failure is None:
            self._jobs.put((work, done))
        else:  # the thread may have ended
            done.set_exception(_not_tried(self._name, self._failure))

        def join() -> None:
            begin = time.perf_counter()
            try:
                done.result()
            finally:
                if level is not None:
                    self._exposed.add(level, time.perf_counter() - begin)

        return join

    def close(self) -> bool:
        """See ``Lane``. A collective that hangs is left to itself."""
        self._failure = self._failure or LaneFailedError("it was closed")
        self._jobs.put(None)
        self._thread.join(_PATIENCE_S)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        with torch.no_grad():  # which holds for one thread only
            while (job := self._jobs.get()) is not None:
                self._do(*job)
                del job  # its tensors, before the next wait

    def _do(self, work: Callable[[], None], done: "Future[None]") -> None:
        if self._failure is not None:
            done.set_exception(_not_tried(self._name, self._failure))
            return
        try:
            work()
        except BaseException as error:  # noqa: BLE001  whatever it is, the waiting thread is to see it
            # Frames hold process groups, and only when nothing does are their connections closed,
            # which tells ranks that still wait for this one. So the error keeps but their text.
            error.add_note(traceback.format_exc())
            self._failure = error.with_traceback(None)
            done.set_exception(error)
        else:
            done.set_result(None)


class StreamLane:
    """A lane of work on a GPU.

    Args:
        device: A CUDA device.
        name: For people.
        exposed: Where waits are counted: how long the caller's stream stood still.
    """

    def __init__(self, device: torch.device, name: str, exposed: Exposed) -> None:
        self._name = name
        self._exposed = exposed
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch
        self._failure: BaseException | None = None

    def submit(self, work: Callable[[], None], level: str | None) -> Callable[[], None]:
        """See ``Lane``. What the work uses must live until it is joined."""
        error: BaseException | None = None
        if self._failure is not None:
            error = _not_tried(self._name, self._failure)
        else:
            try:
                self._begin(work)
            except BaseException as raised:  # noqa: BLE001  it is to be seen at the wait, as on a CPU
                self._failure = error = raised
        done = self._stream.record_event()

        def join() -> None:
            if error is not None:
                raise error
            waiting = torch.cuda.current_stream(self._stream.device)
            if level is None:
                waiting.wait_event(done)
                return
            begin, end = _timed_event(), _timed_event()
            begin.record(waiting)
            waiting.wait_event(done)
            end.record(waiting)
            self._exposed.add_events(level, begin, end)

        return join

    def close(self) -> bool:
        """See ``Lane``."""
        self._failure = self._failure or LaneFailedError("it was closed")
        return self._stream.query()

    def _begin(self, work: Callable[[], None]) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream), torch.no_grad():
            work()


def _timed_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch


def _not_tried(name: str, failure: BaseException) -> LaneFailedError:
    error = LaneFailedError(f"lane '{name}' has failed before: {failure}")
    error.__cause__ = failure
    return error
