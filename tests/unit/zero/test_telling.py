"""Which of the processes that srun has started says how the job ended."""

import threading
import time
from pathlib import Path

import pytest

from tasks.runtime.job import ToldByAnother
from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.stopping import Interrupted, StopRequest
from tasks.zero.identity import Identity
from tasks.zero.local_ranks import EndKind, RankEnd, lost
from tasks.zero.telling import Telling

GOOD = Result(status="finished", steps=3)
FAILED = Result(status="failed", reason="data", message="there are none")
LOST_PEER = lost("rank 1: Connection closed by peer")
ABORTED = lost("rank 0 was killed by SIGABRT")
NO_STOP, STOP = StopRequest(), StopRequest(made_s=1.0)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    """A run whose first attempt has begun."""
    (tmp_path / "attempts/1").mkdir(parents=True)
    (tmp_path / "attempts/1/started.json").touch()
    return RunDirectory(tmp_path)


def telling(directory: RunDirectory, rank: int) -> Telling:
    """Return what the process of one of four ranks has to say."""
    return Telling(directory, directory.attempt(1), Identity(rank, 4, rank % 2, rank // 2))


def settle(directory: RunDirectory, rank: int, kind: EndKind, result: Result) -> Result | int:
    """Return what a process tells, or the code that it ends with where another one tells."""
    try:
        return telling(directory, rank).settle(RankEnd(rank, kind, result), NO_STOP)
    except ToldByAnother as end:
        return end.code


def test_of_good_ends_only_rank_0_tells(directory: RunDirectory) -> None:
    """The others end with code 0, and write nothing."""
    ends = [settle(directory, rank, EndKind.FINISHED, GOOD) for rank in range(4)]

    assert ends == [GOOD, 0, 0, 0]


def test_rank_0_tells_of_a_request_to_stop_before_another_ends(directory: RunDirectory) -> None:
    """For srun ends all others when the first one ends with a code other than 0."""
    interrupted = Result(status="interrupted")
    began = time.monotonic()
    threading.Timer(0.3, directory.result.touch).start()

    code = settle(directory, 2, EndKind.INTERRUPTED, interrupted)
    took_s = time.monotonic() - began

    assert code == 143
    assert took_s >= 0.3
    with pytest.raises(Interrupted):
        settle(directory, 0, EndKind.INTERRUPTED, interrupted)


def test_of_a_lost_rank_its_own_process_tells_at_once(directory: RunDirectory) -> None:
    """It alone knows which signal it was."""
    result = lost("rank 3 was killed by SIGKILL")

    assert settle(directory, 3, EndKind.LOST, result) == result


def test_of_an_error_rank_0_may_tell_first(directory: RunDirectory) -> None:
    """If it has not told in a moment the error is not its own, and who has it tells."""
    assert settle(directory, 2, EndKind.FAILED, FAILED) == FAILED

    directory.result.touch()

    assert settle(directory, 2, EndKind.FAILED, FAILED) == 1


def test_a_result_of_an_earlier_attempt_tells_nothing(directory: RunDirectory) -> None:
    """It was there when this one began."""
    directory.result.touch()
    second = directory.attempt(2)
    second.mkdir()
    time.sleep(0.02)  # file systems stamp in steps of some milliseconds
    (second / "started.json").touch()
    own = Telling(directory, second, Identity(2, 4, 0, 1))

    assert own.settle(RankEnd(2, EndKind.FAILED, FAILED), NO_STOP) == FAILED


@pytest.mark.parametrize("kind", [EndKind.LOST_PEER, EndKind.ABORTED])
def test_who_has_lost_a_peer_leaves_the_word_to_others(
    directory: RunDirectory, kind: EndKind
) -> None:
    """As long as somebody tells; the result of the culprit's process is not overwritten."""
    threading.Timer(0.2, directory.result.touch).start()

    assert settle(directory, 1, kind, LOST_PEER) == 1


def test_if_nobody_tells_the_ranks_without_a_mark_are_named(directory: RunDirectory) -> None:
    """A node went with its ranks, or they hang: the lowest that is left says which are missing."""
    for rank in (1, 3):
        (directory.attempt(1) / f"lost-peer-{rank}").touch()

    # srun has begun to end this process, so that it waits no longer than a moment.
    result = telling(directory, 1).settle(RankEnd(1, EndKind.LOST_PEER, LOST_PEER), STOP)

    assert result.reason == "rank_lost"
    assert result.message.startswith(
        "ranks that did not answer: 0, 2 (rank 1: Connection closed by peer); continue from"
    )


@pytest.mark.slow  # it is what is waited for
def test_ranks_that_nccl_ends_a_train_step_later_are_waited_for(directory: RunDirectory) -> None:
    """Their time limits began with their own waits: they aren't named with the silent one."""

    def leave_marks() -> None:
        for rank in (2, 3):
            (directory.attempt(1) / f"aborted-{rank}").touch()

    threading.Timer(5.5, leave_marks).start()  # after the patience with a closed connection
    stop = StopRequest()
    threading.Timer(6.0, setattr, (stop, "made_s", 1.0)).start()  # it needn't be waited for whole

    result = telling(directory, 0).settle(RankEnd(0, EndKind.ABORTED, ABORTED), stop)

    assert result.message.startswith(
        "ranks that did not answer: 1 (rank 0 was killed by SIGABRT, as NCCL ends a rank that has "
    )


def test_a_rank_that_aborts_while_the_others_wait_names_itself(directory: RunDirectory) -> None:
    """Had it waited for one of them, the others had done so, too."""
    result = telling(directory, 0).settle(RankEnd(0, EndKind.ABORTED, ABORTED), STOP)

    assert result == ABORTED


def test_a_rank_that_aborts_is_named_by_those_that_have_lost_it(directory: RunDirectory) -> None:
    """Their own connections were closed by that; it may be the only one that has aborted."""
    for mark in ("lost-peer-2", "aborted-3"):
        (directory.attempt(1) / mark).touch()

    result = telling(directory, 0).settle(RankEnd(0, EndKind.LOST_PEER, LOST_PEER), STOP)

    assert result.message.startswith("ranks that were killed by SIGABRT: 3 (rank 1: Connection ")
