"""What a study would submit to Slurm: its scripts, and what they cost at most."""

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.launchers import SlurmLauncherConfig
from configs.measuring import points_to_run
from configs.study import Study
from tasks.slurm.batches import divide
from tasks.slurm.ceiling import Ceiling, ceiling
from tasks.slurm.charging import charge_here
from tasks.slurm.commands import SlurmCli
from tasks.slurm.errors import SlurmError
from tasks.slurm.plan import Batch
from tasks.slurm.script import render
from tasks.steps.creation import job_file
from tasks.steps.launching import point_plan, worker_plans
from tasks.tracking.study_directory import StudyDirectory

_DEFAULT_MAX_ARRAY_SIZE = 1001
"""Slurm's own default, for machines where no cluster can be asked."""
_FIRST_SUBMISSION = 1


def planned_batches(
    study: Study, launcher: SlurmLauncherConfig, directory: StudyDirectory
) -> list[Batch]:
    """Return what would be submitted for a study; nothing is written.

    Args:
        study: The study.
        launcher: Its launcher.
        directory: Its directory, as it would be.

    Returns:
        The batches: the points, then the workers of each anarchic point.
    """
    code_dir = directory.path / "code" / "HASH"  # of the code, when it is copied
    runs = [
        (job_file(study, point), directory.point(point.index, point.label))
        for point in points_to_run(study)
    ]
    together = [[point_plan(study, job, run, code_dir) for job, run in runs]]
    together += [worker_plans(study, job, run, code_dir) for job, run in runs]
    max_array_size = _max_array_size()
    return [
        batch
        for plans in together
        for batch in divide(
            plans,
            launcher,
            batches_dir=directory.path / "batches",
            max_array_size=max_array_size,
        )
    ]


def print_plan(console: Console, batches: list[Batch], root: Path) -> None:
    """Print the scripts of batches, and a table of what they cost at most.

    Args:
        console: Where to.
        batches: The batches, at least one.
        root: Directory that paths are shown relative to.

    Raises:
        NotScriptable: A path cannot be written into a script.
    """
    for batch in batches:
        path = batch.directory / "job.sh"
        shown = path.relative_to(root) if path.is_relative_to(root) else path
        console.print(Text(f"# {'=' * 20} {shown}", "bold"))
        console.print(Text(render(batch, _FIRST_SUBMISSION)), soft_wrap=True)
    console.print(_table_of(batches))
    console.print(
        "At most, if every job runs to its time limit and none is run again. Nothing was submitted."
    )


def _table_of(batches: list[Batch]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("submission")
    for name in ("runs", "jobs", "node-hours", "CPU-hours", "GPU-hours"):
        table.add_column(name, justify="right")
    for number, batch in enumerate(batches, start=1):
        resources = batch.jobs[0].resources
        where = (resources and resources.partition) or "default partition"
        table.add_row(f"{number}: {batch.mode}, {where}", *_cells(ceiling([batch])))
    if len(batches) > 1:
        table.add_row("all", *_cells(ceiling(batches)), style="bold")
    return table


def _cells(cost: Ceiling) -> list[str]:
    hours = (cost.node_hours, cost.cpu_hours, cost.gpu_hours)
    return [str(cost.num_points), str(cost.num_jobs), *(f"{value:.4g}" for value in hours)]


def _max_array_size() -> int:
    charge_here(1)
    try:
        return SlurmCli().max_array_size()
    except SlurmError:
        return _DEFAULT_MAX_ARRAY_SIZE
