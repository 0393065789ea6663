"""A study: its grid, its points, and what can be wrong with them."""

from typing import Any

import pytest

from configs.faults import faults_in
from configs.federated import FederatedExperiment
from configs.study import Point, Study
from configs.training import TrainingExperiment

BASE = {"workers": 20, "data": "digits", "algorithm": {"name": "afa_cd", "collect": 5}}


def _study(**grid: object) -> Study:
    return Study.model_validate({"name": "s", "experiment": BASE, "grid": grid})


def _federated(point: Point) -> FederatedExperiment:
    assert isinstance(point.experiment, FederatedExperiment)
    return point.experiment


def _faults(grid: dict[str, Any], base: dict[str, Any] = BASE) -> list[str]:
    raw = {"name": "s", "experiment": base, "grid": grid}
    return [str(fault) for fault in faults_in(Study, raw)]


def test_points_are_the_product_of_the_axes_in_order() -> None:
    """The first axis varies slowest; labels and coordinates say what varies."""
    study = _study(
        **{
            "algorithm.name": ["afa_cd", "afa_cs"],
            "arrivals": {
                "synchronous": {"arrivals": "synchronous"},
                "late": {"arrivals.kind": "uniform", "arrivals.max_delay": 4},
            },
        }
    )

    points = study.points()

    assert [point.label for point in points] == [
        "afa_cd · arrivals=synchronous",
        "afa_cd · arrivals=late",
        "afa_cs · arrivals=synchronous",
        "afa_cs · arrivals=late",
    ]
    assert points[3].coordinates == {"algorithm.name": "afa_cs", "arrivals": "late"}
    assert _federated(points[3]).arrivals.model_dump()["max_delay"] == 4


def test_a_word_keeps_the_other_fields_and_a_mapping_does_not() -> None:
    """``algorithm.name``, and a word for ``algorithm``, keep the base's collect."""
    (by_tag,) = _study(**{"algorithm.name": ["afa_cs"]}).points()
    (by_word,) = _study(algorithm=["afa_cs"]).points()
    (replaced,) = _study(algorithm=[{"name": "afa_cs"}]).points()

    assert _federated(by_tag) == _federated(by_word)
    assert _federated(by_word).algorithm.collect == 5
    assert _federated(replaced).algorithm.collect == 10


def test_a_word_undoes_only_fields_that_its_kind_lacks() -> None:
    """An axis of words may follow one of a field that all have; not one of a field of some."""
    kept = _study(**{"algorithm.collect": [3, 4], "algorithm": ["afa_cd", "fedavg"]}).points()
    lost = _faults({"algorithm.normalise": [False], "algorithm": ["afa_cd", "fedavg"]})

    assert [_federated(point).algorithm.collect for point in kept] == [3, 3, 4, 4]
    assert lost == [
        "grid.algorithm: sets algorithm, which undoes algorithm.normalise of the axis "
        "'algorithm.normalise'; put it first"
    ]


def test_a_study_without_a_grid_has_one_point() -> None:
    """The point is the base, and is called so."""
    (point,) = _study().points()

    assert (point.label, point.index, dict(point.coordinates)) == ("base", 0, {})
    assert _federated(point).workers == 20


def test_the_hash_follows_the_meaning_of_an_experiment() -> None:
    """Writing a default out changes no hash; changing a value does."""
    (plain,) = _study().points()
    (written,) = _study(**{"worker.optimizer": ["sgd"]}).points()
    (changed,) = _study(seed=[1]).points()

    assert plain.config_hash == written.config_hash
    assert plain.config_hash != changed.config_hash
    assert len(plain.config_hash) == 12


@pytest.mark.parametrize("name", ["x" * 64, ".x", "-x", "a b"])
def test_the_rule_of_a_name_is_in_its_refusal(name: str) -> None:
    """All of it: what it is made of, how long it may be, and how it begins."""
    (fault,) = faults_in(Study, {"name": name, "experiment": {"data": "digits"}})

    assert "letters, digits, dot, dash, underscore; at most 63, the first a letter" in str(fault)


def test_a_study_survives_json() -> None:
    """A study read back from its JSON has the same points: no default became a setting."""
    study = _study(**{"algorithm.name": ["afa_cd", "fedasync"], "algorithm.collect": [1]})

    copy = Study.model_validate_json(study.model_dump_json())

    assert [p.config_hash for p in copy.points()] == [p.config_hash for p in study.points()]


def test_lists_survive_json() -> None:
    """Tuples become JSON lists and tuples again, in a study and in an experiment."""
    raw = {
        "workers": 2,
        "model": {"name": "quadratic", "centres": [[0, 1], [2.5, 3]], "curvatures": [1, 2]},
        "algorithm": {"collect": 1},
        "arrivals": {"kind": "weighted", "weights": [1, 2], "never_return": [0]},
        "service": {"mean_s": [1, 0.5]},
        "local_steps": {"kind": "per_worker", "steps": [1, 2]},
    }
    study = Study.model_validate({"name": "s", "experiment": raw})

    as_text = Study.model_validate_json(study.model_dump_json())
    as_values = Study.model_validate(study.model_dump(mode="json"))
    experiment = FederatedExperiment.model_validate_json(study.experiment.model_dump_json())

    assert as_text == as_values == study
    assert experiment == study.experiment


def test_labels_that_collide_are_numbered() -> None:
    """Long lists that differ only behind the cut have labels of their own."""
    orders = [[*range(19), last] for last in (0, 1, 2)]

    points = _study(**{"arrivals.kind": ["schedule"], "arrivals.order": orders}).points()

    labels = [point.coordinates["arrivals.order"] for point in points]
    assert labels == [labels[0], f"{labels[0]} #2", f"{labels[0]} #3"]


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ({"seed": []}, "grid.seed: has no values; give at least one"),
        ({"seed": [1, 2, 1]}, "grid.seed: 1 stands twice; remove one"),
        (
            {"a (b)": {"x": {"seed": 1}}, "a [b]": {"y": {"worker.lr": 0.5}}},
            "grid.a [b]: is 'a _b_' in MLflow, as 'a (b)' is; rename one",
        ),
        (
            {"worker.lr": [1, 1.0]},
            "grid.worker.lr: 'lr=1' and 'lr=1.0' are the same experiment; remove one",
        ),
        (
            {"seed": [1, 2], "how": {"a": {"algorithm.name": "afa_cd"}, "b": {}}},
            "grid.how: 'seed=1 · how=a' and 'seed=1 · how=b' are the same experiment; remove one",
        ),
        ({"seed": 3}, "grid.seed: 3 is not allowed; use a list of values or a mapping of"),
        (
            {"algorithm.collect": [1, 30]},
            "grid.algorithm.collect: 30 is more than workers=20; use 1 to 20 (at 1 of 2 points, "
            "first: collect=30)",
        ),
        (
            {"algorithm.colect": [1]},
            "grid.algorithm.colect: unknown key (did you mean 'collect'?); known: collect,",
        ),
        (
            {"who": {"all": {"arrivals.max_delay": -3}}, "seed": [1, 2]},
            "grid.who: arrivals.max_delay: -3 is not allowed; use a whole number from 0 to 1000000 "
            "(at 2 of 2 points, first: who=all · seed=1)",
        ),
        (
            {"algorithm.collect": [3, 4], "algorithm": [{"name": "afa_cd"}, {"name": "afa_cs"}]},
            "grid.algorithm: sets algorithm, which undoes algorithm.collect of the axis "
            "'algorithm.collect'; put it first",
        ),
        (
            {"a": {"x": {"seed": 1}}, "b": {"y": {"seed": 2}}},
            "grid.b: sets seed, which undoes seed of the axis 'a'; put it first",
        ),
        (
            {"rounds": list(range(1, 102)), "seed": list(range(100))},
            "grid: 10100 points are more than 10000; vary less, or split it",
        ),
        ({"workers.x": [1]}, "grid.workers.x: workers is 20, which has no fields to set"),
        ({"a..b": [1]}, "grid.a..b: 'a..b' is no dotted path; write like algorithm.server_lr"),
    ],
)
def test_a_faulty_grid_is_explained(grid: dict[str, Any], expected: str) -> None:
    """A fault of the grid is reported once, with its axis and the points that it concerns."""
    faults = _faults(grid)

    assert len(faults) == 1
    assert faults[0].startswith(expected)


def test_the_grid_is_not_judged_by_a_replaced_base() -> None:
    """While the base's workers are faulty, no buffer size of the grid is called too large."""
    faults = _faults({"algorithm.collect": [1, 200]}, base=BASE | {"workers": -1})

    assert [fault.split(":")[0] for fault in faults] == ["experiment.workers"]


TRAINING = {"kind": "training", "transport": "zero_topo", "steps": 10}


def test_a_study_without_a_kind_is_federated() -> None:
    """Files and job.json from before there were trainings stay what they were."""
    study = _study()

    assert study.experiment.kind == "federated"
    assert (study.experiment.num_steps, study.experiment.unit) == (200, "round")


def test_a_grid_varies_fields_of_a_training() -> None:
    """Rows and degrees, formats below a named transport, and another preset as it stands."""
    degrees = {"forward": 2, "backward": 2, "gradients": 4, "optimizer": 4}
    grid = {
        "partition": ["zero3", degrees],
        "transport.weights": ["full", "int8"],
        "model.preset": ["gpt-1m", "gpt-3m"],
        "accumulation": [4],
    }
    study = Study.model_validate({"name": "s", "experiment": TRAINING, "grid": grid})

    read_back = Study.model_validate_json(study.model_dump_json())
    last = read_back.points()[-1].experiment

    assert len(study.points()) == 8
    assert isinstance(last, TrainingExperiment)
    assert last.degrees.model_dump() == degrees
    assert (last.transport.weights, last.transport.gradients) == ("int8", "int4")
    assert (last.model.layers, last.model.hidden, last.accumulation) == (4, 256, 4)
    assert (last.num_steps, last.unit) == (10, "train step")
    assert read_back.points()[0].label.startswith("partition=zero3 · weights=full · model=gpt-1m")


def test_a_grid_of_trainings_has_the_faults_of_trainings() -> None:
    """Degrees that do not divide, fields of the other kind, and a row that has no fields."""
    grid = {
        "partition": [{"forward": 3, "backward": 1, "gradients": 1, "optimizer": 8}],
        "workers": [3],
        "data.name": ["shakespear"],
    }

    faults = _faults(grid, base=TRAINING)
    (through,) = _faults({"partition.forward": [2]}, base=TRAINING | {"partition": "zero3"})

    assert [fault.split(": ")[0] for fault in faults] == [
        "grid.data.name",
        "grid.workers",
        "grid.partition",
    ]
    assert "3 does not divide 8 ranks; use 1, 2, 4 or 8" in faults[2]
    assert through.endswith("partition is 'zero3', which has no fields to set")
