"""A fake Slurm that programs can use: its commands on PATH, its jobs as processes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from socket import AF_UNIX, SHUT_WR, SOCK_STREAM, socket
from types import TracebackType

from tests.fakes.scripts import Size
from tests.fakes.slurm import Call, Faults

BIN_DIR = Path(__file__).parent / "bin"
_ROOT_DIR = Path(__file__).parents[2]


class FakeCluster:
    """A server of a fake Slurm, from ``with`` to its end; its jobs end with it.

    Args:
        directory: For its socket and the scripts; a short path.
        seed: Of all chances.
        size: What the cluster offers.
        faults: What goes wrong.

    Attributes:
        environment: Variables with which a program finds the commands, beside its own ones.
    """

    def __init__(
        self,
        directory: Path,
        *,
        seed: int = 0,
        size: Size | None = None,
        faults: Faults | None = None,
    ) -> None:
        self._socket = directory / "slurm.sock"
        options = {
            "seed": seed,
            "size": asdict(size or Size()),
            "faults": asdict(faults or Faults()),
        }
        self._argv = [
            *(sys.executable, "-m", "tests.fakes.server"),
            *(str(self._socket), str(directory), json.dumps(options)),
        ]
        # Our own interpreter comes before any other: one that a version manager starts is slow.
        path = [str(BIN_DIR), str(Path(sys.executable).parent), os.environ["PATH"]]
        self.environment: Mapping[str, str] = {
            "PATH": ":".join(path),
            "SLURM_CONF": str(self._socket),
        }

    def __enter__(self) -> "FakeCluster":
        self._server = subprocess.Popen(
            self._argv, stdin=subprocess.PIPE, cwd=_ROOT_DIR, env=os.environ | {"PYTHONPATH": "."}
        )
        while True:
            try:
                self.calls()
            except OSError:  # not there yet
                if self._server.poll() is not None:
                    raise
                time.sleep(0.02)
            else:
                return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.communicate()

    def calls(self) -> list[Call]:
        """Return every command that was run so far."""
        return [Call(call["at_s"], tuple(call["argv"])) for call in json.loads(self._ask("calls"))]

    def fail_node(self, name: str) -> None:
        """See ``Controller.fail_node``."""
        self._ask("fail_node", name)

    def cut_node(self, name: str) -> None:
        """See ``Controller.cut_node``."""
        self._ask("cut_node", name)

    def revive_node(self, name: str) -> None:
        """See ``Controller.revive_node``."""
        self._ask("revive_node", name)

    def crash(self, forgets_s: float, down_s: float) -> None:
        """See ``Controller.crash``."""
        self._ask("crash", forgets_s, down_s)

    def _ask(self, method: str, *arguments: str | float) -> bytes:
        words = ["/", "fake", method, json.dumps(arguments)]
        with socket(AF_UNIX, SOCK_STREAM) as connection:
            connection.connect(str(self._socket))
            connection.sendall("\0".join(words).encode())
            connection.shutdown(SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        return answer.split(b"\n", 2)[2]
