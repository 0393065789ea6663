"""The journal: append-only, each line once."""

import errno
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.runtime.journal import Journal, JournalGapError, read_journal


def _write(path: Path, first: int, last: int) -> None:
    with Journal(path, first) as journal:
        for number in range(first, last):
            journal.write(number * 10, {"train/loss": float(number)})


def test_lines_are_read_as_written(tmp_path: Path) -> None:
    """What is written is read, in order, with consecutive numbers."""
    _write(tmp_path / "metrics.jsonl", 0, 3)

    lines = [line for line, _ in read_journal(tmp_path / "metrics.jsonl")]

    assert [(line.sequence, line.step) for line in lines] == [(0, 0), (1, 10), (2, 20)]
    assert [line.metrics for line in lines] == [{"train/loss": float(n)} for n in range(3)]


@given(kills=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40)), max_size=4))
def test_restarts_neither_lose_nor_double_lines(
    tmp_path_factory: pytest.TempPathFactory, kills: list[tuple[int, int]]
) -> None:
    """However often a writer is killed, torn lines included, each line stands there once."""
    path = tmp_path_factory.mktemp("journal") / "metrics.jsonl"
    reached = 0
    for more_lines, torn_bytes in kills:
        reached = min(10, reached + more_lines)
        _write(path, 0, reached)
        with path.open("ab") as file:
            file.write((json.dumps({"sequence": reached}) * 3)[:torn_bytes].encode())

    _write(path, 0, 10)

    assert [line.sequence for line, _ in read_journal(path)] == list(range(10))


def test_lines_already_there_keep_their_bytes(tmp_path: Path) -> None:
    """A restarted engine that comes again to a line leaves the old one untouched."""
    path = tmp_path / "metrics.jsonl"
    _write(path, 0, 5)
    before = path.read_bytes()

    _write(path, 2, 7)

    assert path.read_bytes().startswith(before)
    assert [line.sequence for line, _ in read_journal(path)] == list(range(7))


def test_a_reader_goes_on_from_its_offset_and_waits_for_whole_lines(tmp_path: Path) -> None:
    """An offset stays good for ever; a line without its end is not read."""
    path = tmp_path / "metrics.jsonl"
    _write(path, 0, 2)
    *_, (_, offset) = read_journal(path)
    with path.open("ab") as file:
        file.write(b'{"sequence": 2, "st')

    torn = list(read_journal(path, offset))
    _write(path, 2, 3)
    whole = [line.sequence for line, _ in read_journal(path, offset)]

    assert torn == []
    assert whole == [2]


def test_a_journal_shorter_than_its_checkpoint_is_refused(tmp_path: Path) -> None:
    """Lines that a checkpoint counts but the file lacks are not silently left out."""
    _write(tmp_path / "metrics.jsonl", 0, 2)

    with pytest.raises(ValueError, match=r"has 2 lines, but the checkpoint was taken after 3"):
        Journal(tmp_path / "metrics.jsonl", 3)


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    """A diverging run's journal stays valid JSON."""
    with Journal(tmp_path / "metrics.jsonl") as journal:
        journal.write(0, {"a": float("nan"), "b": float("inf"), "c": 1.0})

    (line, _), *_ = read_journal(tmp_path / "metrics.jsonl")

    assert line.metrics == {"c": 1.0}


def test_a_line_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    """When the file may not grow, the half-written line is taken back and the error says where."""
    path = tmp_path / "metrics.jsonl"
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tasks.runtime.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "try:\n"
        "    for step in range(1000): journal.write(step, {'x': 1.0})\n"
        "except OSError as error:\n"
        "    print(error.errno, error.filename)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )

    assert done.stdout.split() == [str(errno.EFBIG), str(path)]
    assert path.read_bytes().endswith(b"}\n")
    assert 0 < path.stat().st_size <= 1000


def _line(number: int, value: float = 0.0) -> bytes:
    line = {"sequence": number, "step": number, "timestamp_ms": 0, "metrics": {"x": value}}
    return json.dumps(line).encode() + b"\n"


def _torn(first: int, second: int) -> bytes:
    """A line that a writer on another machine has cut off, and another one behind it."""
    return _line(first)[:20] + _line(second)


def _numbers(path: Path, offset: int = 0) -> list[int]:
    return [line.sequence for line, _ in read_journal(path, offset)]


@given(order=st.lists(st.sampled_from("ABX"), max_size=30), keep=st.integers(0, 29))
def test_lines_of_two_writers_count_once_each(
    tmp_path_factory: pytest.TempPathFactory, order: list[str], keep: int
) -> None:
    """However two writers' lines interleave, torn ones between them, no number is read twice.

    Each writes its lines in order; so all numbers up to the larger last one are there. A reader
    that begins behind any line reads the very lines behind it.
    """
    path = tmp_path_factory.mktemp("journal") / "metrics.jsonl"
    written = {"A": 0, "B": 0}
    content = b""
    for writer in order:
        if writer == "X":
            content += _torn(written["A"], written["B"])
        else:
            content += _line(written[writer], 1.0 if writer == "A" else 2.0)
            written[writer] += 1
    path.write_bytes(content)

    whole = list(read_journal(path))

    assert [line.sequence for line, _ in whole] == list(range(max(written.values())))
    for line, offset in whole[keep : keep + 1]:
        assert _numbers(path, offset) == list(range(line.sequence + 1, len(whole)))


def test_a_line_that_hides_its_number_is_an_error_once_the_next_one_is_there(
    tmp_path: Path,
) -> None:
    """What cannot be read may still come again; a number that is left out is not passed over."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(_line(0) + b"\x00" * 30 + b"\n")
    waiting = _numbers(path)

    path.write_bytes(path.read_bytes() + _line(2))

    assert waiting == [0]
    with pytest.raises(JournalGapError, match=r"no readable line of number 1, but later ones"):
        _numbers(path)


def test_a_writer_computes_again_what_cannot_be_read(tmp_path: Path) -> None:
    """Behind the last line that can be read, the journal is written anew."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(_line(0) + b"\x00" * 30 + b"\n" + _line(2))

    _write(path, 0, 4)

    assert _numbers(path) == [0, 1, 2, 3]
    assert b"\x00" not in path.read_bytes()


def test_an_offset_of_another_file_begins_again(tmp_path: Path) -> None:
    """If no line ends where a reader left off, the journal was replaced, and is read whole."""
    path = tmp_path / "metrics.jsonl"
    _write(path, 0, 3)
    *_, (_, offset) = read_journal(path)

    assert _numbers(path, offset - 5) == [0, 1, 2]
    assert _numbers(path, offset + 500) == [0, 1, 2]


def test_an_offset_behind_a_long_line_is_known(tmp_path: Path) -> None:
    """The line before an offset is found, however long it is."""
    path = tmp_path / "metrics.jsonl"
    with Journal(path) as journal:
        for step in range(3):
            journal.write(step, {f"test/{'x' * 100}{number}": 1.0 for number in range(1000)})
    offsets = [offset for _, offset in read_journal(path)]

    assert [_numbers(path, offset) for offset in offsets] == [[1, 2], [2], []]
