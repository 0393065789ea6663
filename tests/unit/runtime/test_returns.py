"""The log of returns: durable, whole lines, continued behind a checkpoint."""

import errno
import resource
import signal
from pathlib import Path

import pytest

from tasks.runtime.attempt import Claimant, claim
from tasks.runtime.errors import JobError
from tasks.runtime.fence import Fence, Overtaken
from tasks.runtime.records import ReturnLine
from tasks.runtime.returns import ReturnsLog, read_returns
from tasks.runtime.run_directory import RunDirectory


def begin(path: Path, restarts: int = 0) -> Fence:
    """Claim a run as one incarnation of a job."""
    claimant = Claimant(submission=1, slurm_job="7", restarts=restarts)
    return Fence(path, claim(RunDirectory(path), claimant))


def _line(worker: int, sequence: int = 0) -> ReturnLine:
    return ReturnLine(
        round=1,
        worker=worker,
        sequence=sequence,
        pulled=0,
        num_steps=5,
        delay=0,
        token=1,
        pulled_at_s=0.1,
        returned_at_s=0.2,
        taken_at_s=0.1 + 0.2,
    )


def test_lines_are_read_as_written(tmp_path: Path) -> None:
    """Order, times to the last bit, and offsets come back; an absent file has no lines."""
    path = tmp_path / "returns.jsonl"
    assert list(read_returns(path)) == []

    with ReturnsLog(path) as log:
        log.append([_line(0), _line(1)])
        middle = log.num_bytes
        log.append([_line(2)])

    found = list(read_returns(path))
    assert [line for line, _ in found] == [_line(0), _line(1), _line(2)]
    assert found[1][1] == middle
    assert [line.worker for line, _ in read_returns(path, middle)] == [2]


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    """What a killed server did not write to its end never counted; its successor goes on there."""
    path = tmp_path / "returns.jsonl"
    with ReturnsLog(path) as log:
        log.append([_line(0)])
    with path.open("ab") as file:
        file.write(b'{"round": 1, "wor')
    assert len(list(read_returns(path))) == 1

    with ReturnsLog(path) as log:
        log.append([_line(1)])

        assert [line.worker for line, _ in log.behind(0)] == [0, 1]


def test_a_log_that_was_cut_is_refused(tmp_path: Path) -> None:
    """A checkpoint that knows more than there is cannot be continued from."""
    with ReturnsLog(tmp_path / "returns.jsonl") as log:
        log.append([_line(0)])

        with pytest.raises(JobError, match="but the checkpoint was taken after 1000: it was cut"):
            log.behind(1000)


def test_a_damaged_log_is_refused(tmp_path: Path) -> None:
    """A line that cannot be read is no reason to guess."""
    path = tmp_path / "returns.jsonl"
    path.write_text("{}\n")

    with ReturnsLog(path) as log, pytest.raises(JobError, match="is damaged behind byte 0"):
        log.behind(0)


def test_an_overtaken_server_writes_nothing_down(tmp_path: Path) -> None:
    """Neither what it tries nor what it would have written reaches its successor's file."""
    path = tmp_path / "returns.jsonl"
    old = ReturnsLog(path, begin(tmp_path))
    old.append([_line(0)])
    new = ReturnsLog(path, begin(tmp_path, restarts=1))

    with pytest.raises(Overtaken):
        old.append([_line(1)])
    new.append([_line(2)])

    assert [line.worker for line, _ in read_returns(path)] == [0, 2]
    old.close()
    new.close()


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    """When a line does not fit, nothing of it stays, and what stood before does."""
    path = tmp_path / "returns.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with ReturnsLog(path) as log:
        log.append([_line(0)])
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.num_bytes + 50, limits[1]))
        try:
            with pytest.raises(OSError, match=r"returns\.jsonl") as caught:
                log.append([_line(1)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)

        log.append([_line(2)])

    assert caught.value.errno == errno.EFBIG
    assert [line.worker for line, _ in read_returns(path)] == [0, 2]
