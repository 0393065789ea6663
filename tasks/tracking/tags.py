"""Tags of runs in MLflow: what made them, and what they are about."""

import subprocess
from pathlib import Path

from configs.federated import FederatedExperiment
from configs.study import Experiment


def subject_tags(experiment: Experiment) -> dict[str, str]:
    """Return tags by which runs of different studies are found, whatever their grids vary.

    Args:
        experiment: What a run runs.
    """
    tags = {"watershed.kind": experiment.kind}
    if isinstance(experiment, FederatedExperiment):
        data = {"watershed.data": experiment.data.name} if experiment.data else {}
        names = {"algorithm": experiment.algorithm.name, "model": experiment.model.name}
        return tags | data | {f"watershed.{key}": name for key, name in names.items()}
    words = {
        "engine": experiment.engine,
        "partition": experiment.partition_name,
        "model": experiment.model.preset or "gpt",
        "topology": experiment.topology.name,
    }
    return tags | {f"watershed.{key}": name for key, name in words.items()}


def common_tags(flow_run_id: str | None) -> dict[str, str]:
    """Return the tags that say what made a study's runs: the code's commit and the flow run.

    Args:
        flow_run_id: Prefect's id, if a flow made them.

    Returns:
        Tags; without the commit where the code is in no Git repository.
    """
    tags = {"prefect.flow_run_id": flow_run_id} if flow_run_id else {}
    commit = _git("rev-parse", "HEAD")
    if commit:
        changed = _git("status", "--porcelain", "--untracked-files=no")
        tags |= {"mlflow.source.git.commit": commit, "git.dirty": str(bool(changed)).lower()}
    return tags


def _git(*arguments: str) -> str:
    """Run git where this file lies; empty if there is no git or no repository."""
    try:
        ended = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return ended.stdout.strip()
