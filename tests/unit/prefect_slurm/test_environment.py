"""What reaches a flow run's process, and what stands in no file."""

from pathlib import Path

import pytest

from configs.launchers import Apptainer, Pyxis, SlurmResources
from tasks.prefect_slurm.environment import (
    UnsafeFile,
    child_environment,
    hidden_home,
    places,
    read_secrets,
    unreachable_secrets,
    with_secrets_file,
    written_down,
)
from tasks.prefect_slurm.records import FlowRunJob
from tasks.slurm.surroundings import of_command

KEY = "pnu_0123456789abcdef"
SETTINGS = {
    "PREFECT_API_URL": "http://login1:4200/api",
    "PREFECT_API_KEY": KEY,
    "PREFECT_API_AUTH_STRING": f"admin:{KEY}",
    "PREFECT_CLIENT_CUSTOM_HEADERS": f'{{"Proxy-Authorization": "{KEY}"}}',
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite:////home/ada/prefect.db",
    "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql://ada:{KEY}@db/prefect",
    "PREFECT_LOGGING_LEVEL": "DEBUG",
}


def _job(**changes: object) -> FlowRunJob:
    values = {"flow_run_id": "1", "flow_run_name": "n", "work_pool": "p", "server": "s"}
    return FlowRunJob.model_validate(values | changes)


def test_secrets_are_not_written_down() -> None:
    """Nor what concerns a server alone; the rest of Prefect's settings is."""
    assert written_down(SETTINGS) == {
        "PREFECT_API_URL": "http://login1:4200/api",
        "PREFECT_LOGGING_LEVEL": "DEBUG",
    }


def test_a_password_in_an_address_is_a_secret() -> None:
    """It is kept out, though its variable has a harmless name."""
    assert written_down({"PREFECT_API_URL": f"https://ada:{KEY}@host/api"}) == {}


def test_flows_keep_what_they_make_where_the_worker_would() -> None:
    """Whoever calls sbatch may have other places; an address with a password is not passed on."""
    own = {"WATERSHED_RUNS_DIR": "/runs", "HOME": "/home/ada"}

    assert places(own) == {"WATERSHED_RUNS_DIR": "/runs"}
    assert places(own | {"MLFLOW_TRACKING_URI": f"https://ada:{KEY}@host"}) == places(own)


@pytest.mark.parametrize(
    ("container", "why"),
    [
        (None, ""),
        (Apptainer(image="i.sif", flags=("--nv",)), ""),
        (Apptainer(image="i.sif", flags=("--no-home",)), "Apptainer mounts no home with --no-home"),
        (Pyxis(image="i.sqsh"), "Pyxis mounts no home without the flag --container-mount-home"),
        (Pyxis(image="i.sqsh", flags=("--container-mount-home",)), ""),
    ],
)
def test_a_container_without_the_home_does_not_see_the_profile(
    container: Apptainer | Pyxis | None, why: str
) -> None:
    """What stands there does not reach the job then."""
    profile = {"PREFECT_API_KEY": KEY}
    elsewhere = {} if why else profile

    assert hidden_home(container) == why
    missing = unreachable_secrets(profile, {}, elsewhere, is_home_hidden=bool(why))
    assert missing == (["PREFECT_API_KEY"] if why else [])


def test_a_file_of_secrets_is_seen_in_the_container() -> None:
    """It lies where nothing else is bound."""
    apptainer = SlurmResources(container=Apptainer(image="i.sif", binds=("/sw",)))
    pyxis = SlurmResources(container=Pyxis(image="i.sqsh"))
    path = Path("/home/ada/secrets")
    bind = "/home/ada/secrets:/home/ada/secrets:ro"

    bound, mounted = (with_secrets_file(one, path).container for one in (apptainer, pyxis))

    assert isinstance(bound, Apptainer)
    assert isinstance(mounted, Pyxis)
    assert (bound.binds, mounted.mounts) == (("/sw", bind), (bind,))
    assert with_secrets_file(apptainer, None) == apptainer
    assert with_secrets_file(SlurmResources(), path) == SlurmResources()


def test_secrets_that_a_job_would_not_have_are_named() -> None:
    """Those of the worker's environment that neither profile nor file has; no server's."""
    missing = unreachable_secrets(SETTINGS, SETTINGS, {"PREFECT_API_AUTH_STRING": "x"})

    assert missing == ["PREFECT_API_KEY", "PREFECT_CLIENT_CUSTOM_HEADERS"]
    assert unreachable_secrets(SETTINGS, {}, {}) == []


def test_the_process_has_what_the_job_says_and_no_others_prefect(tmp_path: Path) -> None:
    """The environment that sbatch handed on may be of another process of the user."""
    secrets = tmp_path / "secrets"
    secrets.write_text(f"# mine\n\nexport PREFECT_API_KEY='{KEY}'\n")
    secrets.chmod(0o600)
    own = {
        "PATH": "/bin",
        "PREFECT_API_URL": "http://another/api",
        "PREFECT_API_KEY": "another's",
        "PYTHONSAFEPATH": "1",
        "SLURM_CPUS_PER_TASK": "4",
        "WATERSHED_SUBMISSION": "3",
        "WATERSHED_ATTEMPT": "2",
        "WATERSHED_RUN": "/run",
    }

    found = child_environment(
        own, _job(environment={"PREFECT_API_URL": "http://mine/api"}, secrets_file=secrets)
    )

    assert found == {
        "PATH": "/bin",
        "SLURM_CPUS_PER_TASK": "4",
        "PREFECT_API_URL": "http://mine/api",
        "PREFECT_API_KEY": KEY,
        "PREFECT__FLOW_RUN_ID": "1",
        "PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR": "relinquish",
    }


def test_what_the_outer_job_has_does_not_reach_a_job_that_its_flow_submits() -> None:
    """Neither its limits and its nodes, nor its GPUs, nor its attempt; the cluster stays."""
    outer = {
        "PATH": "/bin",
        "SLURM_CONF": "/etc/slurm.conf",
        "SLURM_JOB_ID": "12",
        "SLURM_TIMELIMIT": "5",
        "SLURM_EXPORT_ENV": "NONE",
        "SBATCH_PARTITION": "gpu",
        "SLURMD_NODENAME": "node01",
        "CUDA_VISIBLE_DEVICES": "3",
        "WATERSHED_SUBMISSION": "2",
        "WATERSHED_ATTEMPT": "1",
        "PYTHONSAFEPATH": "1",
    }

    inner = of_command("sbatch", child_environment(outer, _job()))

    assert set(inner) == {"PATH", "SLURM_CONF"}


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """The message says what to run."""
    path = tmp_path / "secrets"
    path.write_text("A=b\n")
    path.chmod(0o640)

    with pytest.raises(UnsafeFile, match=r"readable by others \(mode 640\).*run: chmod 600"):
        read_secrets(path)


def test_a_faulty_line_is_named_and_not_repeated(tmp_path: Path) -> None:
    """It may be the secret itself."""
    path = tmp_path / "secrets"
    path.write_text(f"A=b\n{KEY}\n")
    path.chmod(0o600)

    with pytest.raises(UnsafeFile, match="line 2, is not NAME=VALUE") as refusal:
        read_secrets(path)
    assert KEY not in str(refusal.value)


def test_an_absent_file_is_told(tmp_path: Path) -> None:
    """With what it needs: nodes must see it."""
    with pytest.raises(UnsafeFile, match=r"cannot be read.*that the nodes share"):
        read_secrets(tmp_path / "absent")
