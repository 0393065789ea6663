"""Steps of an anarchic run: a server job, client jobs that come and go, blocks of rounds to see."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from prefect import State, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Cancelled, Completed, Failed

from tasks.runtime.records import ReturnLine
from tasks.runtime.returns import read_returns
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.launcher import JobId, Launcher
from tasks.steps.artifacts import SHOWN
from tasks.steps.story import JobTeller
from tasks.steps.workers import Workers

_POLL_S = 1.0
_MOST_SHOWN = 1000
"""Returns of a block in the log, and in its table; all are in the run's directory."""


def blocks_of(rounds: int, num_blocks: int = 10) -> list[tuple[int, int]]:
    """Divide the rounds of a run into blocks of nearly the same length.

    Args:
        rounds: Rounds in all, at least 1.
        num_blocks: Blocks, unless there are fewer rounds.

    Returns:
        First and last round of each block, counted from 1.
    """
    num_blocks = min(num_blocks, rounds)
    ends = [rounds * (block + 1) // num_blocks for block in range(num_blocks)]
    return list(zip([1, *(end + 1 for end in ends[:-1])], ends, strict=True))


@task(task_run_name="rounds {first} to {last}", cache_policy=NO_CACHE)
def follow_rounds(
    first: int, last: int, run_dir: Path, launcher: Launcher, server: JobId
) -> State[str]:
    """Show a block of rounds while the server job does them: every return, and how far it is.

    Args:
        first: First round of the block, from 1.
        last: Its last round.
        run_dir: Run directory of the server.
        launcher: Where its job runs.
        server: The job.

    Returns:
        Completed with the delays and partitions in words; Cancelled if the server ended before.
    """
    logger = get_run_logger()
    directory = RunDirectory(run_dir)
    told = f"rounds {first} to {last}"
    artifact, shown = SHOWN.progress(0.0, told), 0.0
    lines: list[ReturnLine] = []
    offset = 0
    while True:
        is_over = launcher.poll(server).is_final  # before the reading, so that nothing comes later
        has_more = False
        for line, end in read_returns(directory.returns, offset):
            offset = end
            if line.round > last:
                has_more = True
                break
            if line.round >= first:
                lines.append(line)
                if len(lines) > _MOST_SHOWN:
                    continue
                logger.info(
                    "round %d: worker %d of %s, delay %d, %d local steps",
                    line.round,
                    line.worker,
                    line.partition or "no partition",
                    line.delay,
                    line.num_steps,
                )
        done = max((line.round for line in lines), default=first - 1)
        share = 100.0 * (done - first + 1) / (last - first + 1)
        if share != shown:
            artifact, shown = SHOWN.more(artifact, share, told), share
        if has_more or is_over or _has_model_of(directory, last):
            break
        time.sleep(_POLL_S)
    if lines:
        rows = [line.model_dump(mode="json") for line in lines[:_MOST_SHOWN]]
        SHOWN.table(rows, f"Returns of rounds {first} to {last}")
    told = told_of(lines)
    if done < last:
        return Cancelled(message=f"the server ended at round {done}: {told}", data=told)
    return Completed(message=told, data=told)


def told_of(lines: Sequence[ReturnLine]) -> str:
    """Sum up returns in words: how many, how late, from where.

    Args:
        lines: The returns.
    """
    if not lines:
        return "no returns"
    delays = [line.delay for line in lines]
    partitions = Counter(line.partition or "no partition" for line in lines)
    where = ", ".join(f"{count} from {name}" for name, count in partitions.most_common())
    return (
        f"{len(lines)} returns, delay {sum(delays) / len(delays):.1f} on average and "
        f"{max(delays)} at most; {where}"
    )


@task(task_run_name="rounds of {label}", cache_policy=NO_CACHE)
def follow_blocks(
    label: str,  # noqa: ARG001  names the task run
    run_dir: Path,
    launcher: Launcher,
    server: JobId,
) -> State[str]:
    """Show the rounds of a run in blocks, one after the other; each is a task run of its own.

    They are done in this thread: tasks that wait for each other would hold one each.

    Args:
        label: What varies at the point; the task run is named so.
        run_dir: Run directory of the server.
        launcher: Where its job runs.
        server: The job.

    Returns:
        Completed; or, in the state of the first block that was not completed, why it was not.

    Raises:
        OSError: ``job.json`` cannot be read.
        DamagedFileError: It is cut off, or of another version.
    """
    rounds = RunDirectory(run_dir).read_job().federated.rounds
    before: list[State[State[str]]] = []
    for first, last in blocks_of(rounds):
        block = follow_rounds(
            first, last, run_dir, launcher, server, return_state=True, wait_for=before
        )
        if not block.is_completed():
            return State(type=block.type, message=block.message, data=block.type.value)
        before = [block]
    return Completed(message=f"{rounds} rounds", data="completed")


@task(task_run_name="workers of {label}", cache_policy=NO_CACHE)
def follow_workers(
    label: str,  # noqa: ARG001  names the task run
    launcher: Launcher,
    workers: Workers,
) -> State[str]:
    """Show where the workers of a server are, until somebody else has seen them to their end.

    Args:
        label: What varies at the point; the task run is named so.
        launcher: Where the jobs are.
        workers: The workers, which ``tend`` looks after.

    Returns:
        How the workers ended.
    """
    logger = get_run_logger()
    tellers = [
        JobTeller(launcher, job, logger, f"worker {name}") for name, job in workers.jobs.items()
    ]
    is_over = False
    while not is_over:
        is_over = workers.over.wait(_POLL_S)  # before the telling, so that nothing comes later
        for teller in tellers:
            teller.tell()
    if workers.fault:
        return Failed(message=workers.fault, data="failed")
    told = workers.told()
    return Completed(message=told, data=told)


def _has_model_of(directory: RunDirectory, last_round: int) -> bool:
    """Whether the run has ended with this round or a later one."""
    result = directory.read_result()
    return result is not None and result.status == "finished" and result.steps >= last_round
