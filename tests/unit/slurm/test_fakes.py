"""The fake Slurm behaves like a real one, traps included; what was measured there is in its words.

Time is virtual unless a test says otherwise.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tasks.runtime.records import Exit, Result, Started
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.commands import SlurmCli
from tasks.slurm.errors import NoAccounting, SlurmBusy, SlurmRefused, SlurmUnreachable
from tasks.slurm.sightings import Queued
from tasks.slurm.states import SlurmState
from tests.fakes.jobs import IdleNode, Work
from tests.fakes.node import RunDirectoryNode
from tests.fakes.scripts import Size, write_script
from tests.fakes.slurm import FakeSlurm, Faults

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a batch script with some options, in a directory of its own."""
    return partial(write_script, tmp_path)


def doing(work: Work) -> IdleNode:
    """Return nodes on which every job does the same."""
    return IdleNode(lambda _: work)


def only(queued: list[Queued]) -> Queued:
    """Return the only job."""
    (job,) = queued
    return job


# --- a life ---------------------------------------------------------------------------------------


def test_a_job_waits_runs_ends_and_is_forgotten_by_the_queue(write: Write) -> None:
    """A job is pending, running, completed, and 300 s later only the accounting knows it."""
    slurm = FakeSlurm()
    cli = SlurmCli(slurm.run)

    job = cli.submit(write())
    seen = [only(cli.queue()).state]
    slurm.advance(2)
    seen.append(only(cli.queue()).state)
    slurm.advance(70)
    seen.append(only(cli.queue()).state)
    slurm.advance(301)

    assert seen == [SlurmState.PENDING, SlurmState.RUNNING, SlurmState.COMPLETED]
    assert cli.queue() == []
    (told,) = cli.accounting([job])
    assert (told.state, told.elapsed_s, told.name) == (SlurmState.COMPLETED, 60, "ws-a-1")


def test_the_accounting_is_late(write: Write) -> None:
    """What happens is in sacct only after a while."""
    slurm = FakeSlurm(faults=Faults(sacct_lag_s=3.0))
    cli = SlurmCli(slurm.run)

    job = cli.submit(write())
    slurm.advance(1)

    assert cli.accounting([job]) == []
    slurm.advance(4)
    assert [each.state for each in cli.accounting([job])] == [SlurmState.RUNNING]


@pytest.mark.parametrize(
    ("work", "state", "code", "signal"),
    [
        (Work(exit_code=3), SlurmState.FAILED, 3, 0),
        (Work(signal=9), SlurmState.FAILED, 0, 9),
        # Of codes from 128 on sacct tells the signal in them.
        (Work(exit_code=143), SlurmState.FAILED, 15, 0),
        (Work(exit_code=128), SlurmState.FAILED, 0, 0),
        (Work(exit_code=127), SlurmState.FAILED, 127, 0),
        (Work(exit_code=137, ends_as=SlurmState.OUT_OF_MEMORY), SlurmState.OUT_OF_MEMORY, 9, 0),
        (Work(), SlurmState.COMPLETED, 0, 0),
    ],
)
def test_ends(write: Write, work: Work, state: SlurmState, code: int, signal: int) -> None:
    """A job ends as it is told to."""
    slurm = FakeSlurm(node=doing(work))
    cli = SlurmCli(slurm.run)

    job = cli.submit(write())
    slurm.advance(100)

    (told,) = cli.accounting([job])
    assert (told.state, told.exit_code, told.signal) == (state, code, signal)
    assert only(cli.queue()).state is state


def test_an_array_waits_in_one_line_and_runs_as_many_as_it_may(write: Write) -> None:
    """Of an array with %3, three tasks run at a time, and all have run in the end."""
    slurm = FakeSlurm()
    cli = SlurmCli(slurm.run)

    job = cli.submit(write("ws-a-1", "--array=0-9%3"))
    slurm.advance(5)
    first = Counter(each.state for each in cli.queue())
    text = slurm.run(["squeue", "--Format=JobArrayID:,State:"], 1.0).stdout
    slurm.advance(250)

    assert first == {SlurmState.RUNNING: 3, SlurmState.PENDING: 7}
    assert f"{job}_[3-9%3]PENDING\n" in text
    assert {each.slurm_job for each in cli.queue() if each.state is SlurmState.COMPLETED} == {
        f"{job}_{task}" for task in range(10)
    }


def test_jobs_wait_for_room(write: Write) -> None:
    """No more jobs run than there are CPUs, and an excluded node is not used."""
    slurm = FakeSlurm(size=Size(num_nodes=2, cpus=4))
    cli = SlurmCli(slurm.run)

    cli.submit(write("ws-a-1", "--array=0-9", "--cpus-per-task=2", "--exclude=node02"))
    slurm.advance(5)

    running = [each for each in cli.queue() if each.state is SlurmState.RUNNING]
    assert [each.nodes for each in running] == ["node01", "node01"]
    assert {each.reason for each in cli.queue() if each not in running} == {"Resources"}


def test_the_same_seed_gives_the_same_history(write: Write) -> None:
    """Two fakes with the same seed and calls print the same; another seed prints otherwise."""

    def history(seed: int) -> list[str]:
        slurm = FakeSlurm(seed, faults=Faults(timeout=0.1))
        texts = []
        slurm.run(["sbatch", str(script)], 30.0)
        for _ in range(30):
            slurm.advance(5)
            try:
                form = "--format=JobID,State,Start,End"
                texts.append(slurm.run(["sacct", "--delimiter=|", form, "--jobs=1"], 30.0).stdout)
            except TimeoutError:
                texts.append("no answer")
        return texts

    script = write("ws-a-1", "--array=0-20%2")

    assert history(1) == history(1) != history(2)


# --- stopping -------------------------------------------------------------------------------------


def test_cancelled_jobs(write: Write) -> None:
    """Waiting tasks are cancelled at once, running ones when they have ended."""
    slurm = FakeSlurm(node=doing(Work(saves_in_s=4.0)))
    cli = SlurmCli(slurm.run)
    job = cli.submit(write("ws-a-1", "--array=0-4%2"))
    slurm.advance(5)

    cli.cancel([f"{job}_{task}" for task in (0, 3, 4)] + ["999"])
    at_once = {each.slurm_job: each.state.name for each in cli.queue()}
    slurm.advance(5)
    later = {each.slurm_job: each.state.name for each in cli.queue()}

    assert at_once == {
        f"{job}_0": "COMPLETING",
        f"{job}_1": "RUNNING",
        f"{job}_2": "PENDING",
        f"{job}_3": "CANCELLED",
        f"{job}_4": "CANCELLED",
    }
    assert later[f"{job}_0"] == "CANCELLED"
    slurm.advance(10)
    (told,) = cli.accounting([f"{job}_3"])
    assert (told.state, told.cancelled_by, told.started_s) == (SlurmState.CANCELLED, 1000, None)


def test_a_deaf_job_is_killed(write: Write) -> None:
    """A job that does not heed SIGTERM dies of SIGKILL 30 s later."""
    slurm = FakeSlurm(node=doing(Work(saves_in_s=None, duration_s=1000.0)))
    cli = SlurmCli(slurm.run)
    job = cli.submit(write())
    slurm.advance(5)

    cli.cancel([job])
    slurm.advance(29)
    before = only(cli.queue()).state
    slurm.advance(3)

    assert (before, only(cli.queue()).state) == (SlurmState.COMPLETING, SlurmState.CANCELLED)
    assert slurm.job(job).signal == 9


def test_a_cancelled_job_is_not_queued_again(write: Write) -> None:
    """A job that is cancelled between its warning and its end does not come back."""
    slurm = FakeSlurm(node=doing(Work(duration_s=math.inf, saves_in_s=8.0)))
    cli = SlurmCli(slurm.run)
    job = cli.submit(write("ws-a-1", "--time=5", "--signal=B:USR1@60"))
    while not slurm.job(job).requeues:
        slurm.advance(1)

    cli.cancel([job])
    slurm.advance(30)

    assert [each.state for each in cli.accounting([job])] == [SlurmState.CANCELLED]


def test_a_filter_hides_the_tasks_that_it_cancels(write: Write) -> None:
    """After scancel --me, tasks that had not started are listed by the id of the array alone."""
    slurm = FakeSlurm()
    cli = SlurmCli(slurm.run)
    job = cli.submit(write("ws-a-1", "--array=0-4%2"))
    slurm.advance(5)

    slurm.cancel_all()
    slurm.advance(5)

    assert {each.slurm_job for each in cli.queue()} == {job, f"{job}_0", f"{job}_1"}
    assert len(cli.accounting([job])) == 5


def test_a_warned_job_saves_and_is_queued_again(write: Write) -> None:
    """The signal comes up to 30 s early; the job that saves is held for 121 s, then runs again."""
    slurm = FakeSlurm(node=doing(Work(duration_s=math.inf)))
    cli = SlurmCli(slurm.run)
    job = cli.submit(write("ws-a-1", "--time=10", "--signal=B:USR1@120"))

    slurm.advance(600 - 120 + 5)
    again = only(cli.queue())
    slurm.advance(60)
    held = only(cli.queue())
    slurm.advance(70)

    assert (again.state, again.reason, again.restarts) == (SlurmState.PENDING, "BeginTime", 1)
    assert held.state is SlurmState.PENDING
    assert (only(cli.queue()).state, only(cli.queue()).restarts) == (SlurmState.RUNNING, 1)
    before, after = cli.accounting([job])
    assert (before.state, before.exit_code) == (SlurmState.REQUEUED, 15)
    assert 600 - 150 <= before.elapsed_s <= 600 - 120 + 1
    assert after.state is SlurmState.RUNNING


def test_a_hold_can_be_taken_back(write: Write) -> None:
    """A requeued job starts within a second of scontrol update StartTime=now."""
    slurm = FakeSlurm()
    cli = SlurmCli(slurm.run)
    job = cli.submit(write())
    slurm.advance(5)
    slurm.run(["scontrol", "requeue", job], 30.0)

    cli.start_now(job)
    slurm.advance(1.5)

    assert only(cli.queue()).state is SlurmState.RUNNING
    with pytest.raises(SlurmRefused, match="Job has already finished"):
        cli.start_now(job)
    with pytest.raises(SlurmRefused, match="Invalid job id specified"):
        cli.start_now("99")


def test_a_time_limit_comes_late(write: Write) -> None:
    """A job that does not end by itself is stopped up to 30 s after its limit."""
    slurm = FakeSlurm(node=doing(Work(duration_s=math.inf)))
    cli = SlurmCli(slurm.run)
    job = cli.submit(write("ws-a-1", "--time=5"))

    slurm.advance(400)

    (told,) = cli.accounting([job])
    assert told.state is SlurmState.TIMEOUT
    assert 300 <= told.elapsed_s <= 333


@pytest.mark.parametrize(("option", "is_again"), [("--requeue", True), ("--no-requeue", False)])
def test_preemption(write: Write, option: str, is_again: bool) -> None:  # noqa: FBT001
    """A preempted job waits for its next turn, or is over, as it has asked for."""
    slurm = FakeSlurm()
    cli = SlurmCli(slurm.run)
    job = cli.submit(write("ws-a-1", option))
    slurm.advance(5)

    slurm.controller.preempt(slurm.job(job))
    slurm.advance(5)

    assert cli.accounting([job])[0].state is SlurmState.PREEMPTED
    state = SlurmState.PENDING if is_again else SlurmState.PREEMPTED
    assert only(cli.queue()).state is state


# --- traps ----------------------------------------------------------------------------------------


def test_a_dead_node_is_noticed_late(write: Write) -> None:
    """A power cut shows in the queue 28 to 48 s later; the job then waits for another node."""
    slurm = FakeSlurm(size=Size(num_nodes=2))
    cli = SlurmCli(slurm.run)
    job = cli.submit(write())
    slurm.advance(5)

    slurm.controller.fail_node("node01")
    slurm.advance(27)
    before = only(cli.queue())
    slurm.advance(22)
    after = only(cli.queue())
    slurm.advance(150)

    assert (before.state, before.nodes) == (SlurmState.RUNNING, "node01")
    assert (after.state, after.restarts) == (SlurmState.PENDING, 1)
    assert (slurm.job(job).nodes, slurm.job(job).is_alive) == (("node02",), True)
    states = [each.state for each in cli.accounting([job])]
    assert states == [SlurmState.NODE_FAIL, SlurmState.RUNNING]


def test_a_node_that_is_cut_off_runs_on(write: Write) -> None:
    """After a cut the old incarnation lives beside the new one, until the node is back."""
    slurm = FakeSlurm(size=Size(num_nodes=2), node=doing(Work(duration_s=1e6)))
    cli = SlurmCli(slurm.run)
    job = cli.submit(write("ws-a-1", "--time=10-0"))
    slurm.advance(5)

    slurm.controller.cut_node("node01")
    slurm.advance(200)
    old, new = slurm.incarnations("ws-a-1")
    both = (old.is_alive, new.is_alive)
    slurm.controller.revive_node("node01")

    assert both == (True, True)
    assert (old.is_alive, new.is_alive) == (False, True)
    assert slurm.job(job) is new


def test_a_killed_controller_forgets_and_gives_the_id_to_another(write: Write) -> None:
    """A job of the last 5 s is gone, its id another's, and the accounting knows it for ever."""
    slurm = FakeSlurm(faults=Faults(crash_at=(20.0,), stranger_takes_id=True))
    cli = SlurmCli(slurm.run)
    kept = cli.submit(write("ws-kept-1"))
    slurm.advance(17)
    lost = cli.submit(write("ws-lost-1"))
    slurm.advance(30)

    names = {each.slurm_job: each.name for each in cli.queue()}
    accounted = {(each.name, each.state.name) for each in cli.accounting([lost])}

    assert names == {kept: "ws-kept-1", lost: "other"}
    assert accounted == {("ws-lost-1", "RUNNING"), ("other", "RUNNING")}


def test_a_killed_controller_forgets_that_it_has_started_a_job(write: Write) -> None:
    """A job that was started in the last 5 s waits again, with as many restarts as before."""
    slurm = FakeSlurm(size=Size(num_nodes=1, cpus=1), node=doing(Work(duration_s=20.0)))
    cli = SlurmCli(slurm.run)
    cli.submit(write("ws-first-1"))
    job = cli.submit(write("ws-second-1"))
    slurm.advance(23)
    old = slurm.job(job)

    slurm.controller.crash(5.0, 1.0)

    assert (old.is_lost, old.is_alive) == (True, False)
    assert (slurm.job(job).state, slurm.job(job).restarts) == (SlurmState.PENDING, 0)
    slurm.advance(30)
    assert slurm.job(job).state is SlurmState.COMPLETED


def test_a_controller_that_is_down(write: Write) -> None:
    """Commands try for 9 s, then fail; the accounting answers, and a short outage goes unseen."""
    slurm = FakeSlurm(faults=Faults(controller_down=((10.0, 100.0), (200.0, 205.0))))
    cli = SlurmCli(slurm.run)
    job = cli.submit(write())
    slurm.advance(20)

    before_s = slurm.clock.now()
    with pytest.raises(SlurmUnreachable, match="Unable to contact slurm controller"):
        cli.queue()
    waited_s = slurm.clock.now() - before_s
    with pytest.raises(SlurmUnreachable, match="Unable to contact slurm controller"):
        cli.submit(write("ws-b-1"))

    assert 9 <= waited_s < 10
    assert not cli.is_up()
    assert [each.state for each in cli.accounting([job])] == [SlurmState.RUNNING]
    slurm.advance(slurm.start_s + 201 - slurm.clock.now())
    assert len(cli.queue()) == 1
    assert slurm.clock.now() >= slurm.start_s + 205


def test_a_job_that_ends_while_the_controller_is_down_is_settled_later(write: Write) -> None:
    """The end of a job becomes known when the controller is back, with that time."""
    slurm = FakeSlurm(faults=Faults(controller_down=((30.0, 100.0),)))
    cli = SlurmCli(slurm.run)
    job = cli.submit(write())

    slurm.advance(110)

    (told,) = cli.accounting([job])
    assert told.ended_s == slurm.start_s + 100


def test_an_accepted_job_that_nobody_hears_of(write: Write) -> None:
    """Sbatch may be killed after its time-out though the job is in the queue."""
    slurm = FakeSlurm(faults=Faults(accept_then_timeout=1.0))
    cli = SlurmCli(slurm.run)

    with pytest.raises(SlurmUnreachable, match="sbatch has not answered within 30 s"):
        cli.submit(write())

    assert slurm.clock.now() == slurm.start_s + 30
    assert [each.name for each in cli.queue()] == ["ws-a-1"]


def test_answers_that_are_cut_off_never_tell_more(write: Write) -> None:
    """Of a listing that is cut at any byte, what is read is true, or nothing is."""
    slurm = FakeSlurm(faults=Faults(truncate=1.0))
    cli = SlurmCli(slurm.run)
    for number in range(5):
        cli.submit(write(f"ws-{number}-1"))
    slurm.advance(5)
    num_refused = 0

    for _ in range(200):
        try:
            queued = cli.queue()
        except SlurmUnreachable:
            num_refused += 1
        else:
            assert {each.state for each in queued} <= {SlurmState.RUNNING}
            assert [each.slurm_job for each in queued] == ["1", "2", "3", "4", "5"][: len(queued)]

    assert num_refused > 100  # of some 35 bytes a record, one or two cut between two records


def test_the_accounting_may_be_down_or_absent(write: Write) -> None:
    """An accounting that does not answer and one that does not exist are told apart."""
    down = SlurmCli(FakeSlurm(faults=Faults(accounting_down=((0.0, 9.0),))).run)
    absent = SlurmCli(FakeSlurm(faults=Faults(no_accounting=True)).run)
    write()

    with pytest.raises(SlurmUnreachable, match="Connection refused"):
        down.accounting(["1"])
    with pytest.raises(NoAccounting, match="accounting storage is disabled"):
        absent.accounting(["1"])


def test_by_name_the_accounting_hides_what_is_held(write: Write) -> None:
    """Jobs that are not eligible yet are told by id alone, as by a real sacct."""
    slurm = FakeSlurm()
    cli = SlurmCli(slurm.run)
    job = cli.submit(write("ws-a-1", "--hold"))
    slurm.advance(10)

    since_s = int(slurm.start_s)
    assert cli.accounting(name="ws-a-1", since_s=since_s) == []
    assert [each.state for each in cli.accounting([job])] == [SlurmState.PENDING]


def test_jobs_of_others_are_not_told() -> None:
    """Neither squeue nor sacct tell of another user's job, and scancel leaves it alone."""
    slurm = FakeSlurm()
    cli = SlurmCli(slurm.run)
    job = str(slurm.submit_other(is_mine=False))
    slurm.advance(10)

    cli.cancel([job])

    assert cli.queue() == []
    assert cli.accounting([job]) == []
    assert slurm.job(job).state is SlurmState.RUNNING


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--partition=nope"], "invalid partition specified: nope"),
        (["--gpus-per-node=a100:2"], "Requested node configuration is not available"),
        (["--cpus-per-task=17"], "Requested node configuration is not available"),
        (["--array=0-20001"], "Invalid job array specification"),
        (["--account=nobody"], "Invalid account or account/partition combination"),
    ],
)
def test_refusals(write: Write, options: list[str], message: str) -> None:
    """What the cluster cannot do is refused in the words of the real sbatch."""
    cli = SlurmCli(FakeSlurm().run)

    with pytest.raises(SlurmRefused, match=message):
        cli.submit(write("ws-a-1", *options))


def test_a_limit_of_submissions(write: Write) -> None:
    """Over the limit of waiting and running jobs sbatch says no for now."""
    slurm = FakeSlurm(faults=Faults(max_submit=3))
    cli = SlurmCli(slurm.run)
    cli.submit(write("ws-a-1", "--array=0-2"))

    with pytest.raises(SlurmBusy, match="QOSMaxSubmitJobPerUserLimit"):
        cli.submit(write("ws-b-1"))

    slurm.advance(100)
    assert cli.submit(write("ws-b-1")) == "4"


def test_calls_are_counted(write: Write) -> None:
    """Every command is written down with its time."""
    slurm = FakeSlurm()
    cli = SlurmCli(slurm.run)
    cli.submit(write())
    for _ in range(3):
        cli.queue()
        slurm.advance(30)

    assert [call.command for call in slurm.calls] == ["sbatch", "squeue", "squeue", "squeue"]
    assert slurm.num_calls("squeue") == 3
    assert slurm.num_calls("squeue", since_s=slurm.start_s + 20) == 2
    assert slurm.most_calls(60.0, "squeue") == 2
    assert slurm.most_calls(1.0) == 2


def test_what_the_cluster_offers(write: Write) -> None:
    """Partitions, sizes and name are those that the fake was made with."""
    cli = SlurmCli(FakeSlurm(size=Size(("gpu", "debug"), 12, cpus=64, gpus=4)).run)
    write()

    gpu, debug = cli.partitions()

    assert (gpu.name, gpu.is_default, gpu.num_nodes, gpu.gpus_per_node) == ("gpu", True, 12, 4)
    assert (debug.time_limit_s, debug.cpus_per_node) == (1800, 64)
    assert (cli.cluster(), cli.max_array_size(), cli.is_up()) == ("fake", 20001, True)


# --- run directories ------------------------------------------------------------------------------


def test_jobs_leave_what_the_wrapper_leaves(write: Write) -> None:
    """A job claims its run, beats, and says how it ended, all by the fake's clock."""
    node = RunDirectoryNode(lambda _: Work(duration_s=100.0))
    slurm = FakeSlurm(node=node)
    cli = SlurmCli(slurm.run)
    script = write("ws-a-3")
    directory = RunDirectory(script.parent)

    job = cli.submit(script)
    slurm.advance(50)
    attempt = directory.attempt(1)
    started = Started.model_validate_json((attempt / "started.json").read_bytes())
    beat_age_s = slurm.clock.now() - (attempt / "heartbeat.json").stat().st_mtime
    slurm.advance(60)
    ended = Exit.model_validate_json((attempt / "exit.json").read_bytes())

    assert (started.submission, started.slurm_job, started.node) == (3, job, "node01")
    assert abs(started.timestamp_ms / 1000 - slurm.start_s) < 2
    assert beat_age_s <= 10
    assert (ended.code, ended.requeued) == (0, False)
    assert directory.read_result() == Result(status="finished")
    assert node.finished == {directory.path: 1}


def test_tasks_and_allocations_find_their_runs(write: Write, tmp_path: Path) -> None:
    """Task i works in directory i of runs.json, a job without tasks in all of them."""
    node = RunDirectoryNode()
    slurm = FakeSlurm(node=node)
    cli = SlurmCli(slurm.run)
    runs = {}
    for name in ("ws-array-1", "ws-allocation-1"):
        runs[name] = [tmp_path / f"{name}-{number}" for number in range(3)]
        for run in runs[name]:
            run.mkdir()
        script = write(name, *(["--array=0-2"] if name == "ws-array-1" else []))
        (script.parent / "runs.json").write_text(json.dumps([str(r) for r in runs[name]]))
        cli.submit(script)

    slurm.advance(100)

    assert node.finished == dict.fromkeys([*runs["ws-array-1"], *runs["ws-allocation-1"]], 1)


def test_a_duplicate_is_refused_by_the_run(write: Write) -> None:
    """Of two jobs of one submission the second ends with 75 before it does anything."""
    node = RunDirectoryNode()
    slurm = FakeSlurm(node=node)
    cli = SlurmCli(slurm.run)
    script = write()
    first, second = cli.submit(script), cli.submit(script)

    slurm.advance(100)

    assert [each.exit_code for each in cli.accounting([first, second])] == [0, 75]
    assert node.begun == {script.parent: 1}
    assert node.refused == [(script.parent, second)]
    assert node.overlaps == []


def test_a_second_submission_beside_the_first_is_noticed(write: Write) -> None:
    """When two submissions of one run work at the same time, the fake knows."""
    node = RunDirectoryNode()
    slurm = FakeSlurm(node=node)
    cli = SlurmCli(slurm.run)
    first = cli.submit(write("ws-a-1"))
    again = write("ws-a-1")
    again.write_text(again.read_text().replace("ws-a-1", "ws-a-2"))
    slurm.advance(5)

    second = cli.submit(again)
    slurm.advance(5)

    assert node.overlaps == [(again.parent, first, second)]


def test_an_overtaken_incarnation_leaves_no_result(write: Write) -> None:
    """After a cut, the old incarnation ends with 75, and the new one's result stands."""
    node = RunDirectoryNode(lambda run: Work(duration_s=300.0, exit_code=0 if run.restarts else 1))
    slurm = FakeSlurm(size=Size(num_nodes=2), node=node)
    cli = SlurmCli(slurm.run)
    script = write()
    cli.submit(script)
    slurm.advance(5)

    slurm.controller.cut_node("node01")
    slurm.advance(600)

    directory = RunDirectory(script.parent)
    codes = [
        Exit.model_validate_json((attempt / "exit.json").read_bytes()).code
        for attempt in directory.attempts()
    ]
    assert codes == [75, 0]
    assert directory.read_result() == Result(status="finished")
    assert node.overlaps == []


def test_a_warned_job_leaves_a_checkpoint(write: Write) -> None:
    """At its time limit a job leaves code 143, the signal, and a checkpoint, and is requeued."""
    node = RunDirectoryNode(lambda run: Work(duration_s=50.0 if run.restarts else math.inf))
    slurm = FakeSlurm(node=node)
    script = write("ws-a-1", "--time=5", "--signal=B:USR1@60")
    SlurmCli(slurm.run).submit(script)

    slurm.advance(600)

    directory = RunDirectory(script.parent)
    ended = Exit.model_validate_json((directory.attempt(1) / "exit.json").read_bytes())
    assert (ended.code, ended.signals, ended.requeued) == (143, ("SIGUSR1",), True)
    assert len(list(directory.checkpoints.iterdir())) == 1
    assert node.finished == {script.parent: 1}


def test_a_job_that_dies_leaves_no_exit(write: Write) -> None:
    """After a power cut the heartbeat stops, and there is no exit."""
    node = RunDirectoryNode(lambda _: Work(duration_s=1e4))
    slurm = FakeSlurm(size=Size(num_nodes=1), node=node)
    script = write()
    SlurmCli(slurm.run).submit(script)
    slurm.advance(20)

    slurm.controller.fail_node("node01")
    slurm.advance(100)

    attempt = RunDirectory(script.parent).attempt(1)
    assert slurm.clock.now() - (attempt / "heartbeat.json").stat().st_mtime > 100
    assert not (attempt / "exit.json").exists()


# --- ten thousand jobs ----------------------------------------------------------------------------


def test_ten_thousand_jobs_pass(write: Write) -> None:
    """Ten arrays of 1,000 tasks go through the commands, listings and parsers in seconds."""
    slurm = FakeSlurm(
        size=Size(num_nodes=48, cpus=16),
        node=IdleNode(lambda run: Work(duration_s=30.0 + (run.task or 0) % 60)),
    )
    cli = SlurmCli(slurm.run)
    began_s = time.process_time()
    arrays = [cli.submit(write(f"ws-{number}-1", "--array=0-999")) for number in range(10)]

    seen: dict[str, SlurmState] = {}
    while len(seen) < 10_000 or not all(state.is_final for state in seen.values()):
        seen |= {each.slurm_job: each.state for each in cli.queue()}
        slurm.advance(30)

    assert Counter(seen.values()) == {SlurmState.COMPLETED: 10_000}
    assert len({each.slurm_job for each in cli.accounting(arrays)}) == 10_000
    assert slurm.num_calls("squeue") < 60
    assert time.process_time() - began_s < 30  # 4 s of CPU time here
