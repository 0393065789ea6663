"""From a study to jobs."""

from pathlib import Path
from typing import Any

import pytest

from configs.study import Study
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.local import num_cores
from tasks.steps.creation import job_file
from tasks.steps.launching import (
    CLIENT,
    SERVER,
    SIMULATION,
    TRAINING,
    default_parallel,
    point_plan,
    worker_plans,
)


@pytest.mark.parametrize("engine", [SIMULATION, SERVER, CLIENT, TRAINING])
def test_the_engines_are_named_as_they_are(engine: str) -> None:
    """The module that a job names is there; it is not imported, as it loads torch."""
    path = Path(__file__).parents[3].joinpath(*engine.split(".")).with_suffix(".py")

    assert path.is_file()


def _study(experiment: dict[str, Any], **launcher: Any) -> Study:
    raw = {"name": "s", "experiment": experiment}
    return Study.model_validate(raw | ({"launcher": launcher} if launcher else {}))


def test_a_training_is_one_job_of_all_its_ranks(tmp_path: Path) -> None:
    """Its engine is named, the whole allocation is asked for, and nobody comes beside it."""
    study = _study({"kind": "training"}, kind="slurm", nodes=2, tasks_per_node=4)
    (point,) = study.points()
    job, run = job_file(study, point), RunDirectory(tmp_path)

    plan = point_plan(study, job, run, None)

    assert plan.module == TRAINING
    assert plan.resources is not None
    assert (plan.resources.nodes, plan.resources.tasks_per_node) == (2, 4)
    assert worker_plans(study, job, run, None) == []


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [
        ({"data": "digits"}, num_cores()),
        ({"kind": "training", "ranks": 1}, num_cores()),
        ({"kind": "training", "ranks": 8}, 1),
    ],
)
def test_trainings_on_this_machine_run_one_at_a_time(
    experiment: dict[str, Any], expected: int
) -> None:
    """The ranks of one share the cores; jobs of one process run one a core."""
    assert default_parallel(_study(experiment)) == expected
