"""Studies whose runs were never computed: their files are written as an engine writes them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from configs.study import Point, Study
from tasks.runtime.atomic_files import write_json
from tasks.runtime.journal import Journal
from tasks.runtime.metrics import Metric
from tasks.runtime.records import Exit, JobFile, Result
from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.study_directory import StudyDirectory

Curve = Callable[[Point, int], float]
BuildStudy = Callable[..., StudyDirectory]


def write_run(
    directory: RunDirectory,
    point: Point,
    *,
    study: str,
    grad_sq_norm: Curve,
    num_lines: int,
    result: Result | None,
) -> None:
    """Write one run: a line every 10 rounds, an attempt, and its end unless there is no result."""
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
        for step in range(0, 10 * num_lines, 10):
            square = grad_sq_norm(point, step)
            journal.write(
                step,
                {
                    Metric.TRAIN_LOSS: 0.3 + 2.0 * square,
                    Metric.TRAIN_GRAD_SQ_NORM: square,
                    Metric.TRAIN_GRAD_NORM: float(np.sqrt(square)),
                    Metric.TEST_ACCURACY: 1.0 - 0.9 * float(np.sqrt(min(square, 1.0))),
                    Metric.DELAY_MEAN: 4.0 if step else 0.0,
                    Metric.DELAY_MAX: 9.0 if step else 0.0,
                    Metric.RETURNS_REFUSED: float(step // 100),
                    Metric.VIRTUAL_S: 0.5 * step,
                    Metric.WALL_S: 0.01 * step,
                },
            )
    if result is not None:
        write_json(directory.result, result.model_dump())
        write_json(attempt / "exit.json", Exit(code=0, timestamp_ms=1).model_dump())


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
        directory = StudyDirectory(tmp_path / "fake-1")
        directory.path.mkdir()
        directory.study.write_text(study.model_dump_json())
        finished = Result(status="finished", wall_s=3.0)
        for point in study.points()[:num_points]:
            write_run(
                directory.point(point.index, point.label),
                point,
                study=study.name,
                grad_sq_norm=grad_sq_norm,
                num_lines=num_lines,
                result=(results or {}).get(point.index, finished),
            )
        return directory

    return build
