"""Ranks as children: what their parent makes of their ends."""

import contextlib
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from configs.training import TrainingExperiment
from tasks.runtime.errors import JobError, Reason
from tasks.runtime.fence import Overtaken
from tasks.runtime.records import Result
from tasks.runtime.stopping import Interrupted, StopRequest, stop_asked
from tasks.zero.errors import lost_peer
from tasks.zero.identity import Identity, all_ranks, ranks_here
from tasks.zero.local_ranks import EndKind, RankEnd, run_ranks
from tasks.zero.rendezvous import RENDEZVOUS, join

GOOD = Result(status="finished", steps=3)
EXPERIMENT = TrainingExperiment.model_validate(
    {"kind": "training", "ranks": 3, "partition": "zero3"}
)
RANKS = all_ranks(EXPERIMENT)
PATIENCE_S = 2
NCCL = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:93, "
NO_MEMORY = f"""{NCCL}unhandled cuda error (run with NCCL_DEBUG=INFO for details)
ncclUnhandledCudaError: Call to CUDA function failed.
Last error:
Cuda failure 2 'out of memory'"""
SAME_GPU = f"""{NCCL}invalid usage (run with NCCL_DEBUG=WARN for details)
ncclInvalidUsage: This usually reflects invalid usage of NCCL library.
Last error:
Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 50000"""
NO_ROOM = f"""{NCCL}unhandled system error (run with NCCL_DEBUG=INFO for details)
ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.
Last error:
Error while creating shared memory segment /dev/shm/nccl-Ab12 (size 33030528), error: No space left
on device (28)"""
PEER_GONE = f"""{NCCL}remote process exited or there was a network error, NCCL version 2.28.9
ncclRemoteError: A call failed possibly due to a network error or a remote process exiting.
Last error:
socketProgress: Connection closed by remote peer node7<45074>"""
NOBODY_THERE = (
    "[1] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via c10d key-value "
    "store by key '0', but store->get('0') got error: wait timeout after 120000ms"
)
GIVEN_UP = (
    "NCCL communicator was aborted on rank 1.  Original reason for failure was: [Rank 1] Watchdog "
    "caught collective operation timeout: WorkNCCL(SeqNum=1, OpType=BROADCAST, Timeout(ms)=600000)"
)


def finish(identity: Identity, directory: Path) -> Result:
    """Come to a good end, each rank with a number of its own."""
    del directory
    return GOOD.model_copy(update={"steps": 10 + identity.rank})


def fail(identity: Identity, directory: Path) -> Result:
    """Rank 1 finds an error that the user can act on; the others wait for nothing.

    Raises:
        JobError: That error.
    """
    if identity.rank == 1:
        raise JobError(Reason.DATA, "there are none")
    time.sleep(30)
    return finish(identity, directory)


def all_fail(identity: Identity, directory: Path) -> Result:
    """All see the same, rank 0 last.

    Raises:
        JobError: What they see.
    """
    del directory
    time.sleep(0.3 if identity.rank == 0 else 0)
    raise JobError(Reason.DIVERGED, f"rank {identity.rank} says so")


def vanish(identity: Identity, directory: Path) -> Result:
    """Rank 2 is ended by some library that knows better."""
    if identity.rank == 2:
        os._exit(7)
    return finish(identity, directory)


def overtaken(identity: Identity, directory: Path) -> Result:
    """Rank 0 notices a newer attempt; another one fails as it leaves.

    Raises:
        Overtaken: There is a newer attempt.
    """
    if identity.rank == 0:
        raise Overtaken("attempt 1 was overtaken")
    return fail(identity, directory)


def stopped(identity: Identity, directory: Path) -> Result:
    """Wait until somebody interrupts."""
    (directory / str(identity.rank)).touch()
    time.sleep(30)
    return GOOD


def stop_on_request(identity: Identity, directory: Path) -> Result:
    """Finish what is at hand, and stop.

    Raises:
        Interrupted: It was asked for.
    """
    with stop_asked() as stop:
        (directory / str(identity.rank)).touch()
        while not stop.is_made:
            time.sleep(0.01)
    raise Interrupted


def talk(identity: Identity, directory: Path, signum: int) -> Result:
    """Exchange numbers until rank 1 is sent a signal by itself."""
    join(identity, directory, device=torch.device("cpu"), is_one_node=True, timeout_s=PATIENCE_S)
    for number in range(10**6):
        if identity.rank == 1 and number == 20:
            os.kill(os.getpid(), signum)
        dist.all_reduce(torch.ones(1))
    return GOOD


def die(identity: Identity, directory: Path) -> Result:
    """Talk, until rank 1 is killed."""
    return talk(identity, directory, signal.SIGKILL)


def freeze(identity: Identity, directory: Path) -> Result:
    """Talk, until rank 1 is stopped."""
    return talk(identity, directory, signal.SIGSTOP)


def listen(identity: Identity, directory: Path) -> Result:
    """Talk as a training does, which pretends nodes; write down where this process listens."""
    join(identity, directory, device=torch.device("cpu"), is_one_node=False, timeout_s=30)
    group = dist.new_group(backend="gloo")
    dist.all_reduce(torch.ones(1))
    dist.all_reduce(torch.ones(1), group=group)
    (directory / f"{identity.rank}.json").write_text(json.dumps(sorted(listening_addresses())))
    dist.barrier()
    return GOOD


def wait(identity: Identity, directory: Path) -> Result:
    """Wait for those that were not started."""
    join(identity, directory, device=torch.device("cpu"), is_one_node=True, timeout_s=1)
    return GOOD


def listening_addresses() -> set[str]:
    """Return the addresses, in hexadecimal, on which this process takes connections."""
    inodes = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}


def abort_while_one_is_silent(identity: Identity, directory: Path) -> Result:
    """Rank 2 hangs; NCCL's watchdogs end the others, each when its own time limit is over."""
    del directory
    time.sleep(30 if identity.rank == 2 else 0.6 + 0.3 * identity.rank)
    os.abort()


def abort_at_once(identity: Identity, directory: Path) -> Result:
    """Rank 1 is ended by a defect of a library, the others run on."""
    if identity.rank == 1:
        os.abort()
    time.sleep(30)
    return finish(identity, directory)


def abort_after_a_while(identity: Identity, directory: Path) -> Result:
    """Rank 1 is ended by a defect of a library, when NCCL's time limit could be over for others."""
    time.sleep(1.5)
    return abort_at_once(identity, directory)


def abort_before_the_others(identity: Identity, directory: Path) -> Result:
    """Rank 1 is ended by a defect of a library, the others by NCCL, as they have lost it."""
    del directory
    time.sleep(1.0 if identity.rank == 1 else 1.3)
    os.abort()


def lack_memory(identity: Identity, directory: Path) -> Result:
    """Rank 2 has too little memory for NCCL; the others wait for it.

    Raises:
        DistBackendError: What torch makes of that.
    """
    if identity.rank == 2:
        raise dist.DistBackendError(NO_MEMORY)
    time.sleep(30)
    return finish(identity, directory)


def share_a_gpu(identity: Identity, directory: Path) -> Result:
    """All ranks see what two of them have done.

    Raises:
        DistBackendError: What torch makes of that.
    """
    del identity, directory
    raise dist.DistBackendError(SAME_GPU)


def be_the_parent(
    end: Connection,
    work: Callable[[Identity, Path], Result],
    directory: Path,
    *,
    is_asked: bool,
    aborts_after_s: float,
    temporary: Path | None,
    identities: Sequence[Identity],
) -> None:
    """Run the ranks, and stop them when all have begun, if that is asked for."""
    torch.set_num_threads(1)
    tempfile.tempdir = None if temporary is None else str(temporary)
    stop = StopRequest()

    def ask(signum: int, frame: object) -> None:
        del signum, frame
        if len(list(directory.iterdir())) == len(RANKS):
            stop.made_s = time.monotonic()

    if is_asked:
        signal.signal(signal.SIGALRM, ask)
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    end.send(
        run_ranks(
            identities,
            lambda identity: work(identity, directory),
            stop,
            aborts_after_s=aborts_after_s,
        )
    )


def end_of(
    work: Callable[[Identity, Path], Result],
    directory: Path,
    *,
    is_asked: bool = False,
    aborts_after_s: float = float("inf"),
    temporary: Path | None = None,
    identities: Sequence[Identity] = RANKS,
) -> tuple[RankEnd, float]:
    """Run work on three ranks, from a process that has loaded torch.

    Returns:
        The end that explains all, and how long it took.
    """
    began = time.monotonic()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tasks.zero.local_ranks", "tasks.zero.rendezvous"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=be_the_parent,
        args=(theirs, work, directory),
        kwargs={
            "is_asked": is_asked,
            "aborts_after_s": aborts_after_s,
            "temporary": temporary,
            "identities": identities,
        },
    )
    process.start()
    theirs.close()
    end: RankEnd = ours.recv()
    process.join()
    return end, time.monotonic() - began


def test_of_good_ends_rank_0_tells(tmp_path: Path) -> None:
    """Whoever is first; each has its own result."""
    end, _ = end_of(finish, tmp_path)

    assert end == RankEnd(0, EndKind.FINISHED, GOOD.model_copy(update={"steps": 10}))


def test_a_rank_that_fails_ends_the_others(tmp_path: Path) -> None:
    """Soon, though they wait for nothing of it; its words are kept."""
    end, took_s = end_of(fail, tmp_path)

    assert (end.rank, end.kind) == (1, EndKind.FAILED)
    assert (end.result.reason, end.result.message) == ("data", "there are none")
    assert took_s < 25


def test_an_error_that_all_have_is_told_by_rank_0(tmp_path: Path) -> None:
    """It knows the metrics, though it comes last."""
    end, _ = end_of(all_fail, tmp_path)

    assert end.result.message == "rank 0 says so"


def test_a_rank_that_goes_without_a_word_is_lost(tmp_path: Path) -> None:
    """Its exit code is all that there is to tell, also if the others end well."""
    end, _ = end_of(vanish, tmp_path)

    assert (end.rank, end.kind, end.result.reason) == (2, EndKind.LOST, "rank_lost")
    assert "ended with exit code 7 before it could say why" in end.result.message


def test_an_overtaken_rank_goes_before_all(tmp_path: Path) -> None:
    """What the others say of it would be written where another attempt writes by now."""
    end, _ = end_of(overtaken, tmp_path)

    assert end.kind is EndKind.OVERTAKEN


@pytest.mark.parametrize("work", [stopped, stop_on_request])
def test_a_request_reaches_all_ranks(
    work: Callable[[Identity, Path], Result], tmp_path: Path
) -> None:
    """Those that can be interrupted at once, and those that finish what they do."""
    end, took_s = end_of(work, tmp_path, is_asked=True)

    assert (end.kind, end.result.status) == (EndKind.INTERRUPTED, "interrupted")
    assert took_s < 25


def test_a_killed_rank_is_named_and_not_those_that_waited_for_it(tmp_path: Path) -> None:
    """They see closed connections, maybe before their parent sees the end of the killed one."""
    end, _ = end_of(die, tmp_path)

    assert (end.rank, end.kind, end.result.reason) == (1, EndKind.LOST, "rank_lost")
    assert "rank 1 (process " in end.result.message
    assert "was killed by SIGKILL, perhaps for want of memory" in end.result.message


def test_ranks_of_one_machine_listen_on_loopback_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a topology pretends nodes; nobody else's machine can reach them."""
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(variable, raising=False)

    end, _ = end_of(listen, tmp_path, identities=ranks_here(EXPERIMENT))

    assert end.kind is EndKind.FINISHED
    found = [json.loads((tmp_path / f"{one.rank}.json").read_text()) for one in RANKS]
    # 127.0.0.1 as an IPv4 address, and as IPv6 writes it; ::1
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert all(addresses and set(addresses) <= loopback for addresses in found)


@pytest.mark.parametrize("work", [listen, die])
def test_nothing_is_left_of_the_place_where_ranks_met(
    work: Callable[[Identity, Path], Result], tmp_path: Path
) -> None:
    """Though a rank that is killed removes nothing."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()

    end_of(work, tmp_path, temporary=temporary, identities=ranks_here(EXPERIMENT))

    assert (tmp_path / RENDEZVOUS).exists()
    assert list(temporary.iterdir()) == []


def test_who_waits_in_vain_at_the_beginning_has_lost_the_others(tmp_path: Path) -> None:
    """A rank that does not come is no error of those that do."""
    end, _ = end_of(wait, tmp_path, identities=ranks_here(EXPERIMENT)[:1])

    assert (end.rank, end.kind, end.result.reason) == (0, EndKind.LOST_PEER, "rank_lost")


def test_a_rank_that_is_stopped_is_named_when_the_others_give_up(tmp_path: Path) -> None:
    """After their timeout, and a moment for a better explanation; it is killed then."""
    end, took_s = end_of(freeze, tmp_path)

    assert (end.rank, end.kind, end.result.reason) == (1, EndKind.SILENT, "rank_lost")
    assert "did not answer: it is stopped, or hangs" in end.result.message
    assert took_s > PATIENCE_S


@pytest.mark.slow  # the others may be ended up to a train step later: they are waited for
def test_ranks_that_nccl_has_ended_are_not_to_blame(tmp_path: Path) -> None:
    """After its time limit their SIGABRT tells of another rank's silence, and that one is named."""
    end, _ = end_of(abort_while_one_is_silent, tmp_path, aborts_after_s=0.5)

    assert (end.rank, end.kind, end.result.reason) == (2, EndKind.SILENT, "rank_lost")
    assert "rank 2 (process " in end.result.message
    assert "did not answer: it is stopped, or hangs (rank 0 (process " in end.result.message
    assert "was killed by SIGABRT, as NCCL ends a rank that has waited" in end.result.message


@pytest.mark.slow  # as above
def test_a_rank_that_aborts_while_the_others_wait_is_named(tmp_path: Path) -> None:
    """Also after NCCL's time limit: had it waited for one of them, the others had done so, too."""
    end, _ = end_of(abort_after_a_while, tmp_path, aborts_after_s=0.5)

    assert (end.rank, end.kind, end.result.reason) == (1, EndKind.LOST, "rank_lost")
    assert "rank 1 (process " in end.result.message
    assert "was killed by SIGABRT; continue from" in end.result.message


def test_of_ranks_that_all_abort_the_first_is_named(tmp_path: Path) -> None:
    """There is none that they have waited for."""
    end, _ = end_of(abort_before_the_others, tmp_path, aborts_after_s=0.5)

    assert (end.rank, end.kind, end.result.reason) == (1, EndKind.ABORTED, "rank_lost")
    assert "was killed by SIGABRT; continue from" in end.result.message


@pytest.mark.parametrize("aborts_after_s", [float("inf"), 600.0])
def test_a_rank_that_aborts_itself_is_named(tmp_path: Path, aborts_after_s: float) -> None:
    """Where nothing waits under a time limit, or before it can be over."""
    end, _ = end_of(abort_at_once, tmp_path, aborts_after_s=aborts_after_s)

    assert (end.rank, end.kind) == (1, EndKind.LOST)
    assert "was killed by SIGABRT" in end.result.message
    assert "NCCL" not in end.result.message


def test_what_nccl_says_of_the_rank_itself_is_its_own_fault(tmp_path: Path) -> None:
    """Too little memory is told as such, of the rank that has it; nobody is lost."""
    end, _ = end_of(lack_memory, tmp_path)

    assert (end.rank, end.kind, end.result.reason) == (2, EndKind.FAILED, "memory")


def test_what_nccl_refuses_is_told_whole(tmp_path: Path) -> None:
    """The last line is what helps; the job isn't tried again, as it would be for a lost rank."""
    end, _ = end_of(share_a_gpu, tmp_path)

    assert (end.rank, end.kind, end.result.reason) == (0, EndKind.FAILED, "internal")
    assert end.result.message == (
        "NCCL says: Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 50000 "
        "(see stdout.log)"
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (dist.DistBackendError(NO_MEMORY), None),
        (dist.DistBackendError(SAME_GPU), None),
        (dist.DistBackendError(NO_ROOM), None),
        (dist.DistBackendError(PEER_GONE), f"{NCCL}remote process exited or there was a network"),
        (dist.DistBackendError(NOBODY_THERE), "is setting up NCCL communicator and retrieving"),
        (dist.DistBackendError(GIVEN_UP), "Watchdog caught collective operation timeout"),
        (dist.DistStoreError("wait timeout after 10ms, keys: /sign"), "wait timeout after 10ms"),
        (
            RuntimeError("[/x/gloo/transport/tcp/pair.cc:553] Connection closed by peer [::1]:1"),
            "Connection closed by peer [::1]:1",
        ),
        (dist.DistBackendError("NCCL error: remote process exited\nmore"), "NCCL error: remote"),
        (RuntimeError("shapes differ"), None),
        (ValueError("gloo is a word"), None),
    ],
)
def test_only_errors_of_the_communication_tell_of_lost_peers(
    error: Exception, words: str | None
) -> None:
    """Those of gloo name its source files, those of NCCL the peer; all others are a rank's own."""
    found = lost_peer(error)

    assert found == words or (words and found and found.startswith(words))


def test_nccls_last_words_name_the_lost_peer() -> None:
    """Which node it was on stands in the last line alone."""
    assert str(lost_peer(dist.DistBackendError(PEER_GONE))).endswith(
        ": socketProgress: Connection closed by remote peer node7<45074>"
    )


@pytest.mark.parametrize("ask", ["get", "wait"])
def test_a_store_in_a_file_that_nobody_answers_tells_of_a_lost_peer(
    tmp_path: Path, ask: str
) -> None:
    """Ranks of one machine meet there, and its time-outs are no errors of ``DistError``."""
    store = dist.FileStore(str(tmp_path / "store"))  # type: ignore[attr-defined]  # not in __all__
    store.set_timeout(timedelta(milliseconds=10))

    with pytest.raises(RuntimeError) as raised:
        store.get("answer") if ask == "get" else store.wait(["answer"])

    assert not isinstance(raised.value, dist.DistError)
    assert "imeout" in str(lost_peer(raised.value))


def test_an_error_that_quotes_a_lost_peer_is_one() -> None:
    """A lane that has failed raises its own error, whose cause is gloo's."""
    error = RuntimeError("a lane has failed before")
    error.__cause__ = RuntimeError("[/x/gloo/transport/tcp/pair.cc:1] Read error [::1]:1: reset")

    assert lost_peer(error) == "Read error [::1]:1: reset"
