"""A server with a password, and jobs of flow runs, in containers too, that have it by no file.

There is no Apptainer here. A small program of its name stands for it: it takes its options, hides
the home where it is told to, and runs the command.
"""

import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient

from tests.cluster.prefect_server import PrefectServer
from tests.cluster.slurm_cluster import SlurmCluster
from tests.cluster.study_process import user_environment
from tests.cluster.worker_process import SlurmPool, marks, pid_of

pytestmark = pytest.mark.slow

WAITING = "tests.cluster.waiting_flow.waiting"
LOGIN = "lab:0123456789abcdef"
_LIMIT_S = 240.0
_APPTAINER = """#!/bin/bash
echo "$*" >> {log}
[ "$1" = exec ] || exit 64
shift
while [[ "$1" == -* ]]; do
    if [ "$1" = --no-home ]; then HOME=$(mktemp -d); fi
    shift
done
shift
exec "$@"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a user whose Prefect profile has the password, and who has that Apptainer."""
    path = tmp_path_factory.mktemp("secrets")
    program = path / "bin" / "apptainer"
    program.parent.mkdir()
    program.write_text(_APPTAINER.format(log=path / "apptainer.log"))
    program.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def pool(cluster: SlurmCluster, home: Path, used_home: Path) -> Iterator[SlurmPool]:
    """A pool whose worker knows address and password from the profile alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_API_AUTH_STRING", LOGIN)
        server = PrefectServer(home, used_home)
        server.start()
    profiles = home / ".prefect" / "profiles.toml"
    profiles.parent.mkdir()
    profiles.write_text(
        f'active = "site"\n[profiles.site]\nPREFECT_API_URL = "{server.api}"\n'
        f'PREFECT_API_AUTH_STRING = "{LOGIN}"\n'
    )
    profiles.chmod(0o600)
    environment = user_environment(cluster, home)
    environment |= {"DO_NOT_TRACK": "1", "PATH": f"{home / 'bin'}:{environment['PATH']}"}
    with SyncPrefectClient(server.api, auth_string=LOGIN) as client:
        one = SlurmPool(client, "closed", environment, home, {"time_limit": "10"})
        with one.worker():
            yield one
    server.stop()


def _files_with_the_password(directory: Path) -> list[Path]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [path for path in files if LOGIN.encode() in path.read_bytes()]


def _container(home: Path, *flags: str) -> dict[str, object]:
    image = str(home / "i.sif")
    return {"kind": "apptainer", "image": image, "python": sys.executable, "flags": list(flags)}


@pytest.mark.parametrize("is_contained", [False, True])
def test_a_job_has_the_password_from_the_profile(
    pool: SlurmPool, home: Path, tmp_path: Path, *, is_contained: bool
) -> None:
    """On its node, in a container that sees the home as well; no file of the job has it."""
    variables = {"container": _container(home, "--nv")} if is_contained else {}

    flow_run = pool.run(WAITING, {"seconds": 0, "marks": str(tmp_path / "marks")}, **variables)
    pool.until(flow_run, "Completed", limit_s=_LIMIT_S)

    run_dir = pid_of(pool.again(flow_run))
    assert len(marks(tmp_path / "marks")) == 1
    assert _files_with_the_password(run_dir) == []
    log = home / "apptainer.log"
    assert log.exists() is is_contained
    if is_contained:
        assert f"--bind={run_dir} --nv {home / 'i.sif'} " in log.read_text()


def test_a_container_without_the_home_needs_a_file(
    pool: SlurmPool, home: Path, tmp_path: Path
) -> None:
    """Without one the flow run is refused, and told why; with one the job has the password."""
    parameters = {"seconds": 0, "marks": str(tmp_path / "marks")}
    secrets = home / "secrets"
    secrets.write_text(f"PREFECT_API_AUTH_STRING={LOGIN}\n")
    secrets.chmod(stat.S_IRUSR | stat.S_IWUSR)
    container = _container(home, "--no-home")

    refused = pool.run(WAITING, parameters, container=container)
    crashed = pool.until(refused, "Crashed", limit_s=_LIMIT_S)
    flow_run = pool.run(WAITING, parameters, container=container, secrets_file=str(secrets))
    pool.until(flow_run, "Completed", limit_s=_LIMIT_S)

    told = pool.told(refused)
    assert "PREFECT_API_AUTH_STRING of the worker would not reach the job" in told, crashed
    assert "Apptainer mounts no home with --no-home" in told
    assert len(marks(tmp_path / "marks")) == 1
    assert f"--bind={secrets}:{secrets}:ro" in (home / "apptainer.log").read_text()
    assert _files_with_the_password(pid_of(pool.again(flow_run))) == []
