"""The commands of Slurm as processes: what is asked, and what their failures amount to.

What they say was recorded on a cluster of Slurm 22.05.8, but for what is marked as from its source.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tasks.slurm.commands import SlurmCli, run_command
from tasks.slurm.errors import (
    NoAccounting,
    SlurmBusy,
    SlurmClosed,
    SlurmError,
    SlurmMissing,
    SlurmRefused,
    SlurmUnreachable,
    SlurmVague,
)
from tasks.slurm.sightings import Slurm
from tasks.slurm.states import SlurmState

SAMPLES = Path(__file__).parent / "samples"
SCRIPT = Path("/runs/a/job.sh")

Ask = Callable[[SlurmCli], object]


class Answers:
    """Answers every command alike, and remembers the commands."""

    def __init__(self, stdout: str = "", stderr: str = "", returncode: int = 0) -> None:
        self.asked: list[list[str]] = []
        self._answer = (returncode, stdout, stderr)

    def run(self, argv: Sequence[str], timeout_s: float) -> "CompletedProcess[str]":
        """Answer."""
        assert timeout_s == 30.0
        self.asked.append(list(argv))
        return CompletedProcess(list(argv), *self._answer)


def recorded(name: str) -> Answers:
    """Return the recorded answer of a command."""
    return Answers((SAMPLES / f"{name}.txt").read_bytes().decode())


ASKS: dict[str, Ask] = {
    "sbatch": lambda cli: cli.submit(SCRIPT),
    "squeue": lambda cli: cli.queue(),
    "sacct": lambda cli: cli.accounting(["1"]),
    "scancel": lambda cli: cli.cancel(["1"]),
    "update": lambda cli: cli.start_now("1"),
    "sinfo": lambda cli: cli.partitions(),
    "size": lambda cli: cli.max_array_size(),
    "cluster": lambda cli: cli.cluster(),
}


# --- what is asked --------------------------------------------------------------------------------


def test_it_is_a_slurm() -> None:
    """The class has what the protocol asks for."""
    slurm: Slurm = SlurmCli()

    assert slurm.accounting() == []  # of no jobs, nothing is asked


def test_a_script_is_submitted_in_its_own_directory() -> None:
    """The directory of the script is that of the job; the id comes back without the cluster."""
    answers = Answers("12;frontier\n")

    job = SlurmCli(answers.run).submit(SCRIPT)

    assert job == "12"
    assert answers.asked == [["sbatch", "--parsable", "--chdir=/runs/a", "/runs/a/job.sh"]]


def test_one_call_lists_the_queue() -> None:
    """All jobs of the user, in all states and all partitions, come from one squeue."""
    answers = recorded("squeue")

    queued = SlurmCli(answers.run).queue()

    assert len(queued) > 20
    (argv,) = answers.asked
    assert argv[:-1] == ["squeue", "--me", "--all", "--noheader", "--states=all"]
    assert argv[-1].startswith("--Format=JobArrayID:\x1f,State:\x1f,")
    assert argv[-1].endswith(",Name:\x1f\x1e")


def test_whole_arrays_are_asked_for_and_only_the_asked_tasks_are_told() -> None:
    """Sacct 22.05 takes no ranges of tasks, so each array is asked for once, and filtered."""
    answers = recorded("sacct")

    accounted = SlurmCli(answers.run).accounting(["16_1", "16_3", "17", "7"])

    assert "--jobs=16,17,7" in answers.asked[0]
    assert {"--duplicates", "--noconvert", "--delimiter=\x1f"} <= set(answers.asked[0])
    assert sorted(each.slurm_job for each in accounted) == sorted(
        ["16_1", "16_3", "7", *(f"17_{task}" for task in range(6))]
    )


def test_a_name_is_asked_for_since_a_time() -> None:
    """By name, the accounting is asked for this user's jobs since a time, in UTC."""
    answers = recorded("sacct-by-name")

    accounted = SlurmCli(answers.run).accounting(name="ws-requeued-1", since_s=1_700_000_000)

    assert [each.state for each in accounted] == [SlurmState.REQUEUED]
    assert answers.asked[0][-3:] == [
        f"--uid={os.getuid()}",
        "--starttime=2023-11-14T22:13:20",
        "--name=ws-requeued-1",
    ]


def test_other_names_are_left_out() -> None:
    """Rows under another name, as of a job that got an id for the second time, are not told."""
    answers = recorded("sacct")

    accounted = SlurmCli(answers.run).accounting(name="ws-gpu-1", since_s=1)

    assert [each.slurm_job for each in accounted] == ["9"]


@pytest.mark.parametrize(
    ("jobs", "asked"),
    [
        (["12"], ["12"]),
        (["12", "13"], ["12", "13"]),
        (["12_3"], ["12_[3]"]),
        (["12_3", "12_1", "12_2", "12_7", "13"], ["12_[1-3,7]", "13"]),
        (["12_3", "12"], ["12"]),
    ],
)
def test_tasks_of_an_array_are_cancelled_together(jobs: list[str], asked: list[str]) -> None:
    """Tasks of one array are one id to scancel, so that the controller is asked once."""
    answers = Answers()

    SlurmCli(answers.run).cancel(jobs)

    assert answers.asked == [["scancel", "--quiet", *asked]]


def test_a_held_job_is_started() -> None:
    """The hold of a requeued job is taken back by its start time."""
    answers = Answers()

    SlurmCli(answers.run).start_now("12_3")

    assert answers.asked == [["scontrol", "update", "JobId=12_3", "StartTime=now"]]


def test_a_held_job_is_started_without_some_nodes() -> None:
    """In the same call, so that it cannot start on one of them in between."""
    answers = Answers()

    SlurmCli(answers.run).start_now("12", exclude="node01,node[03-04]")

    (asked,) = answers.asked
    assert asked == [
        *("scontrol", "update", "JobId=12", "ExcNodeList=node01,node[03-04]", "StartTime=now")
    ]


def test_settings_are_asked_for_once() -> None:
    """Name of the cluster and largest array come from one call, which is not repeated."""
    answers = recorded("config")
    cli = SlurmCli(answers.run)

    told = [cli.cluster(), cli.max_array_size(), cli.cluster()]

    assert told == ["mini", 20001, "mini"]
    assert answers.asked == [["scontrol", "show", "config"]]


def test_partitions_are_listed() -> None:
    """Partitions, hidden ones too, come from one sinfo."""
    answers = recorded("sinfo")

    partitions = SlurmCli(answers.run).partitions()

    assert [each.name for each in partitions] == ["batch", "debug", "preempt"]
    assert answers.asked[0][:2] == ["sinfo", "--all"]


# --- what failures amount to ----------------------------------------------------------------------

LIMIT = (
    "sbatch: error: {}\n"
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit "
    "limit, user's size and/or time limits)\n"
)
FAILED = "sbatch: error: Batch job submission failed: {}\n"


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (FAILED.format("Requested node configuration is not available"), SlurmRefused),
        (FAILED.format("Invalid feature specification"), SlurmRefused),
        (FAILED.format("Invalid qos specification"), SlurmRefused),
        (FAILED.format("Invalid job array specification"), SlurmRefused),
        (
            FAILED.format("Invalid account or account/partition combination specified"),
            SlurmRefused,
        ),
        ("sbatch: error: Memory specification can not be satisfied\n", SlurmRefused),
        ("sbatch: error: Invalid --time specification\n", SlurmRefused),
        ("sbatch: unrecognized option '--nonsense'\n", SlurmRefused),
        (LIMIT.format("QOSMaxWallDurationPerJobLimit"), SlurmRefused),
        (LIMIT.format("QOSMaxSubmitJobPerUserLimit"), SlurmBusy),
        (LIMIT.format("AssocMaxSubmitJobLimit"), SlurmBusy),
        # From the source: limits of groups, a full controller, its full disk.
        (LIMIT.format("AssocGrpSubmitJobsLimit"), SlurmBusy),
        (LIMIT.format("AssocGrpNodeLimit"), SlurmRefused),
        (LIMIT.format("QOSMinGRES"), SlurmRefused),
        (LIMIT.format("QOSMinNode"), SlurmRefused),
        (LIMIT.format("QOSMinCpuNotSatisfied"), SlurmRefused),
        (LIMIT.format("QOSMaxGRESPerNode"), SlurmRefused),
        (LIMIT.format("QOSMaxCpuPerNode"), SlurmRefused),
        (LIMIT.format("AssocMaxGRESPerNode"), SlurmRefused),
        (LIMIT.format("MaxGRESPerAccount"), SlurmRefused),
        (LIMIT.format("    --> error: requested timelimit exceeds 24 hours"), SlurmVague),
        (LIMIT.splitlines()[1] + "\n", SlurmVague),
        (FAILED.format("Required partition not available (inactive or drain)"), SlurmClosed),
        (FAILED.format("Requested partition configuration not available now"), SlurmClosed),
        (
            "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n",
            SlurmBusy,
        ),
        (FAILED.format("Resource temporarily unavailable"), SlurmBusy),
        (FAILED.format("I/O error writing script/environment to file"), SlurmBusy),
        (FAILED.format("Unable to contact slurm controller (connect failure)"), SlurmUnreachable),
        (FAILED.format("Socket timed out on send/recv operation"), SlurmUnreachable),
        (FAILED.format("Zero Bytes were transmitted or received"), SlurmUnreachable),
        (
            "sbatch: error: ClusterName needs to be specified\n"
            "sbatch: fatal: Unable to process configuration file\n",
            SlurmUnreachable,
        ),
        ("sbatch: error: If munged is up, restart with --num-threads=10\n", SlurmUnreachable),
    ],
)
def test_what_sbatch_says_is_understood(said: str, kind: type[SlurmError]) -> None:
    """A refusal, a refusal for now, and no answer are told apart, in sbatch's own words."""
    cli = SlurmCli(Answers(stderr=said, returncode=1).run)

    with pytest.raises(SlurmError) as caught:
        cli.submit(SCRIPT)

    assert type(caught.value) is kind
    last_line = said.splitlines()[-1].removeprefix("sbatch: ")
    assert last_line.removeprefix("error: ").removeprefix("fatal: ") in str(caught.value)
    assert caught.value.is_transient == (kind is not SlurmRefused)


@pytest.mark.parametrize("answer", [Answers("1"), Answers(""), Answers("Submitted batch job\n")])
def test_an_accepted_job_without_an_id_is_looked_for(answer: Answers) -> None:
    """When sbatch says yes, but not to which id, the job is in doubt."""
    with pytest.raises(SlurmUnreachable, match="sbatch is cut off"):
        SlurmCli(answer.run).submit(SCRIPT)


@pytest.mark.parametrize("command", ASKS)
def test_a_command_that_was_killed_has_not_answered(command: str) -> None:
    """A command that a signal has ended may have done its work; it is no refusal."""
    cli = SlurmCli(Answers(returncode=-signal.SIGKILL).run)

    with pytest.raises(SlurmUnreachable, match="ended with exit code -9 and no words"):
        ASKS[command](cli)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"),
        ("sinfo", "slurm_load_partitions: Unable to contact slurm controller (connect failure)"),
        ("cluster", "slurm_load_ctl_conf error: Unable to contact slurm controller"),
        ("update", "Unexpected message received for job 98"),
        (
            "scancel",
            "scancel: error: Kill job error on job id 98: Unable to contact slurm controller",
        ),
        ("sacct", "sacct: error: Problem talking to the database: Connection refused"),
        ("squeue", "squeue: error: something that nobody has seen before"),
    ],
)
def test_other_commands_that_fail_have_not_answered(command: str, said: str) -> None:
    """Of a question that was not answered nothing is concluded."""
    cli = SlurmCli(Answers(stderr=f"{said}\n", returncode=1).run)

    with pytest.raises(SlurmUnreachable):
        ASKS[command](cli)


def test_no_accounting_is_told_apart() -> None:
    """A cluster without accounting is not one whose accounting is down."""
    answers = Answers(stderr="Slurm accounting storage is disabled\n", returncode=1)

    with pytest.raises(NoAccounting, match="Slurm accounting storage is disabled"):
        SlurmCli(answers.run).accounting(["1"])


def test_a_start_that_is_refused() -> None:
    """When a job cannot be started now any more, Slurm's words say why."""
    answers = Answers(stderr="Job has already finished for job 3\n", returncode=1)

    with pytest.raises(SlurmRefused, match="Job has already finished for job 3"):
        SlurmCli(answers.run).start_now("3")


@pytest.mark.parametrize(
    ("answers", "is_up"),
    [
        (Answers("Slurmctld(primary) at login is UP\n"), True),
        (Answers("Slurmctld(primary) at a is DOWN\nSlurmctld(backup) at b is UP\n"), True),
        (Answers("Slurmctld(primary) at login is DOWN\n", returncode=1), False),
        (Answers("", "scontrol: error: Unable to process configuration file\n", 1), False),
    ],
)
def test_whether_the_controller_answers(answers: Answers, is_up: bool) -> None:  # noqa: FBT001
    """One of the controllers must be up; whatever else is said is no."""
    assert SlurmCli(answers.run).is_up() is is_up


@pytest.mark.parametrize("command", ASKS)
def test_no_slurm_here(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the commands are not installed, this is said, with what to do."""
    monkeypatch.setenv("PATH", "/nonexistent")

    with pytest.raises(SlurmMissing, match="log in where Slurm's commands are installed, or run"):
        ASKS[command](SlurmCli())

    assert not SlurmCli().is_up()


@pytest.mark.parametrize(
    "error",
    [TimeoutError("sbatch has not answered within 30 s"), BlockingIOError(11, "no process")],
)
def test_a_command_that_cannot_be_run_now(error: OSError) -> None:
    """A time-out, or a machine that can start no process, is no answer."""

    def run(_argv: Sequence[str], _timeout_s: float) -> "CompletedProcess[str]":
        raise error

    with pytest.raises(SlurmUnreachable, match=str(error.args[-1])):
        SlurmCli(run).submit(SCRIPT)


def test_a_setting_that_is_no_number_is_refused() -> None:
    """A largest array that is no number is an answer that cannot be read."""
    answers = Answers("MaxArraySize = many\nClusterName = c\n")

    with pytest.raises(SlurmUnreachable, match="MaxArraySize = many"):
        SlurmCli(answers.run).max_array_size()


def test_a_setting_that_is_not_told_is_asked_for_again() -> None:
    """A cut-off answer is not remembered."""
    cut, whole = Answers("MaxArraySize = 10"), recorded("config")
    answers = iter([cut, whole])
    cli = SlurmCli(lambda argv, timeout_s: next(answers).run(argv, timeout_s))

    with pytest.raises(SlurmUnreachable, match="no MaxArraySize"):
        cli.max_array_size()

    assert cli.max_array_size() == 20001


# --- processes ------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a shell program on PATH in the place of a command."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def make(name: str, text: str) -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o700)

    return make


def test_arguments_reach_the_command_as_they_are(program: Callable[[str, str], None]) -> None:
    """No shell reads the arguments, and stdout, stderr and exit code come back."""
    program("squeue", 'printf "%s|" "$@"; echo no >&2; exit 3')

    answer = run_command(["squeue", "$(id)", "a b", "'", "\n"], 10.0)

    assert (answer.stdout, answer.stderr, answer.returncode) == ("$(id)|a b|'|\n|", "no\n", 3)


def test_a_command_out_of_time_dies_with_all_that_it_has_started(
    program: Callable[[str, str], None], tmp_path: Path
) -> None:
    """After its time the whole process group is killed, and the caller goes on at once."""
    program("sbatch", f"sleep 60 & echo $! > {tmp_path}/child; echo 12; sleep 60")
    start = time.monotonic()

    with pytest.raises(TimeoutError, match=r"sbatch has not answered within 0\.5 s"):
        run_command(["sbatch"], 0.5)

    assert time.monotonic() - start < 10  # well below the 60 s of the programs
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10
    while _is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_output_that_is_no_text_is_no_error(program: Callable[[str, str], None]) -> None:
    """Bytes that are no UTF-8 are replaced, as names of jobs may be anything."""
    program("squeue", r"printf 'a\377b\n'")

    assert run_command(["squeue"], 10.0).stdout == "a\ufffdb\n"


def test_a_deleted_working_directory_does_not_matter(
    program: Callable[[str, str], None], tmp_path: Path
) -> None:
    """The commands also run when the directory we are in is gone."""
    program("squeue", "pwd")
    gone = tmp_path / "gone"
    gone.mkdir()
    code = (
        "import os, sys; os.rmdir(os.getcwd()); from tasks.slurm.commands import run_command;"
        "print(run_command(['squeue'], 10.0).stdout, end='')"
    )

    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=gone,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=True,
    )

    assert ran.stdout == "/\n"


def test_a_job_is_closed_to_others_whoever_submits_it(
    program: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sbatch hands its umask and its environment to the job: both are ours, not the shell's."""
    program("sbatch", "umask; env")
    monkeypatch.setenv("WATERSHED_SUBMISSION", "7")
    monkeypatch.setenv("PREFECT_API_KEY", "pnu_of_another")
    monkeypatch.setenv("HF_HOME", "/scratch/another")
    before = os.umask(0o002)
    try:
        answer = run_command(["sbatch"], 10.0)
    finally:
        os.umask(before)

    mask, *variables = answer.stdout.splitlines()
    assert mask == "0077"
    names = {line.partition("=")[0] for line in variables}
    assert {"HOME", "PATH"} <= names
    assert not {"WATERSHED_SUBMISSION", "PREFECT_API_KEY", "HF_HOME"} & names
