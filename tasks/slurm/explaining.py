"""How a run came to stand as it does: every submission in words, its last lines, what to do.

``watershed why`` prints it, and the steps of a flow show it in Prefect. Text of programs is
redacted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.runtime.plain_text import plain
from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.describing import trouble_words
from tasks.slurm.diagnosis import Diagnosis
from tasks.slurm.entries import LedgerState, Submission
from tasks.slurm.ledger import Ledger
from tasks.slurm.ledger_file import LedgerFile, ledgers_here
from tasks.slurm.local_diagnosis import diagnose_local
from tasks.slurm.redaction import redact
from tasks.slurm.results import slurm_output
from tasks.slurm.slurm_launcher import LEDGER_NAME
from tasks.slurm.states import FailureClass
from tasks.slurm.waiting import why_waiting

WITHOUT_ANSWER = "Jobs go on; nothing is submitted or cancelled until it answers."
_LAST_LINES = 15
_MOST_READ = 1 << 16
"""Bytes of an output, of which there may be gigabytes."""


@dataclass(frozen=True)
class Explained:
    """How a run stands, and why.

    Attributes:
        label: What varies at the point.
        state: How its last attempt ended, or that there is no result yet.
        category: Class of its failure; empty if it did not fail.
        submissions: Of each submission to Slurm a heading and what became of it, and before that
            of each node that was lost under it; then, if Slurm does not answer, that.
        message: The result's own word.
        local: Of a job on this machine that failed: what happened and what to do.
        outputs: Files of output, and the last lines of each.
    """

    label: str
    state: str
    category: str
    submissions: tuple[tuple[str, str], ...]
    message: str
    local: Diagnosis | None
    outputs: tuple[tuple[Path, tuple[str, ...]], ...]


def explain(run: RunDirectory) -> Explained:
    """Collect what is known of a run.

    Args:
        run: The run, absolute.

    Raises:
        LedgerError: A ledger cannot be used.
        OSError: A file of the run cannot be read.
        DamagedFileError: A file of the run is cut off, or of another version.
    """
    result = run.read_result()
    submissions: list[tuple[str, str]] = []
    failure = ""
    for ledger in ledgers():
        for one in ledger.submissions(str(run.path)):
            failure = one.failure
            submissions += _losses(ledger, run, one)
            submissions.append(_told(ledger, run, one))
        submissions += _trouble(ledger, run)
    has_failed = result is not None and result.status == "failed"
    local = None
    if result is not None and has_failed and not submissions:
        local = diagnose_local(result.reason, result.message)
        failure = local.category
    return Explained(
        label=run.read_job().point,
        state=result.status if result else "no result yet",
        category=failure if has_failed else "",
        submissions=tuple(submissions),
        message=plain(redact(result.message)) if result else "",
        local=local,
        outputs=tuple(
            (path, last_lines(path)) for path in (slurm_output_of(run), run.stdout) if path.exists()
        ),
    )


def _losses(ledger: Ledger, run: RunDirectory, one: Submission) -> list[tuple[str, str]]:
    head = f"submission {one.submission}, job {one.slurm_job or '(no id)'}"
    return [
        (f"{head}, requeue {loss.restarts} [{FailureClass.NODE_FAILURE}]", loss.words)
        for loss in ledger.losses(str(run.path), one.name)
    ]


def _told(ledger: Ledger, run: RunDirectory, one: Submission) -> tuple[str, str]:
    words = one.words or ("finished" if one.ended_s is not None else _how_it_goes(ledger, run))
    head = f"submission {one.submission}, job {one.slurm_job or '(no id)'}"
    return head + f" [{one.failure}]" * bool(one.failure), words


def _trouble(ledger: Ledger, run: RunDirectory) -> list[tuple[str, str]]:
    """Say that Slurm does not answer, if the run waits for that."""
    entry, trouble = ledger.entry(str(run.path)), ledger.trouble()
    if entry is None or trouble is None or entry.state.job_state.is_final:
        return []
    return [("no news", f"{trouble_words(trouble)}. {WITHOUT_ANSWER}")]


def _how_it_goes(ledger: Ledger, run: RunDirectory) -> str:
    entry = ledger.entry(str(run.path))
    if entry is None or entry.state is not LedgerState.SUBMITTED:
        return "still going"
    waiting = why_waiting(entry.reason, entry.slurm_job)
    return f"{waiting.detail} {waiting.resolution}"


def in_markdown(explained: Explained, retry: str) -> str:
    """Write an explanation as Markdown.

    Args:
        explained: How a run stands.
        retry: How to run it again, a sentence; empty for none.
    """
    what = f" ({explained.category})" if explained.category else ""
    parts = [f"# {explained.label}: {explained.state}{what}"]
    if explained.local is not None:
        parts += [explained.local.detail, f"**What to do:** {explained.local.resolution}"]
    else:
        told = [f"**{head}:** {words}" for head, words in explained.submissions]
        parts += told
        if explained.message and not any(explained.message in one for one in told):
            parts.append(explained.message)
    if retry:
        parts.append(retry)
    for path, lines in explained.outputs:
        if lines:
            fence = "````"
            parts.append(f"Last lines of `{path}`:\n\n{fence}\n" + "\n".join(lines) + f"\n{fence}")
    return "\n\n".join(parts) + "\n"


def in_short(explained: Explained, result: Result | None, longest: int = 300) -> str:
    """Say in one line why a run failed: its class, and the first words about it.

    Args:
        explained: How it stands.
        result: Its result.
        longest: Most characters.
    """
    words = explained.local.summary + ": " if explained.local else ""
    words += result.message if result else ""
    text = " ".join(plain(redact(words)).split()) or "it left no word"
    text = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return f"[{explained.category}] {text}" if explained.category else text


def last_lines(path: Path, number: int = _LAST_LINES) -> tuple[str, ...]:
    """Read the last lines of an output, without secrets and control characters.

    Args:
        path: The file.
        number: How many.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        start = max(0, path.stat().st_size - _MOST_READ)
        file.seek(start)
        text = file.read(_MOST_READ).decode(errors="replace")
    # Before it is cut into lines: a key is several.
    lines = redact(text).splitlines()[1 if start else 0 :]
    return tuple(plain(line) for line in lines[-number:])


def ledgers() -> Iterator[Ledger]:
    """Open the ledgers of all clusters that jobs were submitted to from here.

    Yields:
        Each ledger; it is closed afterwards.

    Raises:
        LedgerError: One of them cannot be used.
    """
    for path in ledgers_here(LEDGER_NAME):
        file = LedgerFile(path)
        try:
            yield Ledger(file)
        finally:
            file.close()


def slurm_output_of(run: RunDirectory) -> Path:
    """Return where Slurm's own words on a run are, and those of its batch script.

    Args:
        run: The run, absolute.

    Raises:
        LedgerError: A ledger cannot be used.
    """
    for ledger in ledgers():
        if entry := ledger.entry(str(run.path)):
            return slurm_output(entry)
    return run.slurm_output
