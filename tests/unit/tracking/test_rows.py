"""Rows: what the tables say of a run."""

import sys
from collections.abc import Callable

import pytest

from tasks.runtime.records import Result
from tasks.tracking.rows import Row, collect_rows
from tasks.tracking.study_directory import StudyDirectory

BuildStudy = Callable[..., StudyDirectory]


def test_a_finished_run_is_summarised(build_study: BuildStudy) -> None:
    """Last values, delays over all returns, the fitted rate, and the result's wall time."""
    directory = build_study({}, grad_sq_norm=lambda _, step: 0.5 / (1 + step) ** 0.5)

    (row,) = collect_rows(directory.path)

    assert (row.label, row.state, row.rounds) == ("base", "finished", 300)
    assert row.loss == pytest.approx(0.3 + 1 / 301**0.5)
    assert row.grad_norm == pytest.approx((0.5 / 301**0.5) ** 0.5)
    assert row.accuracy == pytest.approx(1 - 0.9 * (0.5 / 301**0.5) ** 0.5)
    # The first line, at round 0, stands for no round at all.
    assert (row.mean_delay, row.max_delay) == (4.0, 9.0)
    assert (row.num_refused, row.num_dropped) == (3, 0)
    assert (row.virtual_s, row.wall_s) == (150.0, 3.0)
    # The mean of t^-1/2 over the last decade approaches its exponent from below.
    assert row.rate == pytest.approx(-0.5, abs=0.06)
    assert None not in {row.rate_low, row.rate_high}


def test_every_state_is_told(build_study: BuildStudy) -> None:
    """Failed and interrupted runs say why; one without an end runs; the last has not begun."""
    directory = build_study(
        {"seed": [0, 1, 2, 3]},
        results={
            0: Result(status="failed", reason="storage", message="no space left"),
            1: Result(status="interrupted", message="stopped"),
            2: None,
        },
        num_points=3,
    )

    rows = collect_rows(directory.path)

    assert [(row.state, row.message) for row in rows] == [
        ("failed", "no space left"),
        ("interrupted", "stopped"),
        ("running", ""),
        ("waiting", ""),
    ]
    assert rows[2].wall_s == pytest.approx(3.0)  # of its last line


def test_a_run_without_lines_has_a_row_without_values(build_study: BuildStudy) -> None:
    """A run that failed before its first evaluation is a row like any other."""
    directory = build_study({}, num_lines=0, results={0: Result(status="failed", message="data")})

    (row,) = collect_rows(directory.path)

    assert (row.rounds, row.loss, row.accuracy, row.rate, row.mean_delay) == (
        0, None, None, None, None,
    )  # fmt: skip


def test_a_resumed_run_is_no_longer_what_it_was(build_study: BuildStudy) -> None:
    """An attempt that began after the last result makes the run a running one."""
    directory = build_study({}, results={0: Result(status="interrupted", message="stopped")})
    (point,) = directory.points()
    point.attempt(2).mkdir()

    (row,) = collect_rows(directory.path)

    assert (row.state, row.message) == ("running", "")


def test_rows_keep_the_order_of_the_grid(build_study: BuildStudy) -> None:
    """Points are ordered by number, also beyond a thousand, not by name."""
    directory = build_study({"seed": [0, 1]})
    first, second = directory.points()
    second.path.rename(second.path.with_name("1000-seed-1"))
    first.path.rename(first.path.with_name("999-seed-0"))

    rows = collect_rows(directory.path)

    assert [row.coordinates for row in rows] == [{"seed": "0"}, {"seed": "1"}]


def test_rows_are_values(build_study: BuildStudy) -> None:
    """A row compares by its content, so that a display redraws only what changed."""
    directory = build_study({})

    rows: list[Row] = collect_rows(directory.path)

    assert rows == collect_rows(directory.path)


def test_tables_need_neither_mlflow_nor_matplotlib() -> None:
    """What the terminal shows is there at once: nothing heavy is imported for it."""
    import subprocess  # noqa: PLC0415

    code = (
        "import sys, tasks.tracking.rows, tasks.tracking.report, tasks.tracking.tracker;"
        "print([m for m in ('mlflow', 'matplotlib', 'torch', 'prefect') if m in sys.modules])"
    )

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ended.stdout.strip() == "[]"
