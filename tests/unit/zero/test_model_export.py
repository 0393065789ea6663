"""The whole model in one file."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tasks.runtime.fence import Fence
from tasks.zero.export import write_model

WEIGHTS = {
    "stages.0.weight": torch.randn(7, 3),
    "stages.1.norm.weight": torch.randn(5).to(torch.bfloat16),
    "stages.1.scale": torch.tensor(2.5, dtype=torch.float64),
    "stages.2.weight": torch.randn(4, 6).t(),
    "stages.3.weight": torch.randn(2, 2).half(),
}


def test_other_programs_read_it(tmp_path: Path) -> None:
    """The library of the format finds names in order, types, shapes, every bit, and the texts."""
    path = tmp_path / "model.safetensors"

    write_model(path, iter(WEIGHTS.items()), {"step": "120"}, fence=Fence(tmp_path), is_first=True)

    loaded = load_file(path)
    assert loaded.keys() == WEIGHTS.keys()
    assert all(
        loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)
        for name, tensor in WEIGHTS.items()
    )
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"step": "120"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


def test_others_go_through_the_weights(tmp_path: Path) -> None:
    """A rank that is not the first takes part in gathering them, and writes nothing."""
    weights = iter(WEIGHTS.items())

    write_model(tmp_path / "m", weights, {}, fence=Fence(tmp_path), is_first=False)

    assert next(weights, None) is None
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nobody_waiting(tmp_path: Path) -> None:
    """If the first rank cannot write, it goes through the rest; the old file is untouched."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    gathered = []

    def weights() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in WEIGHTS.items():
            gathered.append(name)
            yield name, tensor

    with pytest.raises(FileNotFoundError) as raised:
        write_model(tmp_path / "gone" / "m", weights(), {}, fence=Fence(tmp_path), is_first=True)

    assert raised.value.errno == errno.ENOENT
    assert gathered == list(WEIGHTS)
    assert path.read_bytes() == b"old"


def test_too_many_parameters_are_refused(tmp_path: Path) -> None:
    """A header that outgrows its room is told; no file that nobody can read is left."""
    weights = ((f"a.very.long.name.{number}", torch.zeros(1)) for number in range(5000))

    with pytest.raises(ValueError, match=r"5000 parameters need a header of \d+ bytes; 262136 are"):
        write_model(tmp_path / "m", weights, {}, fence=Fence(tmp_path), is_first=True)

    assert not list(tmp_path.iterdir())
