"""State in files: what some ranks have saved, others load, to the bit."""

import errno
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from tasks.runtime.errors import JobError
from tasks.zero.flat_slices import FlatSlice
from tasks.zero.layout import Chain, padded
from tasks.zero.sharded_state import begin_save, load_state
from tests.ranks import RankPool

LENGTHS = {"embedding": 1000, "block": 37, "small": 3}
"""The middle one is padded at the end; of the last one some ranks have nothing but padding."""

Degrees = tuple[tuple[int, ...], int]
"""The chain's degrees, and that of the shard."""


def whole(name: str) -> Tensor:
    """Return the values of a vector."""
    return torch.arange(LENGTHS[name], dtype=torch.float32) / 7 + len(name)


def place(rank: int, num_ranks: int, degrees: Degrees, name: str) -> tuple[int, int]:
    """Return offset and length of a rank's shard of a vector."""
    chain, degree = Chain(num_ranks, degrees[0]), degrees[1]
    length = padded(LENGTHS[name], degree=max((1, *degrees[0])), block_size=2)
    return chain.offset(rank, degree, length), length // degree


def slices(rank: int, num_ranks: int, degrees: Degrees, *, is_filled: bool) -> dict[str, FlatSlice]:
    """Return a rank's shards, with their values or with -1."""
    state = {}
    for name, total in LENGTHS.items():
        offset, length = place(rank, num_ranks, degrees, name)
        values = torch.full((length,), -1.0)
        if is_filled:
            inside = whole(name)[offset : offset + length]
            values[: inside.numel()] = inside
        state[name] = FlatSlice(total, offset, values)
    return state


def save(rank: int, num_ranks: int, directory: str, degrees: Degrees) -> None:
    """Save the shards, and values of other kinds; change all of them while they are written."""
    group = dist.new_group(backend="gloo")
    step = torch.tensor(12)
    shards = slices(rank, num_ranks, degrees, is_filled=True)

    pending = begin_save(
        Path(directory), {**shards, "step": step, "seen": {"text": [1, 2.5, None]}}, group
    )
    step.zero_()
    for shard in shards.values():
        shard.tensor.zero_()
    pending.wait()

    assert pending.is_done()


def load(rank: int, num_ranks: int, directory: str, degrees: Degrees) -> dict[str, object]:
    """Load the shards; return those that are not as they should be, and the other values."""
    shards = slices(rank, num_ranks, degrees, is_filled=False)
    step = torch.tensor(0)
    state: dict[str, object] = {**shards, "step": step, "seen": None}

    load_state(Path(directory), state)

    wrong: dict[str, object] = {}
    for name, expected in slices(rank, num_ranks, degrees, is_filled=True).items():
        loaded = shards[name].tensor
        if not torch.equal(loaded, expected.tensor):
            wrong[name] = loaded.tolist()
    return {**wrong, "step": step.item(), "seen": state["seen"]}


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        ((4, ((2, 4), 4)), (8, ((2, 4, 8), 8))),
        ((8, ((2, 4, 8), 8)), (2, ((), 1))),
        ((8, ((2, 4), 4)), (4, ((2,), 2))),
        ((2, ((2,), 2)), (4, ((4,), 4))),
    ],
)
def test_state_is_loaded_by_other_ranks(
    ranks: Callable[[int], RankPool],
    tmp_path: Path,
    saved: tuple[int, Degrees],
    loaded: tuple[int, Degrees],
) -> None:
    """Whatever the number of ranks and the partition, every element comes back; padding stays."""
    ranks(saved[0]).run(save, str(tmp_path), saved[1])

    answers = ranks(loaded[0]).run(load, str(tmp_path), loaded[1])

    assert answers == [{"step": 12, "seen": {"text": [1, 2.5, None]}}] * loaded[0]


def test_replicas_are_written_once(ranks: Callable[[int], RankPool], tmp_path: Path) -> None:
    """What all ranks have stands in the files of one of them, each vector of another one."""
    ranks(4).run(save, str(tmp_path), ((), 1))

    stored = FileSystemReader(tmp_path).read_metadata().storage_data
    vectors = {index.fqn: stored[index].relative_path for index in stored if index.fqn in LENGTHS}
    assert len(stored) == len(LENGTHS) + 2
    assert len(set(vectors.values())) == len(LENGTHS)
    # Each tensor is in a zip archive of its own, of less than 2 KiB besides its elements.
    num_bytes = sum(path.stat().st_size for path in tmp_path.glob("*.distcp"))
    assert num_bytes < 4 * sum(LENGTHS.values()) + 2048 * len(stored)


def save_and_load_dtensors(rank: int, num_ranks: int, directory: str) -> bool:
    """Save a matrix spread over a 2 x 2 mesh, load it spread otherwise."""
    del rank
    values = torch.arange(35.0).reshape(7, 5)
    mesh = init_device_mesh("cpu", (2, num_ranks // 2))
    saved = distribute_tensor(values, mesh, [Replicate(), Shard(0)])
    begin_save(Path(directory), {"matrix": saved}, dist.new_group(backend="gloo")).wait()
    line = init_device_mesh("cpu", (num_ranks,))
    state: dict[str, object] = {
        "matrix": distribute_tensor(torch.zeros_like(values), line, [Shard(1)])
    }

    load_state(Path(directory), state)

    loaded = state["matrix"]
    assert isinstance(loaded, DTensor)
    return torch.equal(loaded.full_tensor(), values)


def test_dtensors_are_loaded_on_another_mesh(
    ranks: Callable[[int], RankPool], tmp_path: Path
) -> None:
    """The tensors of FSDP2 go the same way."""
    assert ranks(4).run(save_and_load_dtensors, str(tmp_path)) == [True] * 4


def save_while_training(rank: int, num_ranks: int, directory: str) -> tuple[float, bool]:
    """Reduce without pause while four states are being written, one after the other."""
    del rank
    group = dist.new_group(backend="gloo")
    total, was_beside = 0.0, False
    for number in range(4):
        path = Path(directory) / str(number)
        if dist.get_rank() == 0:
            path.mkdir()
        dist.barrier()
        state = slices(dist.get_rank(), num_ranks, ((num_ranks,), num_ranks), is_filled=True)
        pending = begin_save(path, state, group)
        for _ in range(20):
            was_beside |= not pending.is_done()
            value = torch.ones(10)
            dist.all_reduce(value)
            total += value[0].item()
        pending.wait()
    return total, was_beside


def test_training_goes_on_beside_a_save(ranks: Callable[[int], RankPool], tmp_path: Path) -> None:
    """Collectives of the training and of the writing do not get into each other."""
    answers = ranks(4).run(save_while_training, str(tmp_path))

    assert answers == [(4 * 20 * 4.0, True)] * 4


def save_with_little_room(rank: int, num_ranks: int, directory: str) -> tuple[str, int | None]:
    """Save on ranks of which the last may write no file above 4 kB; return the error."""
    group = dist.new_group(backend="gloo")
    shard = FlatSlice(5000 * num_ranks, 5000 * rank, torch.zeros(5000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == num_ranks - 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        begin_save(Path(directory), {"vector": shard}, group).wait()
    except OSError as error:
        return error.filename, error.errno
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    return "", None


@pytest.mark.parametrize("is_there", [True, False])
def test_all_ranks_hear_of_a_failure(
    ranks: Callable[[int], RankPool], tmp_path: Path, *, is_there: bool
) -> None:
    """A disk that is full for one rank fails the save on all; a directory is not made anew."""
    directory = tmp_path / "outgoing"
    if is_there:
        directory.mkdir()

    answers = ranks(4).run(save_with_little_room, str(directory))

    assert [number for _, number in answers] == [errno.EFBIG if is_there else errno.ENOENT] * 4
    assert all(str(directory) in path for path, _ in answers)
    assert directory.exists() == is_there
    assert not (directory / ".metadata").exists()


def test_a_state_of_another_model_is_refused(
    ranks: Callable[[int], RankPool], tmp_path: Path
) -> None:
    """A name, a length, a type or a kind that differs is told, and nothing is converted."""
    ranks(2).run(save, str(tmp_path), ((), 1))
    others: dict[str, object] = {
        "new": FlatSlice(4, 0, torch.zeros(4)),
        "block": FlatSlice(38, 0, torch.zeros(38)),
        "small": FlatSlice(3, 0, torch.zeros(3, dtype=torch.float64)),
        "step": 12,
        "seen": torch.zeros(2),
    }
    words = {
        "new": r"new is absent there and torch\.float32 \(4,\) here",
        "block": r"block is torch\.float32 \(37,\) there and torch\.float32 \(38,\) here",
        "small": r"small is torch\.float32 \(3,\) there and torch\.float64 \(3,\) here",
        "step": r"step is torch\.int64 \(\) there and a value here",
        "seen": r"seen is a value there and torch\.float32 \(2,\) here",
    }

    for name, value in others.items():
        with pytest.raises(JobError, match=rf"is of another model: {words[name]}; continue with"):
            load_state(tmp_path, {name: value})
    with pytest.raises(JobError, match=r"seen is .* here and 2 more; continue") as raised:
        load_state(tmp_path, dict(sorted(others.items())))

    assert raised.value.reason == "checkpoint"


@pytest.mark.parametrize("is_cut", [True, False])
def test_damaged_files_are_told(
    ranks: Callable[[int], RankPool], tmp_path: Path, *, is_cut: bool
) -> None:
    """A file that is cut off, or filled with zeros, is said to be unreadable."""
    ranks(2).run(save, str(tmp_path), ((), 1))
    for path in tmp_path.glob("*.distcp"):
        path.write_bytes(path.read_bytes()[:100] if is_cut else bytes(path.stat().st_size))

    with pytest.raises(JobError, match=r"cannot be read \(\w+Error\); remove it, and"):
        load_state(tmp_path, {"embedding": FlatSlice(1000, 0, torch.zeros(1000))})


def test_an_interval_is_checked() -> None:
    """A vector without elements, a negative offset and a matrix are refused."""
    for total, offset, shape in [(0, 0, (2,)), (4, -1, (2,)), (4, 0, (2, 2))]:
        with pytest.raises(ValueError, match=rf"no interval: .* at {offset} of {total}"):
            FlatSlice(total, offset, torch.zeros(shape))


def save_a_path(rank: int, num_ranks: int, directory: str) -> str:
    """Save what is neither a tensor nor of JSON; return the error."""
    del rank, num_ranks
    group = dist.new_group(backend="gloo")
    with pytest.raises(TypeError) as raised:
        begin_save(Path(directory), {"path": Path(directory)}, group)
    return str(raised.value)


def test_only_json_is_saved_besides_tensors(
    ranks: Callable[[int], RankPool], tmp_path: Path
) -> None:
    """A value of another kind is refused at once, before anything is written."""
    answers = ranks(2).run(save_a_path, str(tmp_path))

    assert all("not JSON serializable" in answer for answer in answers)
    assert not list(tmp_path.iterdir())
