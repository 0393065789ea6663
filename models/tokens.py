"""Tokens of a text in a file that all ranks map, and the batches that are cut from it.

A token file is a header of 4096 bytes (JSON, filled up with spaces), then the tokens, little-endian
of two bytes each, or four where the vocabulary needs them.

Symbols: s tokens of a sequence, N ranks, B sequences of a micro-batch.
"""

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from torch import Tensor

from configs.base import Record
from configs.gpt import Gpt
from configs.text import CACHE_ENVIRONMENT, Text
from models.errors import DatasetError
from models.permutation import permuted
from models.texts import Tokenizer, text_source, tokenizer_of

_FORMAT: Literal["watershed tokens 1"] = "watershed tokens 1"
_HEADER_BYTES = 4096
_CHARACTERS_AT_ONCE = 2**20
_LOCKABLE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class _Header(Record):
    format: Literal["watershed tokens 1"] = Field(description="What the file is.")
    vocabulary: int = Field(ge=1, le=2**32, description="All tokens are below it.")
    count: int = Field(ge=1, description="Tokens.")
    fingerprint: str = Field(description="Of tokens and tokenizer, SHA-256.")


@dataclass(frozen=True)
class TokenFile:
    """A text as tokens.

    Attributes:
        path: The file.
        tokens: All tokens, mapped from the file, not read.
        vocabulary: All tokens are below it.
        fingerprint: Equal for equal tokens of equal tokenizers, wherever they were packed.
    """

    path: Path
    tokens: NDArray[np.unsignedinteger]
    vocabulary: int
    fingerprint: str

    @classmethod
    def open(cls, path: Path) -> "TokenFile":
        """Map a token file.

        Args:
            path: The file, as written by ``pack``.

        Returns:
            Its tokens and what is known of them.

        Raises:
            DatasetError: It cannot be read, is no token file, or has lost a part.
        """
        try:
            with path.open("rb") as file:
                header = _Header.model_validate_json(file.read(_HEADER_BYTES))
            dtype = _dtype(header.vocabulary)
            found, expected = path.stat().st_size, _HEADER_BYTES + header.count * dtype.itemsize
            if found != expected:
                raise DatasetError(
                    f"{path} is damaged: it has {found} bytes, its header says {expected}; delete "
                    "it, and it is packed again"
                )
            tokens = np.memmap(path, dtype, mode="r", offset=_HEADER_BYTES, shape=(header.count,))
        except ValidationError as error:
            raise DatasetError(
                f"{path} is no token file of this version; delete it, and it is packed again"
            ) from error
        except OSError as error:
            raise DatasetError(
                f"cannot read the token file {path}: {error.strerror}; pack the text again"
            ) from error
        return cls(path, tokens, header.vocabulary, header.fingerprint)


def _dtype(vocabulary: int) -> np.dtype[np.unsignedinteger]:
    return np.dtype("<u2" if vocabulary <= 2**16 else "<u4")


def check_vocabulary(file: TokenFile, gpt: Gpt) -> None:
    """Refuse tokens that have no row in a model's embedding; rows without a token do no harm.

    Args:
        file: The tokens.
        gpt: The model.

    Raises:
        DatasetError: The tokenizer's vocabulary is larger than the model's.
    """
    if file.vocabulary > gpt.vocabulary:
        raise DatasetError(
            f"the tokens of {file.path} are of a vocabulary of {file.vocabulary}, but the model's "
            f"is {gpt.vocabulary}; set model.vocabulary to {file.vocabulary} or more, or use "
            "another tokenizer"
        )


def default_cache_dir() -> Path:
    """Return where token files are kept: ``WATERSHED_CACHE``, else ``~/.cache/watershed``."""
    return Path(os.environ.get(CACHE_ENVIRONMENT) or "~/.cache/watershed").expanduser()


def pack(data: Text, cache_dir: Path) -> Path:
    """Make the token file of a text, unless it is there already.

    Any number of processes may do so at once: one packs, the others wait for it.

    Args:
        data: The text.
        cache_dir: Where the file is kept, and found again as long as text and tokenizer stay as
            they are; made if missing.

    Returns:
        Path of a whole token file.

    Raises:
        DatasetError: The text or its tokenizer cannot be used, or the file cannot be written.
    """
    source, tokenizer = text_source(data), tokenizer_of(data)
    identity = [_FORMAT, tokenizer.fingerprint, data.max_tokens, *source.identity]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    # The key first: all that begins with shakespeare in a directory of data is taken for the plays.
    path = cache_dir / f"{key}-{data.name}.tokens"
    if _is_whole(path):
        return path
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _alone(path.with_suffix(".lock")):
            if not _is_whole(path):  # by whom this process has waited for
                _write(path, source.parts(), tokenizer, data)
    except OSError as error:
        raise DatasetError(
            f"cannot write the token file {path}: {error.strerror}; set {CACHE_ENVIRONMENT} to a "
            "directory with room that may be written"
        ) from error
    return path


def _is_whole(path: Path) -> bool:
    try:
        TokenFile.open(path)
    except DatasetError:
        return False
    return True


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock that goes with the process, however that ends.

    Without locks, or with another user's that is closed to us, each process packs for itself; the
    last one's equal file stays.

    Args:
        lock: File to lock; made if missing, and left there.

    Yields:
        Nothing.

    Raises:
        OSError: The file cannot be made or locked, though locks exist here; or it is a link.
    """
    with ExitStack() as stack:
        with suppress(PermissionError):
            file = stack.enter_context(_lockable(lock))
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
        yield


def _lockable(path: Path) -> FileIO:
    """Open a file to lock. Others may write to a shared cache: no link of theirs is followed.

    Raises:
        OSError: It cannot be opened; or it is a link.
    """
    try:
        # Its user's umask says who shares it; nothing is ever written into it, nor cut off.
        return FileIO(os.open(path, _LOCKABLE, 0o666), "r+")
    except OSError as error:
        if error.errno == errno.ELOOP:
            error.strerror = f"{path.name} is a link, remove it"
        raise


def _write(path: Path, parts: Iterator[str], tokenizer: Tokenizer, data: Text) -> None:
    host = os.uname().nodename  # the directory may be shared between hosts
    temporary = path.with_name(f".{path.name}.{host}.{os.getpid()}")
    dtype, count = _dtype(tokenizer.vocabulary), 0
    digest = hashlib.sha256(tokenizer.fingerprint.encode())
    try:
        temporary.unlink(missing_ok=True)  # of a killed process; or a link that was put there
        with temporary.open("xb") as file:
            file.write(bytes(_HEADER_BYTES))
            for texts in _together(parts):
                left = None if data.max_tokens is None else data.max_tokens - count
                content = tokenizer.encode(texts)[:left].astype(dtype).tobytes()
                file.write(content)
                digest.update(content)
                count += len(content) // dtype.itemsize
                if count == data.max_tokens:
                    break
            if count == 0:
                raise DatasetError(f"the text of {data.name} ({data.source}) is empty; use another")
            header = _Header(
                format=_FORMAT,
                vocabulary=tokenizer.vocabulary,
                count=count,
                fingerprint=digest.hexdigest(),
            )
            file.seek(0)
            file.write(header.model_dump_json().encode().ljust(_HEADER_BYTES))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # gone already if all went well


def _together(parts: Iterable[str]) -> Iterator[list[str]]:
    """Gather parts of a text until they are worth a call of the tokenizer."""
    texts: list[str] = []
    characters = 0
    for part in parts:
        texts.append(part)
        characters += len(part)
        if characters >= _CHARACTERS_AT_ONCE:
            yield texts
            texts, characters = [], 0
    if texts:
        yield texts


class Batches:
    """Sequences of a token file in the order in which a training sees them.

    The training tokens are cut into sequences once; sequence i is tokens i s to (i + 1) s, both
    included, so that every token but the first is a target once. Each pass over them (epoch) has
    an order of its own. Which sequences a train step sees depends on the seed, the step and the
    number of its sequences alone; ranks and micro-batches only share them out.

    Args:
        file: The tokens.
        sequence: s.
        sequences_per_step: Sequences of one train step, over all ranks.
        seed: Of the order, at least 0.
        validation_fraction: Share of the tokens, at the end, that is never trained on.

    Raises:
        DatasetError: There are fewer sequences than one train step takes, or a share for validation
            that holds none.
    """

    def __init__(
        self,
        file: TokenFile,
        *,
        sequence: int,
        sequences_per_step: int,
        seed: int,
        validation_fraction: float,
    ) -> None:
        self._file, self._sequence, self._seed = file, sequence, seed
        self._sequences_per_step = sequences_per_step
        num_validation = int(len(file.tokens) * validation_fraction)
        self._begin_validation = len(file.tokens) - num_validation
        self.num_sequences = (self._begin_validation - 1) // sequence
        self.num_validation_sequences = max(0, (num_validation - 1) // sequence)
        if self.num_sequences < sequences_per_step:
            raise DatasetError(
                f"{file.path} has {self._begin_validation} tokens to train on, which are "
                f"{self.num_sequences} sequences of {sequence}, but a train step takes "
                f"{sequences_per_step}; use a longer text, shorter sequences, or less micro_batch "
                "or accumulation"
            )
        if num_validation and not self.num_validation_sequences:
            raise DatasetError(
                f"data.validation_fraction: {validation_fraction:g} of {len(file.tokens)} tokens "
                f"is {num_validation}, less than one sequence of {sequence} with its last target; "
                "use more, or 0 for no validation"
            )

    def step(
        self, step: int, rank: int, num_ranks: int, micro_batch: int, accumulation: int
    ) -> list[Tensor]:
        """Return a rank's share of a train step.

        Args:
            step: From 0.
            rank: From 0.
            num_ranks: N.
            micro_batch: B.
            accumulation: Micro-batches of the step.

        Returns:
            The micro-batches, each (B, s + 1), int64: inputs are all but the last token, targets
            all but the first.

        Raises:
            DatasetError: The file holds tokens beyond its vocabulary.
            ValueError: The shares are not as many sequences as a train step has.
        """
        if num_ranks * micro_batch * accumulation != self._sequences_per_step:
            raise ValueError(
                f"{num_ranks} ranks x {micro_batch} sequences x {accumulation} micro-batches are "
                f"not the {self._sequences_per_step} sequences of a train step"
            )
        shares = np.arange(self._sequences_per_step, dtype=np.uint64)
        shares = shares.reshape(accumulation, num_ranks, micro_batch)[:, rank]
        sequences = self._shuffled(shares.ravel() + np.uint64(step * self._sequences_per_step))
        return list(torch.split(self._read(sequences, begin=0), micro_batch))

    def _shuffled(self, positions: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Return the sequences at some positions of the endless order of all epochs."""
        epochs, positions = np.divmod(positions, np.uint64(self.num_sequences))
        sequences = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            sequences[here] = permuted(
                positions[here], self.num_sequences, seed=(self._seed, int(epoch))
            )
        return sequences

    def validation(
        self, rank: int, num_ranks: int, micro_batch: int, max_sequences: int
    ) -> list[Tensor]:
        """Return a rank's share of the first validation sequences.

        All ranks have as many batches, all of one size, so that a mean of means is the mean: what
        does not fill them is left out. Fewer sequences than ranks are repeated.

        Args:
            rank: From 0.
            num_ranks: N.
            micro_batch: Most sequences of a batch.
            max_sequences: Most sequences of all ranks.

        Returns:
            The batches, as of ``step``; none if the text has no share for validation.

        Raises:
            DatasetError: The file holds tokens beyond its vocabulary.
        """
        available = min(max_sequences, self.num_validation_sequences)
        if not available:
            return []
        per_rank = max(1, available // num_ranks)
        size = min(micro_batch, per_rank)
        shares = np.arange(num_ranks * (per_rank // size * size), dtype=np.uint64) % available
        sequences = shares.reshape(-1, num_ranks, size)[:, rank].ravel()
        return list(torch.split(self._read(sequences, begin=self._begin_validation), size))

    def _read(self, sequences: NDArray[np.uint64], begin: int) -> Tensor:
        starts = begin + sequences.astype(np.int64) * self._sequence
        tokens = self._file.tokens[starts[:, None] + np.arange(self._sequence + 1)]
        if int(tokens.max()) >= self._file.vocabulary:
            raise DatasetError(
                f"{self._file.path} is damaged: it holds token {tokens.max()} of a vocabulary of "
                f"{self._file.vocabulary}; delete it, and it is packed again"
            )
        return torch.from_numpy(tokens.astype(np.int64))
