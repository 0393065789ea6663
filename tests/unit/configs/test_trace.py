"""Traces are read whole, and all their faults are reported with line numbers."""

from pathlib import Path

import pytest

from configs.federated import FederatedExperiment
from configs.trace import TracedReturn, TraceError, read_trace, replay, trace_faults


def _write(directory: Path, text: str) -> Path:
    path = directory / "trace.csv"
    path.write_text(text)
    return path


def _faults(path: Path, workers: int = 3) -> list[str]:
    with pytest.raises(TraceError) as error:
        read_trace(path, workers)
    return error.value.faults


def test_returns_are_sorted_by_time_and_numbered(tmp_path: Path) -> None:
    """Rows come by time of return, equal times as in the file; each worker's are counted."""
    path = _write(
        tmp_path,
        "return_time, worker ,pull_time,num_steps\n3,0,1.5,4\n1,1,0,2\n\n3,1,2,5\n0.5,0,0,1\n",
    )

    returns = read_trace(path, 2)

    assert returns == [
        TracedReturn(0, 0.0, 0.5, 1, sequence=0),
        TracedReturn(1, 0.0, 1.0, 2, sequence=0),
        TracedReturn(0, 1.5, 3.0, 4, sequence=1),
        TracedReturn(1, 2.0, 3.0, 5, sequence=1),
    ]


def test_local_steps_are_optional(tmp_path: Path) -> None:
    """Without the column num_steps, no return says how many steps it had."""
    path = _write(tmp_path, "worker,pull_time,return_time\n0,0,1\n")

    assert read_trace(path, 1) == [TracedReturn(0, 0.0, 1.0, None, sequence=0)]


def test_all_faulty_rows_are_reported(tmp_path: Path) -> None:
    """Every fault is listed with its line and what is allowed, several of one line together."""
    path = _write(
        tmp_path,
        "worker,pull_time,return_time,num_steps\n"
        "0,0,1,5\n"
        "3,0,1,5\n"
        "-1,zero,1,0\n"
        "1.5,0,inf,5\n"
        "2,4,3,5\n"
        "2,nan,3,100001\n"
        "2,-1,3\n",
    )

    assert _faults(path) == [
        "line 3: worker=3: no such worker; use 0 to 2",
        "line 4: worker=-1: no such worker; use 0 to 2, pull_time='zero' is no finite time from 0 "
        "on, num_steps=0: out of range; use 1 to 100000",
        "line 5: worker='1.5' is no integer, return_time='inf' is no finite time from 0 on",
        "line 6: return_time=3.0 is before pull_time=4.0",
        "line 7: pull_time='nan' is no finite time from 0 on, num_steps=100001: out of range; use "
        "1 to 100000",
        "line 8: 3 fields, but the header has 4, pull_time='-1' is no finite time from 0 on",
    ]


def test_the_header_is_checked_first(tmp_path: Path) -> None:
    """Missing, unknown and doubled columns are named, with the nearest known one."""
    path = _write(tmp_path, "worker,worker,pull_time,num_step\n0,0,1,2\n")

    assert _faults(path) == [
        "line 1: the column return_time is missing",
        "line 1: unknown column 'num_step' (did you mean 'num_steps'?); known: worker, pull_time, "
        "return_time, num_steps, sequence, version",
        "line 1: the column worker stands there twice",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; the first line names the columns"),
        (b"worker,pull_time,return_time\n", "has no returns"),
        (b"\xff\xfe\x00w", "cannot be read as CSV"),
        (b"worker,pull_time,return_time\n" + b"1" * 200_000 + b",0,1\n", "cannot be read as CSV"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Empty files, headers without rows, other encodings and endless fields have their reason."""
    path = tmp_path / "trace.csv"
    path.write_bytes(content)

    (fault,) = _faults(path)

    assert message in fault


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    """Neither an absent file nor a directory ends in a traceback."""
    (absent,) = _faults(tmp_path / "absent.csv")
    (directory,) = _faults(tmp_path)

    assert absent == (
        "no such file; set arrivals.path to a CSV of "
        "worker,pull_time,return_time,num_steps,sequence,version"
    )
    assert directory.startswith("cannot be read as CSV: ")


def test_a_long_list_of_faults_is_shortened_in_the_message(tmp_path: Path) -> None:
    """The message shows twenty faults and counts the rest; the list has them all."""
    path = _write(tmp_path, "worker,pull_time,return_time\n" + "9,0,1\n" * 50)

    with pytest.raises(TraceError, match=r"line 21: .*; and 30 more$") as error:
        read_trace(path, 3)

    assert len(error.value.faults) == 50


def test_old_and_absent_returns_are_left_out() -> None:
    """With m = 1 and max_delay = 1, a return two versions old is dropped; an absent one ignored."""
    returns = [
        TracedReturn(0, 0.0, 1.0, 1),
        TracedReturn(1, 0.0, 1.5, 1),
        TracedReturn(0, 1.0, 2.0, 1),
        TracedReturn(2, 0.0, 3.0, 1),
        TracedReturn(0, 2.0, 3.0, 1),
    ]

    buffers = list(replay(returns, 1, max_delay=1, absent={1}))

    assert [b.returns[0].worker for b in buffers] == [0, 0, 0]
    assert [b.pulled for b in buffers] == [(0,), (1,), (2,)]
    assert [b.num_dropped for b in buffers] == [0, 0, 1]


def _experiment(path: Path, **arrivals: object) -> FederatedExperiment:
    return FederatedExperiment.model_validate(
        {
            "workers": 3,
            "rounds": 200,
            "algorithm": {"name": "afa_cd", "collect": 2},
            "model": {"name": "quadratic", "centres": [0.0] * 3},
            "arrivals": {"kind": "trace", "path": str(path)} | arrivals,
        }
    )


def test_a_short_trace_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    """The check counts the rounds that a trace is good for."""
    path = _write(tmp_path, "worker,pull_time,return_time\n" + "0,0,1\n" * 120)

    (fault,) = trace_faults(_experiment(path))

    assert fault.path == "arrivals.path"
    assert fault.message == (
        f"{path}: trace has 120 returns, enough for 60 rounds of collect=2; asked 200. Lower "
        "rounds or algorithm.collect, or give a longer trace"
    )


def test_a_good_trace_has_no_fault(tmp_path: Path) -> None:
    """A trace that is long enough passes, and so does an experiment without one."""
    path = _write(tmp_path, "worker,pull_time,return_time\n" + "0,0,1\n" * 400)
    without = _experiment(path).model_copy(update={"arrivals": "uniform"})

    assert trace_faults(_experiment(path)) == []
    assert trace_faults(without) == []


def test_sequence_numbers_are_taken_from_the_trace(tmp_path: Path) -> None:
    """A gap, where a return was dropped as too old, stays a gap."""
    path = _write(tmp_path, "worker,pull_time,return_time,sequence\n0,0,1,0\n0,1,2,2\n")

    assert [row.sequence for row in read_trace(path, 1)] == [0, 2]


def test_the_version_that_was_pulled_is_taken_from_the_trace(tmp_path: Path) -> None:
    """What the trace says counts, and not what the times would say."""
    path = _write(
        tmp_path, "worker,pull_time,return_time,version\n0,0,1,0\n1,9,9,0\n0,0,9,1\n1,9,9,3\n"
    )

    buffers = list(replay(read_trace(path, 2), 1, max_delay=None, absent=()))

    assert [buffer.pulled for buffer in buffers] == [(0,), (0,), (1,), (3,)]


def test_a_version_from_the_future_is_a_fault(tmp_path: Path) -> None:
    """A trace that is divided into larger buffers than it was recorded with says so."""
    path = _write(
        tmp_path,
        "worker,pull_time,return_time,version\n" + "".join(f"0,0,1,{v}\n" for v in range(400)),
    )

    (fault,) = trace_faults(_experiment(path))

    assert fault.path == "arrivals.path"
    assert fault.message == (
        f"{path}: worker 0 returns version 1 at 1.0 s, when only 0 rounds of collect=2 are done; "
        "set algorithm.collect as it was recorded, or remove the column version"
    )


@pytest.mark.parametrize(("rounds", "slots", "num_faults"), [(2, "wait", 1), (3, "wait", 0),
                                                             (2, "zeros", 0)])  # fmt: skip
def test_who_waits_for_all_needs_all_in_the_trace(
    tmp_path: Path, rounds: int, slots: str, num_faults: int
) -> None:
    """With slots: wait, one that comes after the last round is missing as if it never came."""
    path = _write(tmp_path, "worker,pull_time,return_time\n0,0,1\n1,0,2\n2,0,3\n")
    experiment = FederatedExperiment.model_validate(
        {
            "workers": 3,
            "rounds": rounds,
            "model": {"name": "quadratic", "centres": [0.0, 1.0, 2.0]},
            "algorithm": {"name": "afa_cs", "collect": 1, "slots": slots},
            "arrivals": {"kind": "trace", "path": str(path)},
        }
    )

    faults = trace_faults(experiment)

    assert len(faults) == num_faults
    assert all("1 (such as 2) do not return in the 2 rounds" in str(fault) for fault in faults)


def test_a_number_that_does_not_rise_is_refused(tmp_path: Path) -> None:
    """The same number would give two returns the same draws; gaps are of dropped returns."""
    path = _write(
        tmp_path,
        "worker,pull_time,return_time,sequence\n"
        "0,0,1,0\n0,1,2,0\n1,0,3,5\n1,3,4,1\n2,0,5,1\n2,5,6,7\n",
    )

    why = (
        "it keys the random draws and has to rise with the time of return: correct it, or remove "
        "the column sequence"
    )
    assert _faults(path) == [
        f"worker 0 returns sequence=0 at 2.0 s, after 0; {why}",
        f"worker 1 returns sequence=1 at 4.0 s, after 5; {why}",
    ]
