"""What ranks tell each other: JSON, of which nothing is run."""

import errno
import os
import pickle
import re
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from pydantic import BaseModel

from tasks.runtime.errors import JobError, Reason
from tasks.runtime.fence import Overtaken
from tasks.zero.messages import Failure, broadcast, gather
from tests.ranks import RankPool


class Word(BaseModel):
    """What a rank has to say."""

    text: str


def group_of_all() -> dist.ProcessGroup:
    """Return a group of gloo with all ranks."""
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)
    return group


def say_all(rank: int, num_ranks: int) -> tuple[str, list[str]]:
    """Return what rank 0 says, and what each says; their words differ in length."""
    group = group_of_all()
    del num_ranks
    first = broadcast(Word(text="ü" * (5 - rank)), group)
    return first.text, [word.text for word in gather(Word(text="a" * 10**rank), group)]


def test_all_hear_rank_0_and_all_hear_each_other(ranks: Callable[[int], RankPool]) -> None:
    """By rank, each word at its own length."""
    assert ranks(4).run(say_all) == [("ü" * 5, ["a", "a" * 10, "a" * 100, "a" * 1000])] * 4


def send_bytes(rank: int, num_ranks: int, length: int, data: bytes) -> str:
    """Send a length and bytes as rank 0, as a stranger can; return what rank 1 raises."""
    del num_ranks
    group = group_of_all()
    if rank == 0:
        dist.broadcast(torch.tensor([length]), group_src=0, group=group)
        if data:
            tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            dist.broadcast(tensor, group_src=0, group=group)
        return ""
    with pytest.raises(JobError) as raised:
        broadcast(Word(text=""), group)
    return str(raised.value)


PICKLE = pickle.dumps(Word(text=""))


@pytest.mark.parametrize(
    ("length", "data", "words"),
    [
        (len(PICKLE), PICKLE, rf"a rank has sent {len(PICKLE)} bytes that are no word as JSON; it"),
        (7, b'{"a":1}', r"a rank has sent 7 bytes that are no word as JSON; it has another vers"),
        (2**50, b"", r"a rank has sent a message of 1125899906842624 bytes; it has another vers"),
        (-1, b"", r"a rank has sent a message of -1 bytes; it has another version, or is no rank"),
    ],
)
def test_what_is_no_message_is_refused(
    ranks: Callable[[int], RankPool], length: int, data: bytes, words: str
) -> None:
    """A pickle, JSON of another kind, and lengths that would take all memory, or none."""
    assert re.match(words, ranks(2).run(send_bytes, length, data)[1])


@pytest.mark.parametrize(
    "error",
    [
        JobError(Reason.DATA, "there are none"),
        Overtaken("attempt 1 was overtaken"),
        OSError("without a number"),
        OSError(errno.ENOSPC, "No space left on device"),
        FileExistsError(errno.EEXIST, "File exists", "/run/checkpoints"),
        OSError(errno.EXDEV, "Invalid cross-device link", "/a", None, "/b"),
    ],
)
def test_an_error_is_told_as_it_is(error: JobError | Overtaken | OSError) -> None:
    """Its class, its words, its number and its files."""
    told = Failure.model_validate_json(Failure.of(error).model_dump_json())

    with pytest.raises(type(error), match=f"^{re.escape(str(error))}$") as raised:
        told.again()

    assert type(raised.value) is type(error)
    assert getattr(raised.value, "reason", None) == getattr(error, "reason", None)
    assert getattr(raised.value, "errno", None) == getattr(error, "errno", None)
    assert getattr(raised.value, "filename", None) == getattr(error, "filename", None)


def test_a_file_whose_name_is_no_text_can_be_told() -> None:
    """Names of files are bytes; those that are no characters are written out."""
    error = OSError(errno.EIO, "Input/output error", os.fsdecode(b"/run/\xff"))

    assert r"/run/\udcff" in Failure.of(error).model_dump_json().replace("\\\\", "\\")
