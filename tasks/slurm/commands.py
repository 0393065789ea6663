"""The commands of Slurm, run as processes: sbatch, squeue, sacct, scancel, scontrol, sinfo."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

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
from tasks.slurm.parsing import (
    ACCOUNTING_FIELDS,
    FIELD_END,
    PARTITION_FIELDS,
    QUEUE_FIELDS,
    RECORD_END,
    Unreadable,
    parse_accounting,
    parse_partitions,
    parse_queue,
    parse_settings,
    parse_submitted,
    words,
)
from tasks.slurm.reservations import Reservation, parse_nodes, parse_reservations
from tasks.slurm.sightings import Accounted, Partition, Queued
from tasks.slurm.surroundings import JOB_UMASK, of_command

Run = Callable[[Sequence[str], float], "subprocess.CompletedProcess[str]"]
"""Runs a command within so many seconds; raises as ``run_command`` does."""

_TIMEOUT_S = 30.0

# What a command says when it is not the controller that says no; in all of 22.05 to 24.11.
_UNCONFIGURED = "Could not establish a configuration source"
_UNREACHABLE = re.compile(
    r"unable to contact slurm controller|socket timed out|connection (refused|timed out|reset)"
    r"|zero bytes were transmitted|transport endpoint is not connected|unexpected message"
    r"|unable to process configuration|could not establish a configuration source"
    r"|(no route|network is unreachable)|host is down|in standby|no clusters can be reached"
    r"|talking to the database|header lengths|insane message|rate limit"
    r"|munge (en|de)code|munged is up|invalid authentication credential|protocol authentication",
    re.IGNORECASE,
)
# Limits on the number of submitted jobs, AssocMaxSubmitJobLimit, QOSGrpSubmitJobsLimit and such.
# Every other limit that sbatch names, on sizes, times or GPUs, lasts.
_SUBMIT_LIMIT = re.compile(r"\b(Assoc|QOS)\w*SubmitJob\w*")
_NAMED_LIMIT = re.compile(r"\b(Assoc|QOS|Max|Min|Grp)[A-Z]\w+")
_POLICY = re.compile(r"violates accounting/QOS policy", re.IGNORECASE)
_BUSY = re.compile(r"temporarily un(able|available)|I/O error writing", re.IGNORECASE)
_CLOSED = re.compile(
    r"Required partition not available|partition configuration not available now", re.IGNORECASE
)
_NO_ACCOUNTING = re.compile(r"accounting storage is disabled", re.IGNORECASE)


def run_command(
    argv: Sequence[str], timeout_s: float, *, inherited: Sequence[int] = ()
) -> "subprocess.CompletedProcess[str]":
    """Run a command of Slurm in a process group of its own, which dies with it.

    Args:
        argv: The command and its arguments; no shell reads them.
        timeout_s: Seconds after which the group is killed.
        inherited: File descriptors that it gets, such as that of a lock that is to outlive us.

    Returns:
        Exit code, stdout and stderr.

    Raises:
        OSError: It cannot be started.
        TimeoutError: It was killed after that time.
    """
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=of_command(argv[0], os.environ),
        umask=JOB_UMASK,  # sbatch hands it to the job
        cwd="/",  # our own directory may be gone; none of the commands needs one
        start_new_session=True,
        pass_fds=inherited,
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{argv[0]} has not answered within {timeout_s:g} s") from error
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
    return subprocess.CompletedProcess(list(argv), process.returncode, stdout, stderr)


class SlurmCli:
    """Slurm by its commands; implements ``sightings.Slurm``."""

    def __init__(self, run: Run = run_command) -> None:
        self._run = run
        self._settings: Mapping[str, str] = {}

    def submit(self, script: Path) -> str:
        """See ``Slurm.submit``."""
        answer = self._answer(
            ["sbatch", "--parsable", f"--chdir={script.parent}", str(script)], _submission_error
        )
        return parse_submitted(answer)

    def queue(self) -> list[Queued]:
        """See ``Slurm.queue``."""
        fields = ",".join(f"{field}:{FIELD_END}" for field in QUEUE_FIELDS)
        form = f"--Format={fields}{RECORD_END[1:-1]}"
        # Without --all the controller hides jobs in partitions that are hidden, or that the user
        # may not use any more: also from the user whose jobs they are.
        answer = self._answer(["squeue", "--me", "--all", "--noheader", "--states=all", form])
        return parse_queue(answer)

    def accounting(
        self, slurm_jobs: Sequence[str] = (), *, name: str | None = None, since_s: int = 0
    ) -> list[Accounted]:
        """See ``Slurm.accounting``."""
        if name is None and not slurm_jobs:
            return []
        options = [f"--uid={os.getuid()}"]
        if since_s:
            since = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since_s))
            options.append(f"--starttime={since}")
        if name is not None:
            options.append(f"--name={name}")
        else:
            # A range of tasks is an error to sacct 22.05, so whole arrays are asked for.
            arrays = dict.fromkeys(job.partition("_")[0] for job in slurm_jobs)
            options.append(f"--jobs={','.join(arrays)}")
        answer = self._answer(
            [
                "sacct",
                "--parsable",
                f"--delimiter={FIELD_END}",
                "--noheader",
                "--noconvert",
                "--duplicates",
                f"--format={','.join(ACCOUNTING_FIELDS)}",
                *options,
            ],
            _accounting_error,
        )
        accounted = parse_accounting(answer)
        if name is not None:
            return [each for each in accounted if each.name == name]
        asked = set(slurm_jobs)
        return [
            each
            for each in accounted
            if each.slurm_job in asked or each.slurm_job.partition("_")[0] in asked
        ]

    def cancel(self, slurm_jobs: Sequence[str]) -> None:
        """See ``Slurm.cancel``."""
        self._answer(["scancel", "--quiet", *_grouped(slurm_jobs)])

    def start_now(self, slurm_job: str, *, exclude: str = "") -> None:
        """See ``Slurm.start_now``."""
        nodes = [f"ExcNodeList={exclude}"] if exclude else []
        argv = ["scontrol", "update", f"JobId={slurm_job}", *nodes, "StartTime=now"]
        self._answer(argv, _refusal)

    def is_up(self) -> bool:
        """See ``Slurm.is_up``."""
        try:
            return " is UP" in self._answer(["scontrol", "ping"])
        except SlurmError:
            return False

    def partitions(self) -> list[Partition]:
        """See ``Slurm.partitions``."""
        fields = "".join(f"{field}{FIELD_END}" for field in PARTITION_FIELDS)
        form = f"--format={fields}{RECORD_END[1:-1]}"
        argv = ["sinfo", "--all", "--noheader", "--exact", "--noconvert", form]
        return parse_partitions(self._answer(argv))

    def reservations(self) -> list[Reservation]:
        """List the reservations of the cluster.

        Raises:
            SlurmUnreachable: No answer, or one that cannot be read.
            SlurmMissing: There is no scontrol.
        """
        return parse_reservations(self._answer(["scontrol", "--oneliner", "show", "reservation"]))

    def nodes(self) -> dict[str, frozenset[str]]:
        """See ``Slurm.nodes``."""
        form = f"--format=%N{FIELD_END}%P{FIELD_END}"
        answer = self._answer(["sinfo", "--all", "--noheader", "--Node", form])
        return parse_nodes(answer, FIELD_END)

    def max_array_size(self) -> int:
        """See ``Slurm.max_array_size``.

        Raises:
            Unreadable: What scontrol says is no number.
        """
        text = self._setting("MaxArraySize")
        if not re.fullmatch(r"\d{1,9}", text):
            raise Unreadable("scontrol show config", f"MaxArraySize = {text}")
        return int(text)

    def cluster(self) -> str:
        """See ``Slurm.cluster``."""
        return self._setting("ClusterName")

    def _setting(self, name: str) -> str:
        """Return a setting of the controller.

        Raises:
            Unreadable: It is not there.
        """
        if name not in self._settings:  # they last as long as the controller's process
            self._settings = parse_settings(self._answer(["scontrol", "show", "config"]))
        if name not in self._settings:
            raise Unreadable("scontrol show config", f"no {name}")
        return self._settings[name]

    def _answer(
        self, argv: Sequence[str], error: Callable[[str], type[SlurmError]] | None = None
    ) -> str:
        """Run a command and return its stdout.

        Args:
            argv: The command.
            error: Tells from its words what a failure amounts to; default: no answer.

        Raises:
            SlurmMissing: There is no such command, or no cluster that it knows.
            SlurmUnreachable: It did not answer.
        """
        command = argv[0]
        try:
            answer = self._run(argv, _TIMEOUT_S)
        except (FileNotFoundError, PermissionError) as missing:
            raise SlurmMissing(
                f"there is no {command} here: log in where Slurm's commands are installed, or run "
                "on this machine with `launcher: local`"
            ) from missing
        except OSError as failure:  # TimeoutError is one
            raise SlurmUnreachable(str(failure) or f"{command} cannot be started") from failure
        if answer.returncode == 0:
            return answer.stdout
        said = words(answer.stderr)
        if _UNCONFIGURED in said:
            raise SlurmMissing(
                f"{command} is here, but knows no cluster (no slurm.conf): log in where it does, "
                "set SLURM_CONF, or run on this machine with `launcher: local`"
            )
        # Killed by a signal: what it had done until then is not known.
        kind = error(said) if error and answer.returncode > 0 else SlurmUnreachable
        raise kind(said or f"{command} ended with exit code {answer.returncode} and no words")


def _submission_error(said: str) -> type[SlurmError]:
    if _UNREACHABLE.search(said):
        return SlurmUnreachable
    if _CLOSED.search(said):
        return SlurmClosed
    if _SUBMIT_LIMIT.search(said) or _BUSY.search(said):
        return SlurmBusy
    is_vague = _POLICY.search(said) and not _NAMED_LIMIT.search(said)
    return SlurmVague if is_vague else SlurmRefused


def _refusal(said: str) -> type[SlurmError]:
    return SlurmUnreachable if _UNREACHABLE.search(said) else SlurmRefused


def _accounting_error(said: str) -> type[SlurmError]:
    return NoAccounting if _NO_ACCOUNTING.search(said) else SlurmUnreachable


def _grouped(slurm_jobs: Sequence[str]) -> list[str]:
    """Write tasks of one array as one id, ``12_[1-3,7]``: the controller is then asked once."""
    tasks: dict[str, list[int]] = {}
    for slurm_job in slurm_jobs:
        job, _, task = slurm_job.partition("_")
        numbers = tasks.setdefault(job, [])
        if task:
            numbers.append(int(task))
    whole = {job for job in slurm_jobs if "_" not in job}
    return [
        job if job in whole else f"{job}_[{','.join(_ranges(numbers))}]"
        for job, numbers in tasks.items()
    ]


def _ranges(numbers: Sequence[int]) -> list[str]:
    ordered = sorted(set(numbers))
    starts = [n for n in ordered if n - 1 not in set(numbers)]
    ends = [n for n in ordered if n + 1 not in set(numbers)]
    return [str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
