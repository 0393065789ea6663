"""Which jobs are submitted together, and the files of a batch."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from configs.launchers import SlurmLauncherConfig
from tasks.runtime.atomic_files import write_atomically, write_json
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.plan import Batch, BatchMode, JobPlan, batch_key
from tasks.slurm.script import RUNS_FILE, render


def divide(
    plans: Sequence[JobPlan],
    config: SlurmLauncherConfig,
    *,
    batches_dir: Path,
    max_array_size: int,
) -> list[Batch]:
    """Divide jobs into batches, each for one call of sbatch.

    A batch shares module, resources, environment, code and Python. When ``max_running`` is dealt to
    several arrays, each runs at least one task at a time.

    Args:
        plans: The jobs; those of one batch get the same number of submission.
        config: How they are to be packed.
        batches_dir: Directory of the batches, absolute; a job of its own lies in its run directory.
        max_array_size: MaxArraySize of the cluster; below 2, it has no arrays.

    Returns:
        The batches; jobs that share everything keep their order.
    """
    if config.pack == "single" or (config.pack == "array" and max_array_size < 2):
        return [_single(plan) for plan in plans]
    groups = _alike(plans)
    if config.pack == "allocation":
        return [
            _shared("allocation", jobs, batches_dir)
            for group in groups
            for jobs in _chunks(group, config.points_per_job)
        ]
    arrays = [jobs for group in groups for jobs in _chunks(group, max_array_size)]
    limits = _dealt(config.max_running, [len(jobs) for jobs in arrays])
    return [
        _single(jobs[0]) if len(jobs) == 1 else _shared("array", jobs, batches_dir, limit)
        for jobs, limit in zip(arrays, limits, strict=True)
    ]


def write_batch(batch: Batch, submission: int) -> Path:
    """Write the script of a batch and what it reads, whole or not at all.

    The directories, also those of the runs, are closed to other users: scripts hold what the
    configuration says, and journals what the data say.

    Args:
        batch: The jobs; their run directories exist.
        submission: Number of the submission, from 1.

    Returns:
        The script, to be submitted.

    Raises:
        NotScriptable: A path cannot be written into a script.
        OSError: A file cannot be written, or a directory is somebody else's.
    """
    script = render(batch, submission)
    batch.directory.mkdir(parents=True, exist_ok=True)
    for directory in {batch.directory, *(job.run_dir for job in batch.jobs)}:
        directory.chmod(0o700)
    if batch.mode != "single":
        write_json(batch.directory / RUNS_FILE, [str(job.run_dir) for job in batch.jobs])
    path = RunDirectory(batch.directory).script
    write_atomically(path, script.encode(errors="surrogateescape"))
    return path


def _alike(plans: Iterable[JobPlan]) -> Iterable[list[JobPlan]]:
    """Group the jobs that may share a script."""
    groups: dict[str, list[JobPlan]] = {}
    for plan in plans:
        shared = plan.model_dump_json(exclude={"name", "run_dir", "cpus"})
        groups.setdefault(shared, []).append(plan)
    return groups.values()


def _chunks(jobs: Sequence[JobPlan], size: int) -> Iterator[Sequence[JobPlan]]:
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]


def _dealt(total: int | None, sizes: Sequence[int]) -> list[int | None]:
    """Deal the most that run at a time to arrays, in proportion to their sizes."""
    if total is None:
        return [None for _ in sizes]
    shares: list[int | None] = []
    for number, size in enumerate(sizes):
        num_after = len(sizes) - number - 1
        fair = round(total * size / sum(sizes[number:]))
        share = max(1, min(fair, total - num_after))  # none is left without
        shares.append(share)
        total -= share
    return shares


def _single(plan: JobPlan) -> Batch:
    return Batch(mode="single", jobs=(plan,), directory=plan.run_dir)


def _shared(
    mode: BatchMode, jobs: Sequence[JobPlan], batches_dir: Path, max_running: int | None = None
) -> Batch:
    directory = batches_dir / batch_key(mode, jobs)
    return Batch(mode=mode, jobs=tuple(jobs), directory=directory, max_running=max_running)
