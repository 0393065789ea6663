"""The files of one run. This is the only place that knows their names."""

from __future__ import annotations

from pathlib import Path

# The wrapper on the node starts with this file: no Pydantic, no dataclasses, no typing.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from tasks.runtime.records import ClientJobFile, JobFile, PredictedOnly, Result, Reused


class RunDirectory:
    """One run: its input, its attempts, its journal, its result.

    Attributes:
        path: The directory.
    """

    __slots__ = ("path",)

    def __init__(self, path: Path) -> None:
        self.path = path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunDirectory) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"RunDirectory({self.path!r})"

    @property
    def job(self) -> Path:
        """Input of the job."""
        return self.path / "job.json"

    @property
    def journal(self) -> Path:
        """One JSON line per evaluated round."""
        return self.path / "metrics.jsonl"

    @property
    def result(self) -> Path:
        """How the run ended."""
        return self.path / "result.json"

    @property
    def prediction(self) -> Path:
        """What the cost model says of the run, where it was asked."""
        return self.path / "prediction.json"

    @property
    def predicted_only(self) -> Path:
        """Why the run has no job; absent for what is to run."""
        return self.path / "predicted_only.json"

    @property
    def conditions(self) -> Path:
        """What its speed depends on beside its configuration, as it was when it was submitted."""
        return self.path / "conditions.json"

    @property
    def reused(self) -> Path:
        """From which earlier run the result was taken over; absent for what has run itself."""
        return self.path / "reused.json"

    @property
    def stdout(self) -> Path:
        """Output of all attempts, appended."""
        return self.path / "stdout.log"

    @property
    def checkpoints(self) -> Path:
        """Directory of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The final model, safetensors."""
        return self.path / "model.safetensors"

    @property
    def trace(self) -> Path:
        """Who returned when: a CSV that a ``trace`` arrival process can replay."""
        return self.path / "trace.csv"

    @property
    def returns(self) -> Path:
        """The returns that a server has taken from real workers, one JSON line each."""
        return self.path / "returns.jsonl"

    @property
    def spool(self) -> Path:
        """Directory in which a server and its real workers exchange models and returns."""
        return self.path / "spool"

    def worker(self, worker: int) -> RunDirectory:
        """Run directory of a real worker of this server."""
        return RunDirectory(self.path / "workers" / str(worker))

    def workers(self) -> list[RunDirectory]:
        """Run directories of the real workers that this server has; none for a simulation."""
        parent = self.path / "workers"
        found = parent.iterdir() if parent.is_dir() else ()
        names = sorted(int(path.name) for path in found if path.name.isdigit())
        return [self.worker(name) for name in names]

    @property
    def lock(self) -> Path:
        """Held (flock) by the attempt that runs."""
        return self.path / ".lock"

    @property
    def tracking(self) -> Path:
        """How far the journal has been sent, and to which tracking run."""
        return self.path / "tracking.json"

    @property
    def script(self) -> Path:
        """The batch script; ``sbatch job.sh`` does what the flow did."""
        return self.path / "job.sh"

    @property
    def slurm_output(self) -> Path:
        """What Slurm itself and the batch script say; the job's own words are in ``stdout``."""
        return self.path / "slurm.out"

    @property
    def costs(self) -> Path:
        """What the attempts cost, once Slurm has told."""
        return self.path / "costs.json"

    def attempt(self, number: int) -> Path:
        """Directory of one attempt, from 1."""
        return self.path / "attempts" / str(number)

    def attempts(self) -> list[Path]:
        """Directories of the attempts so far, oldest first."""
        parent = self.path / "attempts"
        found = parent.iterdir() if parent.is_dir() else ()
        return sorted((p for p in found if p.name.isdigit()), key=lambda p: int(p.name))

    def read_job(self) -> JobFile:
        """Read ``job.json``.

        Raises:
            OSError: It cannot be read.
            DamagedFileError: It is gone, cut off, or of another version.
        """
        from tasks.runtime.errors import DamagedFileError  # noqa: PLC0415  see above
        from tasks.runtime.reading import load_record  # noqa: PLC0415  see above
        from tasks.runtime.records import JobFile  # noqa: PLC0415

        try:
            return load_record(JobFile, self.job)
        except FileNotFoundError as error:
            advice = "to make it anew from study.json: watershed resume"
            raise DamagedFileError(self.job, "is missing", advice) from error

    def read_predicted_only(self) -> PredictedOnly | None:
        """Read ``predicted_only.json``; None if the run is to have a job.

        Raises:
            OSError: It cannot be read.
            DamagedFileError: It is cut off, or of another version.
        """
        from tasks.runtime.reading import load_record  # noqa: PLC0415  see above
        from tasks.runtime.records import PredictedOnly  # noqa: PLC0415

        try:
            return load_record(PredictedOnly, self.predicted_only)
        except FileNotFoundError:
            return None

    def read_reused(self) -> Reused | None:
        """Read ``reused.json``; None if the run has not been taken over.

        Raises:
            OSError: It cannot be read.
            DamagedFileError: It is cut off, or of another version.
        """
        from tasks.runtime.reading import load_record  # noqa: PLC0415  see above
        from tasks.runtime.records import Reused  # noqa: PLC0415

        try:
            return load_record(Reused, self.reused)
        except FileNotFoundError:
            return None

    def read_client_job(self) -> ClientJobFile:
        """Read ``job.json`` of a real worker.

        Raises:
            OSError: It is not there, or cannot be read.
            DamagedFileError: It is cut off, or of another version.
        """
        from tasks.runtime.reading import load_record  # noqa: PLC0415  see above
        from tasks.runtime.records import ClientJobFile  # noqa: PLC0415

        return load_record(ClientJobFile, self.job)

    def read_result(self) -> Result | None:
        """Read ``result.json``; None while there is none.

        Raises:
            OSError: It cannot be read.
            DamagedFileError: It is cut off, or of another version.
        """
        from tasks.runtime.reading import load_record  # noqa: PLC0415  see above
        from tasks.runtime.records import Result  # noqa: PLC0415

        try:
            return load_record(Result, self.result)
        except FileNotFoundError:
            return None
