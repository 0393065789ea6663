"""Experiments for the tests of arrival processes."""

from collections.abc import Callable

import pytest

from configs.federated import FederatedExperiment

MakeExperiment = Callable[..., FederatedExperiment]


@pytest.fixture(scope="session")
def make_experiment() -> MakeExperiment:
    """Make a validated experiment on the quadratic model, which needs no data."""

    def make(
        *, workers: int, collect: int, rounds: int = 100, **settings: object
    ) -> FederatedExperiment:
        return FederatedExperiment.model_validate(
            {
                "workers": workers,
                "rounds": rounds,
                "algorithm": {"name": "afa_cd", "collect": collect},
                "model": {"name": "quadratic", "centres": [0.0] * workers},
            }
            | settings
        )

    return make
