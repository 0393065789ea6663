"""One file of a run that cannot be read: the commands say so, and go on with the other points."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from configs.study import Point, Study
from flows.command_line import main
from flows.finding import is_complete
from tasks.runtime.atomic_files import write_json
from tasks.runtime.records import JobFile, Result
from tasks.runtime.run_directory import RunDirectory
from tasks.steps.creation import create_study_directory, restore_points
from tasks.steps.ending import final_state, needs_no_job
from tasks.steps.flow_record import FlowRecord, write_flow_record
from tasks.steps.predicting import predict_points
from tasks.steps.progress import StudyProgress, share_done
from tasks.steps.reusing import note_conditions
from tasks.tracking.damage import sound_points, standing
from tasks.tracking.report import write_report
from tasks.tracking.study_directory import StudyDirectory
from tests.unit.tracking.conftest import federated_line, write_run

NAME = "fake-20260101-000000"
Damage = Callable[[RunDirectory], Path]


def _line(point: Point, step: int) -> dict[str, float]:
    return federated_line(1 / (2 + step + point.index), step)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyDirectory:
    """A study of four points in ``runs``: three have finished, the last one has failed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WATERSHED_STATE_DIR", str(tmp_path / "state"))
    study = Study.model_validate(
        {
            "name": "fake",
            "experiment": {"kind": "federated", "data": "digits", "rounds": 30},
            "grid": {"seed": [0, 1, 2, 3]},
        }
    )
    directory = StudyDirectory(Path("runs") / NAME)
    directory.path.mkdir(parents=True)
    directory.study.write_text(study.model_dump_json())
    for point in study.points():
        failed = Result(status="failed", reason="data", message="no data")
        result = Result(status="finished") if point.index < 3 else failed
        run = directory.point(point.index, point.label)
        write_run(run, point, study="fake", line=_line, steps=range(0, 31, 10), result=result)
    return directory


def _empty_result(run: RunDirectory) -> Path:
    run.result.write_bytes(b"")
    return run.result


def _newer_job(run: RunDirectory) -> Path:
    run.job.write_text(run.job.read_text().replace("{", '{"future": 1, ', 1))
    return run.job


def _torn_exit(run: RunDirectory) -> Path:
    path = run.attempt(1) / "exit.json"
    path.write_text('{"code"')
    return path


def _newer_reused(run: RunDirectory) -> Path:
    run.reused.write_text('{"source": "x"}')
    return run.reused


def _no_job(run: RunDirectory) -> Path:
    run.job.unlink()
    return run.job


def _no_directory(run: RunDirectory) -> Path:
    shutil.rmtree(run.path)
    return run.job


DAMAGES = [_empty_result, _newer_job, _torn_exit, _newer_reused, _no_job, _no_directory]


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_other_points_are_shown(
    damage: Damage, study: StudyDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    """The damaged point is marked; its file and the next step are told; the exit code is 1."""
    path = damage(study.points()[1])

    code = main(["show"])

    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert code == 1
    assert "internal error" not in captured.err
    assert sum(" finished " in line for line in lines) == 2
    told = [line for line in lines if line.startswith("damaged ")]
    assert len(told) == 1
    assert f": {path} " in told[0]
    assert "; " in told[0]


def test_only_a_damaged_point_is_no_reason_to_resume(
    study: StudyDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    """As nothing would run: what to do stands beside its fault."""
    finished = Result(status="finished")
    write_json(study.points()[3].result, finished.model_dump())
    _empty_result(study.points()[0])

    code = main(["show"])

    assert code == 1
    assert "Continue with" not in capsys.readouterr().out


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_point_is_not_run_again(damage: Damage, study: StudyDirectory) -> None:
    """It may have finished; the flow leaves it as it is, and fails with words on it."""
    run = study.points()[1]

    path = damage(run)

    assert standing(run) == "damaged"
    assert needs_no_job(run)
    assert not is_complete(study)
    assert [needs_no_job(each) for each in study.points()] == [True, True, True, False]
    assert [each.path.name[:3] for each in sound_points(study)] == ["000", "002", "003"]
    state = final_state(study)
    assert state.is_failed()
    assert str(state.message).startswith("2 of 4 points failed. ")
    assert f"{path} " in str(state.message)


def test_the_last_damaged_point_keeps_a_study_from_being_completed(study: StudyDirectory) -> None:
    """Also if all others have finished."""
    write_json(study.points()[3].result, Result(status="finished").model_dump())
    assert final_state(study).is_completed()

    _newer_job(study.points()[2])

    assert str(final_state(study).message).startswith("1 of 4 points failed. 002-seed-2: runs/")


@pytest.mark.parametrize("damage", [_empty_result, _newer_job, _no_directory])
def test_a_report_is_written_all_the_same(damage: Damage, study: StudyDirectory) -> None:
    """It has the other points, and says what is wrong with this one."""
    path = damage(study.points()[1])

    text = write_report(study.path).read_text()

    assert "4 runs: 2 finished, 1 damaged, 1 failed." in text
    assert f" damaged: {path} " in text
    assert "no data" in text


def test_what_is_damaged_beside_the_run_is_marked_and_runs(study: StudyDirectory) -> None:
    """A prediction is made anew, and costs are asked for anew: no reason not to run a point."""
    failed = study.points()[3]
    failed.costs.write_text("")
    assert "damaged: runs/" in write_report(study.path).read_text()
    assert not needs_no_job(failed)
    failed.costs.unlink()
    failed.prediction.write_text("{}")

    text = write_report(study.path).read_text()

    assert "prediction.json lacks the field" in text
    assert not needs_no_job(failed)


def test_progress_has_the_damaged_point(study: StudyDirectory) -> None:
    """The display goes on; once the file is whole, so is the point."""
    broken = study.points()[0]
    whole = broken.job.read_bytes()
    broken.job.write_text("{")
    progress = StudyProgress(study)

    before = progress.read()[0]
    broken.job.write_bytes(whole)
    after = progress.read()[0]

    assert (before.state, before.label, before.is_over) == ("damaged", "000-seed-0", True)
    assert share_done([before]) == 0
    assert share_done([before, after]) == 1
    assert "job.json is cut off or no JSON" in before.message
    assert (after.state, after.label, after.num_steps) == ("finished", "seed=0", 30)


def test_why_tells_the_other_points_first(
    study: StudyDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then the file; the exit code is 1."""
    path = _empty_result(study.points()[1])

    code = main(["why"])

    captured = capsys.readouterr()
    assert code == 1
    assert captured.out.startswith("seed=3  failed\n")
    assert captured.err.startswith(f"{path.resolve()} is empty")
    assert len(captured.err.splitlines()) == 1


def test_why_tells_one_cause_of_several_points_once(
    study: StudyDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first point is named, the others are counted; another cause follows."""
    for number, message in enumerate(["no data", "no data", "no room", "no data"]):
        failed = Result(status="failed", reason="data", message=message)
        write_json(study.points()[number].result, failed.model_dump())

    code = main(["why"])

    told = capsys.readouterr().out
    assert code == 0
    assert told.startswith("seed=0 and 2 more  failed\nno data\n")
    assert told.count("no data\n") == 1
    assert "seed=2  failed\nno room\n" in told


def test_logs_and_points_are_found_without_their_labels(
    study: StudyDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the number and by the directory's name; what the job said is printed."""
    run = study.points()[1]
    run.stdout.write_text("what it said\n")
    _newer_job(run)

    codes = [main(["logs", "fake", "1"]), main(["logs", "fake", "001-seed"])]
    which = main(["logs", "fake"])

    captured = capsys.readouterr()
    assert (codes, which) == ([0, 0], 2)
    assert captured.out == "what it said\n" * 2
    assert "  1  001-seed-1\n  2  seed=2\n" in captured.err


def test_nothing_to_retry_is_no_success_if_a_file_is_damaged(
    study: StudyDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether that point has failed is not known."""
    path = _empty_result(study.points()[3])

    code = main(["retry", "fake"])

    captured = capsys.readouterr()
    assert code == 1
    assert captured.err.startswith(f"left as it is: {path} is empty")
    assert captured.out == "Nothing to retry: no point has failed\n"


def test_a_comparison_leaves_it_out_and_says_so(
    study: StudyDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    """The points that can be read are compared; the exit code is 1."""
    path = _empty_result(study.points()[1])

    code = main(["compare", "fake/0", "fake"])
    alone = main(["compare", "fake/0", "fake/1"])

    captured = capsys.readouterr()
    assert (code, alone) == (1, 1)
    assert captured.out.count("Report: ") == 1
    assert captured.err.splitlines()[0].startswith(f"left out: {path} is empty")
    assert captured.err.splitlines()[1].startswith(f"{path} is empty")


def _of_another_version(study: StudyDirectory) -> None:
    study.study.write_text('{"name": "fake", "future": 1}')


@pytest.mark.parametrize("command", ["show", "resume", "retry", "cancel", "adopt"])
def test_a_study_of_another_version_is_named(
    command: str, study: StudyDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the commands that need the study's file: in one line, with the exit code 2."""
    _of_another_version(study)

    code = main([command, NAME])

    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err.startswith(f"{study.study} lacks the field 'experiment'")
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["why", NAME], "seed=3  failed\nno data\n"),
        (["logs", NAME, "1"], "what it said\n"),
        (["compare", NAME, NAME], "3 finished, 1 failed"),
    ],
)
def test_what_needs_the_points_alone_does_not_need_the_study(
    arguments: list[str], words: str, study: StudyDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    """They do their work beside a study of another version, and are silent about its file."""
    study.points()[1].stdout.write_text("what it said\n")
    _of_another_version(study)

    code = main(arguments)

    captured = capsys.readouterr()
    assert code == 0
    assert words in captured.out
    assert captured.err == ""


def test_a_study_of_another_version_is_not_registered_as_a_whole(
    study: StudyDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is any other: a model is one point's, which is asked for."""
    _of_another_version(study)

    code = main(["register", NAME, "--name", "x"])

    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.startswith(f"{NAME} has 4 points; name one as {NAME}/POINT: 000-seed-0, ")
    assert len(captured.err.splitlines()) == 1


def test_one_point_of_another_version_is_told(
    study: StudyDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the point itself is named."""
    run = study.points()[1]
    path = _newer_job(run)

    codes = [main([*words, str(run.path)]) for words in (["show"], ["why"])]
    codes.append(main(["register", "fake/1", "--name", "x"]))

    told = capsys.readouterr().err.splitlines()
    assert codes == [1, 1, 1]
    assert [str(path.name) in line for line in told] == [True, True, True]


def test_a_damaged_record_of_the_flow_is_told(
    study: StudyDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    """It can be removed; the points need it not."""
    (study.path / "flow.json").write_text("")

    codes = [main(["show"]), main(["resume"])]

    told = capsys.readouterr().err.splitlines()
    assert codes == [1, 1]
    assert {line.split("; ")[1] for line in told} == {"remove it to go on without it"}


def test_a_study_of_which_all_is_gone_shows_what_it_had(
    study: StudyDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    """No empty table with the exit code 0: each point is named, with its next step."""
    shutil.rmtree(study.path / "points")

    code = main(["show"])

    told = capsys.readouterr().out
    assert code == 1
    assert not is_complete(study)
    assert told.count("job.json is missing; to make it anew from study.json: watershed resume") == 4


def test_what_is_gone_is_made_anew(study: StudyDirectory) -> None:
    """As it was: a result that is still there counts again, a lost directory waits for its job."""
    first, second, *_ = study.points()
    before = first.job.read_bytes()
    _no_directory(first)
    _no_job(second)
    seconds = second.result.read_bytes()

    made = restore_points(study)

    assert made == [first, second]
    assert [standing(run) for run in study.points()] == [
        "waiting",
        "finished",
        "finished",
        "failed",
    ]
    assert first.read_job() == JobFile.model_validate_json(before)
    assert second.result.read_bytes() == seconds
    assert restore_points(study) == []


def test_resume_makes_the_input_of_a_finished_point_anew(
    study: StudyDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says so; there is nothing to run then."""
    write_json(study.points()[3].result, Result(status="finished").model_dump())
    record = FlowRecord(flow_run_id="1", tracking_uri="sqlite:///x", comparison="#/x")
    write_flow_record(study.path, record)
    path = _no_job(study.points()[1])
    assert not is_complete(study)

    code = main(["resume"])

    captured = capsys.readouterr()
    assert code == 0
    assert captured.err == f"{path} was missing, and is made anew\n"
    assert "All points have finished; there is nothing to resume." in captured.out


def test_points_that_wait_are_arranged_beside_a_damaged_one(tmp_path: Path) -> None:
    """Conditions are written for the others, and predictions asked for; nothing is for it."""
    raw = {"name": "gpt", "experiment": {"kind": "training", "model": "gpt-1m", "device": "cpu"}}
    study = Study.model_validate(raw | {"grid": {"seed": [0, 1]}})
    directory = create_study_directory(study, tmp_path, datetime.now(UTC))
    broken, sound = directory.points()
    broken.job.write_text("")

    state = predict_points.fn(directory.path)
    note_conditions(directory, 1)

    assert " of 1 points predicted" in str(state.message)
    assert sound.conditions.exists()
    assert sorted(path.name for path in broken.path.iterdir()) == ["job.json"]
