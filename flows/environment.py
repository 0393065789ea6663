"""The environment of the process that runs a flow: Prefect with nothing to start beforehand."""

from collections.abc import Mapping
from pathlib import Path

_CHOICES = ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH")
"""Variables by which a user has chosen a Prefect of their own."""

_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_LOGGING_COLORS": "false",  # it is written to a file
}
_STARTUP_S = "120"  # a fresh database took 33 s, which exceeds Prefect's own limit of 20 s
_LOCAL_HOSTS = "127.0.0.1,localhost"


def has_own_prefect(environment: Mapping[str, str]) -> bool:
    """Say whether the user has chosen a Prefect of their own: a server, a home or a profile.

    Args:
        environment: Environment variables.
    """
    profiles = Path(environment.get("HOME", "/nonexistent"), ".prefect", "profiles.toml")
    return any(environment.get(name) for name in _CHOICES) or profiles.exists()


def flow_environment(runs_dir: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for the process that runs a flow.

    Where the user has no Prefect of their own, its database is kept beside the runs, and Prefect
    starts a server for the time of the flow.

    Args:
        runs_dir: Directory of all runs.
        environment: Environment variables of this process. What they set, stays.

    Returns:
        The whole environment.
    """
    defaults = dict(_DEFAULTS)
    if not has_own_prefect(environment):
        defaults["PREFECT_HOME"] = str(runs_dir.resolve() / "prefect")
        defaults["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = _STARTUP_S
    unproxied = {  # the temporary server is on this machine, where a proxy does not find it
        name: ",".join(filter(None, [environment.get(name), _LOCAL_HOSTS]))
        for name in ("NO_PROXY", "no_proxy")
    }
    return defaults | dict(environment) | unproxied
