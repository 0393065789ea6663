"""Records that cross from a job to its watchers."""

import pytest

from configs.federated import FederatedExperiment
from configs.training import TrainingExperiment
from tasks.runtime.errors import JobError
from tasks.runtime.records import JobFile, Result


def _job(experiment: FederatedExperiment | TrainingExperiment) -> JobFile:
    job = JobFile(study="s", point="base", config_hash="0", experiment=experiment)
    return JobFile.model_validate_json(job.model_dump_json())


def test_a_job_is_of_one_kind() -> None:
    """An engine gets the experiment of its kind; for another one it says what to do."""
    federated = _job(FederatedExperiment.model_validate({"data": "digits"}))
    training = _job(TrainingExperiment(kind="training"))

    assert federated.federated.workers == 100
    assert training.training.ranks == 8
    with pytest.raises(JobError, match=r"is of kind training, this engine runs kind federated; "):
        training.federated  # noqa: B018  raises
    with pytest.raises(JobError, match=r"is of kind federated, this engine runs kind training; "):
        federated.training  # noqa: B018  raises


def test_a_job_without_a_kind_is_federated() -> None:
    """job.json from before there were trainings stays valid."""
    raw = {"study": "s", "point": "p", "config_hash": "0", "experiment": {"data": "digits"}}

    assert JobFile.model_validate(raw).federated.workers == 100


def test_an_earlier_result_is_read() -> None:
    """What was once called rounds are steps."""
    result = Result.model_validate_json(b'{"status": "finished", "rounds": 7}')

    assert result == Result(status="finished", steps=7)
