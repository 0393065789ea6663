"""Checkpoints of a training: directories that take their names when all ranks have written.

A checkpoint is ``checkpoints/step-0000000120``: what the engine wrote, and ``facts.json``, which
rank 0 writes last, with the size of every file. All ranks write into one hidden directory, and rank
0 gives it its name by one rename, through the fence. So a directory of such a name is whole; where
a disk has lost some of it nevertheless, the sizes tell, and the one before is taken.

Only rank 0 looks and moves; what it found, or what went wrong, it tells the others. They have to
see the same file system. What ranks tell each other is JSON, and a path in it leads nowhere but
into the run directory: DCP's index, which is read from there, is a pickle.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from tasks.runtime.atomic_files import sync_directory
from tasks.runtime.errors import JobError, Reason
from tasks.runtime.fence import Fence, Overtaken
from tasks.runtime.run_directory import RunDirectory
from tasks.zero.background import Background
from tasks.zero.continuity import differences, hash_of
from tasks.zero.interface import PendingSave
from tasks.zero.messages import Failure, broadcast, gather

_KEPT = 2
_FACTS = "facts.json"

Fact = int | float | str


class Facts(BaseModel):
    """``facts.json``: what is known of a checkpoint without reading it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int = Field(ge=0, description="Train steps that were done.")
    config_hash: str = Field(description="Hash of the experiment that saved it.")
    identity: str = Field(description="Hash of what a continued run must have as it was.")
    stays: dict[str, JsonValue] = Field(
        default_factory=dict, description="What that is the hash of; earlier checkouts left it out."
    )
    facts: dict[str, Fact] = Field(description="What else the training wants to know again.")
    files: dict[str, int] = Field(description="Bytes of every file, by its path in the directory.")


@dataclass(frozen=True)
class Found:
    """A checkpoint to continue from.

    Attributes:
        path: Its directory, for ``TrainEngine.load``.
        step: Train steps that were done.
        facts: What ``Checkpoints.begin`` was given.
    """

    path: Path
    step: int
    facts: Mapping[str, Fact]


class _Answer(BaseModel):
    """What rank 0 tells the others, or every rank all.

    Attributes:
        path: What it found or made, from the run directory; None if there is none.
        step: Of the checkpoint that it found.
        facts: Of the same.
        failure: What went wrong instead; None if it went well.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = None
    step: int = 0
    facts: dict[str, Fact] = Field(default_factory=dict)
    failure: Failure | None = None


class Checkpoints:
    """The checkpoints of one run. Every method but ``poll`` is called by all ranks at once.

    Who compares what: ``newest`` compares a hash of all in the experiment that a continued run must
    have as it was (model, text, optimizer, seed), and of nothing that it may change (ranks,
    machine, partition, launcher), see ``continuity``. ``TrainEngine.load`` then compares every
    vector's length and type with the model's. The hash of the whole experiment is only written
    down, for whoever asks why.

    Args:
        directory: The run directory.
        fence: Of the attempt that saves.
        group: Of gloo, all ranks; not used for anything else while a checkpoint is being written,
            but by the engine for the writing.
        config_hash: Of the experiment.
        stays: What a continued run must have as it was, from ``continuity.what_stays``.
    """

    def __init__(
        self,
        directory: RunDirectory,
        fence: Fence,
        group: dist.ProcessGroup,
        *,
        config_hash: str,
        stays: Mapping[str, JsonValue],
    ) -> None:
        self._directory = directory.path
        self._parent = directory.checkpoints
        self._fence = fence
        self._group = group
        self._is_first = dist.get_rank(group) == 0
        self._config_hash = config_hash
        self._stays, self._identity = dict(stays), hash_of(stays)
        self._running: Background[None] | None = None

    def newest(self) -> Found | None:
        """Find the newest checkpoint that is whole.

        Returns:
            The same on all ranks; None if there is none at all.

        Raises:
            JobError: It is of another training, or none of several is whole; or no rank of ours
                has answered.
            OSError: The checkpoints cannot be listed.
        """
        answer = self._from_first(self._find)
        path = self._path_in(answer)
        return None if path is None else Found(path, answer.step, answer.facts)

    def begin(
        self, step: int, facts: Mapping[str, Fact], save: Callable[[Path], PendingSave]
    ) -> None:
        """Begin a checkpoint, after the one before; one of this step that is whole is kept.

        What is saved, ``save`` has copied when it returns; the rest happens beside the training,
        the renaming and the removal of older checkpoints, too.

        Args:
            step: Train steps that were done.
            facts: What ``newest`` is to tell the next attempt; rank 0's are written.
            save: ``TrainEngine.begin_save``; its result is waited for on another thread.

        Raises:
            Overtaken: There is a newer attempt.
            OSError: This one cannot be begun, or the one before could not be written. Earlier ones
                are untouched.
            JobError: No rank of ours has answered, now or for the one before.
            RuntimeError: A rank is lost.
        """
        self.finish()
        path = self._parent / f"step-{step:010d}"
        staged = self._path_in(self._from_first(lambda: self._make(path)))
        if staged is None:
            return
        try:
            pending: PendingSave | OSError = save(staged)
        except OSError as error:  # of this rank alone, maybe; the others are told
            pending = error
        known = Facts(
            step=step,
            config_hash=self._config_hash,
            identity=self._identity,
            stays=self._stays,
            facts=dict(facts),
            files={},
        )
        self._running = Background(
            "checkpoint", lambda: self._complete(pending, staged, path, known)
        )

    def poll(self) -> None:
        """Look, without waiting, whether a checkpoint has failed; ranks see it at different times.

        Raises:
            Overtaken: There is a newer attempt.
            OSError: The checkpoint could not be written; earlier ones are untouched.
            JobError: No rank of ours has answered.
            RuntimeError: A rank is lost.
        """
        if self._running is not None and self._running.is_done():
            self.finish()

    def finish(self) -> None:
        """Wait until the checkpoint that was begun, if any, has its name.

        Raises:
            Overtaken: There is a newer attempt.
            OSError: It could not be written; earlier ones are untouched. All ranks raise it.
            JobError: No rank of ours has answered.
            RuntimeError: A rank is lost.
        """
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def _from_first(self, call: Callable[[], _Answer]) -> _Answer:
        """Let rank 0 do something; all return what it returned.

        Raises:
            JobError: It has raised it, or no rank of ours has answered.
            OSError: It has raised it.
            Overtaken: It has raised it.
        """
        answer, own = _Answer(), None
        if self._is_first:
            try:
                answer = call()
            except (JobError, OSError, Overtaken) as error:
                answer, own = _Answer(failure=Failure.of(error)), error
        answer = broadcast(answer, self._group)
        if own is not None:
            raise own
        if answer.failure is not None:
            answer.failure.again()
        return answer

    def _told(self, path: Path) -> str:
        return str(path.relative_to(self._directory))

    def _path_in(self, answer: _Answer) -> Path | None:
        """Return the path in an answer.

        Raises:
            JobError: It leads out of the run directory, from where no rank of ours has it.
        """
        if answer.path is None:
            return None
        path = Path(answer.path)
        if path.is_absolute() or ".." in path.parts:
            raise JobError(Reason.RANKS, f"a rank has sent {path} as a path in {self._directory}")
        return self._directory / path

    def _find(self) -> _Answer:
        """Find the newest whole checkpoint.

        Raises:
            JobError: It is of another training, or none of several is whole.
        """
        paths = self._newest_first()
        for path in paths:
            known = _facts_of_whole(path)
            if known is None:
                continue
            if known.identity != self._identity:
                raise JobError(Reason.CHECKPOINT, f"{path} is of {self._other_than(known)}")
            return _Answer(path=self._told(path), step=known.step, facts=known.facts)
        if paths:
            raise JobError(
                Reason.CHECKPOINT,
                f"none of the {len(paths)} checkpoints in {self._parent} can be read; "
                "begin a new run",
            )
        return _Answer()

    def _other_than(self, known: Facts) -> str:
        """Say in what a checkpoint's training is another than ours, and what to do."""
        found = differences(known.stays, self._stays) if known.stays else []
        if not found:
            return (
                "another training: its model, text, optimizer, seed or the like is another, and "
                f"its {_FACTS}, of an earlier checkout, does not say which; begin a new run"
            )
        return (
            f"another training, which differs in: {'; '.join(found)}; set that as it was there, "
            "or begin a new run"
        )

    def _make(self, path: Path) -> _Answer:
        """Make the directory that all ranks write into; none if the checkpoint is there, whole.

        To write it again would look like progress to who asks whether an attempt made any.
        """
        if _facts_of_whole(path) is not None:
            return _Answer()
        self._parent.mkdir(exist_ok=True)
        for left_over in self._parent.glob(".step-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        return _Answer(path=self._told(self._fence.make_directory(path)))

    def _complete(
        self, pending: PendingSave | OSError, staged: Path, path: Path, known: Facts
    ) -> None:
        """Wait for all ranks; then rank 0 names the checkpoint.

        Raises:
            Overtaken: There is a newer attempt.
            OSError: It could not be written.
        """
        try:
            self._wait_for_all(pending)
            self._from_first(lambda: self._place(staged, path, known))
        except OSError:
            self._from_first(lambda: self._give_up(staged))
            raise

    def _wait_for_all(self, pending: PendingSave | OSError) -> None:
        """Wait until all ranks have written; an engine may know of its own rank alone.

        Raises:
            OSError: A rank could not write; all ranks raise that of the first.
        """
        failure = pending if isinstance(pending, OSError) else None
        if not isinstance(pending, OSError):
            try:
                pending.wait()
            except OSError as error:
                failure = error
        own = _Answer(failure=None if failure is None else Failure.of(failure))
        for answer in gather(own, self._group):
            if answer.failure is not None:
                answer.failure.again()

    def _give_up(self, staged: Path) -> _Answer:
        shutil.rmtree(staged, ignore_errors=True)  # a full disk needs the room
        self._fence.check()  # the directory may have been taken away
        return _Answer()

    def _place(self, staged: Path, path: Path, known: Facts) -> _Answer:
        files = {}
        for written in sorted(staged.rglob("*")):
            if written.is_dir():
                sync_directory(written)
            else:
                files[str(written.relative_to(staged))] = _durable_size(written)
        with (staged / _FACTS).open("w", encoding="utf-8") as file:
            file.write(known.model_copy(update={"files": files}).model_dump_json(indent=2))
            file.flush()
            os.fsync(file.fileno())
        if path.exists():  # but not whole, see _make
            self._fence.remove_directory(path)
        self._fence.place_directory(staged, path)
        with contextlib.suppress(OSError):  # this one is safe; the next one will try again
            self._remove_older()
        return _Answer()

    def _remove_older(self) -> None:
        paths = self._newest_first()
        kept = [path for path in paths if _facts_of_whole(path) is not None][:_KEPT]
        for path in paths:
            if path not in kept:
                self._fence.remove_directory(path)

    def _newest_first(self) -> list[Path]:
        return sorted(self._parent.glob("step-*"), reverse=True)


def _durable_size(path: Path) -> int:
    """Return the bytes of a file when they are on the disk: DeepSpeed leaves that to the kernel."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size


def _facts_of_whole(path: Path) -> Facts | None:
    """Return what is known of a checkpoint; None if any of it is missing or cut off."""
    try:
        known = Facts.model_validate_json((path / _FACTS).read_bytes())
        is_whole = all((path / name).stat().st_size == size for name, size in known.files.items())
    except (OSError, ValueError):
        return None
    return known if is_whole else None
