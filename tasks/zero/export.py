"""The whole model in one file, parameter by parameter.

The format is safetensors: the length of a header, the header (JSON: type, shape and place of every
tensor), then the bytes of one tensor after the other. Its own library wants all tensors at once;
here they come one by one, as a model may be larger than the memory of a node. So room for the
header is left at the beginning, and filled up with blanks, as the format allows.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from tasks.runtime.fence import Fence

_HEADER_BYTES = 1 << 18
"""Of the header with its length: 2,000 parameters of usual names; a multiple of 8."""
_LENGTH_BYTES = 8
_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}


def write_model(
    path: Path,
    weights: Iterator[tuple[str, Tensor]],
    metadata: Mapping[str, str],
    *,
    fence: Fence,
    is_first: bool,
) -> None:
    """Write all weights of a model to one file, which is there whole or not at all.

    All ranks call it, as all must go through the weights; rank 0 writes. If it cannot, it goes
    through the rest nevertheless, so that nobody waits for it in a collective.

    Args:
        path: The file; its directory must exist.
        weights: Name and value of every parameter, on the CPU; each is let go before the next.
        metadata: Texts for the header.
        fence: Of the attempt that writes.
        is_first: Whether this is rank 0.

    Raises:
        Overtaken: There is a newer attempt; an earlier file of that name is untouched.
        OSError: It could not be written; an earlier file of that name is untouched.
        ValueError: There are more parameters than the header has room for.
    """
    try:
        if is_first:
            with fence.replacement(path) as temporary, temporary.open("wb") as file:
                _write(file, weights, metadata)
    finally:
        for _ in weights:
            pass


def _write(file: BinaryIO, weights: Iterator[tuple[str, Tensor]], texts: Mapping[str, str]) -> None:
    """Write the file's content.

    Raises:
        OSError: It could not be written.
        ValueError: The header is too long.
    """
    header: dict[str, object] = {"__metadata__": dict(texts)}
    end = 0
    file.seek(_HEADER_BYTES)
    for name, tensor in weights:
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        file.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    content = json.dumps(header).encode()
    room = _HEADER_BYTES - _LENGTH_BYTES
    if len(content) > room:
        raise ValueError(
            f"{len(header) - 1} parameters need a header of {len(content)} bytes; {room} are left "
            "for it: make _HEADER_BYTES larger"
        )
    file.seek(0)
    file.write(room.to_bytes(_LENGTH_BYTES, "little") + content.ljust(room))
