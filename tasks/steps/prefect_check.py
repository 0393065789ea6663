"""Whether the Prefect server that a user has named can be used, before anything is begun."""

import os

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings

from tasks.tracking.refusals import redacted

_TIMEOUT_S = 15.0
_REFUSED = {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}


def prefect_fault() -> str:
    """Ask the Prefect server that is set, as with ``PREFECT_API_URL``.

    Returns:
        What is wrong with it and what to set, in one line; empty if it can be used, or none is set
        and Prefect starts one of its own.
    """
    api = get_current_settings().api.url
    if not api:
        return ""
    try:
        httpx.get(f"{api.rstrip('/')}/health", timeout=_TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why, shown = redacted(str(error)) or type(error).__name__, redacted(api)
        return (
            f"No Prefect server answers at {shown} ({why}). Start it (watershed up, or prefect "
            f"server start), correct {_place()}, or unset it: then a temporary server is used"
        )
    try:
        with get_client(sync_client=True) as client:
            client.read_flows(limit=1)
    except httpx.HTTPError as error:
        return _refusal(redacted(api), error)
    return ""


def _place() -> str:
    """Say where the address is from."""
    is_variable = bool(os.environ.get("PREFECT_API_URL"))
    return "PREFECT_API_URL" + " in your Prefect profile (prefect profile ls)" * (not is_variable)


def _refusal(api: str, error: httpx.HTTPError) -> str:
    response = error.response if isinstance(error, httpx.HTTPStatusError) else None
    if response is not None and response.status_code in _REFUSED:
        return (
            f"The Prefect server at {api} refuses the credentials (HTTP {response.status_code}). "
            "Set PREFECT_API_AUTH_STRING (user:password, as its administrator has set it), or for "
            "Prefect Cloud PREFECT_API_KEY, in the environment or in your Prefect profile"
        )
    why = redacted(str(error)).splitlines()[0] if str(error) else type(error).__name__
    return f"The Prefect server at {api} does not serve us: {why}. Is PREFECT_API_URL its API?"
