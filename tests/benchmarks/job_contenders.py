"""Who submits and follows jobs on the same cluster: our launcher, submitit, prefect-submitit.

prefect-submitit needs Python 3.12 and so an environment of its own, which is not installed here::

    python3.12 -m venv DIR && DIR/bin/pip install prefect-submitit==0.1.8 submitit==1.5.4
    PREFECT_SUBMITIT_PYTHON=DIR/bin/python pytest tests/benchmarks/test_against_submitit.py ...
"""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import submitit

from configs.launchers import SlurmLauncherConfig, SlurmResources
from tasks.slurm.plan import JobPlan
from tasks.slurm.slurm_launcher import SlurmLauncher
from tests.benchmarks.waiting_job import wait_and_say
from tests.cluster.prefect_server import PrefectServer

ROOT = Path(__file__).parents[2]
PYTHON = "PREFECT_SUBMITIT_PYTHON"
HOW_TO_GET_IT = (
    f"{PYTHON} is not set; python3.12 -m venv DIR && DIR/bin/pip install prefect-submitit, then set"
    " it to DIR/bin/python"
)
_PATIENCE_S = 180.0


class Contender(Protocol):
    """Submits jobs of ``waiting_job`` and waits for their ends."""

    name: str

    def submit(self, waits_s: Sequence[float]) -> list[Callable[[], Path]]:
        """Submit jobs as one; each function waits for one, and returns its file."""

    def close(self) -> None:
        """Cancel what is left."""


def _paths(directory: Path, number: int) -> list[Path]:
    return [directory / f"{time.time_ns()}-{index}" for index in range(number)]


class Watershed:
    """Jobs through the launcher."""

    name = "watershed"

    def __init__(self, directory: Path) -> None:
        self._config = SlurmLauncherConfig(partition="batch", time_limit="10", pack="array")
        self._launcher = SlurmLauncher(self._config, directory, state_dir=directory / "state")
        self._directory = directory

    def submit(self, waits_s: Sequence[float]) -> list[Callable[[], Path]]:
        """Submit jobs as one; each function waits for one, and returns its file."""
        paths = _paths(self._directory, len(waits_s))
        plans = [self._plan(path, wait_s) for path, wait_s in zip(paths, waits_s, strict=True)]
        jobs = self._launcher.submit_all(plans)

        def waiter(index: int) -> Callable[[], Path]:
            def wait() -> Path:
                while not self._launcher.wait(jobs[index], 60).is_final:
                    pass
                return plans[index].run_dir / "ended"

            return wait

        return [waiter(index) for index in range(len(plans))]

    def _plan(self, run_dir: Path, wait_s: float) -> JobPlan:
        run_dir.mkdir()
        (run_dir / "job.json").write_text(json.dumps({"seconds": wait_s}))
        return JobPlan(
            name="wait",
            module="tests.benchmarks.waiting_job",
            run_dir=run_dir,
            resources=SlurmResources(partition="batch", time_limit="10"),
            code_dir=ROOT,
        )

    def close(self) -> None:
        """Cancel what is left."""
        self._launcher.close()


class Submitit:
    """Jobs through submitit."""

    name = "submitit"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._executor = submitit.AutoExecutor(folder=directory / "submitit", cluster="slurm")
        self._executor.update_parameters(
            slurm_partition="batch", timeout_min=10, slurm_array_parallelism=2000
        )

    def submit(self, waits_s: Sequence[float]) -> list[Callable[[], Path]]:
        """Submit jobs as one; each function waits for one, and returns its file."""
        paths = _paths(self._directory, len(waits_s))
        jobs = self._executor.map_array(wait_and_say, paths, waits_s)

        def waiter(index: int) -> Callable[[], Path]:
            def wait() -> Path:
                jobs[index].result()
                return paths[index]

            return wait

        return [waiter(index) for index in range(len(jobs))]

    def close(self) -> None:
        """Cancel what is left."""
        _cancel_all()


class PrefectSubmitit:
    """Jobs through prefect-submitit: mapped tasks of a flow, in a process with its Python.

    Raises:
        RuntimeError: The flow does not start; the message has what it said.
    """

    name = "prefect-submitit"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._server = PrefectServer(directory)
        self._server.start()
        self._log = directory / "flow.log"
        environment = {
            "PYTHONPATH": str(ROOT),
            "PREFECT_API_URL": self._server.api,
            "PREFECT_HOME": str(directory / "prefect-home"),
            "DO_NOT_TRACK": "1",
        }
        with self._log.open("wb") as log:
            self._flow = subprocess.Popen(
                [
                    os.environ[PYTHON],
                    "-m",
                    "tests.benchmarks.prefect_submitit_flow",
                    str(directory / "logs"),
                ],
                env=os.environ | environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._said = {word: threading.Event() for word in ("ready", "submitted")}
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self._hear("ready")
        except BaseException:
            self.close()
            raise

    def _listen(self) -> None:
        assert self._flow.stdout is not None
        for line in self._flow.stdout:
            if event := self._said.get(line.strip()):
                event.set()

    def _hear(self, what: str) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not self._said[what].wait(0.5):
            if self._flow.poll() is not None or time.monotonic() > deadline:
                said = self._log.read_text()[-3000:]
                raise RuntimeError(f"the flow did not say {what!r}:\n{said}")

    def submit(self, waits_s: Sequence[float]) -> list[Callable[[], Path]]:
        """Submit jobs as one; each function waits for one, and returns its file."""
        paths = _paths(self._directory, len(waits_s))
        order = {"paths": [str(path) for path in paths], "waits_s": list(waits_s)}
        self._said["submitted"].clear()
        self._said |= {str(path): threading.Event() for path in paths}
        assert self._flow.stdin is not None
        self._flow.stdin.write(json.dumps(order) + "\n")
        self._flow.stdin.flush()
        self._hear("submitted")

        def waiter(path: Path) -> Callable[[], Path]:
            def wait() -> Path:
                self._hear(str(path))
                return path

            return wait

        return [waiter(path) for path in paths]

    def close(self) -> None:
        """Cancel what is left."""
        self._flow.kill()
        self._flow.wait()
        _cancel_all()
        self._server.stop()


def _cancel_all() -> None:
    subprocess.run(["scancel", "--user=root"], check=False)
