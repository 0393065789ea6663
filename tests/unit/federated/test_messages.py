"""Models and returns as files: what is written is read, and nothing else is taken for it."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from tasks.federated.messages import (
    Refusal,
    Refused,
    ReturnHeader,
    read_model,
    read_return,
    write_model,
    write_return,
)
from tasks.runtime.fence import UNFENCED

LIKE = torch.zeros(5, dtype=torch.float64)
DELTA = torch.tensor([1.0, -2.5, 1e300, 5e-324, 0.1], dtype=torch.float64)
HEADER = ReturnHeader(
    worker=3,
    sequence=7,
    pulled=12,
    token=2,
    config_hash="abc",
    num_steps=11,
    pulled_at_s=1.5e9,
    returned_at_s=1.5e9 + 0.1,
    partition="batch",
    slurm_job="12_3",
)


def test_a_return_reads_back_to_the_bit(tmp_path: Path) -> None:
    """Its file is named after it, and holds what was handed in."""
    path = write_return(tmp_path, HEADER, DELTA, UNFENCED)

    header, delta = read_return(path, LIKE)

    assert path.name == "w3-s7-v12-t2.safetensors"
    assert header == HEADER
    assert torch.equal(delta, DELTA)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_finite_numbers_whose_sum_is_not_are_taken(tmp_path: Path) -> None:
    """Large numbers are no reason to refuse."""
    large = torch.full((5,), 1.7e308, dtype=torch.float64)

    _, delta = read_return(write_return(tmp_path, HEADER, large, UNFENCED), LIKE)

    assert torch.equal(delta, large)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"delta": DELTA}))


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _claim_more_steps(path: Path) -> None:
    content = path.read_bytes()
    assert content.count(b'"num_steps\\":11') == 1
    path.write_bytes(content.replace(b'"num_steps\\":11', b'"num_steps\\":12'))


def _become_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _become_a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def _lose_the_header(path: Path) -> None:
    save_file({"delta": DELTA}, path)


def _become_float32(path: Path) -> None:
    save_file({"delta": DELTA.float()}, path, metadata={"header": HEADER.model_dump_json()})


def _become_longer(path: Path) -> None:
    save_file({"delta": torch.zeros(6, dtype=torch.float64)}, path)


def _become_another_tensor(path: Path) -> None:
    save_file({"delta": DELTA, "more": DELTA.clone()}, path)


@pytest.mark.parametrize(
    ("harm", "reason", "message"),
    [
        (_cut, Refusal.UNREADABLE, "not fully covered"),
        (_empty, Refusal.UNREADABLE, "empty"),
        (_pickle, Refusal.UNREADABLE, "header"),
        (_become_a_directory, Refusal.UNREADABLE, "no regular file"),
        (_become_a_link, Refusal.UNREADABLE, "no regular file"),
        (_flip_a_bit, Refusal.CHECKSUM, "checksum"),
        (_claim_more_steps, Refusal.CHECKSUM, "checksum"),
        (_lose_the_header, Refusal.HEADER, "no header of a return"),
        (_become_float32, Refusal.SHAPE, "is F32, not F64"),
        (_become_longer, Refusal.SHAPE, r"is of shape \(6,\), not \(5,\)"),
        (_become_another_tensor, Refusal.SHAPE, r"holds \['delta', 'more'\], not \['delta'\]"),
    ],
)
def test_a_harmed_return_is_refused(
    tmp_path: Path, harm: Callable[[Path], None], reason: Refusal, message: str
) -> None:
    """Whatever happened to the file, it is refused with its reason, and nothing is executed."""
    path = write_return(tmp_path, HEADER, DELTA, UNFENCED)
    harm(path)

    with pytest.raises(Refused, match=message) as refused:
        read_return(path, LIKE)

    assert refused.value.reason == reason


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_return_that_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    """One bad number is enough."""
    delta = DELTA.clone()
    delta[3] = value
    path = write_return(tmp_path, HEADER, delta, UNFENCED)

    with pytest.raises(Refused, match="not finite") as refused:
        read_return(path, LIKE)

    assert refused.value.reason == Refusal.NOT_FINITE


def test_a_return_under_another_name_is_refused(tmp_path: Path) -> None:
    """A copy of a return cannot pass for a second one."""
    path = write_return(tmp_path, HEADER, DELTA, UNFENCED)
    copy = path.rename(tmp_path / "w3-s8-v12-t2.safetensors")

    with pytest.raises(Refused, match=r"says that it is w3-s7-v12-t2\.safetensors"):
        read_return(copy, LIKE)


@given(position=st.integers(0), flip=st.integers(1, 255))
def test_no_single_wrong_byte_changes_a_return(
    tmp_path_factory: pytest.TempPathFactory, position: int, flip: int
) -> None:
    """Wherever a byte is wrong, the return is refused, unless only the padding has changed."""
    path = write_return(tmp_path_factory.mktemp("returns"), HEADER, DELTA, UNFENCED)
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= flip
    path.write_bytes(content)

    try:
        header, delta = read_return(path, LIKE)
    except Refused:
        return
    assert header == HEADER
    assert torch.equal(delta, DELTA)


def test_a_model_reads_back_with_its_checksum(tmp_path: Path) -> None:
    """What was published is pulled, to the bit; what is damaged or absent is not."""
    path = tmp_path / "v0000000012.safetensors"
    assert read_model(path, LIKE) is None
    digest = write_model(path, DELTA, UNFENCED)

    found = read_model(path, LIKE)

    assert found is not None
    assert torch.equal(found[0], DELTA)
    assert found[1] == digest
    _flip_a_bit(path)
    assert read_model(path, LIKE) is None
    _cut(path)
    assert read_model(path, LIKE) is None
