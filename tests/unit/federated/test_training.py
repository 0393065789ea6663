"""What a training writes and says, of a run in its directory."""

from pathlib import Path

import pytest

from configs.federated import FederatedExperiment
from tasks.federated.simulation import simulate
from tasks.runtime.journal import read_journal
from tasks.runtime.records import JobFile
from tasks.runtime.run_directory import RunDirectory


def _prepare(path: Path, **settings: object) -> RunDirectory:
    raw = {
        "workers": 4,
        "rounds": 6,
        "evaluate_every": 2,
        "model": {"name": "quadratic", "centres": [1.0, 2.0, 3.0, 4.0]},
        "algorithm": {"name": "afa_cs", "collect": 1, "slots": "wait"},
        "arrivals": "schedule",
        **settings,
    }
    directory = RunDirectory(path)
    path.mkdir()
    job = JobFile(
        study="test",
        point="base",
        coordinates={},
        config_hash="0" * 12,
        experiment=FederatedExperiment.model_validate(raw),
    )
    directory.job.write_text(job.model_dump_json())
    return directory


@pytest.mark.parametrize(("rounds", "missing"), [(3, 1), (4, 0)])
def test_a_run_that_has_waited_to_its_end_says_so(
    tmp_path: Path, rounds: int, missing: int
) -> None:
    """Four workers in turn: after three rounds one is missing, and the model is the initial one."""
    directory = _prepare(tmp_path / "run", rounds=rounds)

    result = simulate(directory)

    assert result.status == "finished"
    found = [text for text in result.warnings if "the model was never updated" in text]
    assert len(found) == missing
    assert all("1 of 4 have not returned in 3 rounds" in text for text in found)


def test_the_journal_has_the_ages_of_a_memory(tmp_path: Path) -> None:
    """Four workers in turn, one a round: after two rounds ages 1, 0, 1, 1, in the end 0 to 3."""
    directory = _prepare(tmp_path / "run", algorithm={"name": "mifa", "collect": 1})

    simulate(directory)

    lines = {line.step: line.metrics for line, _ in read_journal(directory.journal)}
    assert "memory/age_mean" not in lines[0]
    assert (lines[2]["memory/age_mean"], lines[2]["memory/age_max"]) == (0.75, 1)
    assert (lines[6]["memory/age_mean"], lines[6]["memory/age_max"]) == (1.5, 3)
