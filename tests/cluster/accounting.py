"""A private MariaDB for the accounts of a test cluster: no TCP port, nothing in /etc.

Its root has no password: the socket lies in a directory that is closed to all but root.
"""

import subprocess
from pathlib import Path

# A small, careless database: it is only ever a test's.
_KNOBS = (
    "--innodb-log-file-size=8M",
    "--innodb-buffer-pool-size=64M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
)

ASSOCIATIONS = """\
Cluster - 'watershed':QOS='normal'
Parent - 'root'
User - 'root':DefaultAccount='root':AdminLevel='Administrator'
Account - 'project':Description='project':Organization='watershed':QOS='normal'
Parent - 'project'
User - 'root':DefaultAccount='root':AdminLevel='Administrator'
"""
"""Who may use which account; ``sacctmgr load`` reads it six times faster than single commands."""


def make_database(cluster_dir: Path) -> None:
    """Make an empty database in <cluster_dir>/database.

    Args:
        cluster_dir: Directory of the cluster.

    Raises:
        RuntimeError: mariadb-install-db failed; its output is in the message.
    """
    done = subprocess.run(
        [
            "mariadb-install-db",
            "--no-defaults",
            "--user=root",
            f"--datadir={cluster_dir}/database",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            *_KNOBS,
        ],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise RuntimeError(f"mariadb-install-db failed:\n{done.stdout[-2000:]}{done.stderr}")


def mariadbd(cluster_dir: Path) -> list[str]:
    """Return the command of the database.

    Args:
        cluster_dir: Directory of the cluster.

    Returns:
        Program and arguments.
    """
    return [
        "mariadbd",
        "--no-defaults",
        "--user=root",
        f"--datadir={cluster_dir}/database",
        f"--socket={_socket(cluster_dir)}",
        f"--pid-file={cluster_dir}/run/mariadbd.pid",
        "--skip-networking",
        "--skip-log-bin",
        "--innodb-lock-wait-timeout=900",
        "--performance-schema=0",
        "--max-connections=50",
        *_KNOBS,
    ]


def mariadb_ping(cluster_dir: Path) -> list[str]:
    """Return the command that succeeds when the database answers.

    Args:
        cluster_dir: Directory of the cluster.

    Returns:
        Program and arguments.
    """
    socket = f"--socket={_socket(cluster_dir)}"
    return ["mariadb-admin", "--no-defaults", socket, "--user=root", "ping"]


def variables(cluster_dir: Path) -> dict[str, str]:
    """Return what slurmdbd needs in its environment.

    Args:
        cluster_dir: Directory of the cluster.

    Returns:
        Where its configuration is and, told to libmariadb by this variable alone, the socket.
    """
    return {
        "SLURM_CONF": str(cluster_dir / "etc/slurmdbd.conf"),
        "MYSQL_UNIX_PORT": str(_socket(cluster_dir)),
    }


def _socket(cluster_dir: Path) -> Path:
    return cluster_dir / "run/database.socket"
