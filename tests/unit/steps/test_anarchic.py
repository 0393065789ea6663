"""Blocks of rounds, as Prefect shows them."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from tasks.runtime.records import ReturnLine
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.launcher import JobId, JobState, Launcher
from tasks.steps import anarchic

_NUM_RETURNS = 2_500


def test_a_long_block_does_not_flood_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Log and table have the first returns; the state counts all of them."""
    lines = [
        ReturnLine(
            round=1 + number // 2, worker=number % 2, sequence=number, pulled=0, num_steps=1,
            delay=0, token=1, pulled_at_s=0, returned_at_s=1, taken_at_s=number,
        ).model_dump_json()
        for number in range(_NUM_RETURNS)
    ]  # fmt: skip
    RunDirectory(tmp_path).returns.write_text("\n".join(lines) + "\n")
    shown = Mock()
    monkeypatch.setattr(anarchic, "SHOWN", shown)
    monkeypatch.setattr(anarchic, "get_run_logger", lambda: logging.getLogger("flow"))
    ended: Any = SimpleNamespace(poll=lambda _: JobState.FINISHED)

    with caplog.at_level(logging.INFO, logger="flow"):
        last = _NUM_RETURNS // 2
        state = anarchic.follow_rounds.fn(
            1, last, tmp_path, cast("Launcher", ended), JobId("server")
        )

    assert state.is_completed()
    assert str(state.message).startswith(f"{_NUM_RETURNS} returns, delay 0.0 on average")
    assert len(caplog.records) == len(shown.table.call_args.args[0]) == 1_000
