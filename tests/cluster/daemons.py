"""The daemons of a test cluster as children of this process."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster import processes

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where the daemons are looked up; a user's own PATH often lacks the directories sbin."""


class Daemons:
    """Starts, watches and ends daemons by their names within one cluster."""

    def __init__(self, cluster_dir: Path) -> None:
        self._cluster_dir = cluster_dir
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def spawn(self, name: str, argv: list[str], **variables: str) -> None:
        """Start a daemon; what it prints goes to log/<name>.out.

        Args:
            name: Its name.
            argv: Program and arguments; it must stay in the foreground.
            **variables: Its environment, beside PATH, HOME, LC_ALL and the cluster's mark.
        """
        environment = {"PATH": PATH, "HOME": "/root", "LC_ALL": "C", **variables}
        with self._log_path(name).open("ab") as log:
            self._children[name] = subprocess.Popen(
                argv,
                env=environment | processes.mark(self._cluster_dir, name),
                cwd=self._cluster_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def is_alive(self, name: str) -> bool:
        """Tell whether a daemon runs, be it stopped by a signal.

        Args:
            name: The daemon.

        Returns:
            Whether it does.
        """
        child = self._children.get(name)
        return child is not None and child.poll() is None

    def is_stopped(self, name: str) -> bool:
        """Tell whether a live daemon is held by SIGSTOP.

        Args:
            name: The daemon.

        Returns:
            Whether it is.

        Raises:
            KeyError: It does not run.
        """
        return processes.is_stopped(self._children[name].pid)

    def wait_until(
        self, is_so: Callable[[], bool], *, what: str, alive: str, timeout_s: float = 60.0
    ) -> None:
        """Wait until something is so, or a daemon that is needed for it has died.

        Args:
            is_so: Asked again and again.
            what: Words for it.
            alive: The daemon.
            timeout_s: How long to wait.

        Raises:
            RuntimeError: The daemon has died; its last output is in the message.
            TimeoutError: It is not so in time; the daemon's last output is in the message.
        """
        deadline = time.monotonic() + timeout_s
        while not is_so():
            if not self.is_alive(alive):
                raise RuntimeError(f"{alive} has died:\n{self.log_tail(alive)}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {what} in {timeout_s} s; {alive}:\n{self.log_tail(alive)}")
            time.sleep(0.03)

    def end(self, name: str, *, timeout_s: float) -> None:
        """End a daemon with SIGTERM and wait for it.

        Args:
            name: The daemon.
            timeout_s: How long to wait.

        Raises:
            KeyError: It does not run.
            TimeoutError: It does not end in time.
        """
        child = self._children[name]
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{name} does not end:\n{self.log_tail(name)}") from error
        del self._children[name]

    def crash(self, name: str) -> None:
        """Kill a daemon with all that belongs to it.

        Args:
            name: The daemon.

        Raises:
            KeyError: It does not run.
            TimeoutError: A process outlives SIGKILL.
        """
        child = self._children[name]
        processes.crash(self._cluster_dir, daemon=name)
        child.wait()
        del self._children[name]

    def crash_all(self) -> None:
        """Kill every process of the cluster, be it of this or of an earlier process.

        Raises:
            TimeoutError: One outlives SIGKILL.
        """
        processes.crash(self._cluster_dir)
        for child in self._children.values():
            child.wait()
        self._children.clear()

    def log_tail(self, name: str, *, num_lines: int = 40) -> str:
        """Return the last lines that a daemon has printed.

        Args:
            name: The daemon.
            num_lines: How many.

        Returns:
            The lines; none if it never ran.
        """
        path = self._log_path(name)
        text = path.read_text(errors="replace") if path.exists() else ""
        return "\n".join(text.splitlines()[-num_lines:])

    def _log_path(self, name: str) -> Path:
        return self._cluster_dir / "log" / f"{name}.out"
