"""From a study to jobs."""

import os
import stat
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from configs.scaling import ScalingStudy
from configs.study import Study
from tasks.runtime.clients import make_client_directories
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.local import num_cores
from tasks.slurm.plan import SERVER_MODULE
from tasks.steps.creation import create_study_directory, job_file
from tasks.steps.launching import (
    CLIENT,
    SIMULATION,
    TRAINING,
    default_parallel,
    launch_faults,
    point_plan,
    worker_plans,
)


@pytest.mark.parametrize("engine", [SIMULATION, SERVER_MODULE, CLIENT, TRAINING])
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


def test_ranks_of_a_scaling_study_have_as_many_cores_at_all_sizes(tmp_path: Path) -> None:
    """On this machine one rank of 1 gets what one of 64 gets; of other studies, a fair share."""
    raw = {"kind": "scaling", "name": "s", "experiment": {"kind": "training"}, "sizes": [1, 64]}
    compared = ScalingStudy.model_validate(raw).study()
    alone = compared.model_copy(update={"scaling": None})

    found = {
        study.scaling is not None: [
            point_plan(study, job_file(study, point), RunDirectory(tmp_path), None).cpus
            for point in study.points()
        ]
        for study in (compared, alone)
    }

    each = max(1, num_cores() // 64)
    assert found == {True: [each, 64 * each], False: [None, None]}


def test_nothing_is_asked_of_slurm_for_a_study_without_jobs() -> None:
    """What is predicted only runs where there is no Slurm; nodes follow from each point's ranks."""
    raw = {
        "kind": "scaling",
        "name": "s",
        "experiment": {"kind": "training", "topology": "frontier"},
        "sizes": [4, 16],
        "launcher": {"kind": "slurm", "partition": "no-such"},
    }
    measured = ScalingStudy.model_validate(raw).study()
    predicted = ScalingStudy.model_validate(raw | {"measure": "none"}).study()

    asked = [
        point_plan(measured, job_file(measured, point), RunDirectory(Path("/run")), None).resources
        for point in measured.points()
    ]

    assert launch_faults(predicted) == []
    assert [(one.nodes, one.tasks_per_node) for one in asked if one] == [(1, 4), (2, 8)]


@pytest.fixture
def usual_umask() -> Iterator[None]:
    """The umask that most users have."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("usual_umask")
def test_run_directories_are_closed_from_the_first(tmp_path: Path) -> None:
    """Those of points and of their workers, before any job is submitted; the study's is, too."""
    arrivals = {"kind": "slurm", "partitions": [{"partition": "batch", "workers": 2}]}
    model = {"name": "quadratic", "centres": [1.0, 2.0]}
    experiment = {"model": model, "workers": 2, "algorithm": {"collect": 1}}
    study = _study(experiment | {"arrivals": arrivals}, kind="slurm")

    directory = create_study_directory(study, tmp_path / "runs", datetime(2026, 1, 2))
    (run,) = directory.points()
    make_client_directories(run)

    closed = [directory.path, run.path, *(worker.path for worker in run.workers())]
    assert len(closed) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in closed} == {0o700}
