"""The spool: how a server and its workers exchange models and returns over a shared file system.

No daemon, no port, no lock: files that are written beside their place and renamed to it, so that
nobody sees half of one.

    models/v0000000012.safetensors        what the server has published
    newest.json                           the version to pull, with its checksum
    returns/w3-s7-v12-t1.safetensors      worker 3's 7th return, computed from version 12 by attempt
                                          1 of its client, not yet taken
    taken/2/...                           taken by attempt 2 of the server or before, and still
                                          needed by one that starts again
    refused/not_finite-w3-s7-....json     why a return was refused; the first ones beside it
    alive                                 touched by the server every few seconds
    done.json                             the server has ended, and the workers are to end

and, in the run directory of each client:

    checkpoints/claim.json                what it computes: its 8th return, from version 13

A return is named once and for all by its worker and its sequence number. The client claims a number
durably before it computes, so that no incarnation of it uses a number again; the server takes only
numbers above the last one that it has taken of that worker.
"""

import errno
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from configs.base import Record
from tasks.runtime.fence import Fence
from tasks.runtime.run_directory import RunDirectory

_R = TypeVar("_R", bound=Record)
_SHORTEST_WAIT_S, _LONGEST_WAIT_S, _GROWTH = 0.02, 0.5, 1.5
_MOST_TRIES = 10
_SUFFIX = ".safetensors"
_NAME = re.compile(r"w(\d{1,9})-s(\d{1,18})-v(\d{1,10})-t(\d{1,9})\.safetensors")


class Newest(Record):
    """``newest.json``: the version to pull."""

    version: int = Field(ge=0, description="Server updates done.")
    sha256: str = Field(description="Of the model's bytes.")


class Claim(Record):
    """``claim.json``: what a worker computes. It is all that a client has for a checkpoint."""

    worker: int = Field(ge=0, description="Id of the worker.")
    sequence: int = Field(ge=0, description="Number of the return; used by nobody before.")
    version: int = Field(ge=0, description="The version that it starts from.")
    partition: str = Field(default="", description="Where it is computed.")
    slurm_job: str = Field(default="", description="Slurm's id of the client.")


class Done(Record):
    """``done.json``: how the server has ended."""

    status: Literal["finished", "failed"] = Field(description="An interrupted server goes on.")
    message: str = Field(default="", description="Why, if it failed.")


@dataclass(frozen=True, order=True)
class ReturnName:
    """Name of a return's file.

    Attributes:
        worker: Id of the worker.
        sequence: With the worker it names the return.
        pulled: The version that the worker pulled.
        token: Attempt of the client that computed it.
    """

    worker: int
    sequence: int
    pulled: int
    token: int

    @classmethod
    def parse(cls, name: str) -> "ReturnName | None":
        """Read a file's name; None if it is no return's."""
        match = _NAME.fullmatch(name)
        found = cls(*map(int, match.groups())) if match else None
        return found if str(found) == name else None  # there is one way to write a number

    def __str__(self) -> str:
        return f"w{self.worker}-s{self.sequence}-v{self.pulled}-t{self.token}{_SUFFIX}"


class Spool:
    """The spool of one server; the only place that knows the names in it.

    Args:
        server: The server's run directory.
    """

    def __init__(self, server: RunDirectory) -> None:
        self._server = server
        self.path = server.spool
        self.models = self.path / "models"
        self.returns = self.path / "returns"
        self.taken = self.path / "taken"
        self.refused = self.path / "refused"
        self._newest = self.path / "newest.json"
        self._alive = self.path / "alive"
        self._done = self.path / "done.json"

    def open(self) -> None:
        """Make the directories, and call back the end that an earlier server has declared.

        Raises:
            OSError: They cannot be made.
        """
        for directory in (self.models, self.returns, self.taken, self.refused):
            directory.mkdir(parents=True, exist_ok=True)
        self.call_back_end()
        self.beat()

    def call_back_end(self) -> None:
        """Take back the end that an earlier server has declared; its workers may begin again.

        Raises:
            OSError: It cannot be taken back.
        """
        self._done.unlink(missing_ok=True)

    def taken_by(self, attempt: int) -> Path:
        """Return where an attempt of the server puts what it has taken.

        Each has a directory of its own: that of an older one is taken away from it, so that it can
        move nothing there that its successor does not know of.
        """
        return self.taken / str(attempt)

    def model(self, version: int) -> Path:
        """Return the file of a version."""
        return self.models / f"v{version:010d}{_SUFFIX}"

    def versions(self) -> list[int]:
        """List the versions that can be pulled, oldest first."""
        return sorted(int(path.stem[1:]) for path in self.models.glob(f"v*{_SUFFIX}"))

    def announce(self, newest: Newest, fence: Fence) -> None:
        """Tell the workers which version to pull.

        Args:
            newest: The version; its file is there.
            fence: Of the server's attempt.

        Raises:
            Overtaken: There is a newer server.
            OSError: It cannot be written.
        """
        # As with the models themselves, a power cut may take it: the server writes it again.
        fence.write(self._newest, newest.model_dump_json().encode(), is_durable=False)

    def newest(self) -> Newest | None:
        """Read which version to pull; None while there is none."""
        return _read(Newest, self._newest)

    def beat(self) -> None:
        """Give a sign of life of the server.

        Raises:
            OSError: It cannot be given.
        """
        self._alive.touch()

    def last_beat(self) -> float:
        """Return when the server gave its last sign of life, by the file system's clock; else 0."""
        try:
            return self._alive.stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def finish(self, done: Done, fence: Fence) -> None:
        """Tell the workers to end.

        Args:
            done: How the server has ended.
            fence: Of the server's attempt.

        Raises:
            Overtaken: There is a newer server.
            OSError: It cannot be written.
        """
        fence.write(self._done, done.model_dump_json().encode())

    def clear(self) -> None:
        """Remove models, and returns that were taken; nobody will need them.

        What was refused, and what has come too late to be taken, stays.

        Raises:
            OSError: A file cannot be removed.
        """
        taken = self.taken.iterdir() if self.taken.is_dir() else ()
        for directory in (self.models, *taken):
            for path in directory.glob("*"):  # half-written ones of killed servers, too
                path.unlink(missing_ok=True)

    def done(self) -> Done | None:
        """Read how the server has ended; None while it has not."""
        return _read(Done, self._done)

    def claim(self, claim: Claim, fence: Fence) -> None:
        """Take a sequence number for good, and hold the version so that the server keeps it.

        Args:
            claim: What is to be computed.
            fence: Of the client's attempt.

        Raises:
            Overtaken: There is a newer client of this worker.
            OSError: It cannot be written.
        """
        path = self._claim(claim.worker)
        path.parent.mkdir(exist_ok=True)
        fence.write(path, claim.model_dump_json().encode())

    def claim_of(self, worker: int) -> Claim | None:
        """Read a worker's last claim; None if it never made one."""
        return _read(Claim, self._claim(worker))

    def _claim(self, worker: int) -> Path:
        return self._server.worker(worker).checkpoints / "claim.json"

    def sweep(self, worker: int) -> None:
        """Remove what a client that was killed has left half written; its successor does so.

        Args:
            worker: Of which worker.
        """
        for left_over in self.returns.glob(f".w{worker}-*"):
            left_over.unlink(missing_ok=True)

    def held_versions(self) -> set[int]:
        """List the versions that workers compute from, or that returns not yet taken are from."""
        workers = self._server.worker(0).path.parent
        clients = workers.iterdir() if workers.is_dir() else ()
        claims = (self.claim_of(int(path.name)) for path in clients if path.name.isdigit())
        names = self.names(self.returns)
        return {claim.version for claim in claims if claim} | {name.pulled for name in names}

    @staticmethod
    def names(directory: Path) -> list[ReturnName]:
        """List the returns in a directory."""
        names = (ReturnName.parse(path.name) for path in directory.iterdir())
        return [name for name in names if name]


def waits_s() -> Iterator[float]:
    """Yield how long to wait between one look and the next: from 20 ms to half a second.

    Looking is the only way: neither Lustre nor NFS tells a node of changes made on another.
    """
    wait_s = _SHORTEST_WAIT_S
    while True:
        yield wait_s
        wait_s = min(_GROWTH * wait_s, _LONGEST_WAIT_S)


class Watch:
    """Watches the server's signs of life; no two clocks are compared.

    Args:
        spool: The server's spool.
        patience_s: Silence after which the server is given up.
    """

    def __init__(self, spool: Spool, patience_s: float) -> None:
        self._spool = spool
        self._patience_s = patience_s
        self._last_beat = spool.last_beat()
        self._seen_s = time.monotonic()

    def is_lost(self) -> bool:
        """Say whether the server has been silent for too long."""
        beat = self._spool.last_beat()
        if beat != self._last_beat:
            self._last_beat, self._seen_s = beat, time.monotonic()
        return time.monotonic() - self._seen_s > self._patience_s


def read_replaced(path: Path, most: int = -1) -> bytes:
    """Read a file that others replace by renaming, or remove.

    Args:
        path: The file.
        most: Bytes to read at most; default: all.

    Returns:
        Its content.

    Raises:
        OSError: It cannot be read.
    """
    tries = _MOST_TRIES
    while True:
        tries -= 1
        try:
            with path.open("rb") as file:
                return file.read(most)
        except OSError as error:
            # NFS: it was replaced between opening and reading; the name leads to the new one.
            if not tries or error.errno != errno.ESTALE:
                raise


def _read(record: type[_R], path: Path) -> _R | None:
    """Read a record that is replaced by renaming; None if it is absent, or torn by a crash."""
    try:
        return record.model_validate_json(read_replaced(path))
    except (FileNotFoundError, ValidationError):
        return None
