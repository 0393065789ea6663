"""Texts to train on, in parts that fit in memory, and the tokenizers that make numbers of them."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from configs.data import may_be_hub_name
from configs.text import Text
from models import arithmetic_text, hub
from models.errors import DatasetError

_PART_CHARACTERS = 2**16
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class TextSource:
    """Where a text comes from.

    Attributes:
        identity: Told without reading it; another text, or a changed file, has another one. What a
            hub holds under a name is taken to stay the same.
        parts: Yields the text, cut at ends of lines as far as there are any. Documents of a
            collection are each on lines of their own.
    """

    identity: tuple[str, ...]
    parts: Callable[[], Iterator[str]]


def text_source(data: Text) -> TextSource:
    """Find a text.

    Args:
        data: Which; of ``file`` and ``hub`` with a source.

    Returns:
        The source; nothing of it has been read, and reading may raise a DatasetError.

    Raises:
        DatasetError: It is not where it should be.
    """
    if data.name == "arithmetic":
        return TextSource((arithmetic_text.VERSION,), arithmetic_text.arithmetic_text)
    if data.name == "shakespeare":
        place = hub.locate(data.name, data.source)
        return TextSource(
            (data.name, *_identity(place)), lambda: iter([hub.read_text(place, "shakespeare")])
        )
    path = Path(data.source or "").expanduser()
    if data.name == "file":
        files = _text_files(path)
        identity = tuple(itertools.chain.from_iterable(map(_identity, files)))
        return TextSource(identity, lambda: _joined(map(_parts_of_file, files)))
    name = str(data.source)
    if not path.exists() and not may_be_hub_name(name):
        raise DatasetError(
            f"data.source: {name} does not exist; name a directory with a data set, or one on "
            "the Hugging Face hub (owner/name)"
        )
    place = path if path.exists() else name
    return TextSource(
        (data.column, *_identity(place)), lambda: _joined(_documents(place, data.column))
    )


def _identity(place: Path | str) -> Iterator[str]:
    if isinstance(place, str):
        yield place
        return
    for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
        if path.is_file():
            status = path.stat()
            yield f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"


def _text_files(path: Path) -> list[Path]:
    if not path.exists():
        raise DatasetError(
            f"data.source: {path} does not exist; name a text file, or a directory of .txt files"
        )
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise DatasetError(f"data.source: {path} holds no .txt file; name another directory")
    return files


def _parts_of_file(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            while part := file.read(_PART_CHARACTERS):
                yield part + file.readline(_PART_CHARACTERS)
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path} is no UTF-8 text ({error.reason} in what follows byte {error.start} of a "
            "part); convert it, or name another file"
        ) from error
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}; name another file") from error


def _documents(place: Path | str, column: str) -> Iterator[list[str]]:
    """Yield the rows of a data set, each a document in one part, without holding them all.

    Args:
        place: A local directory, or a name on the hub.
        column: Which column is the text.

    Yields:
        A document.

    Raises:
        DatasetError: The data set cannot be read, or has no such column of text.
        MemoryError: A batch does not fit; not translated, as no other place would help.
    """
    import datasets  # type: ignore[import-untyped]  # noqa: PLC0415  costs 2 s: not for arithmetic

    try:
        rows = datasets.load_dataset(str(place), split="train", streaming=True)
        for batch in rows.iter(batch_size=_ROWS_AT_ONCE):
            for text in _texts(batch, place, column):
                yield [text]
    except (DatasetError, MemoryError):
        raise
    except Exception as error:  # the library raises whatever its many readers and clients raise
        first_line = (str(error).splitlines() or ["no reason given"])[0]
        raise DatasetError(
            f"cannot read {place}: {type(error).__name__}: {first_line}. Needed is a data set "
            "with a split 'train': a directory of parquet, JSON lines, CSV or text files, or a "
            "name on the Hugging Face hub, which the network must reach"
        ) from error


def _texts(batch: dict[str, list[object]], place: Path | str, column: str) -> Iterator[str]:
    if column not in batch:
        raise DatasetError(
            f"{place} has the columns {', '.join(batch)}, none called {column}; set data.column "
            "to the one that holds the text"
        )
    for text in batch[column]:
        if not isinstance(text, str | None):
            raise DatasetError(
                f"column {column} of {place} holds {type(text).__name__}, not text; set "
                "data.column to the one that holds the text"
            )
        yield text or ""


def _joined(documents: Iterable[Iterable[str]]) -> Iterator[str]:
    """Yield the parts of all documents, with a line end between two where the first has none."""
    end = "\n"
    for document in documents:
        if end != "\n":
            yield "\n"
        end = "\n"
        for part in filter(None, document):
            yield part
            end = part[-1]


class Tokenizer(Protocol):
    """What makes tokens of text.

    Attributes:
        vocabulary: All tokens are below it.
        fingerprint: Differs between tokenizers that make different tokens.
    """

    vocabulary: int
    fingerprint: str

    def encode(self, parts: list[str]) -> NDArray[np.integer]:
        """Return the tokens of some parts of a text, one after the other.

        Args:
            parts: The text, in order.
        """
        ...


class ByteTokenizer:
    """Every byte of the UTF-8 text is a token."""

    vocabulary = 256
    fingerprint = "bytes"

    def encode(self, parts: list[str]) -> NDArray[np.integer]:
        """Return the bytes; see the protocol."""
        return np.frombuffer("".join(parts).encode(), dtype=np.uint8)


class FileTokenizer:
    """A ``tokenizer.json`` of the ``tokenizers`` library.

    No special tokens are added: they would stand at the beginning of every part, which is no
    beginning of the text.

    Args:
        path: The file.

    Raises:
        DatasetError: It is missing, or none of that library's, or the library is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DatasetError(
                f"data.tokenizer: cannot read {path}: {error.strerror}; name a tokenizer.json, or "
                "use bytes"
            ) from error
        try:
            import tokenizers  # noqa: PLC0415  not needed for bytes
        except ModuleNotFoundError as error:
            raise DatasetError(
                f"data.tokenizer: {path} needs the library tokenizers, which is not installed; "
                "install it, or use bytes"
            ) from error
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:  # the library raises no class of its own
            raise DatasetError(
                f"data.tokenizer: {path} is no tokenizer.json of the tokenizers library ({error}); "
                "name one, or use bytes"
            ) from error
        self._tokenizer.no_truncation()  # settings of models, which may stand in the file
        self._tokenizer.no_padding()
        # Numbers may be left out, so that counting the tokens is not enough.
        self.vocabulary = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self.fingerprint = hashlib.sha256(content).hexdigest()

    def encode(self, parts: list[str]) -> NDArray[np.integer]:
        """Return the tokens; see the protocol."""
        encodings = self._tokenizer.encode_batch(parts, add_special_tokens=False)
        return np.fromiter(
            itertools.chain.from_iterable(encoding.ids for encoding in encodings), dtype=np.int64
        )


def tokenizer_of(data: Text) -> Tokenizer:
    """Return the tokenizer of a text.

    Args:
        data: The text.

    Returns:
        The tokenizer.

    Raises:
        DatasetError: Its file cannot be used.
    """
    path = data.tokenizer_path
    return ByteTokenizer() if path is None else FileTokenizer(path)
