"""The jobs of studies, as the ledgers of this machine's user have them."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.launchers import SlurmLauncherConfig
from flows.console import STYLES, and_more, duration
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.adopting import adopt, strays
from tasks.slurm.charging import charge, charge_here
from tasks.slurm.commands import SlurmCli
from tasks.slurm.describing import trouble_words
from tasks.slurm.entries import Entry, LedgerState
from tasks.slurm.explaining import WITHOUT_ANSWER, Explained, explain, ledgers
from tasks.slurm.ledger import Ledger
from tasks.slurm.ledger_file import LedgerFile, state_directory
from tasks.slurm.slurm_launcher import LEDGER_NAME
from tasks.slurm.waiting import PATIENCE, why_waiting
from tasks.steps.creation import job_file
from tasks.steps.launching import copy_code, point_plan, worker_plans
from tasks.tracking.study_directory import StudyDirectory


def jobs_of(study_dir: Path | None) -> list[Entry]:
    """Return the jobs of a study, or all, in the order in which they were planned.

    Args:
        study_dir: The study, absolute; None for all.

    Raises:
        LedgerError: A ledger cannot be used.
    """
    return [entry for ledger in ledgers() for entry in ledger.entries(study_dir)]


def print_jobs(console: Console, entries: Sequence[Entry], now_s: float) -> None:
    """Print jobs as a table, why those that wait do so, and that Slurm does not answer.

    Args:
        console: Where to.
        entries: The jobs.
        now_s: Unix time.

    Raises:
        LedgerError: A ledger cannot be used.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("run", "state", "Slurm's id", "Slurm's state", "nodes", "for", "tries"):
        table.add_column(name, overflow="fold")
    for entry in entries:
        state = entry.state.job_state.value
        told = " ".join(filter(None, [entry.slurm_state, f"({entry.reason})" * bool(entry.reason)]))
        table.add_row(
            _shown(entry),
            Text(entry.state.value, STYLES[state]),
            entry.slurm_job,
            told,
            entry.nodes,
            duration(max(0.0, now_s - entry.changed_s)),
            f"{entry.submission}" + (f"+{entry.restarts}" if entry.restarts else ""),
        )
    console.print(table)
    for ledger in ledgers():
        if trouble := ledger.trouble():
            asked = duration(max(0.0, now_s - trouble.asked_s))
            words = f"{trouble_words(trouble)} (last asked {asked} ago). {WITHOUT_ANSWER}"
            console.print(Text(words, "bold"), soft_wrap=True)
    for entry in entries:
        if words := _words(entry):
            console.print(Text(f"{_shown(entry)}: {words}"), soft_wrap=True)


def _words(entry: Entry) -> str:
    """Why a job waits, if it takes more than patience; else what the ledger says of it."""
    if entry.state is LedgerState.SUBMITTED and entry.reason:
        waiting = why_waiting(entry.reason, entry.slurm_job)
        if waiting.resolution != PATIENCE:
            return f"{waiting.detail} {waiting.resolution}"
    return entry.message


def _shown(entry: Entry) -> str:
    """Name a job by its study and its place there."""
    study = Path(entry.study_dir)
    run = Path(entry.run_dir)
    inside = run.relative_to(study) if run.is_relative_to(study) else run
    return f"{study.name}/{str(inside).removeprefix('points/')}"


def take_over(directory: StudyDirectory) -> int:
    """Write jobs of a study into the ledger that Slurm has and the ledger has not.

    Args:
        directory: The study, absolute, whose launcher is Slurm.

    Returns:
        The jobs that were adopted.

    Raises:
        LedgerError: The ledger cannot be used.
        SlurmError: Slurm is not there, or does not answer.
        OSError: A file of the study cannot be read.
    """
    study = directory.read_study()
    config = study.launcher
    if not isinstance(config, SlurmLauncherConfig):
        return 0
    slurm = SlurmCli()
    charge_here(1)
    found = strays(directory.path, slurm.queue())
    if not found:
        return 0
    code_dir = copy_code(study, directory)
    plans = []
    for point in study.points():
        job, run = job_file(study, point), directory.point(point.index, point.label)
        plans += [
            point_plan(study, job, run, code_dir),
            *worker_plans(study, job, run, code_dir),
        ]
    file = LedgerFile(state_directory(slurm.cluster()) / LEDGER_NAME)
    try:
        charge(file, 1)
        return sum(
            adopt(Ledger(file), config, directory.path, stray, plans=plans, now_s=time.time())
            for stray in found
        )
    finally:
        file.close()


def print_why(console: Console, runs: Sequence[RunDirectory]) -> None:
    """Explain how runs came to stand as they do: submissions, and the last lines of output.

    What is the same of several is said once, with the output of the first.

    Args:
        console: Where to.
        runs: The runs, absolute.

    Raises:
        LedgerError: A ledger cannot be used.
        OSError: A file of a run cannot be read.
        DamagedFileError: A file of a run is cut off, or of another version.
    """
    alike: dict[tuple[object, ...], list[Explained]] = {}
    for told in map(explain, runs):
        cause = (told.state, told.submissions, told.message, told.local)
        alike.setdefault(cause, []).append(told)
    for group in alike.values():
        _print_explanation(console, and_more([one.label for one in group]), group[0])


def _print_explanation(console: Console, label: str, told: Explained) -> None:
    console.print(Text.assemble((label, "bold"), f"  {told.state}"))
    for head, words in told.submissions:
        console.print(Text.assemble((head, "bold"), f": {words}"), soft_wrap=True)
    if told.message:
        console.print(Text(told.message), soft_wrap=True)
    if told.local is not None:
        console.print(Text(told.local.resolution), soft_wrap=True)
    for path, lines in told.outputs:
        console.print(Text(f"{os.path.relpath(path)}, last lines:", "dim"))
        for line in lines:
            console.print(Text(f"  {line}"), soft_wrap=True)
