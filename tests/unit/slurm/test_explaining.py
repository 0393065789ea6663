"""Why a run failed, for those who read it in Prefect."""

from pathlib import Path

import pytest

from configs.launchers import SlurmLauncherConfig
from configs.study import Study
from tasks.runtime.records import JobFile, Result
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.entries import Loss
from tasks.slurm.explaining import explain, in_markdown, in_short, last_lines
from tasks.slurm.leader_ledger import LeaderLedger
from tasks.slurm.ledger_file import LedgerFile, state_directory
from tasks.slurm.plan import Batch, JobPlan
from tasks.slurm.results import write_result
from tasks.slurm.slurm_launcher import LEDGER_NAME


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run on this machine, which has no ledger."""
    monkeypatch.setenv("WATERSHED_STATE_DIR", str(tmp_path / "state"))
    directory = RunDirectory(tmp_path / "s" / "points" / "000-a")
    directory.path.mkdir(parents=True)
    experiment = Study.model_validate({"name": "s", "experiment": {"data": "digits"}}).experiment
    job = JobFile(study="s", point="seed 1", config_hash="0", experiment=experiment)
    directory.job.write_text(job.model_dump_json())
    return directory


def test_a_local_failure_says_its_class_its_last_lines_and_what_to_do(run: RunDirectory) -> None:
    """The text for the artifact has all of it, the state's message the class and the cause."""
    message = "the job was killed by SIGKILL, perhaps for want of memory"
    write_result(run, Result(status="failed", reason="killed", message=message))
    run.stdout.write_text("\n".join(["begun", *map(str, range(40)), "password=hunter2"]))

    explained = explain(run)
    text = in_markdown(explained, "Retry it.")

    assert in_short(explained, run.read_result()) == f"[killed] killed from outside: {message}"
    assert "# seed 1: failed (killed)" in text
    assert "**What to do:** The system kills what uses too much memory" in text
    assert "Retry it." in text
    assert "\n39\n" in text
    assert "begun" not in text
    assert "hunter2" not in text


def test_a_long_message_is_cut_in_the_state_alone(run: RunDirectory) -> None:
    """A state has one line; the whole is in the artifact."""
    write_result(run, Result(status="failed", reason="data", message="x" * 1000))

    explained = explain(run)

    assert len(in_short(explained, run.read_result(), longest=50)) <= len("[data] ") + 50
    assert "x" * 999 in in_markdown(explained, "")


def test_lost_nodes_are_told_before_what_became_of_the_job(run: RunDirectory) -> None:
    """Slurm has queued it again: that is part of its story, though no submission has ended."""
    ledger = LeaderLedger(LedgerFile(state_directory("here") / LEDGER_NAME))
    plan = JobPlan(name="a", module="toy.job", run_dir=run.path)
    ledger.register(run.path.parent, SlurmLauncherConfig(), [plan], 1.0)
    ledger.begin(Batch(mode="single", jobs=(plan,), directory=run.path), 1, 2.0)
    (entry,) = ledger.entries()
    ledger.accept(entry.name, "12", 3.0)
    ledger.lose(entry, Loss(1, "node01", moved=False, words="node01 was lost (retry 1 of 3)"))

    explained = explain(run)

    assert [head for head, _ in explained.submissions] == [
        "submission 1, job 12, requeue 1 [node]",
        "submission 1, job 12",
    ]
    assert explained.submissions[0][1] == "node01 was lost (retry 1 of 3)"


def test_a_run_without_a_result_is_no_failure(run: RunDirectory) -> None:
    """It has no class, and nothing is made up."""
    explained = explain(run)

    assert (explained.state, explained.category, explained.local) == ("no result yet", "", None)


def test_the_end_of_a_huge_output_is_told_without_the_key_in_it(tmp_path: Path) -> None:
    """Of gigabytes only the end is read; a key of several lines is one secret."""
    path = tmp_path / "stdout"
    with path.open("w") as file:
        file.truncate(1 << 34)  # takes no room
        file.seek(0, 2)
        file.write(
            "\nbegun\n-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----\nbroke\n"
        )

    assert last_lines(path, 3) == ("begun", "***", "broke")
