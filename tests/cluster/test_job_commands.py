"""The commands for jobs, as a user types them, on a real cluster."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from configs.launchers import SlurmLauncherConfig
from configs.loading import load_study
from flows.command_line import main
from tasks.slurm.launcher import JobState
from tasks.slurm.slurm_launcher import SlurmLauncher
from tasks.steps.creation import create_study_directory
from tasks.steps.flow_record import read_flow_record
from tasks.steps.launching import point_plan
from tests.cluster.launching import ROOT, ended, until
from tests.cluster.prefect_server import PrefectServer
from tests.cluster.slurm_cluster import SlurmCluster
from tests.cluster.study_process import WATERSHED, logs, only_study, user_environment
from tests.integration.flow_runs import Person

STUDY = """
launcher: {kind: slurm, partition: batch, time_limit: "5", setup: ["no-such-command --now"]}
experiment:
  workers: 2
  rounds: 60
  evaluate_every: 5
  model: {name: quadratic, centres: [0, 100]}
  algorithm: {collect: 2}
  worker: {lr: 0.2}
  arrivals: synchronous
grid:
  algorithm.name: [afa_cd, afa_cs]
"""


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory, used_home: Path) -> Iterator[PrefectServer]:
    """A Prefect server."""
    server = PrefectServer(tmp_path_factory.mktemp("prefect"), used_home)
    server.start()
    yield server
    server.stop()


@dataclass(frozen=True)
class User:
    """Somebody at a terminal of the login host.

    Attributes:
        home: Where they work.
        environment: Of their shell.
    """

    home: Path
    environment: dict[str, str]

    def types(self, *arguments: str, code: int = 0) -> str:
        """Run ``watershed``, expect an exit code, and return its output."""
        ended = subprocess.run(
            [WATERSHED, *arguments],
            cwd=self.home,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
            check=False,
        )
        assert ended.returncode == code, ended.stdout + logs(self.home)
        assert "Traceback" not in ended.stdout
        return ended.stdout


FAILS_AND_RUNS = """
setup: ['[ "$SLURM_ARRAY_TASK_ID" != 0 ] || no-such-command --now', "sleep 300"]
"""


def test_one_job_is_explained_and_the_other_cancelled(
    in_cluster: SlurmCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without a flow: the plan, why the script of one has failed, the end of one that runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WATERSHED_STATE_DIR", str(tmp_path / "state"))

    def types(*arguments: str, code: int = 0) -> str:
        assert main(list(arguments)) == code
        return capsys.readouterr().out

    (tmp_path / "toy.yaml").write_text(
        STUDY.replace('setup: ["no-such-command --now"]', FAILS_AND_RUNS.strip())
    )
    assert "#SBATCH --array=0-1" in types("plan", "toy.yaml")
    assert not (tmp_path / "runs").exists()
    study = load_study(tmp_path / "toy.yaml")
    assert isinstance(study.launcher, SlurmLauncherConfig)
    directory = create_study_directory(study, tmp_path / "runs", datetime.now().astimezone())
    plans = [point_plan(study, run.read_job(), run, ROOT) for run in directory.points()]
    first = SlurmLauncher(study.launcher, directory.path)
    failing, _ = first.submit_all(plans)
    until(lambda: in_cluster.run(["squeue", "-h", "-t", "F", "-o", "%K"]).stdout.split() == ["0"])
    first.detach()

    launcher = SlurmLauncher(study.launcher, directory.path)  # one that begins looks at once
    state = ended(launcher, failing)
    launcher.detach()

    assert state is JobState.FAILED
    assert "no-such-command" in types("why", "toy", "0")
    assert "no-such-command: command not found" in types("logs", "toy", "0")
    assert "failed" in types("jobs", "toy")
    assert "cancelled, 1 jobs of Slurm" in types("cancel", "toy")
    assert in_cluster.run(["squeue", "-h", "-t", "PD,R"]).stdout == ""
    types("cancel", "toy", code=1)


@pytest.mark.slow
def test_a_failing_script_is_explained_and_retried(
    tmp_path: Path, cluster: SlurmCluster, prefect: PrefectServer
) -> None:
    """From the plan to a failure in words, to a retry with another set-up, to the end."""
    user = User(tmp_path, user_environment(cluster, tmp_path, prefect_api=prefect.api))
    (tmp_path / "toy.yaml").write_text(STUDY)

    planned = user.types("plan", "toy.yaml")
    assert "#SBATCH --array=0-1" in planned
    assert "no-such-command --now" in planned
    assert not (tmp_path / "runs").exists()

    user.types("run", "toy.yaml", code=1)
    _is_told_in_prefect(only_study(tmp_path, "toy").path, Person(prefect.api))
    why = user.types("why", "toy", "afa_cd")
    assert "no-such-command" in why
    assert "no-such-command" in user.types("logs", "toy", "0")
    assert "failed" in user.types("jobs", "toy")
    fault = user.types("retry", "toy", "--set", "launcher.partition=none", code=2)
    assert "known: batch, debug, preempt" in fault

    user.types("retry", "toy", "--set", "launcher.setup=[]")

    study = only_study(tmp_path, "toy")
    results = [run.read_result() for run in study.points()]
    assert [result.status for result in results if result] == ["finished", "finished"]
    assert "nothing was running" in user.types("cancel", "toy", code=1)
    assert "All points have finished" in user.types("why", "toy")


def _is_told_in_prefect(study_dir: Path, person: Person) -> None:
    """Who looks at the flow run sees each job's way, its failure, the output and what to do."""
    record = read_flow_record(study_dir)
    assert record is not None
    told = "\n".join(person.log(record.flow_run_id))
    assert re.search(r"^job \d+_0 on batch: PENDING", told, re.MULTILINE), told
    assert re.search(r"^job \d+_1 on batch: FAILED", told, re.MULTILINE), told
    task = person.task_runs(record.flow_run_id)["afa_cd"]
    assert task["state_name"] == "Failed"
    assert task["state"]["message"].startswith("[application] The job script failed. Job ")
    texts = {one["key"]: one["data"] for one in person.artifacts(record.flow_run_id, "markdown")}
    why = texts["why-toy-000-afa-cd"]
    assert "# afa_cd: failed (application)" in why
    assert "Check launcher.python, launcher.modules, launcher.setup" in why
    assert "no-such-command: command not found" in why.split("Last lines of")[1]
    assert "# toy" in texts["toy"]  # the report


@pytest.mark.slow
def test_jobs_of_a_lost_ledger_are_adopted(
    tmp_path: Path, cluster: SlurmCluster, prefect: PrefectServer
) -> None:
    """A running job whose ledger is gone is found again by its name, and can be cancelled."""
    user = User(tmp_path, user_environment(cluster, tmp_path, prefect_api=prefect.api))
    endless = STUDY.replace("rounds: 60", "rounds: 100000000").replace(
        'setup: ["no-such-command --now"]', "pack: single"
    )
    (tmp_path / "endless.yaml").write_text(endless)
    user.types("run", "endless.yaml", "--detach")
    study = only_study(tmp_path, "endless")
    for _ in range(90):
        if all(run.attempts() for run in study.points()):
            break
        subprocess.run(["sleep", "1"], check=True)
    pid = (study.path / ".lock").read_text().split()[-1]
    subprocess.run(["kill", "-KILL", "--", f"-{pid}"], check=True)
    shutil.rmtree(tmp_path / ".local" / "state" / "watershed")

    assert "No jobs of Slurm" in user.types("jobs", "endless")
    assert "2 jobs adopted" in user.types("adopt", "endless")
    assert "0 jobs adopted" in user.types("adopt", "endless")
    assert "2 jobs of Slurm" in user.types("cancel", "endless")

    assert cluster.run(["squeue", "-h", "-t", "PD,R"]).stdout == ""
