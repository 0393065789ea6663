"""The shipped scaling study on a real cluster: nodes follow from the ranks of each point."""

import sys
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from configs.launchers import SlurmLauncherConfig
from configs.loading import load_study
from tasks.slurm.launcher import JobState
from tasks.slurm.slurm_launcher import SlurmLauncher
from tasks.steps.creation import create_study_directory
from tasks.steps.launching import point_plan
from tasks.tracking.costs import read_costs
from tasks.tracking.history import read_history
from tests.cluster.launching import ROOT, ended
from tests.cluster.slurm_cluster import SlurmCluster
from tests.cluster.study_process import logs, only_study, running, user_environment

_STUDY = ROOT / "configs" / "studies" / "scaling-mini.yaml"
_SETTINGS = (
    "launcher={kind: slurm, time_limit: '10'}",
    "strategies={ZeRO-topo: {partition: zero_topo, transport: zero_topo}}",
    "topology={name: pairs, levels: [{name: node, ranks: 2}]}",
    "sizes=[1, 4]",
    "steps=4",
    "evaluate_sequences=4",
)


def test_ranks_of_two_sizes_run_where_they_should(
    in_accounted: SlurmCluster, launch: Callable[..., SlurmLauncher], tmp_path: Path
) -> None:
    """With another program in the jobs: 1 rank on one node, 4 on two; and what they cost."""
    del in_accounted
    study = load_study(_STUDY, _SETTINGS)
    assert isinstance(study.launcher, SlurmLauncherConfig)
    directory = create_study_directory(study, tmp_path, datetime.now().astimezone())
    runs = directory.points()
    asked = [point_plan(study, run.read_job(), run, ROOT) for run in runs]
    instead = {"module": "tests.cluster.shape_job", "python": sys.executable}
    launcher = launch(study.launcher, directory.path.name)

    jobs = launcher.submit_all([plan.model_copy(update=instead) for plan in asked])
    states = [ended(launcher, job) for job in jobs]
    launcher.close()

    assert states == [JobState.FINISHED] * 2
    told = [Counter((run.path / "nodes").read_text().split()) for run in runs]
    assert [sorted(nodes.values()) for nodes in told] == [[1], [2, 2]]
    assert [[cost.nodes for cost in read_costs(run)] for run in runs] == [[1], [2]]


@pytest.mark.slow
def test_points_of_two_sizes_are_jobs_of_their_own_shape(
    accounted_cluster: SlurmCluster, tmp_path: Path
) -> None:
    """1 rank on one node, 4 on two; the report has the node-hours that Slurm has accounted."""
    arguments = ["run", str(_STUDY), *(word for one in _SETTINGS for word in ("--set", one))]

    with running(arguments, tmp_path, user_environment(accounted_cluster, tmp_path)) as process:
        code = process.wait(300)

    assert code == 0, logs(tmp_path)
    directory = only_study(tmp_path, "scaling-mini")
    small, large = directory.points()
    for run, nodes, tasks in ((small, 1, 1), (large, 2, 2)):
        script = run.script.read_text()
        assert f"#SBATCH --nodes={nodes}\n" in script
        assert f"#SBATCH --ntasks-per-node={tasks}\n" in script
        assert read_history(run).state == "finished"
        assert [cost.nodes for cost in read_costs(run)] == [nodes]
    assert {"bytes/node", "bytes/cluster"} <= set(read_history(large).metrics)
    text = directory.report.read_text()
    assert "## Scaling, weak" in text
    assert "| node-hours |" in text
    assert "As Slurm accounts for it" in text
