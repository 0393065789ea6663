"""The fence: of two incarnations of one run, only the newer one can write.

After a network partition Slurm runs a job again while its old incarnation may still be alive, or
asleep, on a node that nobody hears. To ask "am I the newest?" before each write is not enough: a
process can be stopped between the question and the write. So the old incarnation is disarmed:

* A file that is written whole (checkpoint, model, result) begins its life in
  ``attempts/<k>/outgoing`` and is renamed from there to its place. Who claims a newer attempt takes
  that directory away before it starts; from then on no rename of attempt k succeeds.
* So does a directory that many processes write together (a checkpoint of many ranks).
* A file that grows (journal, trace) is not continued where it lies. Each attempt puts a copy of its
  beginning in its place, in the way of whole files, and appends to the copy; what an older attempt
  has open is by then a file without a name.

``check`` lets an old incarnation notice early, and end.

The standard library alone is imported: the wrapper on the node starts with this.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.runtime.atomic_files import replacement, sync_directory

ATTEMPT_VARIABLE = "WATERSHED_ATTEMPT"
"""Number of the attempt that the wrapper has claimed for its child."""
RUN_VARIABLE = "WATERSHED_RUN"
"""Directory of the run that the attempt is of; a job may start others below it."""

_OUTGOING = "outgoing"
_CHUNK_BYTES = 1 << 20
_TRIES = 20  # its owner may be putting another file into it


class Overtaken(BaseException):
    """A newer attempt of the run has begun; this one must write nothing any more."""


class Fence:
    """What one attempt writes through.

    Args:
        run_dir: The run directory.
        attempt: Number of the attempt; 0 for a process that the wrapper has not started, which the
            lock of the run directory guards instead.
    """

    def __init__(self, run_dir: Path, attempt: int = 0) -> None:
        self._attempts = run_dir / "attempts"
        self._attempt = attempt

    @classmethod
    def of_environment(cls, run_dir: Path) -> "Fence":
        """Return the fence of the attempt that the wrapper has started this process for.

        Args:
            run_dir: The run directory.

        Returns:
            The fence; number 0 if the process runs on its own, or for another run.

        Raises:
            OSError: The run directory cannot be looked at.
        """
        number = os.environ.get(ATTEMPT_VARIABLE)
        other = os.environ.get(RUN_VARIABLE)
        if number is None or (other is not None and not run_dir.samefile(other)):
            return cls(run_dir)
        return cls(run_dir, int(number))

    @property
    def attempt(self) -> int:
        """Number of the attempt; 0 without the wrapper."""
        return self._attempt

    def environment(self) -> dict[str, str]:
        """Return what ``of_environment`` reads in a child."""
        return {ATTEMPT_VARIABLE: str(self._attempt), RUN_VARIABLE: str(self._attempts.parent)}

    def holds(self) -> bool:
        """Say whether there is no newer attempt.

        The directory is listed, as NFS then asks its server; a ``stat`` of the next number might be
        answered from a cache, half a minute late.

        Raises:
            OSError: The attempts cannot be listed.
        """
        if not self._attempt:
            return True
        names = (path.name for path in self._attempts.iterdir())
        return not any(name.isdigit() and int(name) > self._attempt for name in names)

    def check(self) -> None:
        """Go on only as the newest attempt.

        Raises:
            Overtaken: There is a newer one.
            OSError: The attempts cannot be listed.
        """
        if not self.holds():
            raise Overtaken(f"attempt {self._attempt} of {self._attempts.parent} was overtaken")

    @contextmanager
    def replacement(self, path: Path, *, is_durable: bool = True) -> Iterator[Path]:
        """Write a file that is there whole or not at all, and only if this attempt is the newest.

        Args:
            path: The file, below the run directory's file system; its directory must exist.
            is_durable: Whether it is to survive a power cut from now on.

        Yields:
            Where to write it; it takes its place when the block ends well.

        Raises:
            Overtaken: There is a newer attempt; the file is as that one has it.
            OSError: It could not be written; the old file is untouched.
        """
        staging = self._staging(path)
        with self._guarded(), replacement(path, staging, is_durable=is_durable) as temporary:
            yield temporary

    def write(self, path: Path, content: bytes, *, is_durable: bool = True) -> None:
        """Write a whole file, see ``replacement``.

        Args:
            path: The file; its directory must exist.
            content: The whole content.
            is_durable: Whether it is to survive a power cut from now on.

        Raises:
            Overtaken: There is a newer attempt; the file is as that one has it.
            OSError: It could not be written; the old file is untouched.
        """
        with self.replacement(path, is_durable=is_durable) as temporary:
            temporary.write_bytes(content)

    def make_directory(self, path: Path) -> Path:
        """Make a directory that other processes, too, fill before it is placed.

        Args:
            path: Where it is to lie, below the run directory's file system.

        Returns:
            Where it is now; empty.

        Raises:
            Overtaken: There is a newer attempt.
            OSError: It cannot be made.
        """
        staged = self._staging(path) / f".{path.name}.{os.getpid()}"
        with self._guarded():
            staged.mkdir()
        return staged

    def place_directory(self, staged: Path, path: Path) -> None:
        """Put a directory in its place: whole, and only if this attempt is the newest.

        Args:
            staged: What ``make_directory`` returned. What is in it has been made durable.
            path: Where it is to lie; nothing is there, and the directory above it exists.

        Raises:
            Overtaken: There is a newer attempt; nothing has changed.
            OSError: It cannot be put there.
        """
        with self._guarded():
            sync_directory(staged)
            staged.rename(path)
            sync_directory(path.parent)

    def remove_directory(self, path: Path) -> None:
        """Remove a directory: nothing of it is seen from the first moment on.

        Args:
            path: The directory.

        Raises:
            Overtaken: There is a newer attempt; nothing has changed.
            OSError: It cannot be removed.
        """
        taken = self._staging(path) / f".{path.name}.{os.getpid()}.removed"
        with self._guarded():
            path.rename(taken)
        _remove(taken)

    def continue_file(self, path: Path, num_bytes: int) -> int:
        """Open a growing file behind its first bytes, so that no older attempt writes to it.

        Args:
            path: The file; made if absent.
            num_bytes: How much of it stays; what stands behind is dropped.

        Returns:
            A descriptor for reading and appending; to be closed.

        Raises:
            Overtaken: There is a newer attempt; the file is as that one has it.
            OSError: It cannot be opened or copied.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        if not self._attempt:
            descriptor = os.open(path, flags, 0o644)
            if os.fstat(descriptor).st_size > num_bytes:
                os.ftruncate(descriptor, num_bytes)
            return descriptor
        with self.replacement(path) as temporary:
            # Opened before it has its name: opened by name it could be a newer attempt's.
            descriptor = os.open(temporary, flags | os.O_EXCL, 0o644)
            try:
                _copy_beginning(path, descriptor, num_bytes)
            except OSError:
                os.close(descriptor)
                raise
        return descriptor

    def _staging(self, path: Path) -> Path:
        """Return the directory out of which, alone, something may take a path."""
        return self._attempts / str(self._attempt) / _OUTGOING if self._attempt else path.parent

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Do what fails once the attempt is disarmed.

        Yields:
            Nothing.

        Raises:
            Overtaken: There is a newer attempt.
            OSError: It failed for another reason.
        """
        self.check()
        try:
            yield
        except OSError:
            self.check()  # the directory may have been taken away
            raise


UNFENCED = Fence(Path())
"""For a process that nobody overtakes."""


def make_outgoing(attempt: Path) -> None:
    """Make the directory from which an attempt puts files in their places.

    Args:
        attempt: Directory of the attempt.

    Raises:
        OSError: It cannot be made.
    """
    (attempt / _OUTGOING).mkdir()


def disarm(attempt: Path) -> None:
    """Take away the directory from which an attempt puts files in their places, for good.

    It is renamed first, so that its owner on this machine finds it no more; then removed, which
    ends it for an owner on another machine, whose NFS client may remember where it was.

    Args:
        attempt: Directory of the attempt; one that is disarmed already stays so.

    Raises:
        OSError: The directory cannot be renamed or removed.
    """
    with contextlib.suppress(FileNotFoundError):
        (attempt / _OUTGOING).rename(attempt / f".{_OUTGOING}.{os.getpid()}")
    for taken in attempt.glob(f".{_OUTGOING}.*"):  # ours, and that of a claimant who was killed
        _remove(taken)


def _remove(directory: Path) -> None:
    for _ in range(_TRIES):
        with contextlib.suppress(OSError):
            for left_over in directory.iterdir():
                if left_over.is_dir() and not left_over.is_symlink():
                    _remove(left_over)
                else:
                    left_over.unlink()
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
        else:
            return
    # What is left now NFS keeps of files that are open on this very machine; their owner looks for
    # the directory by its old name.


def _copy_beginning(path: Path, descriptor: int, num_bytes: int) -> None:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        while num_bytes > 0 and (chunk := file.read(min(num_bytes, _CHUNK_BYTES))):
            num_bytes -= len(chunk)
            while chunk:
                chunk = chunk[os.write(descriptor, chunk) :]
