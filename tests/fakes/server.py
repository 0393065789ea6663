"""Serves a fake Slurm to the commands in ``bin``, in real time: its jobs really run.

    python -m tests.fakes.server SOCKET SPOOL_DIR OPTIONS

OPTIONS is the JSON that ``served.FakeCluster`` makes. The server ends when its stdin is closed, so
that none outlives its test. Beside Slurm's commands it answers ``fake METHOD ARGUMENTS``.
"""

import heapq
import itertools
import json
import selectors
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket

from tests.fakes.clock import RealClock
from tests.fakes.controller import QUICK
from tests.fakes.processes import ProcessNode
from tests.fakes.scripts import Size
from tests.fakes.slurm import Answer, FakeSlurm, Faults

_LOOK_EVERY_S = 0.02


class Server:
    """Answers one command after the other, each in its time.

    Args:
        slurm: The fake.
        node: Its nodes.
        listener: Where commands connect.
    """

    def __init__(self, slurm: FakeSlurm, node: ProcessNode, listener: socket) -> None:
        self._slurm = slurm
        self._node = node
        self._listener = listener
        self._clock = RealClock()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self._unanswered: list[socket] = []

    def serve(self) -> None:
        """Serve until stdin is closed."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(sys.stdin, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select(_LOOK_EVERY_S):
                    if key.fileobj is sys.stdin:
                        return
                    self._accept()
                for run, code in self._node.ended():
                    self._slurm.controller.finished(run, max(code, 0), max(-code, 0))
                now_s = self._clock.now()
                self._slurm.controller.advance_to(now_s)
                while self._due and self._due[0][0] <= now_s:
                    heapq.heappop(self._due)[2]()

    def _accept(self) -> None:
        connection = self._listener.accept()[0]
        text = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        words, _, variables = text.decode(errors="surrogateescape").partition("\0\0")
        directory, *argv = words.split("\0")
        if argv[0] == "fake":
            _reply(connection, Answer(self._control(argv[1], json.loads(argv[2]))))
            return
        environment = dict(word.partition("=")[::2] for word in variables.split("\0"))
        self._later(
            self._slurm.waits_s(argv),
            lambda: self._ask(connection, argv, Path(directory), environment),
        )

    def _ask(
        self, connection: socket, argv: list[str], directory: Path, environment: dict[str, str]
    ) -> None:
        answer = self._slurm.answer(argv, directory, environment)
        if answer.delay_s == float("inf"):
            self._unanswered.append(connection)  # left open: the command waits until it is killed
        else:
            self._later(answer.delay_s, lambda: _reply(connection, answer))

    def _later(self, after_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self._clock.now() + after_s, next(self._sequence), happen))

    def _control(self, method: str, arguments: list[str | float | bool]) -> str:
        """Do to the cluster what a test asks for; the answer is JSON."""
        if method == "calls":
            return json.dumps([asdict(call) for call in self._slurm.calls])
        getattr(self._slurm.controller, method)(*arguments)
        return "null"


def _reply(connection: socket, answer: Answer) -> None:
    stdout, stderr = answer.stdout.encode(), answer.stderr.encode()
    try:
        connection.sendall(f"{answer.returncode}\n{len(stdout)}\n".encode() + stdout + stderr)
    except BrokenPipeError:  # the command was killed meanwhile
        return
    finally:
        connection.close()


def main() -> None:
    """Serve a fake Slurm."""
    address, spool_dir, options = sys.argv[1:]
    given = json.loads(options)
    node = ProcessNode(Path(spool_dir))
    slurm = FakeSlurm(
        given["seed"],
        size=Size(**given["size"]),
        node=node,
        faults=Faults(**given["faults"]),
        clock=RealClock(),
        timing=QUICK,
    )
    with socket(AF_UNIX, SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen(128)
        try:
            Server(slurm, node, listener).serve()
        finally:
            node.kill_all()


if __name__ == "__main__":
    main()
