"""What the fake squeue, sacct and sinfo print, in the formats of Slurm 22.05."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tasks.slurm.states import SlurmState
from tests.fakes.controller import Controller
from tests.fakes.jobs import Incarnation

_Row = Mapping[str, str]
_MEMORY_BYTES = 1_396_736


def queue_rows(controller: Controller) -> Iterator[_Row]:
    """Yield what squeue knows of each of the user's jobs; tasks that wait together are one row."""
    for job, known in sorted(controller.known.items()):
        runs = {task: run for task, run in known.items() if run.request.is_mine}
        together = [run for run in runs.values() if run.task is not None and not run.is_split]
        for group in _by_state(together):
            first = group[0]
            is_told = first.job not in controller.merged
            yield _queue_row(first, f"{job}_[{ranges(group)}]" if is_told else str(job))
        for run in runs.values():
            if run.task is None or run.is_split:
                yield _queue_row(run, run.slurm_job)


def _queue_row(run: Incarnation, slurm_job: str) -> _Row:
    is_stopping = run.stops_as is not None and run.is_running
    return {
        "JobArrayID": slurm_job,
        "State": "COMPLETING" if is_stopping else run.state.value,
        "Reason": run.reason,
        "RestartCnt": str(run.restarts),
        "Partition": run.request.partition,
        "NodeList": ",".join(run.nodes),
        "Name": run.request.name,
    }


def accounting_rows(runs: Iterable[Incarnation], seen_s: float, now_s: float) -> Iterator[_Row]:
    """Yield what sacct tells of incarnations, and of their batch steps.

    Args:
        runs: The incarnations.
        seen_s: Until when it has heard of them.
        now_s: The time.
    """
    known = [run for run in runs if run.submitted_s <= seen_s]
    together = [run for run in known if run.task is not None and not run.is_split]
    for key, group in itertools.groupby(together, key=lambda run: (run.job, run.state)):
        waiting = list(group)
        yield _accounting_row(waiting[0], f"{key[0]}_[{ranges(waiting)}]", seen_s, now_s)
    for run in known:
        if run.task is None or run.is_split:
            row = _accounting_row(run, run.slurm_job, seen_s, now_s)
            yield row
            if row["Start"].isdigit():
                step = {"JobID": f"{row['JobID']}.batch", "Partition": "", "JobName": "batch"}
                state = row["State"].partition(" ")[0]
                yield {**row, **step, "State": state, "MaxRSS": str(_MEMORY_BYTES)}


def _accounting_row(run: Incarnation, slurm_job: str, seen_s: float, now_s: float) -> _Row:
    started_s = run.started_s if run.started_s is not None and run.started_s <= seen_s else None
    ended_s = run.ended_s if run.ended_s is not None and run.ended_s <= seen_s else None
    if ended_s is not None:
        state = run.state.value
    else:
        state = "PENDING" if started_s is None else "RUNNING"
    elapsed_s = 0 if started_s is None else int((ended_s or now_s) - started_s)
    request = run.request
    cpus = request.cpus * request.nodes
    tres = [f"billing={cpus}", f"cpu={cpus}", f"node={request.nodes}"]
    if request.gpus:
        tres.append(f"gres/gpu={request.gpus * request.nodes}")
    is_over = ended_s is not None
    return {
        "JobID": slurm_job,
        "State": f"{state} by 1000" if state == "CANCELLED" else state,
        "ExitCode": f"{_folded(run.exit_code)}:{run.signal}" if is_over else "0:0",
        "Partition": request.partition,
        "NodeList": ",".join(run.nodes) if started_s is not None else "None assigned",
        "NNodes": str(request.nodes),
        "AllocCPUS": str(cpus if started_s is not None else 0),
        "AllocTRES": ",".join(tres) if started_s is not None else "",
        "Submit": str(int(run.submitted_s)),
        "Eligible": "Unknown" if run.eligible_s is None else str(int(run.eligible_s)),
        "Start": "Unknown" if started_s is None else str(int(started_s)),
        "End": str(int(ended_s)) if ended_s is not None else "Unknown",
        "ElapsedRaw": str(elapsed_s),
        "TotalCPU": _duration(elapsed_s * cpus / 2),
        "MaxRSS": "",
        "ConsumedEnergyRaw": "0",
        "JobName": request.name,
    }


def _folded(exit_code: int) -> int:
    """Return a code as sacct tells it: it takes 128 off a shell's 128 + signal (143 is 15)."""
    return exit_code - 128 if exit_code >= 128 else exit_code


def _duration(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    if not hours:
        return f"{minutes:02d}:{rest:06.3f}"
    days, hours = divmod(hours, 24)
    clock = f"{hours:02d}:{minutes:02d}:{int(rest):02d}"
    return f"{days}-{clock}" if days else clock


def _by_state(runs: Iterable[Incarnation]) -> Iterable[list[Incarnation]]:
    groups: dict[SlurmState, list[Incarnation]] = {}
    for run in runs:
        groups.setdefault(run.state, []).append(run)
    return groups.values()


def ranges(runs: Sequence[Incarnation]) -> str:
    """Write tasks as Slurm does: ``3-9,11%4``."""
    parts: list[list[int]] = []
    for task in sorted(run.task for run in runs if run.task is not None):
        if parts and task == parts[-1][-1] + 1:
            parts[-1][1:] = [task]
        else:
            parts.append([task])
    throttle = runs[0].request.throttle
    text = ",".join("-".join(map(str, part)) for part in parts)
    return f"{text}%{throttle}" if throttle else text


def table(rows: Iterable[_Row], form: str) -> str:
    """Print rows, in the notation of ``squeue --Format``: ``Field:what follows it,Field:...``."""
    fields = [field.partition(":")[::2] for field in form.split(",")]
    return "".join("".join(row[name] + end for name, end in fields) + "\n" for row in rows)
