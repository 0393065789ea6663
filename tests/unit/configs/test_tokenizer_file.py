"""Reading a tokenizer's file without its library."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from configs.tokenizer_file import TokenizerFileError, vocabulary_of

WORDS = {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "b": 7}, "unk_token": "[UNK]"}
PIECES = {"type": "Unigram", "vocab": [["a", 0.0], ["b", -1.0]], "unk_id": 0}
PAIRS = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}


def _written(path: Path, model: dict[str, Any], added: list[str], first: int) -> Path:
    """Write a tokenizer as its library does; added tokens are numbered from ``first`` on."""
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    tokens = [
        {"id": number, "content": word} | dict.fromkeys(flags, False)
        for number, word in enumerate(added, start=first)
    ]
    path.write_text(json.dumps({"version": "1.0", "added_tokens": tokens, "model": model}))
    return path


@pytest.mark.parametrize(
    ("model", "added", "first", "vocabulary"),
    [
        (WORDS, [], 0, 8),  # numbers may be left out
        (PIECES, [], 0, 2),
        (PAIRS, [], 0, 3),
        (PAIRS, ["<s>", "</s>"], 3, 5),
        (PAIRS, ["<s>", "ab"], 3, 4),  # of which the model has one
        (WORDS, ["<s>"], 3, 8),
        (PAIRS, ["<s>"], 500, 4),  # the library numbers them again
    ],
)
def test_the_vocabulary_is_that_of_the_library(
    model: dict[str, Any], added: list[str], first: int, vocabulary: int, tmp_path: Path
) -> None:
    """What is checked before a job is what the job finds: one more than the largest number."""
    path = _written(tmp_path / "tokenizer.json", model, added, first)

    found = vocabulary_of(path)

    library = tokenizers.Tokenizer.from_file(str(path))
    assert found == 1 + max(library.get_vocab(with_added_tokens=True).values()) == vocabulary


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"1 + 1 = 2", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "holds no model with a vocabulary"),
        (b'{"model": "gpt2"}', "holds no model with a vocabulary"),
        (b'{"model": {"vocab": 3}}', "holds no model with a vocabulary"),
        (b'{"model": {"vocab": {"a": "b"}}}', "holds no model with a vocabulary"),
        (b'{"model": {"vocab": [["a"]]}}', "holds no model with a vocabulary"),
        (b'{"model": {"vocab": {"a": -1}}}', "holds no model with a vocabulary"),
        (b'{"model": {"vocab": {"a": 1}}, "added_tokens": [3]}', "holds no model with a vocabula"),
        (b'{"model": {"vocab": {}}}', "has no tokens"),
    ],
)
def test_what_is_no_tokenizer_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    """Texts, other JSON and an empty vocabulary: none of them makes a token."""
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)

    with pytest.raises(TokenizerFileError) as caught:
        vocabulary_of(path)

    assert str(caught.value).startswith(f"{path} {words}")


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    """Points of a study share one reading, edits of the file do not."""
    path = tmp_path / "tokenizer.json"
    first = vocabulary_of(_written(path, PAIRS, [], 0))

    second = vocabulary_of(_written(path, PAIRS, ["<s>", "</s>"], 3))

    assert (first, second) == (3, 5)


def test_a_file_far_too_large_is_not_read(tmp_path: Path) -> None:
    """A data set that was named by mistake would fill the memory."""
    path = tmp_path / "data.jsonl"
    with path.open("wb") as file:
        file.truncate(2_000_000_000)

    with pytest.raises(TokenizerFileError, match=r"data\.jsonl has 2 GB, more than a tokenizer"):
        vocabulary_of(path)
