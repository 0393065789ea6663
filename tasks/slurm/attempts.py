"""The attempts of a run over its whole life, as their files tell it; for the accounts."""

from dataclasses import dataclass

from tasks.runtime.records import Exit, Heartbeat, Started
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import EXIT, EXIT_FINISHED, EXIT_INTERRUPTED, HEARTBEAT, STARTED
from tasks.slurm.evidence import checkpoint_times, read_whole


@dataclass(frozen=True)
class Attempt:
    """One attempt; times by the clock of its node, Unix seconds.

    Attributes:
        started: Who claimed it.
        exit: How it ended; None if it did not say.
        started_s: When it was claimed.
        last_s: When it ended, or was last alive.
        has_ended: Whether it left an exit, or another attempt has followed.
        saved_s: When its state was last made safe: by a checkpoint, or by its result;
            ``started_s`` if it never was; None if nothing tells any more.
    """

    started: Started
    exit: Exit | None
    started_s: float
    last_s: float
    has_ended: bool
    saved_s: float | None


def read_attempts(directory: RunDirectory) -> list[Attempt]:
    """Read the attempts of a run that Slurm has started, oldest first.

    An attempt's checkpoints are known as long as the run keeps them, and from the attempt's last
    heartbeat, where that tells (``checkpoint_ms``).

    Args:
        directory: The run directory.

    Returns:
        The attempts; those whose files are torn, and those without Slurm, are left out.

    Raises:
        OSError: The files cannot be read.
    """
    paths = directory.attempts()
    kept = checkpoint_times(directory)
    attempts = []
    for path in paths:
        started = read_whole(Started, path / STARTED)
        if started is None or not started.submission:
            continue
        exit_ = read_whole(Exit, path / EXIT)
        beat = read_whole(Heartbeat, path / HEARTBEAT)
        is_newest = path == paths[-1]
        started_s = started.timestamp_ms / 1000
        last = exit_ or beat or started
        last_s = max(started_s, last.timestamp_ms / 1000)
        told_ms = beat.checkpoint_ms if beat is not None else None
        told = [] if told_ms is None else [told_ms / 1000]
        saved = [time_s for time_s in (*kept, *told) if started_s < time_s <= last_s]
        attempts.append(
            Attempt(
                started=started,
                exit=exit_,
                started_s=started_s,
                last_s=last_s,
                has_ended=exit_ is not None or not is_newest,
                saved_s=_saved_s(exit_, saved, started_s, last_s, is_newest=is_newest),
            )
        )
    return attempts


def _saved_s(
    exit_: Exit | None, saved: list[float], started_s: float, last_s: float, *, is_newest: bool
) -> float | None:
    if exit_ is not None and exit_.code == EXIT_FINISHED:
        return last_s
    if saved:
        return max(saved)
    if exit_ is not None and exit_.code == EXIT_INTERRUPTED:
        # A program that is asked to stop saves, and ends at once.
        return last_s if exit_.checkpoint_moved else started_s
    return started_s if is_newest else None
