"""What is read from the attempts' files, as a node leaves them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.evidence import EvidenceReader, Found, checkpoint_times, progressed
from tasks.slurm.states import Evidence

NOW_S = 1_700_000_000.0


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Make an empty run directory."""
    return RunDirectory(tmp_path / "run")


def _write(path: Path, content: dict[str, Any] | str, time_s: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}")  # as the node does: a new file in the old one's place
    fresh.write_text(content if isinstance(content, str) else json.dumps(content))
    os.utime(fresh, (time_s, time_s))
    fresh.replace(path)


def _start(
    run: RunDirectory, attempt: int = 1, *, submission: int = 1, time_s: float = NOW_S
) -> None:
    started = {"pid": 1, "host": "h", "timestamp_ms": 1, "submission": submission}
    _write(run.attempt(attempt) / "started.json", started, time_s)


def _beat(run: RunDirectory, time_s: float, attempt: int = 1) -> None:
    _write(run.attempt(attempt) / "heartbeat.json", {"timestamp_ms": 1, "child_pid": 2}, time_s)


def _exit(run: RunDirectory, code: int, attempt: int = 1, **fields: Any) -> None:
    content = {"code": code, "timestamp_ms": 1} | fields
    _write(run.attempt(attempt) / "exit.json", content, NOW_S + 1)


def look(run: RunDirectory, submission: int = 1, now_s: float = NOW_S) -> Found:
    """Look at a run directory for the first time."""
    return EvidenceReader().read(run, submission, now_s=now_s)


def test_before_the_first_attempt_there_is_nothing(run: RunDirectory) -> None:
    """Neither a missing directory nor a claim that is not complete is an attempt."""
    absent = look(run)
    (run.path / "attempts" / ".claim").mkdir(parents=True)

    assert absent == look(run) == Found(Evidence.NONE)


def test_an_attempt_begins_alive(run: RunDirectory) -> None:
    """Before its first heartbeat an attempt is as old as its claim."""
    _start(run)

    found = look(run, now_s=NOW_S + 60)

    assert (found.evidence, found.attempt) == (Evidence.ALIVE, 1)
    assert look(run, now_s=NOW_S + 61).evidence is Evidence.SILENT
    assert found.started is not None
    assert found.started.submission == 1


@pytest.mark.parametrize(("age_s", "evidence"), [(60, Evidence.ALIVE), (61, Evidence.SILENT)])
def test_a_heartbeat_of_more_than_a_minute_ago_is_silence(
    run: RunDirectory, age_s: float, evidence: Evidence
) -> None:
    """The newest heartbeat counts, by the clock of the file system."""
    _start(run, time_s=NOW_S - 1000)
    _beat(run, NOW_S)

    found = look(run, now_s=NOW_S + age_s)

    assert found.evidence is evidence


@pytest.mark.parametrize("skew_s", [-5000.0, 5000.0])
def test_a_node_with_a_wrong_clock_is_alive_while_it_beats(
    run: RunDirectory, skew_s: float
) -> None:
    """What is seen to change is alive, whatever time the file bears; what stays is silent."""
    reader = EvidenceReader()
    _start(run, time_s=NOW_S + skew_s)
    reader.read(run, 1, now_s=NOW_S)

    _beat(run, NOW_S + 30 + skew_s)
    beaten = reader.read(run, 1, now_s=NOW_S + 30)
    later = reader.read(run, 1, now_s=NOW_S + 90)
    still_later = reader.read(run, 1, now_s=NOW_S + 91)

    assert beaten.evidence is later.evidence is Evidence.ALIVE
    assert still_later.evidence is Evidence.SILENT


def test_a_look_after_long_does_not_call_the_living_silent(run: RunDirectory) -> None:
    """With right clocks a heartbeat is as old as its file, however long ago the last look was."""
    reader = EvidenceReader()
    _start(run)
    reader.read(run, 1, now_s=NOW_S)

    _beat(run, NOW_S + 990)
    found = reader.read(run, 1, now_s=NOW_S + 1000)

    assert found.evidence is Evidence.ALIVE
    assert reader.read(run, 1, now_s=NOW_S + 1050).evidence is Evidence.ALIVE
    assert reader.read(run, 1, now_s=NOW_S + 1051).evidence is Evidence.SILENT


@pytest.mark.parametrize(
    ("code", "fields", "evidence"),
    [
        (0, {}, Evidence.FINISHED),
        (143, {"signals": ["SIGTERM"]}, Evidence.INTERRUPTED),
        (143, {"signals": ["SIGUSR1"], "checkpoint_moved": True}, Evidence.INTERRUPTED),
        (143, {"signals": ["SIGUSR1"], "requeued": True}, Evidence.REQUEUED),
        (143, {"signals": ["SIGUSR1"], "checkpoint_moved": False}, Evidence.STUCK),
        # Preempted before its first checkpoint: nothing wrong with that.
        (143, {"signals": ["SIGTERM"], "checkpoint_moved": False}, Evidence.INTERRUPTED),
        (75, {}, Evidence.INTERRUPTED),
        (1, {}, Evidence.FAILED),
        (127, {}, Evidence.FAILED),
        (137, {}, Evidence.KILLED),
        (139, {}, Evidence.KILLED),
        (-9, {}, Evidence.KILLED),
    ],
)
def test_an_exit_says_how_it_ended(
    run: RunDirectory, code: int, fields: dict[str, Any], evidence: Evidence
) -> None:
    """The exit file goes before any heartbeat, and its code and signals tell what happened."""
    _start(run)
    _beat(run, NOW_S)
    _exit(run, code, **fields)

    found = look(run)

    assert found.evidence is evidence
    assert found.exit is not None
    assert found.exit.code == code


@pytest.mark.parametrize("torn", ["", '{"code": 0, "time', '{"code": "none"}', "\0\0\0\0"])
def test_a_torn_exit_is_not_there_yet(run: RunDirectory, torn: str) -> None:
    """A file that a crash has cut off says nothing; when it is whole it counts."""
    reader = EvidenceReader()
    _start(run)
    _write(run.attempt(1) / "exit.json", torn, NOW_S)

    before = reader.read(run, 1, now_s=NOW_S)
    _exit(run, 0)
    after = reader.read(run, 1, now_s=NOW_S)

    assert before.evidence is Evidence.ALIVE
    assert after.evidence is Evidence.FINISHED


def test_a_torn_claim_is_no_attempt_yet(run: RunDirectory) -> None:
    """Whose attempt it is cannot be told, so it is nobody's."""
    reader = EvidenceReader()
    _write(run.attempt(1) / "started.json", "{", NOW_S)

    before = reader.read(run, 1, now_s=NOW_S)
    _start(run)
    after = reader.read(run, 1, now_s=NOW_S)

    assert (before.evidence, after.evidence) == (Evidence.NONE, Evidence.ALIVE)


def test_attempts_of_earlier_submissions_count_for_nothing(run: RunDirectory) -> None:
    """A job that waits is not judged by what the submission before it has left."""
    _start(run, submission=1)
    _exit(run, 137)

    assert look(run, submission=2) == Found(Evidence.NONE)


def test_a_run_that_has_finished_has_finished(run: RunDirectory) -> None:
    """Whoever finished it, the node will not start it again."""
    _start(run, submission=0)
    _exit(run, 0)

    assert look(run, submission=2).evidence is Evidence.FINISHED


def test_a_later_submission_is_seen(run: RunDirectory) -> None:
    """Who runs a job again by hand takes the run over, and can be told by its submission."""
    _start(run, submission=1)
    _exit(run, 1)
    _start(run, 2, submission=2)

    found = look(run, submission=1)

    assert found.evidence is Evidence.ALIVE
    assert found.started is not None
    assert found.started.submission == 2


def test_the_newest_attempt_counts(run: RunDirectory) -> None:
    """A requeued job begins anew; its tenth attempt comes after its ninth."""
    reader = EvidenceReader()
    for attempt in range(1, 10):
        _start(run, attempt)
        _exit(run, 143, attempt)
    before = reader.read(run, 1, now_s=NOW_S)

    _start(run, 10)
    after = reader.read(run, 1, now_s=NOW_S)

    assert (before.evidence, before.attempt) == (Evidence.INTERRUPTED, 9)
    assert (after.evidence, after.attempt) == (Evidence.ALIVE, 10)


def test_an_exit_that_is_written_again_is_read_again(run: RunDirectory) -> None:
    """Where Slurm refuses to requeue the job, the attempt takes back that it asked for it."""
    reader = EvidenceReader()
    _start(run)
    _exit(run, 143, requeued=True)
    before = reader.read(run, 1, now_s=NOW_S)

    _exit(run, 143, requeued=False)
    after = reader.read(run, 1, now_s=NOW_S)

    assert (before.evidence, after.evidence) == (Evidence.REQUEUED, Evidence.INTERRUPTED)


def test_the_result_is_that_of_the_attempt(run: RunDirectory) -> None:
    """An attempt that was killed is not explained by what an earlier one has left."""
    result = {"status": "failed", "reason": "data", "message": "there are none"}
    _write(run.result, result, NOW_S - 10)
    _start(run)
    _exit(run, 1)
    old = look(run)

    _write(run.result, result, NOW_S + 1)
    own = look(run)
    _write(run.result, '{"status": "fai', NOW_S + 1)
    torn = look(run)

    assert old.result is None
    assert own.result is not None
    assert own.result.reason == "data"
    assert torn.result is None


def test_a_file_system_that_does_not_answer_says_nothing(run: RunDirectory) -> None:
    """An error other than absence is never taken for absence."""
    reader = EvidenceReader()
    _start(run)
    _exit(run, 0)
    before = reader.read(run, 1, now_s=NOW_S)

    (run.path / "attempts").rename(run.path / "elsewhere")
    (run.path / "attempts").symlink_to("attempts")  # ELOOP, for root as for anybody
    during = reader.read(run, 1, now_s=NOW_S)
    (run.path / "attempts").unlink()
    (run.path / "elsewhere").rename(run.path / "attempts")
    after = reader.read(run, 1, now_s=NOW_S)

    assert during == Found(Evidence.UNREADABLE)
    assert before == after
    assert after.evidence is Evidence.FINISHED


def test_a_fresh_look_lists_the_directories(run: RunDirectory) -> None:
    """The last look at a job finds what the looks before have missed, and loses no memory."""
    reader = EvidenceReader()
    _start(run, time_s=NOW_S)
    reader.read(run, 1, now_s=NOW_S)
    _start(run, 2)
    _start(run, 3)

    fresh = reader.read(run, 1, now_s=NOW_S + 100, fresh=True)
    again = reader.read(run, 1, now_s=NOW_S + 101, fresh=True)

    assert (fresh.attempt, fresh.evidence) == (3, Evidence.SILENT)
    assert again == fresh


def test_a_forgotten_directory_is_read_anew(run: RunDirectory) -> None:
    """A run directory that was removed and made again is another run."""
    reader = EvidenceReader()
    _start(run, 2)
    reader.read(run, 1, now_s=NOW_S)
    run.path.rename(run.path.with_name("old"))

    reader.forget(run)

    assert reader.read(run, 1, now_s=NOW_S).evidence is Evidence.NONE


@pytest.mark.parametrize(("stage", "most"), [("waiting", 1), ("running", 3), ("ended", 2)])
def test_a_look_at_what_has_not_changed_is_cheap(
    run: RunDirectory, stage: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand runs are looked at every few seconds: no listing, no reading, few stats."""
    reader = EvidenceReader()
    if stage != "waiting":
        _start(run)
        _beat(run, NOW_S)
    if stage == "ended":
        _exit(run, 143)
    first = reader.read(run, 1, now_s=NOW_S)
    calls: list[str] = []

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return real(*args, **kwargs)

        return call

    for name in ("stat", "open", "listdir", "scandir"):
        monkeypatch.setattr(os, name, counted(name, getattr(os, name)))

    second = reader.read(run, 1, now_s=NOW_S)

    monkeypatch.undo()
    assert second == first
    assert calls == ["stat"] * most


@pytest.mark.parametrize(
    ("code", "moved", "checkpoint_s", "expected"),
    [
        (143, True, None, True),
        (143, False, NOW_S + 5, False),  # the node has compared names, which no clock can upset
        (None, True, NOW_S + 5, True),
        (None, True, NOW_S - 5, False),
        (None, True, None, False),
        (137, True, NOW_S + 5, True),
        (137, True, NOW_S - 5, False),
    ],
)
def test_progress_is_a_newer_checkpoint(
    run: RunDirectory,
    code: int | None,
    moved: bool,  # noqa: FBT001
    checkpoint_s: float | None,
    expected: bool,  # noqa: FBT001
) -> None:
    """What the attempt says of its checkpoints counts; of one that was killed, the files do."""
    _start(run)
    if code is not None:
        _exit(run, code, checkpoint_moved=moved)
    if checkpoint_s is not None:
        _write(run.checkpoints / "round-0000000010.safetensors", "", checkpoint_s)

    assert progressed(run, look(run)) is expected


def test_without_an_attempt_there_is_no_progress(run: RunDirectory) -> None:
    """Checkpoints of an earlier submission are not the work of one that never began."""
    _write(run.checkpoints / "round-0000000010.safetensors", "", NOW_S)

    assert progressed(run, look(run)) is False


def test_half_written_checkpoints_do_not_count(run: RunDirectory) -> None:
    """Times are in order; temporary files, whose names begin with a dot, are left out."""
    for name, time_s in (("b", 2.0), ("a", 1.0), (".c.123", 3.0)):
        _write(run.checkpoints / name, "", time_s)

    assert checkpoint_times(run) == [1.0, 2.0]
    assert checkpoint_times(RunDirectory(run.path / "none")) == []
