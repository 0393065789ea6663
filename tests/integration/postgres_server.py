"""A real PostgreSQL on the loopback interface, with a password and a user without rights."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from tasks.services.ports import any_port
from tests.availability import Verdict

PASSWORD = "se/cret@1"  # noqa: S105  characters that a URL has to quote
_DIRECTORIES = [*Path("/usr/lib/postgresql").glob("*/bin"), Path("/usr/bin")]
_USER = "postgres"


def judge(*, is_installed: bool, is_required: bool) -> Verdict:
    """Decide whether the tests run, are skipped or fail.

    Args:
        is_installed: Whether there is a PostgreSQL server to start, and a user to start it as.
        is_required: Whether a skip would be a failure.

    Returns:
        The decision.
    """
    if is_installed:
        return Verdict(runs=True)
    message = "no PostgreSQL here; on Debian or Ubuntu: sudo make database-packages (postgresql)"
    return Verdict(runs=False, is_failure=is_required, message=message)


def here() -> Verdict:
    """Decide for this machine; the variable REQUIRE_DATABASE=1 makes a skip a failure.

    Returns:
        The decision.
    """
    return judge(
        is_installed=_program("initdb") is not None and (os.getuid() != 0 or _has_user()),
        is_required=os.environ.get("REQUIRE_DATABASE") == "1",
    )


def _has_user() -> bool:
    return any(entry.pw_name == _USER for entry in pwd.getpwall())


def _program(name: str) -> str | None:
    places = os.pathsep.join(map(str, sorted(_DIRECTORIES, reverse=True)))
    return shutil.which(name, path=places) or shutil.which(name)


class PostgresServer:
    """One server. Its directory is not pytest's, into which its user may not look."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="watershed-pg-"))
        self.port = any_port()

    def start(self, databases: tuple[str, ...] = ()) -> None:
        """Make and start it, with a user ``lab`` who owns some databases.

        Args:
            databases: Their names.
        """
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            shutil.chown(self._directory, _USER)
        password_file = self._directory / "password"
        password_file.write_text(PASSWORD)
        password_file.chmod(0o644)
        login = ("-U", "lab", "-A", "scram-sha-256", "--pwfile", str(password_file))
        self._run("initdb", "-E", "UTF8", "-D", self._data, "--no-sync", *login)
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self._directory} -F"
        log = str(self._directory / "log")
        self._run("pg_ctl", "-D", self._data, "-o", options, "-l", log, "-w", "start")
        for name in databases:
            self.create(name)

    def create(self, name: str) -> None:
        """Make a database.

        Args:
            name: Its name.
        """
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "lab", name)

    def stop(self) -> None:
        """Stop it, whoever is connected, and remove its files."""
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "stop")
        shutil.rmtree(self._directory)

    @property
    def _data(self) -> str:
        return str(self._directory / "data")

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [str(_program(name)), *arguments],
            check=True,
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", "PGPASSWORD": PASSWORD},
            user=_USER if os.getuid() == 0 else None,
            timeout=120,
        )
