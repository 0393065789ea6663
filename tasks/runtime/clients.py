"""The run directories of real workers, below that of their server."""

from pathlib import Path

from configs.arrivals import Slurm
from tasks.runtime.atomic_files import write_atomically
from tasks.runtime.records import ClientJobFile
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.spool import Spool


def make_client_directories(server: RunDirectory) -> dict[str, list[Path]]:
    """Make the run directory of every worker that ever returns, each with its ``job.json``.

    Directories that are there already stay, so that a run can go on. The end of an earlier server
    is called back, lest a worker that starts before the next server reads it and goes home.

    Args:
        server: The server's run directory, with ``job.json``.

    Returns:
        Partition -> the directories of its workers, by worker id; no partition without workers.

    Raises:
        JobError: The experiment is not federated.
        TypeError: The experiment's workers are not real.
        OSError: A directory or file cannot be made.
    """
    job = server.read_job()
    experiment = job.federated
    arrivals = experiment.arrivals
    if not isinstance(arrivals, Slurm):
        raise TypeError(f"arrivals {arrivals.kind} have no real workers; only slurm has")
    Spool(server).call_back_end()
    directories: dict[str, list[Path]] = {}
    for worker in sorted(set(range(experiment.workers)) - set(arrivals.never_return)):
        client = server.worker(worker)
        client.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        client_job = ClientJobFile(
            study=job.study,
            point=job.point,
            worker=worker,
            server_dir="../..",
            config_hash=job.config_hash,
            experiment=experiment,
        )
        write_atomically(client.job, client_job.model_dump_json().encode())
        directories.setdefault(arrivals.partition_of(worker), []).append(client.path)
    return directories
