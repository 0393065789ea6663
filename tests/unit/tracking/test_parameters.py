"""Experiments as MLflow parameters."""

import yaml
from pydantic import JsonValue

from configs.federated import FederatedExperiment
from configs.study import Study
from configs.training import TrainingExperiment
from tasks.tracking.parameters import (
    MAX_LENGTH,
    as_yaml,
    chart_axes,
    flatten,
    varying_parameters,
)
from tasks.tracking.tags import subject_tags


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


def _study(grid: dict[str, object], experiment: dict[str, object]) -> Study:
    return Study.model_validate({"name": "s", "experiment": experiment, "grid": grid})


_FEDERATED: dict[str, object] = {"kind": "federated", "data": "digits"}


def test_points_have_what_the_grid_varies_and_nothing_else() -> None:
    """Values of an axis as they are, labels of named sets, and what the sets change everywhere."""
    study = _study(
        {
            "algorithm": {
                "CD": {"algorithm.name": "afa_cd", "algorithm.server_lr": 0.5},
                "FedAvg": {"algorithm.name": "fedavg"},
            },
            "worker.lr": [0.05, 0.1],
            "seed": [0],
        },
        _FEDERATED,
    )

    parameters = varying_parameters(study)

    assert parameters["CD · lr=0.05 · seed=0"] == {
        "algorithm": "CD",
        "algorithm.name": "afa_cd",
        "algorithm.server_lr": "0.5",
        "worker.lr": "0.05",
        "seed": "0",
    }
    other = parameters["FedAvg · lr=0.1 · seed=0"]
    assert (other["algorithm.server_lr"], other["worker.lr"]) == ("1.0", "0.1")


def test_what_only_some_points_have_is_no_parameter() -> None:
    """MLflow leaves a run out of the parallel coordinates that lacks one of their axes."""
    study = _study(
        {"arrivals": ["synchronous", {"kind": "uniform", "max_delay": 5}]},
        _FEDERATED,
    )

    parameters = varying_parameters(study)

    names = {tuple(sorted(one)) for one in parameters.values()}
    assert names == {("arrivals", "arrivals.kind")}


def test_the_chart_has_axes_first_seeds_last_and_numbers_that_follow() -> None:
    """Texts that say again what an axis says are left out, and so is what does not vary."""
    study = _study(
        {
            "seed": [0, 1],
            "algorithm": {
                "CD": {"algorithm.name": "afa_cd", "algorithm.server_lr": 0.5},
                "FedAvg": {"algorithm.name": "fedavg"},
            },
            "worker.lr": [0.05],
        },
        _FEDERATED,
    )

    shown = chart_axes(study, varying_parameters(study))

    assert shown == ["algorithm", "seed", "algorithm.server_lr"]


def test_of_a_training_what_follows_and_varies_is_added() -> None:
    """The degrees of each partition; not the levels, nor the ranks that all points have."""
    study = _study({"partition": ["zero_topo", "zero3"]}, {"kind": "training"})

    assert varying_parameters(study) == {
        "partition=zero_topo": {"partition": "zero_topo", "degrees": "2|2|4|8"},
        "partition=zero3": {"partition": "zero3", "degrees": "8|8|8|8"},
    }


def test_the_tokens_of_a_train_step_are_a_parameter_where_they_vary() -> None:
    """They follow from what the axis sets; size of the model, partition and ranks do not."""
    study = _study({"seed": [0, 1], "micro_batch": [1, 2]}, {"kind": "training"})

    parameters = varying_parameters(study)

    tokens = {(one["micro_batch"], one["tokens_per_step"]) for one in parameters.values()}
    assert tokens == {("1", str(8 * 128)), ("2", str(2 * 8 * 128))}
    names = {name for one in parameters.values() for name in one}
    assert names == {"seed", "micro_batch", "tokens_per_step"}


def test_a_study_without_a_grid_varies_nothing() -> None:
    """Its one run has no parameters, a training no more than a federated one."""
    assert varying_parameters(_study({}, _FEDERATED)) == {"base": {}}
    assert varying_parameters(_study({}, {"kind": "training"})) == {"base": {}}


def test_the_configuration_reads_back_as_it_was() -> None:
    """The artifact is the whole experiment, defaults included."""
    experiment = FederatedExperiment.model_validate({"data": "digits", "worker": {"lr": 0.3}})

    text = as_yaml(experiment)

    assert FederatedExperiment.model_validate(yaml.safe_load(text)) == experiment


def test_tags_say_what_a_run_is_about_whatever_varies() -> None:
    """So that runs of different studies are found together."""
    tags = subject_tags(FederatedExperiment.model_validate({"data": "digits"}))

    assert tags == {
        "watershed.kind": "federated",
        "watershed.data": "digits",
        "watershed.algorithm": "afa_cd",
        "watershed.model": "logistic",
    }
    training = subject_tags(TrainingExperiment.model_validate({"kind": "training"}))
    assert training["watershed.partition"] == "zero_topo"
