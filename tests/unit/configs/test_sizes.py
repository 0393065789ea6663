"""What an experiment keeps in memory."""

import pytest

from configs.federated import FederatedExperiment
from configs.models import CharLstm
from configs.sizes import in_flight_bytes, num_parameters
from models.lstm import CharLstmNetwork


def _experiment(**settings: object) -> FederatedExperiment:
    return FederatedExperiment.model_validate({"data": "digits", **settings})


@pytest.mark.parametrize("layers", [1, 3])
def test_the_estimate_of_a_text_model_counts_its_parameters(layers: int) -> None:
    """With the assumed vocabulary the closed form is what the network has."""
    model = CharLstm(embedding=3, hidden=5, layers=layers)
    data = {"name": "shakespeare", "partition": "iid"}
    network = CharLstmNetwork(90, embedding=3, hidden=5, layers=layers)

    estimate = num_parameters(_experiment(model=model, data=data))

    assert estimate == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("settings", "versions"),
    [
        ({"arrivals": "synchronous"}, 1),
        ({"arrivals": "uniform"}, 1),
        ({"arrivals": {"kind": "uniform", "max_delay": 7}}, 8),
        ({"arrivals": {"kind": "uniform", "max_delay": 900}}, 200),
        ({"arrivals": "event_driven"}, 100),
        ({"arrivals": "event_driven", "rounds": 30}, 30),
        ({"worker": "scaffold"}, 2),
    ],
)
def test_a_model_is_kept_for_each_version_in_flight(
    settings: dict[str, object], versions: int
) -> None:
    """As many as delays allow or workers hold, never more than rounds; SCAFFOLD doubles them."""
    experiment = _experiment(**settings)

    assert in_flight_bytes(experiment, 1000) == versions * 4000
