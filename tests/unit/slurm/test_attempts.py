"""The attempts of a run, read from their files."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.attempts import read_attempts

T0 = 1_700_000_000


def _write(path: Path, content: dict[str, Any] | str, time_s: float = T0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    os.utime(path, (time_s, time_s))


def _leave(
    run: RunDirectory,
    number: int,
    start_s: int,
    *,
    end_s: int | None = None,
    beat_s: int | None = None,
    checkpoint_s: int | None = None,
    submission: int = 1,
    **exit_fields: Any,
) -> None:
    own = run.attempt(number)
    started = {"pid": 1, "host": "h", "timestamp_ms": start_s * 1000, "submission": submission}
    _write(own / "started.json", started)
    if beat_s is not None:
        beat = {"timestamp_ms": beat_s * 1000, "child_pid": 2}
        if checkpoint_s is not None:
            beat["checkpoint_ms"] = checkpoint_s * 1000
        _write(own / "heartbeat.json", beat)
    if end_s is not None:
        _write(own / "exit.json", {"code": 143, "timestamp_ms": end_s * 1000} | exit_fields)


def _save(run: RunDirectory, time_s: int) -> None:
    _write(run.checkpoints / f"round-{time_s}.safetensors", "", time_s)


def _times(run: RunDirectory) -> list[tuple[float, float, float | None, bool]]:
    return [(a.started_s, a.last_s, a.saved_s, a.has_ended) for a in read_attempts(run)]


def test_an_attempt_lasts_from_its_claim_to_its_exit_or_last_heartbeat(tmp_path: Path) -> None:
    """A killed attempt has ended all the same when another one has followed."""
    run = RunDirectory(tmp_path)
    _leave(run, 1, T0, beat_s=T0 + 90)
    _leave(run, 2, T0 + 300, end_s=T0 + 400, beat_s=T0 + 390)
    _leave(run, 3, T0 + 500)

    times = _times(run)

    assert [(start, last, ended) for start, last, _, ended in times] == [
        (T0, T0 + 90, True),
        (T0 + 300, T0 + 400, True),
        (T0 + 500, T0 + 500, False),
    ]


def test_checkpoints_belong_to_the_attempt_of_their_time(tmp_path: Path) -> None:
    """Each attempt has saved up to the newest checkpoint between its start and its end."""
    run = RunDirectory(tmp_path)
    _leave(run, 1, T0, beat_s=T0 + 100)
    _leave(run, 2, T0 + 300, beat_s=T0 + 400)
    for time_s in (T0 + 50, T0 + 80, T0 + 350):
        _save(run, time_s)

    assert [saved for _, _, saved, _ in _times(run)] == [T0 + 80, T0 + 350]


def test_a_heartbeat_tells_of_checkpoints_that_are_gone(tmp_path: Path) -> None:
    """The run keeps two checkpoints; those of an earlier attempt are told by its last heartbeat."""
    run = RunDirectory(tmp_path)
    _leave(run, 1, T0, beat_s=T0 + 100, checkpoint_s=T0 + 70)
    _leave(run, 2, T0 + 300, beat_s=T0 + 400, checkpoint_s=T0 + 70)

    times = _times(run)

    # What the second attempt found there is not its own work.
    assert [saved for _, _, saved, _ in times] == [T0 + 70, T0 + 300]


@pytest.mark.parametrize(
    ("fields", "saved_s"),
    [
        ({"code": 0}, T0 + 100),
        ({"code": 143, "checkpoint_moved": True}, T0 + 100),
        ({"code": 143, "checkpoint_moved": False}, T0),
        ({"code": 1}, None),
    ],
)
def test_an_exit_tells_whether_the_end_was_saved(
    tmp_path: Path, fields: dict[str, Any], saved_s: float | None
) -> None:
    """A result, or a checkpoint at a signal, saves all; of an old failure nothing tells."""
    run = RunDirectory(tmp_path)
    _leave(run, 1, T0, end_s=T0 + 100, **fields)
    _leave(run, 2, T0 + 300)

    assert _times(run)[0][2] == saved_s


def test_the_newest_attempt_without_a_checkpoint_has_saved_nothing(tmp_path: Path) -> None:
    """Nobody can have removed its checkpoints, so there were none."""
    run = RunDirectory(tmp_path)
    _leave(run, 1, T0, end_s=T0 + 100, code=1)

    assert _times(run)[0][2] == T0


def test_attempts_that_slurm_did_not_start_are_left_out(tmp_path: Path) -> None:
    """Neither a local attempt nor a torn one is on Slurm's bill."""
    run = RunDirectory(tmp_path)
    _leave(run, 1, T0, submission=0)
    _write(run.attempt(2) / "started.json", "{")
    _leave(run, 3, T0)

    assert [a.started.submission for a in read_attempts(run)] == [1]
    assert read_attempts(RunDirectory(tmp_path / "none")) == []
