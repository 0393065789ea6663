"""Files that cannot be read are told with their path, what is wrong with them, and what to do."""

import pickle
from pathlib import Path

import pytest

from tasks.runtime.errors import DamagedFileError, JobError
from tasks.runtime.job import run_job
from tasks.runtime.reading import load_record
from tasks.runtime.records import Exit, Result
from tasks.runtime.run_directory import RunDirectory


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is empty, as after a crash or on a full disk; to run the point again, remove it and"),
        ("\0\0\n", "is empty, as after a crash"),
        ('{"status": "fini', "is cut off or no JSON (EOF while parsing a string at line 1 "),
        (
            '{"status": "finished", "future": 1}',
            "has the field 'future', which this version does not know; another version of Watershed"
            " has made it: look at it with the checkout of then; or, to run the point again, remove"
            " it and then: watershed resume",
        ),
        ("{}", "lacks the field 'status'; another version"),
        ('{"status": "done"}', "has a value that this version does not take at 'status' (Input "),
        (
            '{"status": "failed", "a": 1, "b": 2, "c": 3, "d": 4}',
            "has the field 'c', which this version does not know, 1 more faults; another version",
        ),
    ],
)
def test_a_damaged_result_is_told(content: str, told: str, tmp_path: Path) -> None:
    """The message begins with the path, and names no class of Pydantic."""
    run = RunDirectory(tmp_path)
    run.result.write_text(content)

    with pytest.raises(DamagedFileError) as caught:
        run.read_result()

    message = str(caught.value)
    assert message.startswith(f"{run.result} ")
    assert told in message
    assert "pydantic" not in message
    assert "Result" not in message


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("job.json", "restore it from a copy, or begin a new run with: watershed run"),
        ("study.json", "restore it from a copy, or begin a new run with: watershed run"),
        ("exit.json", "to run the point again, remove it and then: watershed resume"),
        ("costs.json", "remove it to go on without it"),
    ],
)
def test_the_next_step_is_that_of_the_file(name: str, step: str, tmp_path: Path) -> None:
    """What a run is to do cannot be made anew; how it has ended can, by running it."""
    (tmp_path / name).write_text("{")

    with pytest.raises(DamagedFileError) as caught:
        load_record(Exit, tmp_path / name)

    assert str(caught.value).endswith(f"; {step}")


def test_an_absent_result_is_none_yet_and_an_absent_job_is_damage(tmp_path: Path) -> None:
    """A run without a result has not ended; one without a job cannot begin, and says what to do."""
    assert RunDirectory(tmp_path).read_result() is None
    with pytest.raises(DamagedFileError, match=r"job.json is missing; .*: watershed resume"):
        RunDirectory(tmp_path).read_job()


def test_a_job_with_a_damaged_input_fails_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the node too: the result says which file it is, and there is no traceback."""
    run = RunDirectory(tmp_path)
    run.job.write_text('{"study": ')

    def work(directory: RunDirectory) -> Result:
        directory.read_job()
        return Result(status="finished")

    run_job(run.job, work)

    result = run.read_result()
    assert result is not None
    assert (result.status, result.reason) == ("failed", "configuration")
    assert result.message.startswith(f"{run.job} is cut off or no JSON (")
    assert "Traceback" not in capsys.readouterr().err


def test_it_can_be_sent_to_another_process(tmp_path: Path) -> None:
    """As what is wrong with a rank's job is."""
    error = DamagedFileError(tmp_path, "is empty", "remove it")

    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  our own

    assert isinstance(copy, JobError)
    assert (copy.reason, str(copy)) == ("configuration", f"{tmp_path} is empty; remove it")
