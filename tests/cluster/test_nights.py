"""Nights of a real training on a real cluster."""

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.tracking.costs import read_costs
from tasks.tracking.history import read_history
from tasks.tracking.nightly_record import read_night
from tasks.tracking.study_directory import StudyDirectory
from tests.cluster.launching import ROOT
from tests.cluster.slurm_cluster import SlurmCluster
from tests.cluster.study_process import user_environment

_STUDY = """
name: nights
experiment:
  kind: training
  model: {layers: 2, hidden: 64, heads: 4, vocabulary: 256}
  data: arithmetic
  sequence: 64
  topology: {name: pair, levels: [{name: node, ranks: 2}]}
  ranks: 2
  steps: 12
  device: cpu
grid: {seed: [0, 1]}
launcher: {kind: slurm, partition: batch, time_limit: "10"}
"""
_NIGHTS = ("2026-03-28", "2026-03-29", "2026-03-30")


@pytest.mark.slow
def test_nights_are_jobs_whose_speeds_are_compared(
    accounted_cluster: SlurmCluster, tmp_path: Path
) -> None:
    """Each night trains two repeats as jobs of Slurm; the third has two to compare with.

    A night of six steps on a busy machine may well be a regression, and is to say so; it is never
    without a verdict.
    """
    study = tmp_path / "nights.yaml"
    study.write_text(_STUDY)

    ended = subprocess.run(
        [sys.executable, "-m", "tests.cluster.nights", str(study), *_NIGHTS],
        cwd=tmp_path,
        env=user_environment(accounted_cluster, tmp_path) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr[-3000:]
    first, second, third = ended.stdout.splitlines()[-3:]
    assert first.startswith("Completed: no earlier night"), ended.stdout
    assert second.startswith("Completed: ")
    assert third.partition(": ")[0] in {"Completed", "Failed"}
    paths = sorted((tmp_path / "runs").glob("nights-*"))
    records = [read_night(path) for path in paths]
    assert [str(record.night) for record in records if record] == list(_NIGHTS)
    for path in paths:
        for run in StudyDirectory(path).points():
            assert read_history(run).state == "finished"
            assert [cost.nodes for cost in read_costs(run)] == [1]
    report = (paths[-1] / "nightly.md").read_text()
    assert f"Compared with: {_NIGHTS[1]}, {_NIGHTS[0]}" in report
