"""What a running study looks like."""

import io
import re
import sys
from dataclasses import replace

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.console import duration, make_console, render, show_lines, show_live
from tasks.steps.progress import PointProgress, Snapshot

POINTS = [
    PointProgress("afa_cd", "finished", 400, 400, 0.3125, 0.921),
    PointProgress("afa_cs", "running", 100, 400, 0.5),
    PointProgress("fedavg", "waiting", 0, 400),
    PointProgress("mifa", "failed", 30, 400, message="no data"),
]


def _terminal(width: int = 100, height: int = 30) -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    return Console(file=written, width=width, height=height, force_terminal=True), written


def _drawn(points: list[PointProgress], *, width: int = 100, height: int = 30) -> list[str]:
    written = io.StringIO()
    console = Console(file=written, width=width, color_system=None)
    snapshot = Snapshot("running", points, 42, 70)
    console.print(render("digits-1", snapshot, width=width, height=height))
    return [line.rstrip() for line in written.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3723, "1:02:03")]
)
def test_durations_are_written_as_on_a_clock(seconds: float, text: str) -> None:
    """Minutes and seconds; hours when there are any."""
    assert duration(seconds) == text


def test_each_point_has_a_line() -> None:
    """A line says how far the point is, what was measured, and its state."""
    lines = _drawn(POINTS)

    assert lines[0] == "digits-1  running  0:42, about 1:10 left"
    assert lines[1].split() == (
        ["afa_cd", "━" * 24, "400/400", "loss", "0.3125", "accuracy", "92.1", "%", "finished"]
    )
    assert lines[2].split()[-4:] == ["100/400", "loss", "0.5", "running"]
    assert lines[4].endswith("failed")


def test_a_small_terminal_shows_what_matters() -> None:
    """With more points than lines, failed and running ones are shown, the others counted."""
    points = [PointProgress(f"p{i}", "waiting", 0, 9) for i in range(50)]
    points[40] = PointProgress("late", "running", 1, 9)
    points[45] = PointProgress("bad", "failed", 1, 9)

    lines = _drawn(points, height=9)

    labels = [line.split()[0] for line in lines[1:5]]
    assert labels == ["p0", "p1", "late", "bad"]
    assert lines[5] == "50 points: 48 waiting, 1 running, 1 failed"


def test_a_narrow_terminal_cuts_labels_not_numbers() -> None:
    """The labels give way to what is measured."""
    lines = _drawn([PointProgress("x" * 80, "running", 100, 400, 0.5, 0.9)], width=80)

    assert len(lines[1]) <= 80
    assert lines[1].endswith("  100/400  loss 0.5  accuracy 90.0 %  running")


TRAINED = PointProgress(
    "partition=zero_topo", "running", 120, 10_000, 2.1234, tokens_per_s=12_345.6, tflops=0.0123,
    unit="train step",
)  # fmt: skip


def test_a_training_shows_its_speed() -> None:
    """Train steps, loss, tokens and FLOPs a second stand behind the bar."""
    (line,) = _drawn([TRAINED])[1:2]

    assert line.endswith("  120/10000  loss 2.123  12,346 tok/s  0.0123 TFLOPS  running")


@pytest.mark.parametrize(
    ("width", "is_whole"), [(60, False), (80, False), (100, True), (120, True)]
)
def test_a_narrow_terminal_does_without_speed(width: int, *, is_whole: bool) -> None:
    """A line of a training stays one line; what tells least gives way first."""
    lines = _drawn([TRAINED], width=width)

    assert lines[2:] == [""]
    assert len(lines[1]) <= width
    assert ("TFLOPS" in lines[1]) == is_whole
    assert "loss 2.123" in lines[1]


def test_a_log_file_tells_how_far_the_only_point_is() -> None:
    """With nothing to count, its newest numbers are told."""
    written = io.StringIO()
    console = Console(file=written, width=40, color_system=None)

    show_lines(console, [Snapshot("running", [TRAINED], second, None) for second in (0, 20)])

    assert written.getvalue().splitlines()[-1] == (
        "0:20  1 % done; train step 120 of 10000: loss 2.123, 12,346 tok/s, 0.0123 TFLOPS"
    )


def test_a_damaged_point_is_told_once_and_holds_up_no_share() -> None:
    """Why it cannot be read, without numbers, which are not known; the others are the work."""
    written = io.StringIO()
    console = Console(file=written, width=40, color_system=None)
    damaged = PointProgress("000-a", "damaged", 0, 0, message="job.json is empty; restore it")
    points = [damaged, replace(TRAINED, step=5000)]

    show_lines(console, [Snapshot("running", points, second, None) for second in (0, 20)])

    told = written.getvalue().splitlines()
    assert "0:00  damaged      000-a: job.json is empty; restore it" in told
    assert told[-1] == "0:20  50 % done; 2 points: 1 running, 1 damaged"


def test_the_drawing_on_a_terminal_vanishes() -> None:
    """When the study has ended, the live lines are erased; the table takes their place."""
    console, written = _terminal()

    show_live(console, "digits-1", [Snapshot("running", POINTS, 1, None)])

    assert "afa_cd" in written.getvalue()
    assert written.getvalue().rstrip().endswith("\x1b[2K")


def test_a_log_file_gets_a_line_for_each_change() -> None:
    """No control codes, one line a change, however long it is; nothing is said twice."""
    written = io.StringIO()
    console = Console(file=written, width=40, color_system=None)
    before = [PointProgress(point.label, "waiting", 0, 400) for point in POINTS]

    show_lines(
        console,
        [
            Snapshot("starting", before, 0, None),
            Snapshot("running", before, 3, None),
            Snapshot("running", POINTS, 9, None),
            Snapshot("running", POINTS, 10, None),
            Snapshot("running", POINTS, 30, 65),
        ],
    )

    assert written.getvalue().splitlines() == [
        "0:00  starting",
        "0:03  running",
        "0:09  finished     afa_cd: round 400, loss 0.3125, accuracy 92.1 %",
        "0:09  running      afa_cs",
        "0:09  failed       mifa: round 30, no data",
        "0:30  56 % done; 4 points: 1 waiting, 1 running, 1 finished, 1 failed, about 1:05 left",
    ]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_no_text_commands_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, is_terminal: bool
) -> None:
    """In a line, in a cell of a table, in a live drawing; our own colours stay."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    console = make_console()
    table = Table("run")
    table.add_row(Text("cell\x1b]0;owned\x07", "red"))

    console.print(Text("line\x1b[2J", "bold"))
    console.print(table)

    text = capsys.readouterr().out
    assert "line [2J" in text
    assert "cell ]0;owne" in text
    assert not re.findall(r"\x1b\[2J|\x1b\]0|\x07", text)
    assert ("\x1b[1mline" in text) == is_terminal
