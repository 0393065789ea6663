"""What an earlier study has finished is taken over, and nothing else."""

import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from configs.scaling import ScalingStudy
from configs.study import Study
from tasks.runtime.atomic_files import write_json
from tasks.runtime.journal import Journal
from tasks.runtime.records import Exit, PredictedOnly, Result, Started
from tasks.runtime.run_directory import RunDirectory
from tasks.steps import launching
from tasks.steps.creation import create_study_directory
from tasks.steps.predictability import predictability
from tasks.steps.reusing import Finished, note_conditions, reuse_points, take_over
from tasks.tracking.history import read_history, read_state
from tasks.tracking.study_directory import StudyDirectory

NOW = datetime(2026, 1, 2, 3, 4, 5)


def _study(**fields: Any) -> Study:
    raw = {"kind": "scaling", "name": "s", "experiment": {"kind": "training"}, "sizes": [1, 2]}
    return ScalingStudy.model_validate(raw | fields).study()


def _create(
    tmp_path: Path, number: int = 0, num_parallel: int | None = None, **fields: Any
) -> StudyDirectory:
    moment = NOW + timedelta(seconds=number)
    directory = create_study_directory(_study(**fields), tmp_path / "runs", moment)
    note_conditions(directory, num_parallel)
    return directory


def _finish(run: RunDirectory, *, status: str = "finished") -> None:
    """Write what a job leaves."""
    attempt = run.attempt(1)
    attempt.mkdir(parents=True)
    write_json(attempt / "started.json", Started(pid=1, host="here", timestamp_ms=1).model_dump())
    write_json(attempt / "exit.json", Exit(code=0, timestamp_ms=1000).model_dump())
    with Journal(run.journal) as journal:
        journal.write(1, {"speed/tflops": 2.5})
    write_json(run.result, Result.model_validate({"status": status, "steps": 100}).model_dump())


def test_a_finished_point_is_taken_over_with_its_measures(tmp_path: Path) -> None:
    """State, result and journal are those of the earlier run, which may be removed then."""
    earlier, later = _create(tmp_path), _create(tmp_path, 1)
    first, second = later.points()
    _finish(earlier.points()[0])

    found = [take_over(run, Finished(later)) for run in (first, second)]

    assert found[0] is not None
    assert found[1] is None
    found[0].result.unlink()
    history = read_history(first)
    assert (history.state, history.series("speed/tflops").last) == ("finished", 2.5)
    assert history.reused is not None
    assert (history.reused.study, history.reused.finished_ms) == (earlier.path.name, 1000)
    assert read_state(second, second.read_result()) == "waiting"


def test_a_damaged_point_of_an_earlier_study_is_passed_over(tmp_path: Path) -> None:
    """It is not taken over; its neighbours are, and nothing is left of the try."""
    earlier, later = _create(tmp_path), _create(tmp_path, 1)
    first, second = earlier.points()
    for run in (first, second):
        _finish(run)
    first.result.write_text("")

    found = [take_over(run, Finished(later)) for run in later.points()]
    (second.attempt(1) / "exit.json").write_text("{")
    latest = _create(tmp_path, 2).points()[1]
    later.points()[1].result.unlink()
    torn = take_over(latest, Finished(StudyDirectory(latest.path.parents[1])))

    assert found == [None, second]
    assert torn is None
    assert not latest.reused.exists()


def test_it_is_taken_over_once(tmp_path: Path) -> None:
    """A resumed study does not look again; a copy that was cut off is made anew."""
    earlier, later = _create(tmp_path), _create(tmp_path, 1)
    run = later.points()[0]
    _finish(earlier.points()[0])

    assert take_over(run, Finished(later)) is not None
    assert take_over(run, Finished(later)) is None
    run.result.unlink()
    assert take_over(run, Finished(later)) is not None
    assert read_history(run).state == "finished"


def test_what_was_cut_off_and_is_gone_runs_itself(tmp_path: Path) -> None:
    """If the earlier run was removed in the middle of a copy, nothing of it stays."""
    earlier, later = _create(tmp_path), _create(tmp_path, 1)
    run = later.points()[0]
    _finish(earlier.points()[0])
    take_over(run, Finished(later))
    run.result.unlink()
    earlier.study.unlink()

    assert take_over(run, Finished(later)) is None
    assert read_state(run, run.read_result()) == "waiting"
    assert run.read_reused() is None


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        ("failed", {}),
        ("finished", {"launcher": "slurm"}),
        ("finished", {"experiment": {"kind": "training", "steps": 7}}),
        ("finished", {"num_parallel": 2}),
        ("finished", {"sizes": [1, 2, 16]}),
    ],
    ids=["failed", "on Slurm", "another configuration", "beside others", "fewer cores a rank"],
)
def test_what_cannot_stand_for_it_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, fields: dict[str, Any]
) -> None:
    """Only what has finished, with this configuration, by this launcher, with as many cores."""
    monkeypatch.setattr(launching, "num_cores", lambda: 16)
    earlier, later = _create(tmp_path, **fields), _create(tmp_path, 1)
    _finish(earlier.points()[0], status=status)

    assert take_over(later.points()[0], Finished(later)) is None


def test_another_machine_is_another_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured elsewhere, or with other threads, does not stand for it."""
    earlier = _create(tmp_path)
    _finish(earlier.points()[0])
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    later = _create(tmp_path, 1)

    assert take_over(later.points()[0], Finished(later)) is None


@pytest.mark.parametrize(
    "other",
    [
        {"partition": "slow"},
        {"extra": ["--hint=nomultithread"]},
        {"nodelist": "node1"},
        {"memory": "1G"},
    ],
    ids=str,
)
def test_a_slurm_study_reuses_what_asked_for_the_same(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    """The account and the limits may differ; what may change the speed may not."""
    fast = {"kind": "slurm", "partition": "fast"}
    earlier = _create(tmp_path, launcher=fast | {"account": "a"})
    same = _create(tmp_path, 1, launcher=fast | {"account": "b", "time_limit": "2-0"})
    different = _create(tmp_path, 2, launcher=fast | other)
    _finish(earlier.points()[0])

    assert take_over(same.points()[0], Finished(same)) is not None
    assert take_over(different.points()[0], Finished(different)) is None


def test_a_point_that_was_submitted_takes_nothing_over(tmp_path: Path) -> None:
    """Its job may begin at any moment; what it writes is not to be mixed with a copy."""
    earlier, later = _create(tmp_path), _create(tmp_path, 1)
    run = later.points()[0]
    _finish(earlier.points()[0])
    run.script.touch()

    assert take_over(run, Finished(later)) is None


def test_points_that_only_predictions_tell_apart_are_not_taken_over(tmp_path: Path) -> None:
    """Two bandwidths in the file of one machine: a measurement cannot stand for both."""
    level = {"name": "node", "ranks": 2}
    machines = {
        str(rate): {"topology": {"name": "m", "levels": [level], "network": {"gb_per_s": rate}}}
        for rate in (1, 10)
    }
    earlier = _create(tmp_path, strategies=machines)
    later = _create(tmp_path, 1, strategies=machines)
    for run in earlier.points():
        _finish(run)

    reuse_points.fn(later.path, None)

    assert [run for run in later.points() if run.reused.exists()] == []


def test_an_earlier_run_that_vanishes_is_not_taken_over(tmp_path: Path) -> None:
    """Removed between the look and the copy: the point runs itself, and the study goes on."""
    earlier, later = _create(tmp_path), _create(tmp_path, 1)
    run, source = later.points()[0], earlier.points()[0]
    _finish(source)
    found = Finished(later)
    assert found.newest(run) == source
    shutil.rmtree(earlier.path)

    assert take_over(run, found) is None
    assert run.attempts() == []
    assert run.read_reused() is None


def test_what_was_taken_over_is_no_source(tmp_path: Path) -> None:
    """The run that has computed it is named, and the newest of several."""
    first, second, third = (_create(tmp_path, number) for number in range(3))
    _finish(first.points()[0])
    take_over(second.points()[0], Finished(second))

    found = take_over(third.points()[0], Finished(third))

    assert found is not None
    assert found.path.parent.parent.name == first.path.name


def test_a_point_without_a_job_takes_nothing_over(tmp_path: Path) -> None:
    """It is predicted only, whatever was measured before."""
    earlier, later = _create(tmp_path), _create(tmp_path, 1)
    run = later.points()[0]
    _finish(earlier.points()[0])
    write_json(run.predicted_only, PredictedOnly(reason="large").model_dump())

    assert take_over(run, Finished(later)) is None
    assert read_state(run, run.read_result()) == "predicted"


def test_a_machine_without_links_is_measured_only() -> None:
    """That is a note with the remedy; for points that do not run it is a fault."""
    measured = predictability(_study())
    predicted = predictability(_study(measure="none"))

    assert measured.faults == []
    assert len(measured.notes) == 1
    assert measured.notes[0].startswith("2 of 2 points are measured but not predicted: the file of")
    assert "watershed calibrate" in measured.notes[0]
    assert predicted.notes == []
    assert "topology.device.rates" in [fault.path for fault in predicted.faults]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")
def test_points_of_another_user_are_not_taken_over(tmp_path: Path) -> None:
    """He may have written any result into them."""
    earlier, later = _create(tmp_path), _create(tmp_path, 1)
    _finish(earlier.points()[0])
    os.chown(earlier.path, 54_321, 54_321)

    assert take_over(later.points()[0], Finished(later)) is None
