"""Experiments as MLflow parameters."""

from pydantic import JsonValue

from configs.federated import FederatedExperiment
from configs.training import TrainingExperiment
from tasks.tracking.parameters import MAX_LENGTH, flatten, parameters_of


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


def test_a_name_says_what_its_record_would() -> None:
    """Sizes of a preset and levels of a shipped machine are left out; what is compared is there."""
    experiment = TrainingExperiment.model_validate(
        {"kind": "training", "model": {"preset": "gpt-3m", "layers": 9}, "topology": "mini"}
    )

    flat = parameters_of(experiment)

    assert {name for name in flat if name.startswith(("model.", "topology"))} == {
        "model.preset", "model.layers", "model.num_parameters", "model.rotary_fraction",
        "model.rotary_base", "model.parallel_residual", "model.tied", "model.norm_epsilon",
        "model.init_std", "topology.name",
    }  # fmt: skip
    assert (flat["model.preset"], flat["model.layers"]) == ("gpt-3m", "9")
    assert (flat["partition"], flat["degrees"]) == ("zero_topo", "2|2|4|8")
    assert flat["tokens_per_step"] == str(8 * 128)


def test_a_machine_of_ones_own_is_told_whole() -> None:
    """The name of a machine that Watershed does not ship says nothing of its levels."""
    machine = {"name": "attic", "levels": [{"name": "node", "ranks": 2}]}
    degrees = {"forward": 1, "backward": 1, "gradients": 2, "optimizer": 4}
    experiment = TrainingExperiment.model_validate(
        {"kind": "training", "topology": machine, "ranks": 4, "partition": degrees}
    )

    flat = parameters_of(experiment)

    assert (flat["topology.name"], flat["degrees"]) == ("attic", "1|1|2|4")
    assert '"ranks": 2' in flat["topology.levels"]


def test_parameters_of_a_federated_run_are_its_whole_experiment() -> None:
    """Nothing of it is left out."""
    experiment = FederatedExperiment.model_validate({"data": "digits"})

    assert parameters_of(experiment) == flatten(experiment.model_dump(mode="json"))
