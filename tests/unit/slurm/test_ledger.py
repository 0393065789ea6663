"""The ledger: what is written down, and what survives."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from configs.launchers import SlurmLauncherConfig
from tasks.slurm.batches import divide
from tasks.slurm.entries import Entry, LedgerState
from tasks.slurm.failures import Ended
from tasks.slurm.file_systems import is_on_network
from tasks.slurm.launcher import JobState
from tasks.slurm.leader_ledger import LeaderLedger
from tasks.slurm.ledger_file import LedgerError, LedgerFile, state_directory
from tasks.slurm.plan import Batch, JobPlan, job_name
from tasks.slurm.states import FailureClass

CONFIG = SlurmLauncherConfig()
STUDY = Path("/studies/one")

MOUNTS = """\
/dev/vda / ext4 rw 0 0
tmpfs /run tmpfs rw 0 0
home:/export /home nfs4 rw,vers=4.2 0 0
/dev/vdb /home/local xfs rw 0 0
site:/ /site newfs rw 0 0
10.0.0.1@o2ib:/scratch /lustre/my\\040scratch lustre rw,flock 0 0
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger is."""
    return tmp_path / "state" / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> LeaderLedger:
    """An empty ledger."""
    return LeaderLedger(LedgerFile(path))


def _plans(count: int = 3) -> list[JobPlan]:
    return [
        JobPlan(name=f"point {i}", module="toy.job", run_dir=STUDY / str(i)) for i in range(count)
    ]


def _batch(plans: Sequence[JobPlan]) -> Batch:
    (batch,) = divide(plans, CONFIG, batches_dir=STUDY / "batches", max_array_size=1001)
    return batch


def _submitted(ledger: LeaderLedger, plans: Sequence[JobPlan], submission: int = 1) -> str:
    """Submit planned jobs as one batch; return its name."""
    batch = _batch(plans)
    assert ledger.begin(batch, submission, 10.0)
    name = job_name(batch.key, submission)
    ledger.accept(name, "7", 11.0)
    return name


def _fail(ledger: LeaderLedger, entry: Entry, *, again: bool) -> None:
    state = LedgerState.PLANNED if again else LedgerState.FAILED
    ended = Ended(FailureClass.NODE_FAILURE, node="node03", moved=True)
    ledger.end(replace(entry, state=state), ended, "the node was lost", 20.0)


def test_a_job_goes_from_planned_to_finished(ledger: LeaderLedger) -> None:
    """Each step is there for everybody once it is written."""
    plans = _plans(1)
    seen: list[LedgerState] = []

    ledger.register(STUDY, CONFIG, plans, 1.0)
    seen += ledger.states(STUDY).values()
    ledger.begin(_batch(plans), 1, 2.0)
    seen += ledger.states(STUDY).values()
    ledger.accept(job_name(plans[0].key, 1), "7", 3.0)
    seen += ledger.states(STUDY).values()
    (entry,) = ledger.followed()
    ledger.observe([replace(entry, state=LedgerState.RUNNING, nodes="node01")])
    seen += ledger.states(STUDY).values()
    ledger.end(replace(entry, state=LedgerState.FINISHED), None, "", 4.0)
    seen += ledger.states(STUDY).values()

    assert [state.value for state in seen] == [
        "planned",
        "submitting",
        "submitted",
        "running",
        "finished",
    ]
    assert ledger.entries(STUDY)[0].nodes == "node01"
    (one,) = ledger.submissions(entry.run_dir)
    assert (one.submission, one.slurm_job, one.submitting_s, one.ended_s) == (1, "7", 2.0, 4.0)


def test_every_ledger_state_is_a_state_of_a_job() -> None:
    """Who waits sees: waiting until it runs, and the same three ends."""
    states = {state: state.job_state for state in LedgerState}

    waiting = {LedgerState.PLANNED, LedgerState.SUBMITTING, LedgerState.SUBMITTED}
    assert {s for s, seen in states.items() if seen is JobState.WAITING} == waiting
    assert {s.value for s, seen in states.items() if seen.is_final} == {
        "finished",
        "failed",
        "interrupted",
    }


def test_a_job_that_is_not_over_is_planned_once(ledger: LeaderLedger) -> None:
    """To register it again changes nothing, not even its plan."""
    plans = _plans(1)
    ledger.register(STUDY, CONFIG, plans, 1.0)
    name = _submitted(ledger, plans)

    ledger.register(STUDY, CONFIG, [plans[0].model_copy(update={"name": "other"})], 20.0)

    (entry,) = ledger.entries()
    assert (entry.state, entry.name, entry.submission) == (LedgerState.SUBMITTED, name, 1)
    assert ledger.plans([entry.run_dir]) == plans


def test_a_job_that_is_over_is_planned_anew(ledger: LeaderLedger) -> None:
    """Its submissions go on counting; its earlier failures count for no limit any more."""
    plans = _plans(1)
    ledger.register(STUDY, CONFIG, plans, 1.0)
    _submitted(ledger, plans)
    _fail(ledger, ledger.followed()[0], again=False)

    ledger.register(STUDY, CONFIG, plans, 30.0)
    _submitted(ledger, plans, 2)

    (entry,) = ledger.entries()
    assert (entry.submission, entry.first_submission, entry.failure) == (2, 2, "")
    assert ledger.failures(entry) == []
    assert [one.submission for one in ledger.submissions(entry.run_dir)] == [1, 2]


def test_the_tasks_of_an_array_get_their_own_ids(ledger: LeaderLedger) -> None:
    """The id of the array and the number of the task, in the order of the batch."""
    ledger.register(STUDY, CONFIG, _plans(), 1.0)

    _submitted(ledger, _plans())

    assert [entry.slurm_job for entry in ledger.followed()] == ["7_0", "7_1", "7_2"]
    assert [ledger.submissions(e.run_dir)[0].slurm_job for e in ledger.followed()] == [
        "7_0",
        "7_1",
        "7_2",
    ]


def test_a_batch_is_not_submitted_if_one_of_its_jobs_is_cancelled(ledger: LeaderLedger) -> None:
    """All of it is left as it was."""
    ledger.register(STUDY, CONFIG, _plans(), 1.0)
    ledger.wish_cancel([str(_plans()[1].run_dir)], 2.0)

    has_begun = ledger.begin(_batch(_plans()), 1, 3.0)

    assert not has_begun
    assert {entry.state for entry in ledger.entries()} == {LedgerState.PLANNED}
    assert ledger.submissions(str(_plans()[0].run_dir)) == []


def test_a_batch_is_not_submitted_twice(ledger: LeaderLedger) -> None:
    """What is SUBMITTING, or further, is not begun again."""
    ledger.register(STUDY, CONFIG, _plans(), 1.0)
    ledger.begin(_batch(_plans()), 1, 3.0)

    assert not ledger.begin(_batch(_plans()), 1, 3.0)


def test_what_slurm_does_not_have_keeps_its_number(ledger: LeaderLedger) -> None:
    """Should the first sbatch be accepted after all, the node knows its double by the number."""
    ledger.register(STUDY, CONFIG, _plans(), 1.0)
    ledger.begin(_batch(_plans()), 1, 3.0)
    name = job_name(_batch(_plans()).key, 1)

    ledger.take_back(name, words="gone", not_before_s=5.0, now_s=4.0)

    entries = ledger.entries()
    assert {(e.state, e.submission) for e in entries} == {(LedgerState.PLANNED, 0)}
    assert ledger.due(4.9) == []
    assert ledger.due(5.0) == [(entry.study_dir, entry.run_dir) for entry in entries]
    assert ledger.is_planned(name)


def test_what_slurm_has_after_all_is_taken_up(ledger: LeaderLedger) -> None:
    """A submission that was given up, and appears before the next one, is the submission."""
    ledger.register(STUDY, CONFIG, _plans(), 1.0)
    ledger.begin(_batch(_plans()), 4, 3.0)
    name = job_name(_batch(_plans()).key, 4)
    ledger.take_back(name, words="gone", not_before_s=5.0, now_s=4.0)

    ledger.accept(name, "9", 6.0)

    assert {(e.state, e.submission) for e in ledger.followed()} == {(LedgerState.SUBMITTED, 4)}
    assert ledger.followed()[0].slurm_job == "9_0"


def test_a_task_that_has_moved_on_is_not_readdressed(ledger: LeaderLedger) -> None:
    """What is said of a submission concerns those jobs alone whose newest one it is."""
    plans = _plans()
    ledger.register(STUDY, CONFIG, plans, 1.0)
    name = _submitted(ledger, plans)
    _fail(ledger, ledger.followed()[0], again=True)
    ledger.begin(_batch(plans[:1]), 2, 30.0)
    ledger.accept(job_name(plans[0].key, 2), "8", 31.0)

    ledger.readdress(name, "70", 40.0)

    assert sorted(entry.slurm_job for entry in ledger.followed()) == ["70_1", "70_2", "8"]
    history = ledger.submissions(str(plans[0].run_dir))
    assert [one.slurm_job for one in history] == ["7_0", "8"]


def test_failures_are_kept_until_the_user_asks_again(ledger: LeaderLedger) -> None:
    """The policy sees the earlier ones in order, and not the one that is ending."""
    plans = _plans(1)
    ledger.register(STUDY, CONFIG, plans, 1.0)
    _submitted(ledger, plans)
    _fail(ledger, ledger.followed()[0], again=True)
    _submitted(ledger, plans, 2)

    failures = ledger.failures(ledger.followed()[0])

    assert failures == [Ended(FailureClass.NODE_FAILURE, node="node03", moved=True)]


def test_a_retry_that_is_withdrawn_leaves_the_history(ledger: LeaderLedger) -> None:
    """Why the submission before it failed stays written down."""
    plans = _plans(1)
    ledger.register(STUDY, CONFIG, plans, 1.0)
    _submitted(ledger, plans)
    _fail(ledger, ledger.followed()[0], again=True)
    (waiting,) = ledger.entries()

    ledger.end(replace(waiting, state=LedgerState.INTERRUPTED), None, "cancelled", 30.0)

    (submission,) = ledger.submissions(waiting.run_dir)
    assert (submission.failure, submission.ended_s) == ("node", 20.0)
    assert submission.words == "the node was lost"


def test_a_wish_reaches_what_is_not_over(ledger: LeaderLedger) -> None:
    """It stays until the job is over, and does nothing to one that is."""
    plans = _plans(2)
    ledger.register(STUDY, CONFIG, plans, 1.0)
    _submitted(ledger, plans)
    over, going = ledger.followed()
    ledger.end(replace(over, state=LedgerState.FINISHED), None, "", 4.0)

    ledger.wish_cancel([over.run_dir, going.run_dir], 5.0)

    assert [entry.run_dir for entry in ledger.wishes()] == [going.run_dir]


def test_the_most_that_may_run(ledger: LeaderLedger) -> None:
    """Of an array as many as its own limit lets, else all that Slurm has."""
    plans = _plans(5)
    ledger.register(STUDY, CONFIG, plans, 1.0)
    ledger.begin(_batch(plans[:4]).model_copy(update={"max_running": 2}), 1, 2.0)
    limited = ledger.most_running(str(STUDY))
    ledger.begin(_batch(plans[4:]), 1, 2.0)

    assert limited == 2
    assert ledger.most_running(str(STUDY)) == 3


def test_a_committed_submission_survives_a_kill(path: Path) -> None:
    """A process that is killed right after the commit leaves it; one killed before, nothing."""
    code = """
import os, signal, sys
from pathlib import Path
from tasks.slurm.ledger_file import LedgerFile
file = LedgerFile(Path(sys.argv[1]))
with file.transaction(is_durable=True) as connection:
    connection.execute("INSERT INTO studies VALUES ('kept', '')")
with file.transaction() as connection:
    connection.execute("INSERT INTO studies VALUES ('lost', '')")
    os.kill(os.getpid(), signal.SIGKILL)
"""

    process = subprocess.run([sys.executable, "-c", code, str(path)], check=False)

    assert process.returncode == -9
    assert LedgerFile(path).read("SELECT study_dir FROM studies") == [("kept",)]


def test_processes_see_each_others_changes(path: Path) -> None:
    """The version changes when another connection has written, and only then."""
    mine, theirs = (LeaderLedger(LedgerFile(path)) for _ in range(2))
    versions = [mine.version(), mine.version()]

    theirs.register(STUDY, CONFIG, _plans(), 1.0)
    versions.append(mine.version())

    assert versions[0] == versions[1] != versions[2]
    assert len(mine.entries(STUDY)) == 3


def test_many_writers_wait_for_each_other(path: Path) -> None:
    """Eight threads with connections of their own lose none of 400 writes."""

    def write(number: int) -> None:
        ledger = LeaderLedger(LedgerFile(path))
        for i in range(50):
            plan = JobPlan(name="x", module="toy.job", run_dir=STUDY / f"{number}-{i}")
            ledger.register(STUDY, CONFIG, [plan], 1.0)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(LeaderLedger(LedgerFile(path)).states(STUDY)) == 400


def test_a_failed_transaction_leaves_nothing(path: Path) -> None:
    """An error in the middle takes back what was written before it."""
    file = LedgerFile(path)

    def write_twice() -> None:
        with file.transaction() as connection:
            connection.execute("INSERT INTO studies VALUES ('a', '')")
            connection.execute("INSERT INTO studies VALUES ('a', '')")

    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        write_twice()

    assert file.read("SELECT * FROM studies") == []


def test_it_is_closed_to_others(path: Path) -> None:
    """The directory is the user's alone."""
    LedgerFile(path)

    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_newer_ledger_is_refused(path: Path) -> None:
    """An older Watershed does not guess what a newer one means."""
    LedgerFile(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")

    with pytest.raises(LedgerError, match=r"newer Watershed \(version 99, known is 1\)"):
        LedgerFile(path)


def test_a_file_that_is_no_ledger_is_refused(path: Path) -> None:
    """It is said which file, and what can be done."""
    path.parent.mkdir()
    path.write_bytes(b"this is not a database, " * 100)

    with pytest.raises(LedgerError, match=r"cannot be used: .*; move it away, or set"):
        LedgerFile(path)


@pytest.mark.parametrize(
    ("directory", "is_shared"),
    [
        ("/var/state", False),
        ("/home/ada/.local/state", True),
        ("/home/local/ada", False),
        ("/homes", False),
        ("/lustre/my scratch/x", True),
        ("/site/x", True),
    ],
)
def test_network_file_systems_are_known(directory: str, is_shared: bool) -> None:  # noqa: FBT001
    """The longest mount point counts, as a whole directory name; what is unknown is shared."""
    assert is_on_network(Path(directory), MOUNTS) is is_shared


def test_no_shared_memory_on_a_network_file_system(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There a rollback journal is used, every commit waits for the disk, and the user is told."""
    local = LedgerFile(path).read("PRAGMA journal_mode")
    mounts = path.parent / "mounts"
    mounts.write_text(f"server:/x {path.parent} nfs rw 0 0\n")
    monkeypatch.setattr("tasks.slurm.file_systems._MOUNTS", mounts)

    shared = LedgerFile(path.with_name("other.sqlite"))
    with shared.transaction() as connection:
        (level,) = connection.execute("PRAGMA synchronous").fetchone()

    assert (local, shared.read("PRAGMA journal_mode")) == ([("wal",)], [("delete",)])
    assert level == 2  # FULL
    assert "may be on a network file system: no WAL" in caplog.text


def test_whoever_opens_it_first_is_waited_for(path: Path) -> None:
    """SQLite itself does not wait while another process makes the file."""
    path.parent.mkdir()
    with sqlite3.connect(path, check_same_thread=False) as other:
        other.execute("BEGIN EXCLUSIVE")
        release = threading.Timer(0.3, other.rollback)
        release.start()

        LedgerFile(path).close()

        release.join()


def test_a_locked_ledger_is_not_to_be_moved_away(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in use: another one beside it would know nothing of its jobs."""
    monkeypatch.setattr("tasks.slurm.ledger_file._BUSY_TIMEOUT_S", 0.1)
    path.parent.mkdir()
    with sqlite3.connect(path) as other:
        other.execute("BEGIN EXCLUSIVE")

        with pytest.raises(LedgerError, match="is locked by another process; try again"):
            LedgerFile(path)


def test_a_ledger_for_each_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the user's state directory, or where WATERSHED_STATE_DIR says."""
    monkeypatch.delenv("WATERSHED_STATE_DIR", raising=False)
    usual = state_directory("frontier")
    monkeypatch.setenv("WATERSHED_STATE_DIR", "/scratch/state")

    assert usual == Path.home() / ".local/state/watershed/frontier"
    assert state_directory("frontier") == Path("/scratch/state/frontier")
