"""Rows, reports, figures and MLflow names of studies of trainings."""

from collections.abc import Callable
from pathlib import Path

import pytest

from configs.study import Point
from tasks.runtime.records import Result
from tasks.tracking.report import write_report
from tasks.tracking.rows import collect_rows
from tasks.tracking.study_directory import StudyDirectory
from tasks.tracking.tables import scaled
from tests.unit.tracking.conftest import training_line

BuildStudy = Callable[..., StudyDirectory]
_PARTITIONS = {"partition": ["zero3", "zeropp", "zero_topo"]}


def _table(text: str, heading: str) -> list[dict[str, str]]:
    """Rows of the first Markdown table behind a heading: column head -> cell."""
    lines = text[text.index(heading) :].split("\n|", 1)[1].split("\n\n", maxsplit=1)[0].splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [dict(zip(head, row, strict=True)) for row in rows]


def _size(png: Path) -> tuple[int, int]:
    """Width and height of a PNG, from its header."""
    data = png.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def test_a_row_says_how_fast_and_why(build_trainings: BuildStudy) -> None:
    """Speeds are typical ones, which the slow first train step does not change; losses the last."""
    directory = build_trainings({})

    (row,) = collect_rows(directory.path)

    training = row.training
    assert training is not None
    assert (row.rounds, row.accuracy, row.rate, row.mean_delay) == (40, None, None, None)
    assert (training.partition, training.ranks) == ("zero_topo", 8)
    assert row.loss == pytest.approx(5.5 / 40**0.25)
    assert training.validation_loss == pytest.approx(2.6)
    assert (training.tokens_per_s, training.tflops, training.mfu) == (4000.0, 50.0, 0.25)
    assert training.exposed_share == pytest.approx(0.6 / 2.0)
    assert training.bytes_per_step == {"package": 3e6, "node": 2e6, "cluster": 1e6}
    assert (training.tokens, training.peak_bytes) == (320_000.0, 3.2e8)


def test_the_time_split_adds_up_to_a_train_step(build_trainings: BuildStudy) -> None:
    """Of 2 s, 1.7 s are explained by its parts, levels from the innermost; the rest is other."""
    (row,) = collect_rows(build_trainings({}).path)

    assert row.training is not None
    split = row.training.time_split()
    assert list(split) == [
        "compute", "waiting, package", "waiting, node", "waiting, cluster", "optimizer", "other",
    ]  # fmt: skip
    assert split["other"] == pytest.approx(0.3)
    assert sum(split.values()) == pytest.approx(2.0)


def test_a_training_that_has_measured_nothing_is_a_row(build_trainings: BuildStudy) -> None:
    """It failed before its first train step: no measure, no figure, but a report."""
    failed = Result(status="failed", reason="memory", message="too large")
    directory = build_trainings({}, num_lines=0, results={0: failed})

    (row,) = collect_rows(directory.path)
    text = write_report(directory.path).read_text()

    assert row.training is not None
    assert (row.training.tokens_per_s, row.training.exposed_share) == (None, None)
    assert row.training.time_split() == {}
    assert "failed at train step 0: too large" in text
    assert not directory.curves.exists()
    assert not directory.time_split.exists()


def test_a_federated_run_has_no_training_measures(build_study: BuildStudy) -> None:
    """What ranks measure is not asked of workers, and their report is as it was."""
    directory = build_study({})

    (row,) = collect_rows(directory.path)
    text = write_report(directory.path).read_text()

    assert row.training is None
    assert "TFLOPS" not in text
    assert not directory.time_split.exists()


def test_a_report_compares_partitions(build_trainings: BuildStudy) -> None:
    """A row a point: losses, speed; waiting, bytes by level and memory behind, where they differ.

    The axis is not said twice.
    """

    def line(point: Point, step: int) -> dict[str, float]:
        measured = training_line(point, step)
        return {
            name: value * (1 + point.index * (name == "bytes/node"))
            for name, value in measured.items()
        }

    directory = build_trainings(_PARTITIONS, line=line)

    text = write_report(directory.path, tracking_uri="sqlite:////runs/mlflow.db").read_text()

    rows = _table(text, "# fake")
    assert [row["partition"] for row in rows] == ["zero3", "zeropp", "zero_topo"]
    del rows[0]["wall time"]
    assert rows[0] == {
        "partition": "zero3",
        "training loss": "2.187",
        "validation loss": "2.6",
        "tokens/s": "4 k",
        "MFU": "25.0 %",
    }
    assert (
        "Alike in all runs: train steps 40, ranks 8, gradient norm 0.7, TFLOPS 50, hardware TFLOPS "
        "62.5, waiting 30.0 %, peak memory 320 MB, bytes over package 3 M, bytes over cluster 1 M."
    ) in text
    assert _table(text, "## Further measures") == [
        {"partition": "zero3", "bytes over node": "2 M"},
        {"partition": "zeropp", "bytes over node": "4 M"},
        {"partition": "zero_topo", "bytes over node": "6 M"},
    ]
    assert "`time/wall_s` compares by wall time instead of train steps" in text
    assert f"]({directory.curves.name})" in text
    assert f"]({directory.time_split.name})" in text


def test_what_a_machine_cannot_tell_has_no_column(build_trainings: BuildStudy) -> None:
    """Without a peak in the topology there is no MFU."""

    def line(_: object, step: int) -> dict[str, float]:
        return {"train/loss": 1.0, "speed/tflops": 0.01, "time/step_s": 0.1 * step}

    text = write_report(build_trainings({}, line=line).path).read_text()

    (row,) = _table(text, "# fake")
    assert set(row) == {"run", "training loss", "wall time"}
    assert "Further: train steps 40, partition zero_topo, ranks 8, TFLOPS 0.01.\n" in text


def test_seeds_are_summarised(build_trainings: BuildStudy) -> None:
    """Validation loss and speed, too, have a mean and a deviation over seeds."""
    directory = build_trainings({"partition": ["zero3", "zero_topo"], "seed": [0, 1]})

    first, second = _table(write_report(directory.path).read_text(), "## Over seeds")

    # The points' losses are 0.1 apart: a standard deviation of 0.1 / sqrt(2).
    assert (first[""], first["seeds"], first["training loss"]) == ("zero3", "2", "2.237 ± 0.071")
    assert second["tokens/s"] == "4000 ± 0"
    assert "test accuracy" not in first


@pytest.mark.parametrize(
    ("grid", "num_lines"),
    [
        ({}, 1000),
        (_PARTITIONS | {"accumulation": [1, 4, 8], "seed": [0, 1]}, 12),
        ({"optimizer.lr": [0.001 * n for n in range(1, 61)]}, 3),
    ],
    ids=["one long", "three axes", "sixty"],
)
def test_figures_take_every_shape_of_grid(
    build_trainings: BuildStudy, grid: dict[str, object], num_lines: int
) -> None:
    """A long run, two axes with seeds, and more runs than bars have room for."""
    directory = build_trainings(grid, num_lines=num_lines)

    write_report(directory.path)

    for figure in (directory.curves, directory.time_split):
        width, height = _size(figure)
        assert 800 < width < 4000
        assert 200 < height < 3000


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.0, "0 B"), (999.4, "999 B"), (999.6, "1 kB"), (3.2e8, "320 MB"),
     (2.5e12, "2.5 TB"), (4e15, "4 PB")],
)  # fmt: skip
def test_large_numbers_have_three_digits(value: float | None, text: str) -> None:
    """With a prefix of the unit; what was not measured is no text."""
    assert scaled(value, "B") == text
