"""Data sets of the user's own, and what is known of them before they are read."""

from pathlib import Path

import pytest

from configs.federated import FederatedExperiment
from configs.loading import ConfigError, load_study
from configs.models import CharLstm, MnistCnn, Quadratic
from configs.sizes import num_parameters


def _faults(directory: Path, data: str) -> dict[str, str]:
    """Field -> reason, of a study on faulty data."""
    path = directory / "mine.yaml"
    path.write_text(f"experiment: {{model: logistic, data: {data}}}\n")
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    return {fault.path: fault.message for fault in caught.value.faults}


def test_own_images_are_described_completely(tmp_path: Path) -> None:
    """All that is missing at once; nobody reads them to find out."""
    faults = _faults(tmp_path, "{name: images, shape: [2, 5, 7]}")

    assert sorted(faults) == [
        "data.classes", "data.shape.0", "data.source",
    ]  # fmt: skip
    assert "use 1 (grey) or 3 (colours)" in faults["data.shape.0"]


def test_a_data_set_of_a_name_has_its_own_shape(tmp_path: Path) -> None:
    """A shape that would be ignored is refused."""
    faults = _faults(tmp_path, "{name: mnist, shape: [1, 20, 20]}")

    assert faults == {"data.shape": "mnist has its own; remove this key, or use images"}


def test_own_images_are_counted_and_divided_by_what_they_are_said_to_be() -> None:
    """Parameters by their shape and classes; no worker can hold more labels than there are."""
    raw = {
        "name": "images", "source": "me/mine", "shape": [3, 5, 7], "classes": 4,
        "partition": {"kind": "labels", "labels_per_worker": 4},
    }  # fmt: skip
    experiment = FederatedExperiment.model_validate({"model": "logistic", "data": raw})

    assert num_parameters(experiment) == 4 * (3 * 5 * 7 + 1)
    raw["partition"] = {"kind": "labels", "labels_per_worker": 5}
    with pytest.raises(ValueError, match="5 is more than the 4 labels of images"):
        FederatedExperiment.model_validate({"model": "logistic", "data": raw})


def test_a_configuration_without_images_says_nothing_of_them() -> None:
    """Its hash, by which finished points and earlier nights are found, is older than the fields."""
    dumped = FederatedExperiment.model_validate({"data": "digits"}).model_dump(mode="json")

    assert not {"shape", "classes"} & dumped["data"].keys()


def test_models_name_the_data_that_they_take() -> None:
    """A problem of its own takes none."""
    assert (Quadratic.datasets, MnistCnn.datasets) == ((), ("mnist",))
    assert CharLstm.datasets == ("shakespeare",)
