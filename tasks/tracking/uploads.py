"""Artifacts of a study's runs on their way, so that an artifact store holds nothing else up.

MLflow's artifacts often lie in another service than its runs (S3), or behind a server with a limit
of size: they fail when curves, tags and states arrive. A file that is refused for good is noted
and stays on disk; one that may be taken later is sent again by the tracker's next attempt.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.errors import TrackingError
from tasks.tracking.parameters import as_yaml
from tasks.tracking.store import Store

CONFIGURATION = "config.yaml"
"""Artifact of a point's run: its whole experiment."""
Upload = Callable[[], str]
"""Sends something; returns what was taken in another form, and why, or an empty text."""


def file_uploads(store: Store, run_id: str, paths: Sequence[Path]) -> dict[str, Upload]:
    """Return what sends those files that exist, as artifacts of their own names.

    Args:
        store: Where.
        run_id: The run.
        paths: The files.
    """
    return {path.name: partial(_send_file, store, run_id, path) for path in paths if path.is_file()}


def _send_file(store: Store, run_id: str, path: Path) -> str:
    store.log_files(run_id, [path])
    return ""


def configuration_uploads(store: Store, directory: RunDirectory, run_id: str) -> dict[str, Upload]:
    """Return what sends the configuration of a grid point, as soon as its run is there.

    Args:
        store: Where.
        directory: The run directory.
        run_id: Its MLflow run.
    """

    def send_yaml() -> str:
        store.log_text(run_id, as_yaml(directory.read_job().experiment), CONFIGURATION)
        return ""

    return file_uploads(store, run_id, [directory.job]) | {CONFIGURATION: send_yaml}


class Uploads:
    """What one tracker has uploaded, what was refused, and what is to be tried again.

    Attributes:
        delayed: What went wrong in this attempt and may go well in a later one; None if nothing.
    """

    def __init__(self) -> None:
        self.delayed: TrackingError | None = None
        self._settled: dict[Path, dict[str, str]] = {}
        self._refused: dict[Path, str] = {}
        self._delayed: dict[Path, TrackingError] = {}

    def begin_attempt(self) -> None:
        """Begin to try again what was delayed."""
        self.delayed = None

    def begin_run(self, directory: Path) -> None:
        """Forget what was sent of a directory, which may have other content now.

        Args:
            directory: A run's, or the study's.
        """
        self._settled[directory] = {}
        self._refused.pop(directory, None)
        self._delayed.pop(directory, None)

    def retry_refused(self) -> None:
        """Forget what was refused: somebody may have mended that."""
        for directory in list(self._refused):
            del self._settled[directory], self._refused[directory]

    def send(self, directory: Path, uploads: Mapping[str, Upload]) -> None:
        """Send what was neither sent nor refused before; nothing is raised for MLflow's failures.

        After one that nobody has answered, the others of this attempt are not tried: each would
        wait as long.

        Args:
            directory: Whose artifacts they are.
            uploads: Name -> what sends it.
        """
        settled = self._settled.setdefault(directory, {})
        self._delayed.pop(directory, None)
        for name, upload in uploads.items():
            if name in settled:
                continue
            try:
                if self.delayed is not None and self.delayed.unanswered:
                    raise self.delayed
                settled[name] = upload()
            except TrackingError as error:
                if error.permanent:
                    settled[name] = f"{error} ({name} stays in {directory})"
                    self._refused.setdefault(directory, settled[name])
                    continue
                self._delayed.setdefault(directory, error)
                if self.delayed is None or error.unanswered:
                    self.delayed = error

    def is_due(self, directory: Path) -> bool:
        """Say whether something of a directory was not tried yet, or is to be tried again.

        Args:
            directory: A run's, or the study's.
        """
        return directory in self._delayed or not self._settled.get(directory)

    def untaken(self, directory: Path) -> str:
        """Say what of a directory was refused or delayed, and why; empty if nothing was.

        Args:
            directory: A run's, or the study's.
        """
        return self._refused.get(directory) or str(self._delayed.get(directory, ""))

    @property
    def told(self) -> str:
        """What was refused, or taken in another form, of the first directory of which it was.

        The same text as long as that lasts; empty if all is well.
        """
        texts = (text for told in self._settled.values() for text in told.values())
        return next(filter(None, texts), "")
