"""Reports and figures of studies."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks.runtime.records import Result
from tasks.tracking.history import read_history
from tasks.tracking.report import write_report
from tasks.tracking.speedup import measure_speedups
from tasks.tracking.study_directory import StudyDirectory

BuildStudy = Callable[..., StudyDirectory]
_ALGORITHMS = {
    "algorithm": {
        "AFA-CD": {"algorithm.name": "afa_cd"},
        "AFA-CS": {"algorithm.name": "afa_cs"},
    }
}


def _table(text: str, heading: str) -> list[list[str]]:
    """Cells of the first Markdown table behind a heading, the rule left out."""
    lines = text[text.index(heading) :].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    table = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return [table[0], *table[2:]]


def _size(png: Path) -> tuple[int, int]:
    """Width and height of a PNG, from its header."""
    data = png.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def test_a_report_has_table_figure_and_next_steps(build_study: BuildStudy) -> None:
    """One row a point, with a column for each axis and each outcome; what is alike is a line."""
    directory = build_study(_ALGORITHMS | {"arrivals.max_delay": [0, 10]})

    text = write_report(directory.path, tracking_uri="sqlite:////runs/mlflow.db").read_text()

    head, *rows = _table(text, "# fake")
    assert head == [
        "algorithm", "max delay", "training loss", "test accuracy", "gradient norm", "rate b",
    ]  # fmt: skip
    assert [row[:2] for row in rows] == [
        ["AFA-CD", "0"], ["AFA-CD", "10"], ["AFA-CS", "0"], ["AFA-CS", "10"],
    ]  # fmt: skip
    assert "4 runs: 4 finished." in text
    assert (
        "Alike in all runs: rounds 300, mean delay 4, max delay 9, refused 3, virtual time 150 s, "
        "wall time 3 s."
    ) in text
    assert "## Further measures" not in text
    assert "What do fake runs show?" in text
    assert f"]({directory.curves.name})" in text
    assert "mlflow server --backend-store-uri sqlite:////runs/mlflow.db" in text
    assert "seed: [0, 1, 2]" in text
    assert _size(directory.curves)[0] > 800
    uri = "http://me:secret@mlflow.site"
    assert "secret" not in write_report(directory.path, tracking_uri=uri).read_text()


def test_runs_that_stand_at_different_rounds_say_so(build_study: BuildStudy) -> None:
    """State and rounds beside what came out; other measures that differ in a table behind."""
    directory = build_study(_ALGORITHMS, results={1: None})
    journal = directory.points()[1].journal
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:12]))

    text = write_report(directory.path).read_text()

    head, *rows = _table(text, "# fake")
    assert head[:4] == ["algorithm", "rounds", "state", "training loss"]
    assert [row[:3] for row in rows] == [
        ["AFA-CD", "300", "finished"],
        ["AFA-CS", "110", "running"],
    ]
    assert "Alike in all runs: mean delay 4, max delay 9." in text
    further = [["AFA-CD", "3", "150 s", "3 s"], ["AFA-CS", "1", "55 s", "1.1 s"]]
    head = ["algorithm", "refused", "virtual time", "wall time"]
    assert _table(text, "## Further measures") == [head, *further]


def test_failures_are_told_in_words(build_study: BuildStudy) -> None:
    """What failed, where and why, and the command to go on."""
    directory = build_study(
        {"seed": [0, 1, 2]},
        results={
            0: Result(status="failed", reason="storage", message="no space left on the device"),
            1: Result(status="finished", warnings=("step size above the limit",)),
        },
        num_points=2,
    )

    text = write_report(directory.path).read_text()

    failed = os.path.relpath(directory.points()[0].path)
    assert "3 runs: 1 failed, 1 finished, 1 waiting." in text
    assert "**seed=0** failed at round 300: no space left on the device" in text
    assert "- step size above the limit (seed=1)" in text
    assert f"`watershed show {failed}`" in text
    assert f"`watershed resume {os.path.relpath(directory.path)}`" in text


def test_a_study_that_has_not_begun_has_a_report(build_study: BuildStudy) -> None:
    """No run, no figure, no table; but what to do."""
    directory = build_study({"seed": [0, 1]}, num_points=0)

    text = write_report(directory.path).read_text()

    assert "2 runs: 2 waiting." in text
    assert "watershed resume" in text
    assert not directory.curves.exists()


def test_a_floor_is_pointed_out(build_study: BuildStudy) -> None:
    """Where the gradient norm does not fall, the report says how to tell noise from bias."""
    directory = build_study({}, grad_sq_norm=lambda _, step: 1.1 if step % 20 else 0.9)

    text = write_report(directory.path).read_text()

    assert "No descent of the gradient norm is certain in base" in text


def test_refused_returns_suggest_a_smaller_rate(build_study: BuildStudy) -> None:
    """The fake runs refuse returns; half of the default worker.lr=0.1 is proposed."""
    text = write_report(build_study({}).path).read_text()

    assert "`--set worker.lr=0.05`" in text


def test_seeds_are_summarised(build_study: BuildStudy) -> None:
    """Runs that differ in their seed only have a line of their own: mean and deviation."""
    directory = build_study(
        _ALGORITHMS | {"seed": [0, 1]},
        # Losses 0.3 + 2 * {0.1, 0.3}: mean 0.7, standard deviation 0.4 / sqrt(2).
        grad_sq_norm=lambda point, step: (0.1 + 0.2 * point.experiment.seed) * (2 - (step > 290)),
    )

    head, *rows = _table(write_report(directory.path).read_text(), "## Over seeds")

    assert head[:3] == ["", "seeds", "training loss"]
    assert [row[:3] for row in rows] == [
        ["AFA-CD", "2", "0.7 ± 0.28"],
        ["AFA-CS", "2", "0.7 ± 0.28"],
    ]


def test_labels_cannot_break_the_table(build_study: BuildStudy) -> None:
    """A bar in a label is text, not a column."""
    directory = build_study({"kind": {"a|b": {"seed": 1}, "c": {"seed": 2}}})

    assert r"a\|b" in write_report(directory.path).read_text()


def test_speedup_compares_equal_rounds(build_study: BuildStudy) -> None:
    """Both m and K vary, rates may vary with them: measured against ideal for each algorithm."""
    directory = build_study(
        _ALGORITHMS
        | {
            "size": {
                f"m={m}": {"algorithm.collect": m, "algorithm.server_lr": float(m)} for m in (1, 4)
            },
            "local_steps.steps": [1, 2],
            "seed": [0, 1],
        },
        grad_sq_norm=lambda point, step: (
            1
            / np.sqrt(
                point.experiment.algorithm.collect
                * point.experiment.local_steps.model_dump()["steps"]
                * (1 + step)
            )
        ),
    )
    histories = [read_history(point) for point in directory.points()]

    groups = measure_speedups(directory.read_study(), histories)
    text = write_report(directory.path).read_text()

    assert list(groups) == ["AFA-CD", "AFA-CS"]
    for members in groups.values():
        assert [one.ideal for one in members] == [1, 2, 4, 8]
        assert [one.measured for one in members] == pytest.approx([1, 2, 4, 8])
    assert len(_table(text, "## Speed-up")) == 1 + 8
    assert _size(directory.speedup)[0] > 800


def test_no_speedup_where_something_else_varies_with_m(build_study: BuildStudy) -> None:
    """Algorithms with different m are compared, but not called a speed-up."""
    directory = build_study(
        {
            "algorithm": {
                "FedAsync": {"algorithm": "fedasync"},
                "AFA-CD": {"algorithm": {"name": "afa_cd", "collect": 10}},
            }
        }
    )

    text = write_report(directory.path).read_text()

    assert "Speed-up" not in text
    assert not directory.speedup.exists()


@pytest.mark.parametrize(
    "grid",
    [
        {},
        {"algorithm.collect": list(range(1, 10))},
        {"worker.lr": [0.1, 0.2, 0.4, 0.8], "local_steps.steps": list(range(1, 13))},
        _ALGORITHMS
        | {
            "arrivals": {"sync": {"arrivals": "synchronous"}, "any": {"arrivals": "uniform"}},
            "local_steps": {"same": {"local_steps": "constant"}, "any": {"local_steps": "uniform"}},
            "worker.lr": [0.1, 0.2, 0.4],
        },
    ],
    ids=["one", "nine", "48", "four-axes"],
)
def test_figures_take_every_shape_of_grid(build_study: BuildStudy, grid: dict[str, object]) -> None:
    """One curve, many values on an axis, more axes than there are ways to tell them apart."""
    directory = build_study(grid, num_lines=8)

    write_report(directory.path)

    width, height = _size(directory.curves)
    assert 800 < width < 4000
    assert 500 < height < 3000


def test_runs_of_unequal_length_are_drawn_together(build_study: BuildStudy) -> None:
    """Running, failed and empty runs of one study share a figure."""
    directory = build_study({"seed": [0, 1, 2]}, results={1: None})
    points = directory.points()
    points[0].journal.write_bytes(b"")
    lines = points[1].journal.read_bytes().splitlines(keepends=True)
    points[1].journal.write_bytes(b"".join(lines[:4]) + lines[4][:20])

    write_report(directory.path)

    assert directory.curves.exists()
