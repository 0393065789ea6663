"""The tables of docs/slurm.md are those of the code."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tasks.slurm.agenda import unanswered_s
from tasks.slurm.failures import POLICIES
from tasks.slurm.judgement import TABLE, Action, Verdict
from tasks.slurm.launcher import JobState
from tasks.slurm.states import Evidence

DOCUMENT = Path(__file__).parents[3] / "docs" / "slurm.md"
LEFT = {
    Evidence.NONE: "nothing of this submission",
    Evidence.ALIVE: "`started.json`, and a heartbeat of the last 60 s",
    Evidence.SILENT: "`started.json`, and an older heartbeat: a cut, a power cut, SIGKILL",
    Evidence.FINISHED: "an exit with code 0, of whichever submission",
    Evidence.INTERRUPTED: "an exit with code 143 (a signal) or 75 (overtaken): resumable",
    Evidence.REQUEUED: "an exit with code 143, and the job has asked Slurm to queue it again",
    Evidence.STUCK: "as *interrupted*, at the time limit, without a newer checkpoint",
    Evidence.FAILED: "an exit with code 1 to 127 but 75",
    Evidence.KILLED: "an exit with code 128 + a signal that nobody was to expect",
    Evidence.UNREADABLE: "the file system does not answer",
}


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _head(*cells: str) -> list[str]:
    return [_line(cells), "|" + "---|" * len(cells)]


def _word(verdict: Verdict) -> str:
    if verdict.state is None:
        return "-"
    if verdict.state is JobState.FINISHED:
        return "**finished**"
    if verdict.failure is not None:
        return f"`{verdict.failure}`"
    also = {Action.LOOK_AGAIN: ", look", Action.CANCEL: ", cancel"}
    return verdict.state.value + also.get(verdict.action, "")


def _evidence() -> list[str]:
    rows = [_line([f"*{evidence}*", LEFT[evidence]]) for evidence in Evidence]
    return [*_head("evidence", "in `attempts/<k>/`"), *rows]


def _table() -> list[str]:
    """Write the truth table; states of equal rows share one."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for state, row in TABLE.items():
        rows.setdefault(tuple(_word(row[evidence]) for evidence in Evidence), []).append(state)
    return [
        *_head("Slurm says", *(f"*{evidence}*" for evidence in Evidence)),
        *(_line([", ".join(states), *row]) for row, states in rows.items()),
    ]


def _policies() -> list[str]:
    return [
        *_head("class", "submitted again", "because", "first delay", "without the node"),
        *(
            _line(
                [
                    f"`{failure}`",
                    policy.resubmit.value,
                    policy.because,
                    f"{policy.delay_s:g} s" if policy.delay_s else "",
                    "yes" if policy.excludes_node else "",
                ]
            )
            for failure, policy in POLICIES.items()
        ),
        _line(
            [
                "(Slurm does not answer)",
                "nothing is, until it does",
                "unknown is never final: it ends no job",
                f"{unanswered_s(1):g} s",
                "",
            ]
        ),
    ]


@pytest.mark.parametrize(
    ("name", "lines"),
    [("evidence", _evidence()), ("table", _table()), ("policies", _policies())],
    ids=["evidence", "table", "policies"],
)
def test_the_document_says_what_the_code_does(
    name: str, lines: list[str], request: pytest.FixtureRequest
) -> None:
    """Each table of the document is that of the code; ``--update-golden`` writes it anew."""
    wanted = "\n".join([f"<!-- {name} -->", *lines, "<!-- end -->"])
    pattern = re.compile(rf"<!-- {name} -->\n(?:\|.*\n)*<!-- end -->")
    text = DOCUMENT.read_text()
    if request.config.getoption("--update-golden"):
        DOCUMENT.write_text(text := pattern.sub(lambda _: wanted, text))

    found = pattern.findall(text)

    assert found == [wanted]
