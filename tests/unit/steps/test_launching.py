"""From a study to jobs."""

from pathlib import Path

import pytest

from tasks.steps.launching import CLIENT, SERVER, SIMULATION


@pytest.mark.parametrize("engine", [SIMULATION, SERVER, CLIENT])
def test_the_engines_are_named_as_they_are(engine: str) -> None:
    """The module that a job names is there; it is not imported, as it loads torch."""
    path = Path(__file__).parents[3].joinpath(*engine.split(".")).with_suffix(".py")

    assert path.is_file()
