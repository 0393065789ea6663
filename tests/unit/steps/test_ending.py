"""How a flow run ends, in words."""

from datetime import UTC, datetime
from pathlib import Path

from configs.study import Study
from tasks.runtime.records import Result
from tasks.slurm.results import write_result
from tasks.steps.creation import create_study_directory
from tasks.steps.ending import final_state


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
