"""A real Slurm cluster of pretend nodes on this machine, for tests.

munged, slurmctld, one slurmd for each node and, for accounting, MariaDB and slurmdbd are the
distribution's own; only the hardware is made up. Everything lies below one directory; nothing in
/etc is read or written. Needs root, but no systemd. It is up within a second, with accounting
within 4 to 10.

What differs from a real cluster: the nodes share one file system, one hostname and one process
table; memory and CPUs are not confined; a dead node's connections are closed, so that its peers
notice at once.
"""

import fcntl
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cluster import accounting, processes, slurm_configuration
from tests.cluster.daemons import PATH, Daemons
from tests.cluster.slurm_configuration import ClusterOptions, Ports

_USABLE = {"idle", "mixed", "allocated", "completing"}
_TRIES = 3
_LONGEST_DIRECTORY = 60  # a socket's path holds 107 characters


class SlurmCluster:
    """One cluster; a context manager that starts and stops it.

    Attributes:
        options: What the cluster looks like.
        directory: Where everything lies; removed at the stop.
    """

    def __init__(self, directory: Path, options: ClusterOptions | None = None) -> None:
        """Describe a cluster; nothing is started.

        Args:
            directory: Where everything is to lie: absolute, at most 60 characters, reachable for
                the users that submit jobs. It is removed first, if it is there.
            options: What the cluster looks like; by default 4 nodes without accounting.

        Raises:
            ValueError: The directory is relative, too long or holds white space.
        """
        text = str(directory)
        if not directory.is_absolute() or len(text) > _LONGEST_DIRECTORY or text.split() != [text]:
            raise ValueError(
                f"directory {text!r} must be absolute, without white space and at most"
                f" {_LONGEST_DIRECTORY} characters long; choose one below /tmp"
            )
        self.directory = directory
        self.options = options or ClusterOptions()
        self._daemons = Daemons(directory)
        self._lock: int | None = None

    def __enter__(self) -> Self:
        """Start the cluster."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the cluster."""
        self.stop()

    def claim(self) -> None:
        """Lock the directory for the life of this process, and clear it of what was left there.

        The lock's file lies beside the directory and is never removed, since a lock on a removed
        file would keep nobody out.

        Raises:
            BlockingIOError: Another process has a cluster in this directory.
            TimeoutError: A process that was left there outlives SIGKILL.
        """
        lock = os.open(f"{self.directory}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise
        self._lock = lock
        self._clear()

    def start(self) -> None:
        """Start all daemons and wait until every node is usable.

        Raises:
            BlockingIOError: Another process has a cluster in this directory.
            RuntimeError: A daemon died; its last output is in the message.
            TimeoutError: A daemon was not ready in time.
        """
        if self._lock is None:
            self.claim()
        try:
            self._write_files()
            self._start_munged()
            if self.options.accounting:
                self._start_accounting()
            self.start_controller()
            for node in self.options.node_names:
                self._start_node(node)
            for node in self.options.node_names:
                self._wait_for_node(node)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill all that belongs to the cluster, jobs included, and remove its directory.

        Raises:
            TimeoutError: A process outlives SIGKILL.
        """
        if self._lock is not None:
            self._clear()
            os.close(self._lock)
            self._lock = None

    def restore(self) -> None:
        """Bring the cluster back to its first state: no job, all daemons up, every node usable.

        Raises:
            RuntimeError: A daemon died at its start, or a command failed.
            TimeoutError: Jobs do not end, or a node does not come back.
        """
        if not self._daemons.is_alive("slurmctld"):
            self.start_controller()
        if self._jobs():
            self._cancel_all()
        states = self._node_states()
        for node in self.options.node_names:
            if states[node] not in _USABLE or not self._is_awake(node):
                self.revive_node(node)
        self._daemons.wait_until(self._have_jobs_ended, what="end of jobs", alive="slurmctld")

    def _have_jobs_ended(self) -> bool:
        # A controller that was killed takes up jobs again whose end it has not saved: it finds them
        # gone a while later, and queues them once more.
        if self._jobs("--states=PD"):
            self._cancel_all()
        return not self._jobs()

    def _cancel_all(self) -> None:
        self.run(["scancel", "--user=root"])

    # The controller

    def start_controller(self) -> None:
        """Start slurmctld on the state that it has kept, and wait until its nodes have registered.

        Raises:
            RuntimeError: It died; its last output is in the message.
            TimeoutError: It was not ready in time.
        """
        self._spawn("slurmctld", ["slurmctld", "-D", "-f", str(self._conf)])
        self._wait_for_answer("slurmctld", ["scontrol", "ping"])
        # A node gets no work before; it takes 3 s.
        self._daemons.wait_until(
            lambda: (
                not any(
                    state.startswith("unk") and self._is_awake(node)
                    for node, state in self._node_states().items()
                )
            ),
            what="registration of the nodes",
            alive="slurmctld",
        )

    def stop_controller(self, *, crash: bool = False) -> None:
        """Stop slurmctld.

        Args:
            crash: Kill it: it then forgets what happened in its last 5 s, and may give the ids of
                forgotten jobs to others.

        Raises:
            KeyError: It does not run.
            TimeoutError: It did not stop within 20 s.
        """
        if crash:
            self._daemons.crash("slurmctld")
        else:
            self._daemons.end("slurmctld", timeout_s=20)

    def restart_controller(self, *, crash: bool = False, down_s: float = 0.0) -> None:
        """Stop slurmctld and start it again.

        Args:
            crash: Kill it rather than let it save its state.
            down_s: How long it is away, in seconds.

        Raises:
            KeyError: It does not run.
            RuntimeError: It died at the start.
            TimeoutError: It did not stop, or was not ready in time.
        """
        self.stop_controller(crash=crash)
        time.sleep(down_s)
        self.start_controller()

    # Nodes

    def kill_node(self, node: str, *, now: bool = False) -> None:
        """Crash a node: its slurmd and all processes of its jobs die at once.

        Args:
            node: Its name.
            now: Set it DOWN as well, rather than wait until the controller has noticed (about
                node_timeout_s and twice message_timeout_s).

        Raises:
            KeyError: There is no such node, or it is dead already.
            RuntimeError: The controller does not answer.
            TimeoutError: A process of it outlives SIGKILL.
        """
        self._daemons.crash(f"slurmd-{node}")
        if now:
            self._set_down(node)

    def cut_node(self, node: str, *, now: bool = False) -> None:
        """Cut a node off from the controller while its tasks go on.

        slurmd and its step daemons are held by SIGSTOP, the tasks are not: as after a cut of the
        network, the controller gives the node up and requeues its jobs while the old tasks still
        run, and still write to the shared files. Unlike then, connections to the node are accepted
        (and never answered), and tasks that print through srun block when the pipe is full.

        Args:
            node: Its name.
            now: Set it DOWN as well, rather than wait until the controller has noticed.

        Raises:
            KeyError: There is no such node, or it is dead.
            RuntimeError: The controller does not answer.
        """
        pids = processes.slurm_daemons_of(self.directory, node)
        if not pids:
            raise KeyError(f"no live node {node}; there are {', '.join(self.options.node_names)}")
        processes.send(pids, signal.SIGSTOP)
        if now:
            self._set_down(node)

    def revive_node(self, node: str) -> None:
        """Bring a killed or cut node back and wait until it is usable.

        A node that was cut then kills what it still runs of jobs that were requeued meanwhile.

        Args:
            node: Its name.

        Raises:
            RuntimeError: Its slurmd died, or the controller does not answer.
            TimeoutError: It is not usable within a minute.
        """
        if self._daemons.is_alive(f"slurmd-{node}"):
            processes.send(processes.slurm_daemons_of(self.directory, node), signal.SIGCONT)
        else:
            self._start_node(node)
        self._wait_for_node(node)

    def node_state(self, node: str) -> str:
        """Return the state of a node as sinfo prints it: idle, mixed, down*, ...

        Args:
            node: Its name.

        Returns:
            The state.

        Raises:
            KeyError: There is no such node.
            RuntimeError: The controller does not answer.
        """
        return self._node_states()[node]

    # Commands

    def environment(self) -> dict[str, str]:
        """Return the environment in which Slurm's commands talk to this cluster.

        Returns:
            That of this process, without what a surrounding Slurm job has left in it.
        """
        slurm = ("SLURM", "SALLOC_", "SBATCH_", "SCANCEL_", "SINFO_", "SQUEUE_", "SRUN_", "SACCT_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(slurm)}
        return {**kept, "SLURM_CONF": str(self._conf)}

    def run(
        self,
        argv: list[str],
        *,
        check: bool = True,
        timeout_s: float = 60.0,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command against this cluster.

        Args:
            argv: Program and arguments.
            check: Whether an exit code other than 0 is an error.
            timeout_s: How long it may take, in seconds.
            cwd: Its working directory, by default this process's.

        Returns:
            Exit code, stdout and stderr.

        Raises:
            RuntimeError: The exit code is not 0; what the command printed is in the message.
            subprocess.TimeoutExpired: It took too long.
        """
        for _ in range(_TRIES):
            done = subprocess.run(
                argv,
                env=self.environment(),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
            # A squeue whose controller goes away under it dies of it now and then.
            if argv[0] != "squeue" or done.returncode != -signal.SIGPIPE:
                break
        if check and done.returncode != 0:
            raise RuntimeError(f"{argv} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def log_tail(self, daemon: str = "slurmctld") -> str:
        """Return the last lines that a daemon has printed.

        Args:
            daemon: munged, mariadbd, slurmdbd, slurmctld or slurmd-<node>.

        Returns:
            The lines.
        """
        return self._daemons.log_tail(daemon)

    # Inner parts

    @property
    def _conf(self) -> Path:
        return self.directory / "etc/slurm.conf"

    def _clear(self) -> None:
        self._daemons.crash_all()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _write_files(self) -> None:
        here, options = self.directory, self.options
        for name in (
            "etc",
            "munge",
            "dev",
            "log",
            *(f"spool/{node}" for node in options.node_names),
        ):
            (here / name).mkdir(parents=True)
        for name in ("controller", "run"):
            (here / name).mkdir(mode=0o700)
        for index in range(options.gpus_per_node):
            (here / f"dev/gpu{index}").symlink_to("/dev/null")  # slurmd wants some device
        _write_private(here / "munge/key", secrets.token_bytes(128))
        ports = Ports(_free_ports(2 + options.nodes))
        host = os.uname().nodename.partition(".")[0]
        version = self.run([shutil.which("slurmd", path=PATH) or "slurmd", "-V"]).stdout
        conf = slurm_configuration.slurm_conf(options, ports, here, host=host)
        self._conf.write_text(conf)
        (here / "etc/gres.conf").write_text(slurm_configuration.gres_conf(options, here))
        (here / "etc/cgroup.conf").write_text(slurm_configuration.cgroup_conf(version))
        if options.accounting:
            text = slurm_configuration.slurmdbd_conf(ports, here)
            _write_private(here / "etc/slurmdbd.conf", text.encode())

    def _spawn(self, daemon: str, argv: list[str]) -> None:
        self._daemons.spawn(daemon, argv, SLURM_CONF=str(self._conf))

    def _start_node(self, node: str) -> None:
        self._spawn(f"slurmd-{node}", ["slurmd", "-D", "-N", node, "-f", str(self._conf)])

    def _start_munged(self) -> None:
        munge = self.directory / "munge"
        paths = [f"--{name}={munge}/{name}" for name in ("socket", "pid-file", "log-file")]
        keys = [f"--key-file={munge}/key", f"--seed-file={munge}/seed", "--num-threads=4"]
        self._spawn("munged", ["munged", "--foreground", "--force", *paths, *keys])
        self._wait_for_answer("munged", ["munge", "-n", "-S", f"{munge}/socket"])

    def _start_accounting(self) -> None:
        accounting.make_database(self.directory)
        self._spawn("mariadbd", accounting.mariadbd(self.directory))
        self._wait_for_answer("mariadbd", accounting.mariadb_ping(self.directory))
        self._daemons.spawn("slurmdbd", ["slurmdbd", "-D"], **accounting.variables(self.directory))
        self._wait_for_answer("slurmdbd", ["sacctmgr", "-nP", "list", "cluster"])
        # Before slurmctld starts: one that is just starting may lose what slurmdbd tells it.
        associations = self.directory / "etc/associations"
        associations.write_text(accounting.ASSOCIATIONS)
        self.run(["sacctmgr", "-i", "load", f"file={associations}"])

    def _wait_for_answer(self, daemon: str, probe: list[str]) -> None:
        self._daemons.wait_until(
            lambda: self.run(probe, check=False).returncode == 0, what="answer", alive=daemon
        )

    def _wait_for_node(self, node: str) -> None:
        def is_usable() -> bool:
            state = self.node_state(node)
            if state.startswith(("down", "drain")):
                update = ["scontrol", "update", f"nodename={node}", "state=resume"]
                self.run(update, check=False)  # refused while it is not yet known to be back
            return state in _USABLE

        self._daemons.wait_until(is_usable, what=f"usable {node}", alive=f"slurmd-{node}")

    def _set_down(self, node: str) -> None:
        self.run(["scontrol", "update", f"nodename={node}", "state=down", "reason=test"])

    def _is_awake(self, node: str) -> bool:
        daemon = f"slurmd-{node}"
        return self._daemons.is_alive(daemon) and not self._daemons.is_stopped(daemon)

    def _node_states(self) -> dict[str, str]:
        argv = ["sinfo", "--noheader", "--Node", "--partition=batch", "--format=%N %T"]
        lines = self.run(argv).stdout.splitlines()
        return dict(line.split() for line in lines)

    def _jobs(self, *options: str) -> list[str]:
        return self.run(["squeue", "--noheader", "--format=%A", *options]).stdout.split()


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def _free_ports(num_ports: int) -> int:
    """Return the first of so many free ports in a row, below those that clients are given.

    Raises:
        RuntimeError: There are none.
    """
    for _ in range(100):
        first = random.randrange(10_000, 32_000 - num_ports)
        if all(_is_free(port) for port in range(first, first + num_ports)):
            return first
    raise RuntimeError(f"no {num_ports} free ports in a row from 10000 to 32000; stop something")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
