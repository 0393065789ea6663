"""Lanes, without any collective."""

import threading

import pytest

from tasks.zero.lanes import Exposed, LaneFailedError, ThreadLane


def test_work_is_done_in_order_and_its_waits_are_counted_by_level() -> None:
    """One piece after the other; a wait without a level is not counted."""
    exposed, gate, done = Exposed(), threading.Event(), list[int]()
    lane = ThreadLane("test", exposed)

    lane.submit(lambda: done.append(1) if gate.wait(30) else None, "node")
    second = lane.submit(lambda: done.append(2), "node")
    third = lane.submit(lambda: done.append(3), None)
    threading.Timer(0.05, gate.set).start()
    second()
    third()

    assert done == [1, 2, 3]
    assert list(exposed.seconds()) == ["node"]
    assert 0.02 < exposed.seconds()["node"] < 10
    exposed.clear()
    assert exposed.seconds() == {}
    assert lane.close()


def test_nothing_is_done_after_the_end() -> None:
    """A lane that is closed, or closed twice, answers at once that it is."""
    lane = ThreadLane("test", Exposed())
    done: list[int] = []
    assert lane.close()
    assert lane.close()

    join = lane.submit(lambda: done.append(1), None)

    with pytest.raises(LaneFailedError, match="lane 'test' has failed before: it was closed"):
        join()
    assert done == []


def test_an_error_tells_where_it_happened() -> None:
    """It is raised at the wait, with the trace of the lane as a note."""
    lane = ThreadLane("test", Exposed())

    join = lane.submit(lambda: list[int]().remove(5), None)

    with pytest.raises(ValueError, match="x not in list") as raised:
        join()
    assert ".remove(5)" in raised.value.__notes__[0]
    assert lane.close()


def test_a_lane_that_hangs_is_left_to_itself() -> None:
    """Its end says so after a second, and its thread does not keep the process."""
    gate, begun = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        gate.wait()

    lane = ThreadLane("stuck", Exposed())
    lane.submit(hang, None)
    begun.wait()

    assert not lane.close()

    stuck = [thread for thread in threading.enumerate() if thread.name == "stuck"]
    assert [thread.daemon for thread in stuck] == [True]
    gate.set()
