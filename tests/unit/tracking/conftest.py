"""Studies whose runs were never computed: their files are written as an engine writes them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from configs.study import Point, Study
from tasks.runtime.atomic_files import write_json
from tasks.runtime.journal import Journal
from tasks.runtime.metrics import BYTES_PREFIX, Metric, exposed_metric
from tasks.runtime.records import Exit, JobFile, Result
from tasks.runtime.run_directory import RunDirectory
from tasks.steps.creation import job_file
from tasks.tracking.study_directory import StudyDirectory

Curve = Callable[[Point, int], float]
Line = Callable[[Point, int], dict[str, float]]
BuildStudy = Callable[..., StudyDirectory]


def write_run(
    directory: RunDirectory,
    point: Point,
    *,
    study: str,
    line: Line,
    steps: range,
    result: Result | None,
) -> None:
    """Write one run: its lines, an attempt, and its end unless there is no result."""
    directory.path.mkdir(parents=True)
    job = JobFile(
        study=study,
        point=point.label,
        coordinates=dict(point.coordinates),
        config_hash=point.config_hash,
        experiment=point.experiment,
    )
    directory.job.write_text(job.model_dump_json())
    attempt = directory.attempt(1)
    attempt.mkdir(parents=True)
    with Journal(directory.journal) as journal:
        for step in steps:
            journal.write(step, line(point, step))
    if result is not None:
        write_json(directory.result, result.model_dump())
        write_json(attempt / "exit.json", Exit(code=0, timestamp_ms=1).model_dump())


def federated_line(square: float, step: int) -> dict[str, float]:
    """What a run of federated averaging measures at a round."""
    return {
        Metric.TRAIN_LOSS: 0.3 + 2.0 * square,
        Metric.TRAIN_GRAD_SQ_NORM: square,
        Metric.TRAIN_GRAD_NORM: float(np.sqrt(square)),
        Metric.TEST_ACCURACY: 1.0 - 0.9 * float(np.sqrt(min(square, 1.0))),
        Metric.DELAY_MEAN: 4.0 if step else 0.0,
        Metric.DELAY_MAX: 9.0 if step else 0.0,
        Metric.RETURNS_REFUSED: float(step // 100),
        Metric.VIRTUAL_S: 0.5 * step,
        Metric.WALL_S: 0.01 * step,
    }


def training_line(point: Point, step: int) -> dict[str, float]:
    """What a training measures at a train step: 2 s, of which others are waited for 0.6 s.

    The first one takes five times as long, as first ones do.
    """
    slow = 5.0 if step == 1 else 1.0
    line: dict[str, float] = {
        Metric.TRAIN_LOSS: 5.5 / step**0.25 + 0.1 * point.index,
        Metric.TRAIN_GRAD_NORM: 0.7,
        Metric.TRAIN_LR: 1e-3,
        Metric.TOKENS_PER_S: 4000.0 / slow,
        Metric.TFLOPS: 50.0 / slow,
        Metric.HARDWARE_TFLOPS: 62.5 / slow,
        Metric.MFU: 0.25 / slow,
        Metric.STEP_S: 2.0 * slow,
        Metric.COMPUTE_S: 1.0 * slow,
        Metric.OPTIMIZER_S: 0.1 * slow,
        exposed_metric("package"): 0.05 * slow,
        exposed_metric("node"): 0.15 * slow,
        exposed_metric("cluster"): 0.4 * slow,
        f"{BYTES_PREFIX}package": 3e6,
        f"{BYTES_PREFIX}node": 2e6,
        f"{BYTES_PREFIX}cluster": 1e6,
        Metric.STATE_BYTES: 4e6,
        Metric.PEAK_BYTES: 3.2e8,
        Metric.TOKENS_TOTAL: 8000.0 * step,
        Metric.WALL_S: 2.0 * step,
    }
    if step % 10 == 0:
        line[Metric.VALIDATION_LOSS] = 3.0 - 0.01 * step
    return line


@pytest.fixture
def build_trainings(tmp_path: Path) -> BuildStudy:
    """Return a function that writes the directory of a study of trainings."""

    def build(
        grid: Mapping[str, object],
        *,
        line: Line = training_line,
        num_lines: int = 40,
        results: Mapping[int, Result | None] | None = None,
    ) -> StudyDirectory:
        """Write ``study.json`` and the runs of its points.

        Args:
            grid: The study's grid, over trainings of a small GPT on 8 ranks.
            line: What a point measures at a train step.
            num_lines: Journal lines a run.
            results: Results that differ from a finished one, by index; None for no end.
        """
        raw = {"name": "fake", "experiment": {"kind": "training"}, "grid": grid}
        study = Study.model_validate(raw)
        return _write_study(tmp_path, study, line, range(1, num_lines + 1), results or {})

    return build


def _write_study(
    parent: Path,
    study: Study,
    line: Line,
    steps: range,
    results: Mapping[int, Result | None],
    num_points: int | None = None,
) -> StudyDirectory:
    directory = StudyDirectory(parent / "fake-1")
    directory.path.mkdir()
    directory.study.write_text(study.model_dump_json())
    finished = Result(status="finished", wall_s=3.0)
    for point in study.points():
        run = directory.point(point.index, point.label)
        if num_points is not None and point.index >= num_points:
            run.path.mkdir(parents=True)
            write_json(run.job, job_file(study, point).model_dump(mode="json"))
            continue
        write_run(
            run,
            point,
            study=study.name,
            line=line,
            steps=steps,
            result=results.get(point.index, finished),
        )
    return directory


@pytest.fixture
def build_study(tmp_path: Path) -> BuildStudy:
    """Return a function that writes a study's directory."""

    def build(
        grid: Mapping[str, object],
        *,
        grad_sq_norm: Curve = lambda point, step: 1 / (1 + step + point.index) ** 0.5,
        num_lines: int = 31,
        results: Mapping[int, Result | None] | None = None,
        num_points: int | None = None,
    ) -> StudyDirectory:
        """Write ``study.json`` and the runs of its points.

        Args:
            grid: The study's grid, over 20 workers of the quadratic problem.
            grad_sq_norm: Squared gradient norm of a point at a round.
            num_lines: Journal lines a run.
            results: Results that differ from a finished one, by index; None for no end.
            num_points: So many points have started; default all.
        """
        centres = [float(worker) for worker in range(20)]
        study = Study.model_validate(
            {
                "name": "fake",
                "description": "What do fake runs show?",
                "experiment": {
                    "kind": "federated",
                    "workers": 20,
                    "rounds": 300,
                    "model": {"name": "quadratic", "centres": centres},
                    "algorithm": {"name": "afa_cd", "collect": 1},
                },
                "grid": grid,
            }
        )

        def line(point: Point, step: int) -> dict[str, float]:
            return federated_line(grad_sq_norm(point, step), step)

        rounds = range(0, 10 * num_lines, 10)
        return _write_study(tmp_path, study, line, rounds, results or {}, num_points)

    return build
