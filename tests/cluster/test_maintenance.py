"""A night while a maintenance reservation takes the nodes of a real cluster."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from configs.loading import load_study
from flows.nightly import nightly
from tasks.slurm.commands import SlurmCli
from tasks.steps.nightly import maintenance
from tests.cluster.slurm_cluster import SlurmCluster

_STUDY = """
name: nights
experiment:
  workers: 2
  rounds: 1
  model: {name: quadratic}
  algorithm: {collect: 1}
launcher: {kind: slurm, partition: batch, time_limit: "10"}
"""


@pytest.fixture
def reserved(in_cluster: SlurmCluster) -> Iterator[SlurmCluster]:
    """A cluster whose four nodes are in maintenance for an hour, from now on."""
    in_cluster.run(
        [
            *("scontrol", "create", "reservation", "reservationname=upgrade", "starttime=now"),
            *("duration=60", "flags=maint,ignore_jobs", "nodes=ALL", "users=root"),
        ]
    )
    yield in_cluster
    in_cluster.run(["scontrol", "delete", "reservationname=upgrade"])


def test_a_night_in_a_maintenance_is_skipped(reserved: SlurmCluster, tmp_path: Path) -> None:
    """It does not fail, submits nothing, and says until when; Slurm would not start its job."""
    study = tmp_path / "nights.yaml"
    study.write_text(_STUDY)

    with disable_run_logger():  # outside of a flow run there is none
        state = nightly.fn(str(study), runs_dir=tmp_path / "runs")

    (reservation,) = SlurmCli().reservations()
    assert state.is_completed()
    assert state.name == "Skipped"
    assert str(state.message).startswith("skipped: maintenance upgrade until 20")
    assert not list((tmp_path / "runs").glob("nights-*"))
    assert reservation.nodes == SlurmCli().nodes()["batch"]
    assert len(reservation.nodes) == 4
    reserved.run(["sbatch", "--job-name=in-the-way", "--output=/dev/null", "--wrap=true"])
    time.sleep(3)
    (job,) = (one for one in SlurmCli().queue() if one.name == "in-the-way")
    assert (job.state.name, job.reason[:15]) == ("PENDING", "ReqNodeNotAvail")


@pytest.mark.parametrize(("nodes", "told"), [("node[01-03]", ""), ("ALL", "maintenance some")])
def test_only_a_maintenance_in_the_way_matters(
    in_cluster: SlurmCluster, tmp_path: Path, nodes: str, told: str
) -> None:
    """Three of four nodes leave one for the job; all of them do not, even in five minutes."""
    (tmp_path / "nights.yaml").write_text(_STUDY)
    study = load_study(tmp_path / "nights.yaml")
    in_cluster.run(
        [
            *(
                "scontrol",
                "create",
                "reservation",
                "reservationname=some",
                "starttime=now+5minutes",
            ),
            *("duration=60", "flags=maint,ignore_jobs", f"nodes={nodes}", "users=root"),
        ]
    )

    try:
        found = maintenance(study)
    finally:
        in_cluster.run(["scontrol", "delete", "reservationname=some"])

    assert found.partition(" until ")[0] == told
