"""Checkpoints of a training: only whole ones are found, and nobody who was overtaken places one."""

import errno
import hashlib
import json
import os
import pickle
import re
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pydantic import BaseModel, JsonValue

from tasks.runtime.attempt import Claimant, claim
from tasks.runtime.errors import JobError
from tasks.runtime.fence import Fence, Overtaken
from tasks.runtime.run_directory import RunDirectory
from tasks.zero.checkpoints import Checkpoints, Fact, Found
from tasks.zero.continuity import what_stays
from tasks.zero.flat_slices import FlatSlice
from tasks.zero.interface import PendingSave
from tasks.zero.messages import broadcast
from tasks.zero.preparation import open_batches
from tasks.zero.sharded_state import begin_save, load_state
from tests.ranks import RankPool, RanksFailedError
from tests.unit.zero.engine_runs import tiny

LENGTH = 6000
SAME: dict[str, JsonValue] = {"seed": 0}
"""What a training must have as it was."""


class World:
    """A run whose state is one vector, all elements the number of the train step, on one rank."""

    def __init__(
        self,
        rank: int,
        num_ranks: int,
        run_dir: str,
        *,
        attempt: int = 0,
        stays: dict[str, JsonValue] = SAME,
    ) -> None:
        group = dist.new_group(backend="gloo")
        self._group = group
        self._shard = FlatSlice(
            LENGTH, rank * LENGTH // num_ranks, torch.zeros(LENGTH // num_ranks)
        )
        self.checkpoints = Checkpoints(
            RunDirectory(Path(run_dir)),
            Fence(Path(run_dir), attempt),
            group,
            config_hash=f"hash of {num_ranks} ranks",
            stays=stays,
        )

    def save(self, step: int, facts: Mapping[str, Fact] | None = None) -> None:
        """Begin a checkpoint."""
        self.checkpoints.begin(step, facts or {}, lambda path: self.begin_save(step, path))

    def begin_save(self, step: int, path: Path) -> PendingSave:
        """Begin to write the state of a train step, as an engine does."""
        self._shard.tensor.fill_(step)
        pending = begin_save(path, {"vector": self._shard}, self._group)
        self._shard.tensor.fill_(-1)  # the training goes on
        return pending

    def load(self) -> tuple[int, float] | None:
        """Load the newest; return its number, and the only value in it."""
        found = self.checkpoints.newest()
        if found is None:
            return None
        load_state(found.path, {"vector": self._shard})
        least, most = self._shard.tensor.aminmax()
        assert least == most
        return found.step, most.item()


def names(run_dir: Path) -> list[str]:
    """Return what is in the directory of checkpoints."""
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


class WrittenAlready:
    """A state that is written, but not made durable; as DeepSpeed leaves it."""

    def __init__(self, directory: Path) -> None:
        (directory / "deepspeed").mkdir()
        for name in ("latest", "deepspeed/optimizer.pt"):
            (directory / name).write_bytes(b"state")

    def is_done(self) -> bool:
        """Say that it is."""
        return True

    def wait(self) -> None:
        """Return at once."""


def place_and_watch(rank: int, num_ranks: int, run_dir: str) -> set[str]:
    """Save such a state; return what was made durable, by its path in the checkpoint."""
    synced = set[Path]()
    plain = os.fsync

    def watch(descriptor: int) -> None:
        synced.add(Path(f"/proc/self/fd/{descriptor}").readlink())
        plain(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", watch)
        checkpoints = World(rank, num_ranks, run_dir).checkpoints
        checkpoints.begin(3, {}, WrittenAlready)
        checkpoints.finish()
    parent = Path(run_dir) / "checkpoints"
    return {"/".join(path.relative_to(parent).parts[1:]) for path in synced if path != parent}


def test_whatever_writes_a_checkpoint_it_is_durable_before_it_has_its_name(
    ranks: Callable[[int], RankPool], tmp_path: Path
) -> None:
    """All files, and the directories that name them."""
    synced = ranks(1).run(place_and_watch, str(tmp_path))[0]

    expected = {"", "latest", "deepspeed", "deepspeed/optimizer.pt", "facts.json"}
    assert {path for path in synced if not path.startswith("..")} >= expected


def save_steps(rank: int, num_ranks: int, run_dir: str, *steps: int) -> None:
    """Save after each of some train steps; poll as a training does."""
    world = World(rank, num_ranks, run_dir)
    for step in steps:
        world.save(step, {"journal_lines": 2 * step, "wall_s": step / 2, "text": "fingerprint"})
        world.checkpoints.poll()
    world.checkpoints.finish()


def load(rank: int, num_ranks: int, run_dir: str) -> tuple[int, float] | None:
    """Load the newest checkpoint."""
    return World(rank, num_ranks, run_dir).load()


def find(
    rank: int, num_ranks: int, run_dir: str, stays: dict[str, JsonValue] = SAME
) -> Found | JobError | None:
    """Find the newest checkpoint, or what is wrong with it."""
    try:
        return World(rank, num_ranks, run_dir, stays=stays).checkpoints.newest()
    except JobError as error:
        return error


def test_the_newest_two_are_kept(ranks: Callable[[int], RankPool], tmp_path: Path) -> None:
    """Each takes its name whole; older ones, and what savers have left that died, are removed."""
    (tmp_path / "checkpoints" / ".step-0000000005.1").mkdir(parents=True)

    ranks(4).run(save_steps, str(tmp_path), 10, 20, 30)

    assert names(tmp_path) == ["step-0000000020", "step-0000000030"]
    found = ranks(2).run(find, str(tmp_path))
    facts: dict[str, Fact] = {"journal_lines": 60, "wall_s": 15.0, "text": "fingerprint"}
    assert found == [Found(tmp_path / "checkpoints" / "step-0000000030", 30, facts)] * 2


def test_other_ranks_continue(ranks: Callable[[int], RankPool], tmp_path: Path) -> None:
    """A checkpoint of four ranks is found and loaded by eight, and the other way round."""
    ranks(4).run(save_steps, str(tmp_path), 10)
    eight = ranks(8).run(load, str(tmp_path))
    ranks(8).run(save_steps, str(tmp_path), 20)
    two = ranks(2).run(load, str(tmp_path))

    assert eight == [(10, 10.0)] * 8
    assert two == [(20, 20.0)] * 2


def test_without_checkpoints_there_is_none(
    ranks: Callable[[int], RankPool], tmp_path: Path
) -> None:
    """A run that has not begun is told so, on all ranks."""
    assert ranks(2).run(find, str(tmp_path)) == [None] * 2


def _cut(path: Path) -> None:
    data = next(path.glob("*.distcp"))
    os.truncate(data, data.stat().st_size - 1)


def _write_other_facts(path: Path) -> None:
    (path / "facts.json").write_text('{"step": 20}')


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut": _cut,
    "without index": lambda path: (path / ".metadata").unlink(),
    "without data": lambda path: next(path.glob("*.distcp")).unlink(),
    "without facts": lambda path: (path / "facts.json").unlink(),
    "half of the facts": lambda path: os.truncate(path / "facts.json", 50),
    "other facts": _write_other_facts,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_passed_over(
    ranks: Callable[[int], RankPool], tmp_path: Path, damage: str
) -> None:
    """If anything is missing in the newest, the one before is loaded; the next save repairs it."""
    ranks(2).run(save_steps, str(tmp_path), 10, 20)
    DAMAGES[damage](tmp_path / "checkpoints" / "step-0000000020")

    loaded = ranks(2).run(load, str(tmp_path))
    ranks(2).run(save_steps, str(tmp_path), 20)

    assert loaded == [(10, 10.0)] * 2
    assert ranks(2).run(load, str(tmp_path)) == [(20, 20.0)] * 2
    assert names(tmp_path) == ["step-0000000010", "step-0000000020"]


def test_a_damaged_one_does_not_count(ranks: Callable[[int], RankPool], tmp_path: Path) -> None:
    """Of the two that are kept both are whole, though a damaged one has a higher number."""
    ranks(2).run(save_steps, str(tmp_path), 10, 30)
    _cut(tmp_path / "checkpoints" / "step-0000000030")

    ranks(2).run(save_steps, str(tmp_path), 20)

    assert names(tmp_path) == ["step-0000000010", "step-0000000020"]


def test_if_all_are_damaged_nothing_is_guessed(
    ranks: Callable[[int], RankPool], tmp_path: Path
) -> None:
    """To begin anew would throw away the run; the user is asked to."""
    ranks(2).run(save_steps, str(tmp_path), 10, 20)
    for path in (tmp_path / "checkpoints").iterdir():
        _cut(path)

    for answer in ranks(2).run(find, str(tmp_path)):
        assert answer.reason == "checkpoint"
        assert str(answer).startswith(f"none of the 2 checkpoints in {tmp_path}/checkpoints can be")
        assert str(answer).endswith("begin a new run")


def save_as(rank: int, num_ranks: int, run_dir: str, stays: dict[str, JsonValue]) -> None:
    """Save one checkpoint of a training."""
    world = World(rank, num_ranks, run_dir, stays=stays)
    world.save(10)
    world.checkpoints.finish()


def stays_of(directory: Path, text: str, **fields: object) -> dict[str, JsonValue]:
    """Return what stays of a real training on a text, which is packed anew if it is another."""
    source = directory / "text.txt"
    source.write_text(text)
    base = {
        "data": {"name": "file", "source": str(source)},
        "model": {"layers": 1, "hidden": 24, "heads": 2, "vocabulary": 256},
        "sequence": 12,
    }
    experiment = tiny(**base | fields)
    return what_stays(experiment, open_batches(experiment)[1])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 5}, "seed 0 there, 5 here"),
        ({"text": "abc" * 2001}, "the text or its tokenizer"),
        (
            {"dtype": "float32", "frozen": ["stages.1.*"], "optimizer": {"lr": 1e-4}},
            'optimizer.lr 0.003 there, 0.0001 here; frozen [] there, ["stages.1.*"] here; '
            "dtype float64 there, float32 here",
        ),
    ],
    ids=["seed", "text", "several"],
)
def test_one_of_another_training_is_refused(
    ranks: Callable[[int], RankPool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
    words: str,
) -> None:
    """Other ranks are well, another seed or text is not: what differs is named, and nothing else.

    Also where no word of the configuration has changed, but the text in its file.
    """
    monkeypatch.setenv("WATERSHED_CACHE", str(tmp_path / "cache"))
    as_it_was: dict[str, Any] = {"text": "abc" * 2000, "optimizer": {"lr": 3e-3}}

    ranks(4).run(save_as, str(tmp_path), stays_of(tmp_path, **as_it_was))
    for answer in ranks(2).run(find, str(tmp_path), stays_of(tmp_path, **as_it_was | changed)):
        assert answer.reason == "checkpoint"
        assert str(answer) == (
            f"{tmp_path}/checkpoints/step-0000000010 is of another training, which differs in: "
            f"{words}; set that as it was there, or begin a new run"
        )
    again = ranks(2).run(find, str(tmp_path), stays_of(tmp_path, **as_it_was))

    assert [found.step for found in again] == [10, 10]


def test_one_of_an_earlier_checkout_is_compared_by_its_hash(
    ranks: Callable[[int], RankPool], tmp_path: Path
) -> None:
    """It is continued, or refused in words that claim nothing of what differs."""
    ranks(2).run(save_steps, str(tmp_path), 10)
    path = tmp_path / "checkpoints" / "step-0000000010" / "facts.json"
    facts = json.loads(path.read_text())
    del facts["stays"]
    path.write_text(json.dumps(facts))

    (same, _), (other, _) = (ranks(2).run(find, str(tmp_path), {"seed": n}) for n in (0, 5))

    assert facts["identity"] == hashlib.sha256(b'{"seed": 0}').hexdigest()[:16]
    assert same.step == 10
    assert str(other) == (
        f"{path.parent} is of another training: its model, text, optimizer, seed or the like is "
        "another, and its facts.json, of an earlier checkout, does not say which; begin a new run"
    )


def test_the_same_step_is_not_saved_again(ranks: Callable[[int], RankPool], tmp_path: Path) -> None:
    """An attempt that was stopped before it had made a step leaves no sign of progress."""
    ranks(2).run(save_steps, str(tmp_path), 10)
    before = (tmp_path / "checkpoints" / "step-0000000010").stat().st_mtime_ns

    ranks(2).run(save_steps, str(tmp_path), 10)

    assert (tmp_path / "checkpoints" / "step-0000000010").stat().st_mtime_ns == before
    assert names(tmp_path) == ["step-0000000010"]


class Held:
    """A save that is written as ``inner``, if any, once it is let go on."""

    def __init__(self, inner: PendingSave | None, may_end: Callable[[], bool]) -> None:
        self._inner = inner
        self._may_end = may_end

    def is_done(self) -> bool:
        """Say whether it is written."""
        return self._may_end() and (self._inner is None or self._inner.is_done())

    def wait(self) -> None:
        """Wait until it is written."""
        while not self._may_end():
            time.sleep(0.005)
        if self._inner is not None:
            self._inner.wait()


def test_it_has_no_name_before_all_have_written(
    ranks: Callable[[int], RankPool], tmp_path: Path
) -> None:
    """While a rank still writes, the training goes on and no checkpoint is seen."""
    assert ranks(4).run(save_slowly, str(tmp_path)) == [True] * 4

    assert names(tmp_path) == ["step-0000000010"]


def save_slowly(rank: int, num_ranks: int, run_dir: str) -> bool:
    """Save, with one rank that has not written its part for a while; train meanwhile."""
    world = World(rank, num_ranks, run_dir)
    written = Path(run_dir) / "written"
    may_end = written.exists if rank == 3 else lambda: True
    world.checkpoints.begin(10, {}, lambda path: Held(world.begin_save(10, path), may_end))
    total = torch.zeros(())
    for _ in range(5):
        value = torch.ones(())
        dist.all_reduce(value)
        total += value
        world.checkpoints.poll()
    time.sleep(0.05)
    hidden = [path.name for path in (Path(run_dir) / "checkpoints").iterdir()]
    dist.barrier()
    written.touch()
    world.checkpoints.finish()
    return total.item() == 5 * num_ranks and all(name.startswith(".step-") for name in hidden)


def die_while_saving(rank: int, num_ranks: int, run_dir: str) -> None:
    """Save step 10; then one rank dies after it has begun to save step 20."""
    world = World(rank, num_ranks, run_dir)
    world.save(10)
    world.checkpoints.finish()
    group = dist.new_group(backend="gloo")

    def begin(path: Path) -> PendingSave:
        if rank == 1:
            (path / "__1_0.distcp").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return begin_save(path, {"vector": FlatSlice(8, 4 * rank, torch.zeros(4))}, group)

    world.checkpoints.begin(20, {}, begin)
    world.checkpoints.finish()


def test_one_that_was_cut_off_is_never_loaded(
    ranks: Callable[[int], RankPool], tmp_path: Path
) -> None:
    """If a rank dies in the middle, the others end with an error, and the one before is loaded."""
    with pytest.raises(
        RanksFailedError, match=r"rank 0:\n(.|\n)*gloo(.|\n)*rank 1:\nended with -9"
    ):
        ranks(2).run(die_while_saving, str(tmp_path))

    loaded = ranks(2).run(load, str(tmp_path))

    assert loaded == [(10, 10.0)] * 2


def save_on_a_full_disk(
    rank: int, num_ranks: int, run_dir: str, failing: int
) -> tuple[int | None, list[str], int | None]:
    """Save step 20 with no room on one rank; then step 30 with room again."""
    world = World(rank, num_ranks, run_dir)
    world.save(10)
    world.checkpoints.finish()
    code = None
    with room(2000) if rank == failing else room(None):
        world.save(20)
        try:
            world.checkpoints.finish()
        except OSError as error:
            code = error.errno
    left = names(Path(run_dir))
    world.save(30)
    world.checkpoints.finish()
    found = world.load()
    return code, left, found[0] if found else None


@contextmanager
def room(num_bytes: int | None) -> Iterator[None]:
    """Let no file of this process grow above some bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if num_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("failing", [0, 3])
def test_a_full_disk_leaves_earlier_ones(
    ranks: Callable[[int], RankPool], tmp_path: Path, failing: int
) -> None:
    """All ranks hear of it, nothing is left of the failed one, and the next one succeeds."""
    answers = ranks(4).run(save_on_a_full_disk, str(tmp_path), failing)

    assert {(code, found) for code, _, found in answers} == {(errno.EFBIG, 30)}
    assert answers[0][1] == ["step-0000000010"]
    assert names(tmp_path) == ["step-0000000010", "step-0000000030"]


def fail_to_copy(rank: int, num_ranks: int, run_dir: str) -> int | None:
    """Save with an engine that fails at once, and on one rank alone; return the error's number."""
    world = World(rank, num_ranks, run_dir)

    def begin(path: Path) -> PendingSave:
        if rank == 1:
            raise OSError(errno.EDQUOT, "Quota exceeded", str(path))
        return Held(None, lambda: True)

    world.checkpoints.begin(10, {}, begin)
    try:
        world.checkpoints.finish()
    except OSError as error:
        return error.errno
    return None


def test_a_failure_of_one_rank_is_told_by_us(
    ranks: Callable[[int], RankPool], tmp_path: Path
) -> None:
    """An engine need not tell the others what went wrong on one rank."""
    assert ranks(4).run(fail_to_copy, str(tmp_path)) == [errno.EDQUOT] * 4

    assert names(tmp_path) == []


class Trap:
    """Something whose pickle makes a directory in whatever process reads it."""

    def __init__(self, made: Path) -> None:
        self._made = made

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._made),)


def send_a_pickle(rank: int, num_ranks: int, run_dir: str) -> str:
    """Save as rank 0, with a stranger as rank 1, who sends a trap; return what rank 0 raises."""
    checkpoints = World(rank, num_ranks, run_dir).checkpoints
    checkpoints.begin(10, {}, lambda _: Held(None, lambda: rank == 0))  # a stranger waits for ever
    if rank == 1:
        trap = pickle.dumps(Trap(Path(run_dir) / "made"))
        length = torch.tensor([len(trap)])
        group = vars(checkpoints)["_group"]
        dist.all_gather([length.clone() for _ in range(num_ranks)], length, group=group)
        data = torch.frombuffer(bytearray(trap), dtype=torch.uint8)
        dist.all_gather([data.clone() for _ in range(num_ranks)], data, group=group)
        return ""
    with pytest.raises(JobError) as raised:
        checkpoints.finish()
    return str(raised.value)


def test_a_pickle_in_place_of_a_message_is_not_run(
    ranks: Callable[[int], RankPool], tmp_path: Path
) -> None:
    """Whoever has joined in place of a rank is told as no rank; nothing takes its name."""
    said = ranks(2).run(send_a_pickle, str(tmp_path))[0]

    assert re.match(
        r"a rank has sent \d+ bytes that are no answer as JSON; it has another ver", said
    )
    assert not (tmp_path / "made").exists()
    assert all(name.startswith(".") for name in names(tmp_path))


class Lie(BaseModel):
    """What a stranger tells as rank 0."""

    path: str


def hear_a_lie(rank: int, num_ranks: int, run_dir: str, path: str) -> str:
    """Look for the newest checkpoint, with a stranger as rank 0; return what rank 1 raises."""
    checkpoints = World(rank, num_ranks, run_dir).checkpoints
    if rank == 0:
        broadcast(Lie(path=path), vars(checkpoints)["_group"])
        return ""
    with pytest.raises(JobError) as raised:
        checkpoints.newest()
    return str(raised.value)


@pytest.mark.parametrize("path", ["/tmp/theirs", "checkpoints/../../theirs"])  # noqa: S108
def test_no_checkpoint_outside_of_the_run_directory_is_believed_in(
    ranks: Callable[[int], RankPool], tmp_path: Path, path: str
) -> None:
    """Its index is a pickle."""
    said = ranks(2).run(hear_a_lie, str(tmp_path), path)[1]

    assert said == f"a rank has sent {path} as a path in {tmp_path}"


def save_in_vain(rank: int, num_ranks: int, run_dir: str) -> int | None:
    """Save where a file lies in the place of the directory; return the error's number."""
    try:
        World(rank, num_ranks, run_dir).save(10)
    except OSError as error:
        return error.errno
    return None


def test_all_ranks_hear_that_none_can_be_begun(
    ranks: Callable[[int], RankPool], tmp_path: Path
) -> None:
    """What only rank 0 tried, and could not do, all ranks raise."""
    (tmp_path / "checkpoints").write_text("a file")

    assert ranks(2).run(save_in_vain, str(tmp_path)) == [errno.EEXIST] * 2


def save_overtaken(rank: int, num_ranks: int, run_dir: str, moment: str) -> str:
    """Save as attempt 1, while attempt 2 begins before or after the ranks write; return the end."""
    world = World(rank, num_ranks, run_dir, attempt=1)

    def overtake() -> None:
        if rank == 0:
            claim(RunDirectory(Path(run_dir)), Claimant(submission=1, slurm_job="7", restarts=1))
        dist.barrier()

    def begin(path: Path) -> PendingSave:
        assert path.parent == Path(run_dir) / "attempts" / "1" / "outgoing"
        if moment == "before":
            overtake()
        pending = world.begin_save(10, path)
        if moment == "after":
            pending.wait()
            overtake()
        return pending

    world.checkpoints.begin(10, {}, begin)
    with pytest.raises(Overtaken) as raised:
        world.checkpoints.finish()
    return str(raised.value)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_overtaken_attempt_places_nothing(
    ranks: Callable[[int], RankPool], tmp_path: Path, moment: str
) -> None:
    """Wherever it is when a newer attempt begins, it ends, and what it wrote goes."""
    claim(RunDirectory(tmp_path), Claimant(submission=1, slurm_job="7"))
    (tmp_path / "checkpoints").mkdir()

    answers = ranks(2).run(save_overtaken, str(tmp_path), moment)

    assert answers == [f"attempt 1 of {tmp_path} was overtaken"] * 2
    assert names(tmp_path) == []
    assert [path.name for path in (tmp_path / "attempts" / "1").iterdir()] == ["started.json"]
