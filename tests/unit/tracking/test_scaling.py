"""Rows, report, figures and page of scaling studies, from files that no job has written."""

import itertools
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.scaling import ScalingStudy
from configs.study import Point
from flows.summary import standing_of
from tasks.runtime.atomic_files import write_json
from tasks.runtime.metrics import Metric
from tasks.runtime.prediction import Prediction
from tasks.runtime.records import AttemptCost, Costs, PredictedOnly, Result, Reused
from tasks.tracking.history import read_history
from tasks.tracking.rates import speedups
from tasks.tracking.report import write_report
from tasks.tracking.rows import collect_rows, row_of
from tasks.tracking.scaling_figures import chosen_sizes
from tasks.tracking.scaling_rows import (
    ScalingPoint,
    efficiencies,
    measured_tflops,
    predicted_tflops,
    scaling_points,
)
from tasks.tracking.scaling_runs import prediction_metrics
from tasks.tracking.speedup import fit_speedup, fits_of
from tasks.tracking.study_directory import StudyDirectory
from tests.unit.tracking.conftest import training_line, write_run

LEVELS = ("package", "node", "cluster")
BuildScaling = Callable[..., StudyDirectory]


def prediction(point: Point, **fields: Any) -> Prediction:
    """A prediction that is right for ZeRO-topo, and 20 % too fast for ZeRO-3."""
    step_s = 1.6 if point.coordinates.get("strategy") == "ZeRO-3" else 2.0
    ranks = getattr(point.experiment, "ranks", 1)
    values: dict[str, Any] = {
        "step_s": step_s,
        "split_s": {"compute": 1.0, "waiting, cluster": step_s - 1.0},
        "tokens_per_s": 1000.0 * ranks / step_s,
        "tflops": 100.0 / step_s / ranks**0.1,
        "hardware_tflops": 125.0 / step_s,
        "mfu": None,
        "bytes_per_step": {"cluster": 1_000_000},
        "memory_bytes": {"weights": 10},
        "peak_bytes": 10,
        "fits": True,
        "energy_j": 5.0,
    }
    return Prediction.model_validate(values | fields)


@pytest.fixture
def build_scaling(tmp_path: Path) -> BuildScaling:
    """Return a function that writes a scaling study: 4 and 8 ranks run, 16 is predicted only."""

    def build(**fields: Any) -> StudyDirectory:
        raw: dict[str, Any] = {
            "kind": "scaling",
            "name": "grow",
            "description": "How far?",
            "experiment": {"kind": "training"},
            "strategies": {"ZeRO-3": {"partition": "zero3"}, "ZeRO-topo": {}},
            "sizes": [4, 8, 16],
            "repeats": 2,
            "measure": 8,
        }
        study = ScalingStudy.model_validate(raw | fields).study()
        directory = StudyDirectory(tmp_path / "grow-1")
        directory.path.mkdir()
        directory.study.write_text(study.model_dump_json())
        for point in study.points():
            run = directory.point(point.index, point.label)
            ranks = getattr(point.experiment, "ranks", 1)
            is_measured = ranks <= 8
            result = Result(status="finished", wall_s=36.0) if is_measured else None
            steps = range(1, 6 if is_measured else 1)
            write_run(run, point, study="grow", line=_line, steps=steps, result=result)
            write_json(run.prediction, prediction(point).model_dump())
            if not is_measured:
                (run.attempt(1)).rmdir()
                write_json(run.predicted_only, PredictedOnly(reason="too many").model_dump())
        return directory

    return build


def _line(point: Point, step: int) -> dict[str, float]:
    """What is measured: 40 TFLOPS at 4 ranks, 30 at 8; the second seed is 2 faster."""
    line = training_line(point, step)
    ranks, seed = getattr(point.experiment, "ranks", 1), point.experiment.seed
    line[Metric.TFLOPS] = {4: 40.0, 8: 30.0}[ranks] + 2.0 * seed
    line[Metric.STEP_S] = 2.0
    return line


def _points(directory: StudyDirectory) -> list[ScalingPoint]:
    study = directory.read_study()
    histories = [read_history(run) for run in directory.points()]
    assert study.scaling is not None
    return scaling_points(study, study.scaling, [(one, row_of(one)) for one in histories])


def test_repeats_are_one_point(build_scaling: BuildScaling) -> None:
    """Strategies in their order, sizes ascending; the spread is from the smallest to largest."""
    points = _points(build_scaling())

    assert [(point.strategy, point.size, point.state) for point in points] == [
        (strategy, size, "predicted" if size == 16 else "finished")
        for strategy in ("ZeRO-3", "ZeRO-topo")
        for size in (4, 8, 16)
    ]
    spread = points[0].spread("tflops")
    assert spread is not None
    assert (spread.middle, spread.low, spread.high, spread.count) == (41.0, 40.0, 42.0, 2)
    assert points[2].spread("tflops") is None
    assert points[2].reason == "too many"
    assert points[0].prediction_error == pytest.approx(-0.2)
    assert points[3].prediction_error == pytest.approx(0.0)


def test_efficiency_is_against_the_smallest_size(build_scaling: BuildScaling) -> None:
    """31 of 41 TFLOPS are kept from 4 to 8; predicted, 16 ranks keep 4^-0.1 of 4."""
    points = _points(build_scaling())

    measured = efficiencies(points, measured_tflops)
    foreseen = efficiencies(points, predicted_tflops)

    assert measured["ZeRO-3", 8] == pytest.approx(31 / 41)
    assert ("ZeRO-3", 16) not in measured
    assert foreseen["ZeRO-3", 16] == pytest.approx(4**-0.1)


def test_predictions_are_compared_with_the_size_that_was_measured(
    build_scaling: BuildScaling,
) -> None:
    """Where the smallest size has failed, both curves begin at the next one."""
    directory = build_scaling(repeats=1)
    for run in directory.points():
        if run.read_job().coordinates["ranks"] == "4":
            run.journal.unlink()
    points = _points(directory)

    measured = efficiencies(points, measured_tflops)
    foreseen = efficiencies(points, predicted_tflops)

    assert ("ZeRO-3", 4) not in measured
    assert measured["ZeRO-3", 8] == foreseen["ZeRO-3", 8] == 1
    assert foreseen["ZeRO-3", 4] == pytest.approx(2**0.1)


def test_what_does_not_fit_begins_no_curve(build_scaling: BuildScaling) -> None:
    """It is shown, but efficiencies begin at the smallest size that fits."""
    directory = build_scaling(measure="none", sizes=[16, 32], repeats=1)
    run = directory.points()[0]
    reason = "does not fit: needs 70 GB a device; 32 devices would do with zero3"
    write_json(run.predicted_only, PredictedOnly(reason=reason).model_dump())

    points = _points(directory)
    text = write_report(directory.path).read_text()

    foreseen = efficiencies(points, predicted_tflops)
    assert ("ZeRO-3", 16) not in foreseen
    assert foreseen["ZeRO-3", 32] == 1
    assert "does not fit)" in text
    assert f"- ZeRO-3 at 16: {reason}" in text


def test_costs_are_accounted_or_wall_time_or_predicted(build_scaling: BuildScaling) -> None:
    """36 s of this machine are 0.01 node-hours; Slurm's word wins; without a run, train steps."""
    directory = build_scaling(repeats=1)
    accounted = AttemptCost(
        submission=1, slurm_job="7", state="COMPLETED", node_hours=3.0, energy_j=50.0
    )
    write_json(directory.points()[1].costs, Costs(attempts=(accounted,)).model_dump())

    four, eight, sixteen = _points(directory)[:3]

    assert four.cost.node_hours == pytest.approx(0.01)
    assert not four.cost.is_accounted
    assert (four.cost.energy_j, four.cost.is_energy_measured) == (500.0, False)
    assert (eight.cost.node_hours, eight.cost.is_accounted) == (3.0, True)
    assert (eight.cost.energy_j, eight.cost.is_energy_measured) == (50.0, True)
    # 100 train steps of 1.6 s on 4 nodes of 4 ranks
    assert sixteen.cost.node_hours == pytest.approx(4 * 100 * 1.6 / 3600)


def test_energy_of_some_attempts_is_not_called_measured(build_scaling: BuildScaling) -> None:
    """Of two attempts one has a meter: the run's energy is the predicted one, with its mark."""
    directory = build_scaling(repeats=1)
    first = AttemptCost(
        submission=1, slurm_job="7", state="PREEMPTED", elapsed_s=60, node_hours=3.0, energy_j=50.0
    )
    second = first.model_copy(update={"restarts": 1, "state": "COMPLETED", "energy_j": None})
    costs = Costs(attempts=(first, second))
    write_json(directory.points()[1].costs, costs.model_dump())

    eight = _points(directory)[1]
    text = write_report(directory.path).read_text()

    assert (eight.cost.node_hours, eight.cost.is_accounted) == (6.0, True)
    assert not eight.cost.is_energy_measured
    row = _table(text, "### Speed, traffic and costs")[1]
    assert (row["node-hours"], row["energy"]) == ("6", f"~{eight.cost.energy_j:.3g} J")


def _table(text: str, heading: str) -> list[dict[str, str]]:
    """Rows of the first table behind a heading: column head -> cell."""
    behind = text[text.index(heading) :].splitlines()
    first = next(number for number, line in enumerate(behind) if line.startswith("|"))
    lines = itertools.takewhile(lambda line: line.startswith("|"), behind[first:])
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(head, row, strict=True)) for row in rows]


class _Loaded(HTMLParser):
    """Collects what a page loads from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [f"{tag} {value}" for name, value in attrs if name in {"src", "href"}]


def test_the_report_lays_them_side_by_side(build_scaling: BuildScaling) -> None:
    """Measured with spread, predicted, their difference; what is only predicted has its mark."""
    published = [
        {"quantity": "ratio", "strategy": "ZeRO-topo", "over": "ZeRO-3", "size": 16, "value": 1.7,
         "source": "a paper"},
        {"quantity": "efficiency", "strategy": "ZeRO-3", "size": 8, "value": 0.9, "source": "b"},
    ]  # fmt: skip
    directory = build_scaling(published=published)
    reused = Reused(source="/x", study="grow-0", finished_ms=1)
    write_json(directory.points()[0].reused, reused.model_dump())

    text = write_report(directory.path).read_text()

    four, eight, sixteen = _table(text, "## Scaling, weak")[:3]
    assert (four["TFLOPS"], four["predicted"]) == ("41 [40, 42]", "54.4")
    assert four["step, predicted / measured"] == "-20 %"
    assert "state" not in four  # without a measured value it is predicted only
    assert (eight["efficiency"], eight["predicted eff."]) == ("0.756", "0.933")
    assert (sixteen["TFLOPS"], sixteen["predicted eff."]) == ("", "0.871")
    four, _, sixteen = _table(text, "### Speed, traffic and costs")[:3]
    assert (four["reused from"], four["node-hours"], four["energy"]) == ("grow-0", "0.01", "~500 J")
    assert (sixteen["tokens/s"], sixteen["devices"]) == ("~10 k", "16")
    assert "| ZeRO-3 | 4 | 3 M | 2 M | 1 M |" in text
    assert "| ZeRO-3 | 16 |  |  | ~1 M |" in text
    assert "over 4 points: off by 10 % on average, 20 % at most" in text
    ratio, efficiency = _table(text, "### Beside what was published")
    assert (ratio["published"], ratio["measured"], ratio["predicted"]) == ("1.7", "", "0.8")
    assert (efficiency["measured"], efficiency["source"]) == ("0.7561", "b")
    assert "- ZeRO-3 at 16, ZeRO-topo at 16: too many" in text
    assert "Continue what has not finished" not in text


def test_what_was_not_computed_here_is_said_once(build_scaling: BuildScaling) -> None:
    """The terminal has a line for each reason, and for each earlier study."""
    directory = build_scaling(repeats=1)
    reused = Reused(source="/x", study="grow-0", finished_ms=1)
    write_json(directory.points()[0].reused, reused.model_dump())

    told = standing_of(collect_rows(directory.path))

    assert told == ["1 of 6 reused from grow-0", "2 of 6 predicted only: too many"]


def test_without_a_prediction_the_report_says_what_to_do(build_scaling: BuildScaling) -> None:
    """A machine that nobody has calibrated: measured alone."""
    directory = build_scaling(sizes=[4, 8])
    for run in directory.points():
        run.prediction.unlink()

    text = write_report(directory.path).read_text()

    assert "`watershed calibrate` measures" in text
    assert "predicted eff." not in text


def test_the_figures_and_the_page_show_the_same_data(build_scaling: BuildScaling) -> None:
    """PNGs, JSON of what they show, and a page that loads nothing from anywhere."""
    directory = build_scaling()

    write_report(directory.path)

    for figure in (directory.scaling, directory.scaling_split):
        assert figure.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    data = json.loads(directory.scaling_data.read_text())
    assert [one["efficiency"] for one in data][:3] == [1.0, pytest.approx(31 / 41), None]
    assert data[2]["prediction"]["step_s"] == 1.6
    page = directory.scaling_page.read_text()
    assert "ZeRO-topo, measured" in page
    assert "predicted only: too many" in page
    loaded = _Loaded()
    loaded.feed(page)
    assert loaded.addresses == []


def test_sizes_with_a_panel_are_the_ends_and_one_between(build_scaling: BuildScaling) -> None:
    """The largest measured one, where there is one."""
    assert chosen_sizes(_points(build_scaling())) == [4, 8, 16]
    assert chosen_sizes([]) == []


def test_predictions_have_names_in_mlflow(build_scaling: BuildScaling) -> None:
    """What is not known is left out; causes are words."""
    (point, *_) = build_scaling().read_study().points()

    metrics = prediction_metrics(prediction(point))

    assert metrics["predicted/split/waiting_cluster_s"] == pytest.approx(0.6)
    assert metrics["predicted/bytes_cluster"] == 1e6
    assert "predicted/mfu" not in metrics


def test_a_linear_speedup_has_exponent_one() -> None:
    """G falls like (m K)^-1/2 exactly; with K of no use the exponent of K is 0."""
    linear = {(m, k): [(m * k) ** -0.5] for m in (1.0, 2.0, 4.0) for k in (1.0, 2.0, 4.0)}
    useless = {(m, k): [m**-0.5] for m in (1.0, 2.0, 4.0) for k in (1.0, 2.0, 4.0)}

    fits = fits_of(speedups(linear))
    other = fits_of(speedups(useless))

    assert {name: fit.count for name, fit in fits.items()} == {"m K": 8, "m": 2, "K": 2}
    for fit in fits.values():
        assert fit.exponent == pytest.approx(1.0)
        assert fit.scale == pytest.approx(1.0)
        assert fit.low == pytest.approx(fit.high)
    assert other["m"].exponent == pytest.approx(1.0)
    assert other["K"].exponent == pytest.approx(0.0)
    assert other["m K"].low < other["m K"].exponent < other["m K"].high


def test_the_interval_of_the_exponent_covers() -> None:
    """With noise in every G, the base's too, 95 % intervals hold the true exponent that often."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        measured = {
            (m, k): list((m * k) ** -0.5 * np.exp(0.05 * rng.standard_normal(2)))
            for m in (1.0, 2.0, 4.0, 8.0, 16.0)
            for k in (1.0, 4.0)
        }

        fits = fits_of(speedups(measured))

        covered.append([fits[name].low <= 1 <= fits[name].high for name in ("m K", "m")])
    # 300 of a coverage of 95 % fall below 91 % once in 10^3 times.
    assert np.mean(covered, axis=0).min() > 0.91


def test_one_configuration_beside_the_base_fits_nothing() -> None:
    """A line through one point has no interval."""
    assert fit_speedup(speedups({(1.0, 1.0): [1.0], (2.0, 1.0): [0.5]})) is None
