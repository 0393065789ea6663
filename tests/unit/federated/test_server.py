"""The server of real workers: every return at most once, none lost, whatever kills it."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tasks.federated import published, refused_returns
from tasks.federated.arrivals.interface import Arrivals
from tasks.federated.checkpoint import Checkpoint, save
from tasks.federated.messages import Refusal
from tasks.federated.problem import build_problem
from tasks.federated.server import Server
from tasks.federated.serving import serve
from tasks.federated.simulation import assemble
from tasks.runtime.attempt import Claimant, claim
from tasks.runtime.errors import JobError
from tasks.runtime.fence import UNFENCED, Fence, Overtaken
from tasks.runtime.records import ReturnLine
from tasks.runtime.returns import read_returns
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.spool import Claim, Newest, Spool
from tests.unit.federated.anarchic import HASH, WORKERS, delta_of, hand_in, make_run, opened


def do_round(server: Server) -> Arrivals:
    """Do a round whose returns are all there."""
    while (arrivals := server.step()) is None:
        pass
    return arrivals


def save_checkpoint(server: Server, directory: RunDirectory) -> None:
    """Save as the training does between two rounds."""
    tensors, facts = server.checkpoint()
    save(directory.checkpoints, Checkpoint(tensors, json.loads(json.dumps(facts)) | SAVED))


SAVED = {"config_hash": HASH}


def lines_of(directory: RunDirectory) -> list[ReturnLine]:
    """All returns that were taken."""
    return [line for line, _ in read_returns(directory.returns)]


def names_in(path: Path) -> list[str]:
    """What lies in a directory of the spool."""
    return sorted(found.name for found in path.iterdir())


def begin(directory: RunDirectory, restarts: int = 0) -> Fence:
    """Claim a run as one incarnation of a job."""
    claimant = Claimant(submission=1, slurm_job="7", restarts=restarts)
    return Fence(directory.path, claim(directory, claimant))


def test_the_first_returns_make_the_next_model(tmp_path: Path) -> None:
    """Two returns a round move the model by their mean; the result is published and announced."""
    directory = make_run(tmp_path)
    spool = Spool(directory)
    with opened(directory) as server:
        assert server.step() is None
        initial = server.state.model.clone()
        hand_in(spool, 0, 0)
        hand_in(spool, 3, 2)

        arrivals = do_round(server)

        expected = initial + (delta_of(0, 0) + delta_of(3, 2)) / 2
        torch.testing.assert_close(server.state.model, expected, rtol=1e-15, atol=0)
        assert server.state.version == 1
        assert server.totals.line()["partition/a"] == 1
        assert server.totals.line()["partition/b"] == 1
    assert (arrivals.worker.tolist(), arrivals.sequence.tolist()) == ([0, 3], [0, 2])
    newest = spool.newest()
    assert newest is not None
    assert newest.version == 1
    assert spool.versions() == [0, 1]
    assert names_in(spool.returns) == []
    assert [(line.round, line.worker, line.delay) for line in lines_of(directory)] == [
        (1, 0, 0),
        (1, 3, 0),
    ]


def test_a_return_that_waits_for_others_is_taken_at_once(tmp_path: Path) -> None:
    """A buffer that is not full is remembered over a crash, so that its worker can go on."""
    directory = make_run(tmp_path)
    spool = Spool(directory)
    with opened(directory) as server:
        hand_in(spool, 0, 0)
        assert server.step() is None
        assert names_in(spool.returns) == []
    hand_in(spool, 0, 1)

    with opened(directory) as server:
        arrivals = do_round(server)

    assert (arrivals.worker.tolist(), arrivals.sequence.tolist()) == ([0, 0], [0, 1])


def test_returns_are_taken_as_they_came(tmp_path: Path) -> None:
    """Earlier files go first; those of one worker in their order, whatever their times say."""
    directory = make_run(tmp_path, algorithm={"name": "afa_cd", "collect": 4})
    spool = Spool(directory)
    with opened(directory) as server:
        server.step()
        for second, (worker, sequence) in enumerate([(2, 1), (3, 0), (2, 0), (1, 0)]):
            path = hand_in(spool, worker, sequence)
            os.utime(path, (1e9 + second, 1e9 + second))

        arrivals = do_round(server)

    assert arrivals.worker.tolist() == [2, 3, 2, 1]
    assert arrivals.sequence.tolist() == [0, 0, 1, 0]


def _two_of_a_name(spool: Spool) -> None:
    hand_in(spool, 1, 5)
    hand_in(spool, 1, 5, token=2)


def _an_earlier_one(spool: Spool) -> None:
    hand_in(spool, 1, 4)


def _an_older_attempt(spool: Spool) -> None:
    hand_in(spool, 1, 6, token=0)


def _a_stranger(spool: Spool) -> None:
    hand_in(spool, WORKERS, 0)


def _one_that_never_returns(spool: Spool) -> None:
    hand_in(spool, 2, 0)


def _another_experiment(spool: Spool) -> None:
    hand_in(spool, 0, 0, config_hash="another")


def _from_the_future(spool: Spool) -> None:
    hand_in(spool, 0, 0, pulled=2)


def _not_finite(spool: Spool) -> None:
    hand_in(spool, 0, 0, value=float("nan"))


def _too_old(spool: Spool) -> None:
    hand_in(spool, 0, 0, pulled=0)


def _no_return(spool: Spool) -> None:
    (spool.returns / "letter.txt").write_text("hello")


@pytest.mark.parametrize(
    ("arrive", "reason", "num_kept"),
    [
        (_two_of_a_name, Refusal.DUPLICATE, 0),
        (_an_earlier_one, Refusal.DUPLICATE, 0),
        (_an_older_attempt, Refusal.OVERTAKEN, 1),
        (_a_stranger, Refusal.WORKER, 1),
        (_one_that_never_returns, Refusal.WORKER, 1),
        (_another_experiment, Refusal.CONFIG, 1),
        (_from_the_future, Refusal.VERSION, 1),
        (_not_finite, Refusal.NOT_FINITE, 1),
        (_too_old, Refusal.TOO_OLD, 0),
        (_no_return, Refusal.HEADER, 1),
    ],
)
def test_what_must_not_count_is_refused(
    tmp_path: Path, arrive: Callable[[Spool], None], reason: Refusal, num_kept: int
) -> None:
    """It is counted once, also over a restart; explained and kept where something is wrong."""
    arrivals = make_run(tmp_path).read_job().federated.arrivals.model_dump()
    directory = make_run(tmp_path, arrivals=arrivals | {"never_return": [2], "max_delay": 0})
    spool = Spool(directory)
    with opened(directory) as server:
        server.step()
        hand_in(spool, 1, 5)
        hand_in(spool, 3, 5)
        do_round(server)
        before = server.state.model.clone()
        arrive(spool)

        assert server.step() is None

        assert torch.equal(server.state.model, before)
        assert server.totals.reasons == {reason: 2 if arrive is _two_of_a_name else 1}
        counts = dict(server.totals.reasons)
        save_checkpoint(server, directory)
    assert len(lines_of(directory)) == 2
    assert names_in(spool.returns) == []
    explained = [name for name in names_in(spool.refused) if name.endswith(".json")]
    reasons = [json.loads((spool.refused / name).read_text())["reason"] for name in explained]
    assert reasons == [reason] * num_kept
    assert len(names_in(spool.refused)) - len(explained) == num_kept
    with opened(directory) as server:
        server.step()
        assert server.totals.reasons == counts


def test_refusals_stand_in_the_journal_and_name_the_worker(tmp_path: Path) -> None:
    """Duplicates and late returns are counted apart from those that are at fault."""
    directory = make_run(tmp_path)
    spool = Spool(directory)
    with opened(directory) as server:
        server.step()
        hand_in(spool, 1, 5)
        hand_in(spool, 0, 0, value=float("inf"))
        hand_in(spool, 3, 0, config_hash="another")
        server.step()
        hand_in(spool, 1, 2)
        server.step()

        line = server.totals.line()

        assert line["returns/refused"] == 2
        assert line["returns/duplicate"] == 1
        assert line["returns/dropped"] == 0
        assert line["refused/not_finite"] == 1
        assert line["refused/config"] == 1
        assert server.totals.refused == {"0": 1}
        assert server.totals.refusals() == [
            "round 0: return of worker 0 refused, not finite",
            "returns refused: config; see spool/refused",
        ]


def test_what_is_harmless_does_not_crowd_out_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bad returns are kept aside however many duplicates have come, up to their own bound."""
    monkeypatch.setattr(refused_returns, "_MOST_KEPT", 1)
    directory = make_run(tmp_path)
    spool = Spool(directory)
    with opened(directory) as server:
        hand_in(spool, 0, 5)
        server.step()
        for sequence in range(4):
            hand_in(spool, 0, sequence)
        hand_in(spool, 1, 0, config_hash="another")
        hand_in(spool, 1, 1, config_hash="another")
        server.step()

    assert server.totals.reasons == {"duplicate": 4, "config": 2}
    assert names_in(spool.refused) == [
        "config-w1-s0-v0-t1.safetensors",
        "config-w1-s0-v0-t1.safetensors.json",
        "config-w1-s1-v0-t1.safetensors.json",
    ]


def test_directories_among_the_returns_are_put_aside(tmp_path: Path) -> None:
    """Twice the same one, too: nothing that lies there ends the server."""
    directory = make_run(tmp_path)
    spool = Spool(directory)
    with opened(directory) as server:
        for _ in range(2):
            (spool.returns / "x").mkdir()
            (spool.returns / "x" / "y").touch()
            server.step()

    assert names_in(spool.returns) == []
    assert server.totals.reasons == {"header": 2}


def test_a_return_that_vanishes_is_passed_over(tmp_path: Path) -> None:
    """Somebody may remove one between the look and the reading."""
    directory = make_run(tmp_path, algorithm={"name": "afa_cd", "collect": 1})
    spool = Spool(directory)
    with opened(directory) as server:
        paths = [hand_in(spool, worker, 0) for worker in (0, 1, 3)]
        do_round(server)
        left = [path for path in paths if path.exists()]
        left[0].unlink()

        do_round(server)

    assert len(left) == 2
    assert server.totals.reasons == {}
    assert names_in(spool.returns) == []


def test_what_a_header_says_is_bounded(tmp_path: Path) -> None:
    """Too many steps or too long a name are refused; a partition of another experiment is other."""
    arrivals = make_run(tmp_path).read_job().federated.arrivals.model_dump()
    directory = make_run(
        tmp_path,
        arrivals=arrivals | {"max_steps": 7},
        algorithm={"name": "afa_cd", "collect": 1},
    )
    spool = Spool(directory)
    with opened(directory) as server:
        hand_in(spool, 0, 0, num_steps=8)
        hand_in(spool, 0, 1, num_steps=7, partition="../../x")
        do_round(server)

        assert server.totals.reasons == {"header": 1}
        assert server.totals.partitions == {"other": 1}


class _Listing:
    """What ``os.scandir`` gives, less one name."""

    def __init__(self, path: Path, hidden: str) -> None:
        with _SCANDIR(path) as entries:
            self._entries = [entry for entry in entries if entry.name != hidden]

    def __enter__(self) -> list["os.DirEntry[str]"]:
        return self._entries

    def __exit__(self, *_: object) -> None:
        pass


_SCANDIR = os.scandir


def test_a_list_that_misses_a_return_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that changes while it is listed may show a later return and hide an earlier."""
    directory = make_run(tmp_path)
    spool = Spool(directory)
    hidden = ["w0-s0-v0-t1.safetensors"]
    with opened(directory) as server:
        hand_in(spool, 0, 0)
        hand_in(spool, 0, 1)
        monkeypatch.setattr(os, "scandir", lambda p: _Listing(p, hidden.pop() if hidden else ""))

        arrivals = do_round(server)

    assert arrivals.sequence.tolist() == [0, 1]


def test_a_heap_of_returns_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round costs no more for the returns that wait for the next ones."""
    directory = make_run(tmp_path, algorithm={"name": "afa_cd", "collect": 1})
    spool = Spool(directory)
    looks: list[Path] = []

    def counted(path: Path) -> "os._ScandirIterator[str]":
        looks.append(path)
        return _SCANDIR(path)

    with opened(directory) as server:
        server.step()
        for sequence in range(8):
            hand_in(spool, 0, sequence)
        monkeypatch.setattr(os, "scandir", counted)
        for _ in range(8):
            do_round(server)

    # The second look is for what the first may have missed.
    assert looks.count(spool.returns) == 2


def test_a_model_that_overflows_names_the_workers(tmp_path: Path) -> None:
    """Finite returns may be too large together; the message says whose they were."""
    directory = make_run(tmp_path)
    spool = Spool(directory)
    with opened(directory) as server:
        hand_in(spool, 3, 0, value=5e307)
        hand_in(spool, 3, 1, value=5e307)

        with pytest.raises(JobError, match=r"the round's returns are of the workers 3") as error:
            do_round(server)

    assert error.value.reason == "diverged"


def test_a_training_that_gives_nothing_finite_ends(tmp_path: Path) -> None:
    """Fifty rounds' worth of bad returns, with no good one between, end it with the reason."""
    directory = make_run(tmp_path, algorithm={"name": "afa_cd", "collect": 1})
    spool = Spool(directory)
    with opened(directory) as server:
        server.step()
        for sequence in range(50):
            hand_in(spool, 0, sequence, value=float("nan"))

        with pytest.raises(JobError, match=r"50 returns in a row were not finite .*worker\.lr"):
            server.step()


def _mean_of_returns(lines: list[ReturnLine], x: Tensor) -> Tensor:
    """AFA-CD with m = 2 by its definition."""
    for first, second in zip(lines[::2], lines[1::2], strict=True):
        x = x + (delta_of(*_key(first)) + delta_of(*_key(second))) / 2
    return x


def _mean_of_local_models(lines: list[ReturnLine], x: Tensor) -> Tensor:
    """AREA with m = 2 by its definition: the mean over all workers of their latest models."""
    versions, latest = [x], [x] * WORKERS
    for first, second in zip(lines[::2], lines[1::2], strict=True):
        for line in (first, second):
            latest[line.worker] = versions[line.pulled] + 5 * delta_of(*_key(line))
        versions.append(sum(latest, torch.zeros_like(x)) / WORKERS)
    return versions[-1]


def _key(line: ReturnLine) -> tuple[int, int]:
    return line.worker, line.sequence


ACTIONS = st.one_of(
    st.tuples(st.just("hand in"), st.integers(0, WORKERS - 1)),
    st.tuples(st.just("step"), st.integers(0, 9)),
    st.tuples(st.just("save"), st.just(0)),
    st.tuples(st.just("crash"), st.integers(0, 3)),
)


@pytest.mark.parametrize(
    ("algorithm", "definition"), [("afa_cd", _mean_of_returns), ("area", _mean_of_local_models)]
)
@settings(deadline=None, max_examples=40)
@given(actions=st.lists(ACTIONS, max_size=60))
def test_whatever_happens_every_return_counts_once(
    tmp_path_factory: pytest.TempPathFactory,
    algorithm: str,
    definition: Callable[[list[ReturnLine], Tensor], Tensor],
    actions: list[tuple[str, int]],
) -> None:
    """Returns, rounds, checkpoints and crashes in any order: nothing is lost, nothing doubled."""
    directory = make_run(
        tmp_path_factory.mktemp("run"), algorithm={"name": algorithm, "collect": 2}
    )
    spool = Spool(directory)
    handed_in: list[tuple[int, int]] = []
    sequences = [0] * WORKERS
    context = opened(directory)
    server = context.__enter__()
    for action, number in actions:
        if action == "hand in":
            newest = spool.newest() or Newest(version=0, sha256="")
            hand_in(spool, number, sequences[number], max(newest.version - sequences[number], 0))
            handed_in.append((number, sequences[number]))
            sequences[number] += 1 + number  # with gaps
        elif action == "step":
            for _ in range(number):
                if list(spool.returns.iterdir()):  # else it would wait
                    server.step()
        elif action == "save" and server.state.version:
            save_checkpoint(server, directory)
        elif action == "crash":
            context.__exit__(None, None, None)
            for line in lines_of(directory)[len(lines_of(directory)) - number :]:
                # As if the crash had come between writing down and moving.
                name = f"w{line.worker}-s{line.sequence}-v{line.pulled}-t1.safetensors"
                if (spool.taken_by(0) / name).exists():
                    (spool.taken_by(0) / name).rename(spool.returns / name)
            context = opened(directory)
            server = context.__enter__()
    while list(spool.returns.iterdir()) or 2 * server.state.version + 1 < len(lines_of(directory)):
        server.step()
    context.__exit__(None, None, None)

    lines = lines_of(directory)
    assert sorted(map(_key, lines)) == sorted(handed_in)
    assert [line.round for line in lines] == [n // 2 + 1 for n in range(len(lines))]
    assert server.state.version == len(lines) // 2
    initial = build_problem(directory.read_job().federated).initial
    expected = definition(lines[: len(lines) // 2 * 2], initial)
    # Sums of a few dozen terms in another order.
    torch.testing.assert_close(server.state.model, expected, rtol=1e-13, atol=1e-13)


def test_a_server_that_starts_again_comes_to_the_same_bits(tmp_path: Path) -> None:
    """Memory and optimiser included, from the beginning and from a checkpoint."""
    algorithm = {"name": "afa_cs", "collect": 2, "server": "adam"}
    directory = make_run(tmp_path, algorithm=algorithm)
    spool = Spool(directory)
    models = []
    with opened(directory) as server:
        server.step()
        for round_ in range(6):
            hand_in(spool, round_ % 4, 2 * round_, round_, value=1 / 3)
            hand_in(spool, (round_ + 1) % 4, 2 * round_ + 1, round_, value=-1 / 7)
            do_round(server)
            models.append(server.state.model.clone())
            if round_ == 3:
                save_checkpoint(server, directory)

    for with_checkpoint in (True, False):
        if not with_checkpoint:
            (found,) = directory.checkpoints.iterdir()
            found.unlink()
        with opened(directory) as server:
            assert server.state.version == (4 if with_checkpoint else 0)
            for expected in models[server.state.version :]:
                do_round(server)
                assert torch.equal(server.state.model, expected)
    newest = spool.newest()
    assert newest is not None
    assert newest.version == 6


def test_a_published_version_keeps_its_bits(tmp_path: Path) -> None:
    """Even if a restarted server computed other ones, workers have started from the first."""
    directory = make_run(tmp_path)
    spool = Spool(directory)
    with opened(directory) as server:
        server.step()
        hand_in(spool, 0, 0)
        hand_in(spool, 1, 0)
        do_round(server)
    before = spool.model(1).read_bytes()
    modified = spool.model(1).stat().st_mtime_ns

    with opened(directory) as server:
        do_round(server)

    assert spool.model(1).read_bytes() == before
    assert spool.model(1).stat().st_mtime_ns == modified


def test_what_a_power_cut_took_of_the_models_is_written_again(tmp_path: Path) -> None:
    """An empty file of a version is replaced by what the log says that it was."""
    directory = make_run(tmp_path)
    spool = Spool(directory)
    with opened(directory) as server:
        server.step()
        hand_in(spool, 0, 0)
        hand_in(spool, 1, 0)
        do_round(server)
    before = spool.model(1).read_bytes()
    spool.model(1).write_bytes(b"")

    with opened(directory) as server:
        do_round(server)

    assert spool.model(1).read_bytes() == before


def test_an_overtaken_server_takes_nothing(tmp_path: Path) -> None:
    """When a newer server has begun, the older one neither takes nor refuses what comes."""
    directory = make_run(tmp_path)
    spool = Spool(directory)
    with opened(directory, begin(directory)) as old:
        old.step()
        begin(directory, restarts=1)
        hand_in(spool, 0, 0)
        hand_in(spool, 0, 1, value=float("nan"))

        with pytest.raises(Overtaken):
            old.step()

    assert len(names_in(spool.returns)) == 2
    assert names_in(spool.refused) == []
    assert lines_of(directory) == []


def test_what_an_overtaken_server_has_moved_is_taken_by_its_successor(tmp_path: Path) -> None:
    """A file in ``taken`` that no line of the log names counts as not taken yet."""
    directory = make_run(tmp_path)
    spool = Spool(directory)
    with opened(directory) as server:
        server.step()
        hand_in(spool, 0, 0)
        hand_in(spool, 1, 0)
        do_round(server)
        save_checkpoint(server, directory)
    path = hand_in(spool, 2, 0)
    path.rename(spool.taken_by(0) / path.name)

    with opened(directory) as server:
        server.step()

    assert [_key(line) for line in lines_of(directory)] == [(0, 0), (1, 0), (2, 0)]


def test_an_overtaken_server_that_begins_late_takes_nothing_away(tmp_path: Path) -> None:
    """Cut off before its first look, it leaves its successor what that has taken."""
    directory = make_run(tmp_path, algorithm={"name": "afa_cd", "collect": 1})
    spool = Spool(directory)
    with (
        opened(directory, begin(directory)) as old,
        opened(directory, begin(directory, restarts=1)) as new,
    ):
        path = hand_in(spool, 0, 0)
        do_round(new)

        with pytest.raises(Overtaken):
            old.step()

        assert names_in(spool.taken_by(2)) == [path.name]
        hand_in(spool, 1, 0)
        do_round(new)
    assert [_key(line) for line in lines_of(directory)] == [(0, 0), (1, 0)]


def test_an_overtaken_server_that_was_asleep_takes_nothing_away(tmp_path: Path) -> None:
    """Stopped after it wrote a return down, it can no longer move the file: its successor has it.

    What it wrote down then stands in no file that anybody reads.
    """
    directory = make_run(tmp_path)
    spool = Spool(directory)
    with opened(directory, begin(directory)) as old:
        old.step()
        path = hand_in(spool, 0, 0)
        with opened(directory, begin(directory, restarts=1)) as new:
            new.step()

            with pytest.raises(OSError, match=path.name):
                path.rename(spool.taken_by(1) / path.name)

    assert [_key(line) for line in lines_of(directory)] == [(0, 0)]
    assert [found.name for found in spool.taken.iterdir()] == ["2"]
    assert names_in(spool.taken_by(2)) == [path.name]


def test_nothing_stays_that_nobody_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old versions go unless a worker holds them, taken returns once two checkpoints have them."""
    monkeypatch.setattr(published, "MOST_BEHIND", 2)
    monkeypatch.setattr("tasks.federated.server.MOST_BEHIND", 2)
    directory = make_run(tmp_path, algorithm={"name": "afa_cd", "collect": 1})
    spool = Spool(directory)
    pulled = [0, 0, 0]
    with opened(directory) as server:
        server.step()
        for version in range(31):
            worker = version % 3
            hand_in(spool, worker, version, pulled[worker])
            do_round(server)
            pulled[worker] = version + 1
            claimed = Claim(worker=worker, sequence=version + 3, version=version + 1)
            spool.claim(claimed, UNFENCED)
            if version == 1:
                spool.claim(Claim(worker=3, sequence=0, version=2), UNFENCED)
            if version + 1 in {10, 20, 25}:
                save_checkpoint(server, directory)
        after_31 = server.state.model.clone()

    # Version 2 is worker 3's. A server that goes on from round 20 needs again what the returns from
    # round 21 on started from, 18 and later, and computes those behind 20 itself; one that goes on
    # from 25 needs 23 and later. 28 was held until the end, 29 and later are recent.
    assert {2, 18, 19, 20, 23, 24, 25, 28, 29, 30, 31} <= set(spool.versions())
    assert not {0, 1, *range(3, 18), 26, 27} & set(spool.versions())
    assert len(names_in(spool.taken_by(0))) == 31 - 20
    (directory.checkpoints / "round-0000000025.safetensors").write_bytes(b"torn")
    with opened(directory) as server:
        assert server.state.version == 20
        for _ in range(11):
            do_round(server)
        assert torch.equal(server.state.model, after_31)


def test_time_does_not_run_back_over_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a node whose clock is behind, the next return is taken when the last one was."""
    directory = make_run(tmp_path, algorithm={"name": "afa_cd", "collect": 1})
    attempt = directory.attempt(1)
    attempt.mkdir(parents=True)
    now_s = time.time()
    (attempt / "started.json").write_text(json.dumps({"timestamp_ms": int(1000 * (now_s - 100))}))
    spool = Spool(directory)
    with opened(directory) as server:
        hand_in(spool, 0, 0)
        do_round(server)
        save_checkpoint(server, directory)
    monkeypatch.setattr(time, "time", lambda: now_s - 20)

    with opened(directory) as server:
        hand_in(spool, 1, 0)
        do_round(server)

    first, second = lines_of(directory)
    assert second.taken_at_s == first.taken_at_s >= 100


def test_the_beginning_of_a_run_survives_a_power_cut(tmp_path: Path) -> None:
    """What is left of ``started.json`` still says when it was written."""
    directory = make_run(tmp_path, algorithm={"name": "afa_cd", "collect": 1})
    attempt = directory.attempt(1)
    attempt.mkdir(parents=True)
    (attempt / "started.json").touch()
    os.utime(attempt / "started.json", (time.time() - 1000,) * 2)
    spool = Spool(directory)

    with opened(directory) as server:
        hand_in(spool, 0, 0)
        do_round(server)

    (line,) = lines_of(directory)
    assert 1000 <= line.taken_at_s < 1100


def test_old_returns_do_not_push_the_newest_version_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More versions than the memory holds may be asked for before the newest is announced."""
    monkeypatch.setattr(published, "_IN_MEMORY", 1)
    directory = make_run(tmp_path)
    spool = Spool(directory)
    with opened(directory) as server:
        for round_ in range(3):
            hand_in(spool, 0, round_, round_)
            hand_in(spool, 1, round_, round_)
            do_round(server)
        save_checkpoint(server, directory)
        hand_in(spool, 2, 0, 1)
        server.step()

    with opened(directory) as server:
        for _ in range(3):
            server.step()

    newest = spool.newest()
    assert newest is not None
    assert newest.version == 3


def test_versions_of_a_killed_server_are_made_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a checkpoint nothing is made again, so it waits for versions found, too."""
    directory = make_run(tmp_path, algorithm={"name": "afa_cd", "collect": 1})
    spool = Spool(directory)
    with opened(directory) as server:
        hand_in(spool, 0, 0)
        do_round(server)
    synced: list[int] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    with opened(directory) as server:
        do_round(server)
        monkeypatch.setattr(os, "fsync", noted)
        save_checkpoint(server, directory)

    assert {spool.model(version).stat().st_ino for version in (0, 1)} <= set(synced)


def test_a_run_whose_log_is_gone_does_not_begin_again(tmp_path: Path) -> None:
    """Workers have models of it that another beginning would contradict."""
    directory = make_run(tmp_path, algorithm={"name": "afa_cd", "collect": 1})
    spool = Spool(directory)
    with opened(directory) as server:
        hand_in(spool, 0, 0)
        do_round(server)
    directory.returns.unlink()

    with opened(directory) as server, pytest.raises(JobError, match="begin a new run"):
        server.step()


def test_every_refusal_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In whatever order reasons and workers turn up."""
    directory = make_run(tmp_path, rounds=3, algorithm={"name": "afa_cd", "collect": 1})
    spool = Spool(directory)
    spool.open()
    for second, path in enumerate(
        [
            hand_in(spool, 0, 0),
            hand_in(spool, 3, 0, config_hash="another"),
            hand_in(spool, 1, 0),
            hand_in(spool, 2, 0, value=float("nan")),
            hand_in(spool, 0, 1),
        ]
    ):
        os.utime(path, (1e9 + second, 1e9 + second))

    serve(directory)

    said = [line for line in capsys.readouterr().out.splitlines() if "refused" in line]
    assert said == [
        "returns refused: config; see spool/refused",
        "round 2: return of worker 2 refused, not finite",
    ]


def test_what_was_taken_and_is_gone_is_told(tmp_path: Path) -> None:
    """A server that cannot go through its log again says which file it misses."""
    directory = make_run(tmp_path)
    spool = Spool(directory)
    with opened(directory) as server:
        server.step()
        hand_in(spool, 0, 0)
        server.step()
    (spool.taken_by(0) / "w0-s0-v0-t1.safetensors").unlink()

    with opened(directory) as server, pytest.raises(JobError, match=r"w0-s0-v0-t1\..* cannot be"):
        server.step()


def test_real_workers_are_not_simulated(tmp_path: Path) -> None:
    """The simulator says what to do instead."""
    experiment = make_run(tmp_path).read_job().federated

    with pytest.raises(JobError, match=r"cannot be simulated: .* launcher: slurm, or arrivals ev"):
        assemble(experiment)
