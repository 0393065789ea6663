"""Nodes on which whole trainings are measured side by side."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from configs.calibration import Calibration
from configs.training import TrainingExperiment
from tasks.runtime.records import Result
from tasks.zero.calibrate_file import Calibrated
from tests.benchmarks.training_node import CalibrationOrder, Measured, Order
from tests.cluster.netns_cluster import INTERFACE, NetnsCluster

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class World:
    """Processes, one a node, that start the ranks of a node.

    Attributes:
        nodes: The processes.
        directory: Where ranks meet.
    """

    nodes: Sequence["subprocess.Popen[str]"]
    directory: Path

    def measure(self, experiment: TrainingExperiment, *, warmup_steps: int, steps: int) -> Measured:
        """Train on all nodes, with new processes.

        Args:
            experiment: As many nodes as there are.
            warmup_steps: Train steps before the measurement.
            steps: Train steps that are measured.

        Returns:
            What rank 0 has seen.

        Raises:
            RuntimeError: A rank has failed.
        """
        directory = Path(tempfile.mkdtemp(dir=self.directory))
        orders = [
            Order(
                experiment=experiment,
                node=number,
                num_nodes=len(self.nodes),
                directory=directory,
                warmup_steps=warmup_steps,
                steps=steps,
            )
            for number in range(len(self.nodes))
        ]
        self._carry_out(orders)
        return Measured.model_validate_json(orders[0].answer.read_text())

    def calibrate(self, calibration: Calibration) -> Calibrated:
        """Measure the machine on all nodes, with new processes.

        Args:
            calibration: As many nodes as there are.

        Returns:
            What was measured.

        Raises:
            RuntimeError: A rank has failed.
        """
        directory = Path(tempfile.mkdtemp(dir=self.directory))
        orders = [
            CalibrationOrder(
                calibration=calibration,
                node=number,
                num_nodes=len(self.nodes),
                directory=directory,
            )
            for number in range(len(self.nodes))
        ]
        self._carry_out(orders)
        return Calibrated.model_validate_json(orders[0].answer.read_text())

    def _carry_out(self, orders: Sequence[Order | CalibrationOrder]) -> None:
        for node, order in zip(self.nodes, orders, strict=True):
            assert node.stdin is not None
            print(order.model_dump_json(), file=node.stdin, flush=True)
        failures = [result.message for result in map(_answer, self.nodes) if result.message]
        if failures:
            raise RuntimeError("; ".join(failures))


def _answer(node: "subprocess.Popen[str]") -> Result:
    assert node.stdout is not None
    line = node.stdout.readline()
    if not line:
        raise RuntimeError(f"the process of a node ended with {node.wait()}; see its output")
    return Result.model_validate_json(line)


@contextmanager
def running_world(cluster: NetnsCluster | None) -> Generator[World]:
    """Start a process on each node of a cluster, or on this machine as the only node.

    Args:
        cluster: Nodes with links; None for this machine.

    Yields:
        The world.
    """
    argv = [sys.executable, "-m", "tests.benchmarks.training_node"]
    commands = [argv]
    if cluster is not None:
        commands = [cluster.command(node, argv) for node in range(cluster.num_nodes)]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "GLOO_SOCKET_IFNAME": "lo" if cluster is None else INTERFACE,
    }
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="watershed-bench-"))
        nodes = []
        for command in commands:
            node = subprocess.Popen(
                command,
                env=environment,
                cwd=_ROOT,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            stack.enter_context(node)  # closes its input, by which it ends, and waits
            nodes.append(node)
        yield World(nodes, Path(directory))
