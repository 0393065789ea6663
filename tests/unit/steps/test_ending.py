"""How a flow run ends, in words."""

import shlex
from datetime import UTC, datetime
from pathlib import Path

import pytest

from configs.study import Study
from tasks.runtime.records import Result
from tasks.slurm.results import write_result
from tasks.steps.creation import create_study_directory
from tasks.steps.ending import final_state, termination_in_words
from tasks.tracking.study_directory import StudyDirectory


def test_a_few_failures_are_told_and_no_secret_with_them(tmp_path: Path) -> None:
    """The message of a state is one line, which everybody who sees Prefect reads."""
    study = Study.model_validate(
        {"name": "s", "experiment": {"data": "digits"}, "grid": {"seed": list(range(12))}}
    )
    directory = create_study_directory(study, tmp_path, datetime.now(UTC))
    for run in directory.points():
        write_result(run, Result(status="failed", message="refused: token=hunter2"))

    state = final_state(directory)

    message = str(state.message)
    assert state.is_failed()
    assert message.startswith("12 of 12 points failed. seed=0: refused: token=***; seed=1: ")
    assert message.endswith("seed=9: refused: token=***; 2 more, see the report")


@pytest.mark.parametrize("launcher", [{"kind": "local"}, {"kind": "slurm"}])
def test_commands_after_an_end_from_outside_can_be_pasted(
    launcher: dict[str, str], tmp_path: Path
) -> None:
    """The directory is one word, whatever characters it has."""
    study = Study.model_validate(
        {"name": "s", "experiment": {"data": "digits"}, "launcher": launcher}
    )
    directory = StudyDirectory(tmp_path / "my runs #1" / "s-1")

    told = termination_in_words(study, directory, is_cancelled=False)

    assert f"watershed resume '{directory.path}', " in told
    assert shlex.split(directory.argument, comments=True) == [str(directory.path)]
