"""No test here has a Prefect server, and none is to be started for its logs."""

from collections.abc import Iterator

import pytest
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings


@pytest.fixture(autouse=True, scope="module")  # reading all settings of Prefect takes its time
def _no_server() -> Iterator[None]:
    with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}):
        yield
