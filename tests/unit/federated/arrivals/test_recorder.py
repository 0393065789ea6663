"""The recorder writes each buffer once, also over restarts."""

from pathlib import Path

import numpy as np
import pytest

from tasks.federated.arrivals.interface import Arrivals
from tasks.federated.arrivals.recorder import TraceRecorder, trace_rows
from tasks.runtime.errors import JobError

_HEADER = "worker,pull_time,return_time,num_steps,sequence,version"


def _buffer(worker: int, returned_at_s: float) -> Arrivals:
    return Arrivals(
        worker=np.array([worker]),
        pulled=np.array([7]),
        num_steps=np.array([5]),
        sequence=np.array([2]),
        pulled_at_s=np.array([0.1]),
        returned_at_s=np.array([returned_at_s]),
    )


def test_times_read_back_as_the_same_floats() -> None:
    """The text of a time is short and loses nothing."""
    rows = trace_rows(_buffer(3, 0.1 + 0.2))

    assert rows == ["3,0.1,0.30000000000000004,5,2,7"]
    assert float(rows[0].split(",")[2]) == 0.1 + 0.2


def test_flush_makes_all_rows_visible(tmp_path: Path) -> None:
    """After a flush the file holds the header and every row, and its size is what flush says."""
    path = tmp_path / "trace.csv"

    with TraceRecorder(path) as recorder:
        recorder.add(_buffer(0, 1.0))
        recorder.add(_buffer(1, 2.0))
        num_bytes = recorder.flush()

    assert path.read_text() == f"{_HEADER}\n0,0.1,1.0,5,2,7\n1,0.1,2.0,5,2,7\n"
    assert num_bytes == path.stat().st_size


def test_a_restart_cuts_what_the_checkpoint_does_not_know(tmp_path: Path) -> None:
    """Rows behind the checkpoint are written again by the restarted run, not doubled."""
    path = tmp_path / "trace.csv"
    with TraceRecorder(path) as recorder:
        recorder.add(_buffer(0, 1.0))
        known = recorder.flush()
        recorder.add(_buffer(1, 2.0))
        recorder.flush()

    with TraceRecorder(path, known) as recorder:
        recorder.add(_buffer(1, 2.0))
        recorder.flush()

    assert path.read_text() == f"{_HEADER}\n0,0.1,1.0,5,2,7\n1,0.1,2.0,5,2,7\n"


def test_a_run_from_the_beginning_starts_the_file_anew(tmp_path: Path) -> None:
    """Without a checkpoint nothing of an older file stays."""
    path = tmp_path / "trace.csv"
    path.write_text("something old\n")

    with TraceRecorder(path) as recorder:
        recorder.flush()

    assert path.read_text() == f"{_HEADER}\n"


def test_a_file_shorter_than_its_checkpoint_is_refused(tmp_path: Path) -> None:
    """A trace that was cut or removed cannot be continued."""
    path = tmp_path / "trace.csv"
    path.write_text(f"{_HEADER}\n")

    with pytest.raises(JobError, match="has 56 bytes, but the checkpoint was taken after 1000"):
        TraceRecorder(path, 1000)
