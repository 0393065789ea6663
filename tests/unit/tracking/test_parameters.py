"""Experiments as MLflow parameters."""

from pydantic import JsonValue

from configs.federated import FederatedExperiment
from tasks.tracking.parameters import MAX_LENGTH, flatten


def test_nested_records_become_dotted_names() -> None:
    """Every leaf is there under its path in the file, written as YAML would have it."""
    record: dict[str, JsonValue] = {
        "model": {"name": "logistic", "l2": 0.5},
        "data": None,
        "ok": True,
        "m": [1, 2],
    }

    assert flatten(record) == {
        "model.name": "logistic",
        "model.l2": "0.5",
        "data": "null",
        "ok": "true",
        "m": "[1, 2]",
    }


def test_long_lists_say_how_long_they_were() -> None:
    """A list of one value a worker shows its beginning and its length."""
    flat = flatten({"weights": [0.5] * 100})

    assert flat == {"weights": f"[{', '.join(['0.5'] * 8)}, ... (100 values)]"}


def test_long_texts_are_cut_with_a_mark() -> None:
    """No value is longer than MLflow's oldest limit, and a cut one says so."""
    flat = flatten({"path": "x" * 2000, "lists": [["y" * 300]] * 5})

    assert {len(value) for value in flat.values()} == {MAX_LENGTH}
    assert flat["path"].endswith("... (2000 characters)")


def test_every_field_of_an_experiment_is_a_parameter() -> None:
    """Nothing of a real experiment is lost or nested."""
    experiment = FederatedExperiment.model_validate(
        {"model": {"name": "quadratic", "centres": list(range(50))}, "workers": 50}
    )

    flat = flatten(experiment.model_dump(mode="json"))

    assert flat["algorithm.server.name"] == "sgd"
    assert flat["model.centres"].endswith("(50 values)]")
    assert all(isinstance(value, str) for value in flat.values())
