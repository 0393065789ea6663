"""What is checked before a training begins."""

import pytest

from configs.federated import FederatedExperiment
from tasks.federated.problem import memory_doubts
from tasks.runtime.errors import JobError


def _experiment(**settings: object) -> FederatedExperiment:
    return FederatedExperiment.model_validate({"data": "digits", "rounds": 1000, **settings})


def test_models_in_flight_are_counted_with_what_is_kept() -> None:
    """100 workers in flight hold between 100 / 10 and 100 versions of 4,000 bytes."""
    experiment = _experiment(arrivals="event_driven")

    assert memory_doubts(experiment, 1000, 400_000) == ()
    (doubt,) = memory_doubts(experiment, 1000, 399_999)
    assert "models in flight may take up to" in doubt
    assert "use a larger algorithm.collect" in doubt
    assert len(memory_doubts(experiment, 1000, 40_000)) == 1
    with pytest.raises(JobError, match=r"models in flight take .* or more"):
        memory_doubts(experiment, 1000, 39_999)


def test_models_of_a_largest_delay_are_certain_to_be_kept() -> None:
    """With 8 versions and a memory of 100 workers nothing is left to chance."""
    experiment = _experiment(
        arrivals={"kind": "uniform", "max_delay": 7}, algorithm={"name": "afa_cs"}
    )

    assert memory_doubts(experiment, 1000, 432_000) == ()
    with pytest.raises(JobError, match=r"models in flight take .* or more"):
        memory_doubts(experiment, 1000, 431_999)
    with pytest.raises(JobError, match=r"afa_cs with 100 workers keeps .* without memory"):
        memory_doubts(experiment, 1000, 399_999)


@pytest.mark.parametrize(
    "arrivals", [{"kind": "event_driven", "max_delay": 2}, {"kind": "trace", "path": "t.csv"}]
)
def test_where_times_may_be_anything_only_a_doubt_remains(arrivals: dict[str, object]) -> None:
    """Returns that are dropped pull too, and a trace has its own times."""
    experiment = _experiment(arrivals=arrivals)

    assert len(memory_doubts(experiment, 1000, 4_000)) == 1
