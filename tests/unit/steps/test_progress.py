"""How far a study is, from files that jobs write at the same time."""

import fcntl
from datetime import datetime
from pathlib import Path

import pytest

from configs.study import Study
from tasks.runtime.atomic_files import write_json
from tasks.runtime.journal import Journal
from tasks.runtime.records import Exit, Result, Started, Status
from tasks.runtime.run_directory import RunDirectory
from tasks.steps.creation import create_study_directory
from tasks.steps.progress import PointProgress, StudyProgress, remaining_s, share_done
from tasks.steps.story import numbers_of
from tasks.tracking.study_directory import StudyDirectory


@pytest.fixture
def study(tmp_path: Path) -> StudyDirectory:
    """A study of two points, of 100 rounds each."""
    study = Study.model_validate(
        {
            "name": "trial",
            "experiment": {"data": "digits", "rounds": 100},
            "grid": {"seed": [1, 2]},
        }
    )
    return create_study_directory(study, tmp_path, datetime.now().astimezone())


def _start(run: RunDirectory) -> None:
    attempt = run.attempt(len(run.attempts()) + 1)
    attempt.mkdir(parents=True)
    started = Started(pid=1, host="h", timestamp_ms=0)
    write_json(attempt / "started.json", started.model_dump())


def _end(run: RunDirectory, status: Status, message: str = "") -> None:
    write_json(run.result, Result(status=status, message=message).model_dump())
    write_json(run.attempts()[-1] / "exit.json", Exit(code=0, timestamp_ms=0).model_dump())


def _measure(run: RunDirectory, *rounds: int) -> None:
    with Journal(run.journal) as journal:
        for step in rounds:
            journal.write(step, {"train/loss": 1 / (step + 1), "test/accuracy": step / 100})


def test_a_point_is_followed_from_waiting_to_finished(study: StudyDirectory) -> None:
    """States and measurements are read as they come; the other point waits."""
    run = study.points()[0]
    progress = StudyProgress(study)

    states = [progress.read()[0].state]
    run.stdout.touch()
    states.append(progress.read()[0].state)
    _start(run)
    _measure(run, 0, 10)
    measured, other = progress.read()
    _end(run, "finished")
    states.append(progress.read()[0].state)

    assert states == ["waiting", "running", "finished"]
    assert measured == PointProgress("seed=1", "running", 10, 100, 1 / 11, 0.1)
    assert other == PointProgress("seed=2", "waiting", 0, 100)


def test_a_measure_that_a_line_lacks_stays(study: StudyDirectory) -> None:
    """A line without accuracy does not make the accuracy unknown."""
    run = study.points()[0]
    progress = StudyProgress(study)
    _start(run)
    _measure(run, 0, 10)
    progress.read()

    with Journal(run.journal, sequence=2) as journal:
        journal.write(20, {"train/loss": 0.5})
    point = progress.read()[0]

    assert (point.step, point.loss, point.accuracy) == (20, 0.5, 0.1)


def test_a_training_is_followed_by_its_speed(tmp_path: Path) -> None:
    """Train steps, loss, tokens and FLOPs a second, for the bar and in words."""
    study = Study.model_validate({"name": "t", "experiment": {"kind": "training", "steps": 60}})
    directory = create_study_directory(study, tmp_path, datetime.now().astimezone())
    (run,) = directory.points()
    progress = StudyProgress(directory)
    _start(run)

    (before,) = progress.read()
    with Journal(run.journal) as journal:
        speed = {"speed/tokens_per_s": 930.4, "speed/tflops": 0.0123}
        journal.write(40, {"train/loss": 2.125, **speed})
    (point,) = progress.read()

    assert before.told == "train step 0 of 60"
    assert (point.step, point.tokens_per_s, point.tflops) == (40, 930.4, 0.0123)
    assert point.told == "train step 40 of 60: loss 2.125, 930 tok/s, 0.0123 TFLOPS"
    assert numbers_of(point)[-1] == {"what": "TFLOPS per device", "value": 0.0123}


def test_a_failed_point_says_why(study: StudyDirectory) -> None:
    """The message of the result is that of the point."""
    run = study.points()[0]
    progress = StudyProgress(study)
    _start(run)
    _end(run, "failed", "no data")

    point = progress.read()[0]

    assert (point.state, point.message, point.is_over) == ("failed", "no data", True)


def test_what_was_interrupted_waits_for_its_next_attempt(study: StudyDirectory) -> None:
    """On resuming, an ended attempt is not the end; a finished one is."""
    first, second = study.points()
    _start(first)
    _measure(first, 0, 40)
    _end(first, "interrupted", "stopped")
    _start(second)
    _end(second, "finished")

    progress = StudyProgress(study)
    before = progress.read()
    _start(first)
    after = progress.read()

    assert [point.state for point in before] == ["waiting", "finished"]
    assert (before[0].step, before[0].message) == (40, "")
    assert after[0].state == "running"


def test_an_attempt_that_is_alive_goes_on(study: StudyDirectory) -> None:
    """A job left by a killed flow is running, not waiting for another attempt."""
    run = study.points()[0]
    _start(run)

    with run.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        progress = StudyProgress(study)
        state = progress.read()[0].state

    assert state == "running"


def test_the_share_counts_rounds() -> None:
    """Half of one point and all of another, of three points, is one half; a failed one is done."""
    points = [
        PointProgress("a", "running", 50, 100),
        PointProgress("b", "failed", 3, 100),
        PointProgress("c", "waiting", 0, 100),
    ]

    assert share_done(points) == pytest.approx(0.5)
    assert share_done([]) == 0


@pytest.mark.parametrize(
    ("before", "now", "elapsed_s", "left_s"),
    [(0.0, 0.5, 10, 10), (0.4, 0.6, 10, 20), (0.5, 0.51, 10, None), (0.0, 1.0, 10, 0)],
)
def test_the_rest_is_guessed_from_the_pace(
    before: float, now: float, elapsed_s: float, left_s: float | None
) -> None:
    """What was done before the start does not count as pace; too little gives no guess."""
    assert remaining_s(before, now, elapsed_s) == (
        None if left_s is None else pytest.approx(left_s)
    )
