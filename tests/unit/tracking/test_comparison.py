"""Comparisons: what is matched, which differences are beyond chance, and the page."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.study import Point
from tasks.runtime.metrics import Metric
from tasks.tracking.comparison import Subject, configuration_differences, match, read_subject
from tasks.tracking.comparison_curves import curve_rows, sparklines
from tasks.tracking.comparison_page import write_comparison
from tasks.tracking.comparison_statistics import compare_seeds, differences
from tasks.tracking.comparison_tables import compare
from tasks.tracking.history import Series
from tasks.tracking.nightly_statistics import Verdict, student_outside
from tests.unit.tracking.conftest import BuildStudy

_GRID = {"worker.lr": [0.1, 0.2], "seed": [0, 1, 2]}


def _subject(build: BuildStudy, name: str, grid: dict[str, object], offset: float = 0.0) -> Subject:
    def square(point: Point, step: int) -> float:
        noise = 0.001 * math.sin(7 * point.experiment.seed + step + 3 * offset)
        return offset + noise + 1 / math.sqrt(1 + step)

    study = build(grid, grad_sq_norm=square)
    moved = study.path.rename(study.path.with_name(name))
    return read_subject(name, type(study)(moved).points())


def test_points_at_the_same_place_of_the_grid_are_compared(build_study: BuildStudy) -> None:
    """Seeds are members of one case; what has no counterpart is told."""
    first = _subject(build_study, "a", _GRID)
    second = _subject(build_study, "b", {"worker.lr": [0.2, 0.4], "seed": [0, 1, 2]})

    cases, alone = match([first, second])

    assert [case.label for case in cases] == ["lr=0.2"]
    assert {name: len(runs) for name, runs in cases[0].members.items()} == {"a": 3, "b": 3}
    assert alone == {"a": ["lr=0.1"], "b": ["lr=0.4"]}


def test_single_points_are_compared_whatever_they_are_called(build_study: BuildStudy) -> None:
    """Whoever names two points wants these two."""
    both = _subject(build_study, "a", {"worker.lr": [0.1, 0.2]})
    first, second = (Subject(str(n), (run,)) for n, run in enumerate(both.runs))

    cases, alone = match([first, second])

    assert ([case.label for case in cases], alone) == ([""], {})


def test_only_what_differs_in_the_configurations_is_told(build_study: BuildStudy) -> None:
    """By the values that the points of each have; ``-`` where none has the field."""
    first = _subject(build_study, "a", {"worker.lr": [0.1, 0.2], "seed": [0, 1]})
    penalised = {"arrivals": ["synchronous"], "worker.lr": [0.2], "seed": [0, 1]}
    second = _subject(build_study, "b", penalised)

    found = configuration_differences([first, second])

    assert found["worker.lr"] == ["0.1, 0.2", "0.2"]
    assert found["arrivals.kind"] == ["uniform", "synchronous"]
    assert found["arrivals.max_delay"][1] == "-"
    assert "seed" not in found


def test_the_same_seeds_are_compared_one_by_one() -> None:
    """What a seed does on both sides is no noise: t of the differences, by hand."""
    one = compare_seeds(
        "train_loss", {"0": 1.0, "1": 5.0, "2": 9.0}, {"0": 1.1, "1": 5.3, "2": 9.2}
    )

    # differences 0.1, 0.3, 0.2: mean 0.2, deviation 0.1, t = 0.2 / (0.1 / sqrt 3)
    assert one.p_value == pytest.approx(student_outside(2 * math.sqrt(3), 2))
    assert one.absolute == pytest.approx(0.2)
    assert one.relative == pytest.approx(0.04)


def test_other_seeds_are_compared_by_their_means() -> None:
    """Welch's t, by hand, with its degrees of freedom rounded down."""
    first, second = {"0": 1.0, "1": 3.0}, {"5": 4.0, "6": 8.0}

    one = compare_seeds("train_loss", first, second)

    # variances 2 and 8, of the means 1 and 4: t = 4 / sqrt 5, degrees 25 / (1 + 16) = 1.47
    assert one.p_value == pytest.approx(student_outside(4 / math.sqrt(5), 1))


def test_one_seed_tells_nothing_and_equal_values_are_the_same() -> None:
    """However far apart a single pair is."""
    alone = compare_seeds("train_loss", {"0": 1.0}, {"0": 100.0})
    equal = compare_seeds("train_loss", {"0": 1.0}, {"0": 1.0})

    assert (alone.verdict, alone.p_value) == (Verdict.CANNOT_TELL, None)
    assert "one seed" in alone.reason
    assert equal.verdict == Verdict.SAME


def test_values_that_no_seed_changes_are_no_matter_of_chance() -> None:
    """None refused with any seeds is the same; the bytes of a partition differ, untested."""
    none = compare_seeds("num_refused", {"0": 0.0, "1": 0.0}, {"5": 0.0, "6": 0.0})
    fewer = compare_seeds("state_bytes", {"0": 8e9, "1": 8e9}, {"0": 2e9, "1": 2e9})
    rounded = compare_seeds("virtual_s", {"0": 0.3, "1": 0.3}, {"5": 0.1 + 0.2, "6": 0.1 + 0.2})

    assert none.verdict == Verdict.SAME
    assert (fewer.verdict, fewer.p_value) == (Verdict.BETTER, None)
    assert (rounded.verdict, rounded.p_value) == (Verdict.CANNOT_TELL, None)


def test_two_seeds_that_happen_to_differ_alike_are_no_proof() -> None:
    """Whole numbers do so often; t would be infinite."""
    one = compare_seeds("max_delay", {"0": 5.0, "1": 3.0}, {"0": 4.0, "1": 2.0})

    assert (one.verdict, one.p_value) == (Verdict.CANNOT_TELL, None)
    assert "differ alike" in one.reason


def test_marks_go_the_right_way(build_study: BuildStudy) -> None:
    """A smaller loss is better, a smaller accuracy worse; both far beyond the seeds here."""
    first = _subject(build_study, "a", {"seed": [0, 1, 2, 3]}, offset=0.5)
    second = _subject(build_study, "b", {"seed": [0, 1, 2, 3]})

    (found,) = differences([(first.runs, second.runs)])

    marks = {one.measure: one.verdict for one in found}
    assert marks["train_loss"] == Verdict.BETTER
    assert marks["test_accuracy"] == Verdict.BETTER
    (back,) = differences([(second.runs, first.runs)])
    assert {one.measure: one.verdict for one in back}["test_accuracy"] == Verdict.WORSE


def test_without_any_difference_few_comparisons_are_marked() -> None:
    """Of 400 pairs of the same distribution about 5 % have a p-value below 0.05, not 15 %."""
    rng = np.random.default_rng(5)

    p_values = [
        compare_seeds(
            "train_loss",
            {str(n): v for n, v in enumerate(rng.normal(1.0, 0.1, 4))},
            {str(n + offset): v for n, v in enumerate(rng.normal(1.0, 0.1, 4))},
        ).p_value
        for offset in (0, 10)
        for _ in range(200)
    ]

    share = np.mean([p is not None and p < 0.05 for p in p_values])
    assert 0.02 < share < 0.085  # five standard deviations of 400 draws are 5.4 %; seeded


def test_curves_end_where_the_shorter_one_does(build_study: BuildStudy) -> None:
    """Values at equal rounds, and sparklines on one scale."""
    long = _subject(build_study, "a", {"seed": [0]})
    study = build_study({"seed": [0]}, num_lines=11)
    short = read_subject("b", study.points())

    rows = curve_rows(match([long, short])[0][0])

    assert {row.step for row in rows} == {100}
    loss = next(row for row in rows if row.metric == Metric.TRAIN_LOSS)
    assert {len(spark) for spark in loss.sparks.values()} == {24}


def test_curves_are_compared_where_both_were_measured(build_study: BuildStudy) -> None:
    """A value between two measurements is none: of 0, 10, ... and 0, 3.5, ..., 105 at 70."""
    first = _subject(build_study, "a", {"seed": [0]})
    (run,) = first.runs
    closer = {name: Series(0.35 * one.rounds, one.values) for name, one in run.metrics.items()}
    second = Subject("b", (replace(run, metrics=closer),))

    rows = curve_rows(match([first, second])[0][0])

    assert {row.step for row in rows} == {70}
    loss = next(row for row in rows if row.metric == Metric.TRAIN_LOSS)
    assert loss.values["a"] == run.series(Metric.TRAIN_LOSS).values[7]
    assert loss.values["b"] == run.series(Metric.TRAIN_LOSS).values[20]


def test_what_has_not_finished_is_told(build_study: BuildStudy) -> None:
    """Its results are of an earlier step, and a run that has not begun has none at all."""
    first = _subject(build_study, "a", {"seed": [0, 1]})
    behind = tuple(replace(run, state="running") for run in first.runs)
    waiting = tuple(replace(run, state="waiting", metrics={}) for run in first.runs)

    comparison = compare([first, Subject("b", behind), Subject("c", waiting)])

    assert comparison.notes == ("b: 2 not finished; the results are those of the last step so far",)
    (found,) = differences([(first.runs, waiting)])
    assert found == []


def test_sparklines_share_their_scale() -> None:
    """The smallest of all is at the bottom, the largest at the top."""
    lines = sparklines({"a": np.array([0.0, 1.0]), "b": np.array([4.0, 8.0])})

    assert lines == {"a": "▁▁", "b": "▄█"}


def test_the_page_has_curves_and_escapes_names(build_study: BuildStudy, tmp_path: Path) -> None:
    """A name that looks like HTML is shown, not interpreted; nothing is loaded from elsewhere."""
    first = _subject(build_study, "a", {"seed": [0, 1]})
    evil = Subject("<script>alert(1)</script>", first.runs[:1])

    write_comparison(compare([first, evil]), tmp_path / "page.html")

    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "virtual time (s)" in page
    ours = [line for line in page.splitlines() if len(line) < 1000]  # without plotly's own code
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", "\n".join(ours))


def test_three_subjects_are_compared_with_the_first(build_study: BuildStudy) -> None:
    """Every line says which two it is of."""
    subjects = [
        _subject(build_study, name, {"seed": [0, 1]}, n / 10) for n, name in enumerate("abc")
    ]

    comparison = compare(subjects)

    results = next(table for table in comparison.tables if table.title == "Results")
    assert {line[1] for line in results.body} == {"A, B", "A, C"}
