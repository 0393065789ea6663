"""What a user's Prefect profile says of the server, read as Prefect does, without loading Prefect.

``prefect profile use`` and ``prefect config set`` write ``profiles.toml``. A variable of the
environment goes before the profile, each for itself, as in Prefect.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path

API_URL = "PREFECT_API_URL"
_OF_A_CLIENT = (API_URL, "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING")
"""What it takes to ask a server: its address, and a key or a password."""


def profile_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of the profile that is active.

    Args:
        environment: Environment variables.

    Returns:
        Variable -> value; none if there is no such file or profile, or it cannot be read.
    """
    home = Path(environment.get("PREFECT_HOME") or Path(environment.get("HOME", "/"), ".prefect"))
    path = Path(environment.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    try:
        written = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    active = environment.get("PREFECT_PROFILE") or written.get("active")
    profiles = written.get("profiles")
    profile = profiles.get(active) if isinstance(profiles, dict) else None
    if not isinstance(profile, dict):
        return {}
    return {name: str(value) for name, value in profile.items() if isinstance(value, str) and value}


def with_profile(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with the server of the profile where it has none of its own.

    Args:
        environment: Environment variables.

    Returns:
        The variables, and those of PREFECT_API_URL, PREFECT_API_KEY and PREFECT_API_AUTH_STRING
        that only the profile has.
    """
    of_profile = profile_settings(environment)
    found = {name: of_profile[name] for name in _OF_A_CLIENT if name in of_profile}
    return found | {name: text for name, text in environment.items() if text or name not in found}
