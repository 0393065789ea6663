"""From what a flow was given to a study: what is refused before anything is made."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.runtime import flow_run

from configs.federated_form import FederatedForm
from configs.study import Study
from flows import points
from flows.resolving import resolved
from tasks.steps.creation import create_study_directory

_STUDY: dict[str, Any] = {
    "name": "two",
    "experiment": {"data": "digits", "rounds": 3},
    "grid": {"seed": [1, 2]},
}


def test_points_that_are_not_there_are_a_fault(tmp_path: Path) -> None:
    """Which ones, and which there are."""
    study = Study.model_validate(_STUDY)
    directory = create_study_directory(study, tmp_path, datetime.now(UTC))

    (fault,) = resolved(study, study_dir=directory.path, points=[1, 2, 7])

    assert str(fault) == "points: there is no point 2, 7; those of two are 0 to 1"
    assert resolved(study, study_dir=directory.path, points=[1, 0]) == study


def test_the_study_of_a_directory_comes_before_that_of_the_form(tmp_path: Path) -> None:
    """The form that Prefect shows is never empty."""
    study = Study.model_validate(_STUDY)
    directory = create_study_directory(study, tmp_path, datetime.now(UTC))

    assert resolved(FederatedForm(preset="mnist-logistic"), study_dir=directory.path) == study


def test_a_directory_without_a_study_is_a_fault(tmp_path: Path) -> None:
    """Whether it is absent or holds something else."""
    (tmp_path / "study.json").write_text('{"name": 1}')

    (other,) = resolved(Study.model_validate(_STUDY), study_dir=tmp_path)
    (absent,) = resolved(Study.model_validate(_STUDY), study_dir=tmp_path / "x")

    assert str(other).startswith(f"study_dir: {tmp_path}/study.json has a value that this version ")
    assert "another version of Watershed has made it" in str(other)
    assert str(absent) == (
        f"study_dir: {tmp_path}/x is no directory of a study (study.json: No such file or "
        "directory); empty: a new one"
    )


def test_a_server_that_is_away_has_cancelled_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow of a night asks for the night's flow run when it is ended from outside."""

    def away() -> str:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(flow_run, "get_id", lambda: "one")
    monkeypatch.setattr(flow_run, "get_root_flow_run_id", away)
    monkeypatch.setattr(points, "state_of", lambda _: None)

    assert not points._is_cancelled()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")
def test_a_directory_of_another_user_is_a_fault(tmp_path: Path) -> None:
    """What lies there could run commands as the worker's user."""
    study = Study.model_validate(_STUDY)
    directory = create_study_directory(study, tmp_path, datetime.now(UTC))
    os.chown(directory.path, 54_321, 54_321)

    (fault,) = resolved(study, study_dir=directory.path)

    assert str(fault).startswith(f"study_dir: {directory.path} belongs to user 54321: what lies ")
