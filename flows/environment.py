"""The environment of the process that runs a flow: Prefect with nothing to start beforehand.

Whose Prefect it is: the user's own by their variables or profile; else that of ``watershed up``
with the same runs directory, if it is up; else a temporary one. MLflow alike, by
MLFLOW_TRACKING_URI.
"""

from collections.abc import Mapping
from pathlib import Path

from tasks.services.database import VARIABLE
from tasks.services.login import find_login
from tasks.services.profile import API_URL, with_profile
from tasks.services.state import Services, find_services
from tasks.services.web import unproxied

_CHOICES = ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH")
"""Variables by which a user has chosen a Prefect of their own."""

_MLFLOW = "MLFLOW_TRACKING_URI"
_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_LOGGING_COLORS": "false",  # it is written to a file
}
_STARTUP_S = "120"  # a fresh database took 33 s, which exceeds Prefect's own limit of 20 s


def has_own_prefect(environment: Mapping[str, str]) -> bool:
    """Say whether the user has chosen a Prefect of their own: a server, a home or a profile.

    Args:
        environment: Environment variables.
    """
    profiles = Path(environment.get("HOME", "/nonexistent"), ".prefect", "profiles.toml")
    return any(environment.get(name) for name in _CHOICES) or profiles.exists()


def chosen_api(environment: Mapping[str, str]) -> str | None:
    """Return the address of the Prefect server that is chosen; None if there is none.

    Args:
        environment: Environment variables: the user's, for what the user has chosen; those from
            ``flow_environment``, for what a flow will use.
    """
    return with_profile(environment).get(API_URL) or None


def servers_up(runs_dir: Path) -> Services | None:
    """Return the servers of ``watershed up`` that a flow with these runs can use.

    Args:
        runs_dir: Directory of all runs.
    """
    services = find_services(runs_dir)
    if services is None or services.phase != "up" or not services.is_reachable:
        return None
    return services


def flow_environment(runs_dir: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for the process that runs a flow.

    Where the user has no Prefect of their own, its database is kept beside the runs, and, unless
    ``watershed up`` is up there, Prefect starts a server for the time of the flow.

    Args:
        runs_dir: Directory of all runs.
        environment: Environment variables of this process. What they set, stays; but for the
            servers' database, which jobs would inherit, and for the login of the servers of ``up``
            where these are used.

    Returns:
        The whole environment.
    """
    defaults = dict(_DEFAULTS)
    services = servers_up(runs_dir)
    if services is not None and not services.is_external:
        defaults[_MLFLOW] = services.mlflow
    if services is not None and not services.is_external and _may_use(environment):
        defaults["PREFECT_HOME"] = str(runs_dir.resolve() / "prefect")
        defaults["PREFECT_API_URL"] = services.prefect_api
    elif not has_own_prefect(environment):
        defaults["PREFECT_HOME"] = str(runs_dir.resolve() / "prefect")
        defaults["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = _STARTUP_S
    own = {name: text for name, text in environment.items() if name != VARIABLE}
    whole = defaults | own | unproxied(environment)  # a temporary server is on this machine, too
    return whole | _login(runs_dir, services, whole)


def _login(
    runs_dir: Path, services: Services | None, environment: Mapping[str, str]
) -> dict[str, str]:
    """The login of the servers of ``up``, for those of them that are used, and for no others."""
    login = find_login(runs_dir) if services is not None and services.has_login else None
    if services is None or login is None:
        return {}
    found: dict[str, str] = {}
    if chosen_api(environment) == services.prefect_api:
        found |= login.of_prefect()
    if environment.get(_MLFLOW) == services.mlflow:
        found |= login.of_mlflow()
    return found


def _may_use(environment: Mapping[str, str]) -> bool:
    """Whether nothing of the user's own speaks against the Prefect server of ``up``.

    A profile that names no server does not: whoever has once typed ``prefect`` has one.
    """
    return not any(environment.get(name) for name in _CHOICES) and chosen_api(environment) is None


def told_servers(runs_dir: Path, environment: Mapping[str, str]) -> str:
    """Say in one line whose servers a flow will use; empty for temporary ones.

    Args:
        runs_dir: Directory of all runs.
        environment: Environment variables of this process.
    """
    services = servers_up(runs_dir)
    if services is None or services.is_external:
        return ""
    used = []
    if _may_use(environment):
        used.append(f"Prefect {services.prefect_ui}")
    if not environment.get(_MLFLOW):
        used.append(f"MLflow {services.mlflow}")
    return f"Uses the servers of `watershed up`: {', '.join(used)}" if used else ""
