"""What a study came to, on the terminal."""

import io
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from configs.study import Study
from flows.command_line import main
from flows.jobs import print_why
from flows.summary import faults_of, print_run, print_summary, table_of, warnings_of
from tasks.runtime.atomic_files import write_json
from tasks.runtime.prediction import Prediction
from tasks.runtime.records import Exit, Result, Started
from tasks.slurm.results import write_result
from tasks.steps.creation import create_study_directory
from tasks.steps.flow_record import FlowRecord
from tasks.steps.plain_console import PlainConsole
from tasks.tracking.history import RunState
from tasks.tracking.rows import Row
from tasks.tracking.training_rows import TrainingMeasures


def _row(label: str, **changes: object) -> Row:
    values = {
        "label": label,
        "coordinates": {},
        "directory": f"points/{label}",
        "state": "finished",
        "message": "",
        "rounds": 400,
        "loss": 0.31251,
        "accuracy": 0.9214,
        "grad_norm": 0.0123,
        "rate": -0.5,
        "rate_low": -0.6,
        "rate_high": -0.4,
        "mean_delay": 1.52,
        "max_delay": 5.0,
        "num_refused": 0,
        "num_dropped": 0,
        "virtual_s": 400.0,
        "wall_s": 12.0,
        "warnings": (),
    }
    return Row(**values | changes)  # type: ignore[arg-type]  # a mapping of mixed values


def _table(rows: list[Row], width: int = 120) -> list[list[str]]:
    written = io.StringIO()
    Console(file=written, width=width, color_system=None).print(table_of(rows, width))
    lines = [line.split("  ") for line in written.getvalue().splitlines() if line.strip(" ─")]
    return [[cell.strip() for cell in line if cell.strip()] for line in lines]


def test_the_table_has_every_measure() -> None:
    """Loss, accuracy, gradient norm, rate with its interval, mean and max delay, wall time."""
    head, row = _table([_row("afa_cd")])

    assert head == ["run", "loss", "accuracy", "|gradient|", "rate, 95 %", "delay", "max", "time"]
    assert row == ["afa_cd", "0.3125", "92.1 %", "0.0123", "-0.50 ± 0.10", "1.52", "5", "0:12"]


def test_measures_that_no_point_has_are_left_out() -> None:
    """The quadratic problem has no accuracy; a short run has no rate."""
    head, _ = _table([_row("afa_cd", accuracy=None, rate=None, rate_low=None, rate_high=None)])

    assert "accuracy" not in head
    assert "rate, 95 %" not in head


def test_the_state_is_shown_until_all_have_finished() -> None:
    """With one point unfinished, states and rounds matter."""
    head, first, second = _table([_row("a"), _row("b", state="failed", rounds=30)])

    assert head[:3] == ["run", "state", "round"]
    assert first[:3] == ["a", "finished", "400"]
    assert second[:3] == ["b", "failed", "30"]


TRAINED = TrainingMeasures(
    partition="zero_topo", ranks=8, validation_loss=2.25, tokens=1e6, tokens_per_s=12_345.0,
    tflops=0.0123, hardware_tflops=0.0164, mfu=0.31, step_s=0.5, compute_s=0.4, optimizer_s=0.05,
    exposed_s={}, bytes_per_step={}, state_bytes=1e6, peak_bytes=1e9,
)  # fmt: skip


@pytest.mark.parametrize("width", [80, 100])
def test_a_training_shows_loss_and_speed(width: int) -> None:
    """Both losses, tokens a second, TFLOPS and MFU; on 80 columns what tells least is left out."""
    unmeasured = dict.fromkeys(
        ["accuracy", "rate", "rate_low", "rate_high", "mean_delay", "max_delay"]
    )
    row = _row("base", training=TRAINED, state="running", **unmeasured)

    head, cells = _table([row], width=width)

    told = dict(zip(head, cells, strict=True))
    assert (told["loss"], told["validation"]) == ("0.3125", "2.25")
    assert (told["tokens/s"], told["TFLOPS"]) == ("12.3 k", "0.0123")
    assert ("step" in told) == (width == 100)


def test_a_narrow_terminal_drops_the_least_telling_columns() -> None:
    """At 66 columns the measures that stay are whole."""
    head, row = _table([_row("afa_cd · arrivals=uniform")], width=66)[:2]

    assert head == ["run", "loss", "accuracy", "|gradient|", "delay", "max"]
    assert row[-5:] == ["0.3125", "92.1 %", "0.0123", "1.52", "5"]


PREDICTED = Prediction(
    step_s=0.5, split_s={}, tokens_per_s=12_345.0, tflops=0.0456, hardware_tflops=0.05, mfu=0.3,
    bytes_per_step={}, memory_bytes={}, peak_bytes=1, fits=True, energy_j=None,
)  # fmt: skip
DIGITS = [
    _row(f"{algorithm} · arrivals={arrivals} · seed=10", wall_s=9.0, mean_delay=1.5237)
    for algorithm in ("afa_cd", "fedavg")
    for arrivals in ("synchronous", "correlated")
]
SHORT = [replace(row, label=f"seed={index}") for index, row in enumerate(DIGITS)]
NO_DELAYS = [replace(row, mean_delay=None, max_delay=None, rate=None) for row in DIGITS]
GOING = [replace(DIGITS[0], state="interrupted", rounds=12_000), *DIGITS[1:]]
STATES: list[RunState] = ["interrupted", "running", "failed", "waiting"]
TRAININGS = [
    replace(row, training=TRAINED, prediction=PREDICTED, state=state, accuracy=None)
    for row, state in zip(NO_DELAYS, STATES, strict=True)
]


@pytest.mark.parametrize("rows", [DIGITS, SHORT, NO_DELAYS, GOING, TRAININGS])
def test_a_cell_is_whole_or_not_there_at_every_width(rows: list[Row]) -> None:
    """No digit of a time, and no letter of a head or of a word in a label, is cut or folded."""
    widest, *whole = _table(rows, width=200)
    for width in range(60, 121):
        written = io.StringIO()
        Console(file=written, width=width, color_system=None).print(table_of(rows, width))
        lines = written.getvalue().splitlines()
        head = [cell.strip() for cell in lines[1].split("  ") if cell.strip()]

        assert set(head) <= set(widest), width
        words = [word for line in lines[3:] for word in line.split()]
        shown = [widest.index(name) for name in head]
        expected = [cell.split() for cells in whole for cell in [cells[index] for index in shown]]
        assert sorted(words) == sorted(word for cell in expected for word in cell), width


def test_a_cause_of_several_points_is_said_once() -> None:
    """The points are counted, the first is named; another cause has its own line."""
    many = [_row(f"seed={i}", state="failed", message="no data at https://me:x@h") for i in "012"]
    rows = [*many, _row("seed=3", state="damaged", message="gone"), _row("seed=4")]

    assert faults_of(rows) == [
        ("failed", "3 of 5 (seed=0 and 2 more): no data at https://***@h"),
        ("damaged", "seed=3: gone"),
    ]


def test_a_warning_of_several_points_is_said_once() -> None:
    """The first point is named, the others are counted; many warnings are cut."""
    rows = [_row("a", warnings=("too fast",)), _row("b", warnings=("too fast", "refused"))]
    many = [_row("a", warnings=tuple(f"w{i}" for i in range(12)))]

    assert warnings_of(rows, None) == ["too fast (a and 1 more)", "refused (b)"]
    assert warnings_of(many, None)[-1] == "2 more, see the report"
    assert len(warnings_of(many, None)) == 11


def test_what_mlflow_lacks_is_a_warning() -> None:
    """When MLflow was down to the end, the user learns what is missing and how to send it."""
    record = FlowRecord(flow_run_id="1", tracking_uri="sqlite:///x", tracking_error="no answer")

    (warning,) = warnings_of([_row("a")], record)

    assert warning.startswith("MLflow has not got everything: no answer. The runs are complete")
    assert "watershed resume" in warning


def test_the_output_of_a_point_is_shown_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last lines, its message and what a study tells of it; nothing commands the terminal."""
    monkeypatch.setenv("WATERSHED_STATE_DIR", str(tmp_path / "state"))
    study = Study.model_validate({"name": "s", "experiment": {"data": "digits"}})
    directory = create_study_directory(study, tmp_path, datetime(2026, 1, 1, tzinfo=UTC))
    run = directory.points()[0]
    told = "at https://me:hunter2@host \x1b]52;c;eA==\x07gone"
    write_result(run, Result(status="failed", reason="data", message=told))
    attempt = run.attempt(1)
    attempt.mkdir(parents=True)
    started = Started(pid=1, host="here", timestamp_ms=1)
    write_json(attempt / "started.json", started.model_dump())
    write_json(attempt / "exit.json", Exit(code=1, timestamp_ms=1000).model_dump())
    run.stdout.write_text(f"begun\npassword=hunter2\n\x1b[2J\x1b]0;owned\x07{told}\n")
    written = io.StringIO()
    console = PlainConsole(file=written, width=200, color_system=None)

    print_run(console, run)
    print_summary(console, directory)
    print_why(console, [run])

    text = written.getvalue()
    assert text.count("begun") == 2
    assert text.count("https://***@host") == 5
    assert "hunter2" not in text
    assert "\x1b" not in text
    assert "\x07" not in text


@pytest.mark.parametrize("is_terminal", [True, False])
def test_logs_command_no_terminal(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    is_terminal: bool,
) -> None:
    """A line that was to be written over stays; into a file goes what is there."""
    monkeypatch.setenv("WATERSHED_STATE_DIR", str(tmp_path / "state"))
    study = Study.model_validate({"name": "s", "experiment": {"data": "digits"}})
    directory = create_study_directory(study, tmp_path, datetime(2026, 1, 1, tzinfo=UTC))
    run = directory.points()[0]
    told = "hidden\rshown\x1b]0;owned\x07\r\n"
    run.stdout.write_bytes(told.encode())
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)

    code = main(["logs", str(run.path)])

    assert code == 0
    assert capsys.readouterr().out == ("hidden\nshown ]0;owned \n" if is_terminal else told)
