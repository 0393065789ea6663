"""Faults of a configuration: all at once, each with its path, what is allowed, what was meant."""

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.algorithms import Fadas, FadasAmsgrad
from configs.faults import faults_in
from configs.federated import FederatedExperiment
from configs.study import Study
from configs.training import TrainingExperiment


def _faults(text: str) -> list[str]:
    return [str(fault) for fault in faults_in(FederatedExperiment, yaml.safe_load(text))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{data: digits, workers: 0}", "workers: 0 is not allowed; use a whole number from 1 to"),
        ("{data: digits, rounds: null}", "rounds: null is not allowed; use a whole number from"),
        ("{data: digits, rounds: 2.5}", "rounds: 2.5 is not allowed; use a whole number from"),
        ("{data: digits, worker: {lr: -1}}", "worker.lr: -1 is not allowed; use a number above 0"),
        ("{data: digits, worker: {lr: .nan}}", "worker.lr: nan is not finite; use a number above"),
        ("{data: digits, worker: {lr: .inf}}", "worker.lr: inf is not finite; use a number above"),
        (
            "{data: digits, algorithm: {server: {name: adam, beta1: 1}}}",
            "algorithm.server.beta1: 1 is not allowed; use a number from 0 to below 1",
        ),
        (
            "{data: digits, algorithm: {name: fedasync, server_lr: 2}}",
            "algorithm.server_lr: 2 is not allowed; use a number above 0, at most 1",
        ),
        (
            "{data: digits, arrivals: {kind: markov, turn_off: 2}}",
            "arrivals.turn_off: 2 is not allowed; use a number from 0 to 1",
        ),
        (
            "{data: digits, service: {mean_s: -1}}",
            "service.mean_s: -1 is not allowed; use a number above 0, at most 1e+09 or a list of",
        ),
        (
            "{data: digits, service: {mean_s: [1, fast]}}",
            "service.mean_s.1: 'fast' is not allowed; use a number above 0",
        ),
        ("{data: digits, algorithm: afa_xs}", "algorithm: 'afa_xs' is unknown (did you mean 'afa"),
        (
            "{data: digits, algorithm: {name: afa_xs}}",
            "algorithm.name: 'afa_xs' is unknown (did you mean 'afa_cs'?); known: afa_cd, afa_cs,",
        ),
        (
            "{data: {name: svhn}}",
            "data.name: 'svhn' is unknown; known: digits, mnist, cifar10, images, shakespeare",
        ),
        ("{data: svhn}", "data: 'svhn' is unknown; known: digits, mnist, cifar10, images,"),
        (
            "{data: digits, dtype: float16}",
            "dtype: 'float16' is unknown (did you mean 'float64'?); known: float32, float64",
        ),
        (
            "{data: digits, algorithm: {colect: 3}}",
            "algorithm.colect: unknown key (did you mean 'collect'?); known: collect, server_lr,",
        ),
        (
            "{data: digits, worker: {rounds: 5}}",
            "worker.rounds: unknown key here; it stands beside 'worker', not below it; known: ",
        ),
        ("{data: digits, lr: 3}", "lr: unknown key here (did you mean 'worker.lr'?); known: kind,"),
        (
            "{data: digits, arrivals: {kind: uniform, ratio: 3}}",
            "arrivals.ratio: unknown key here; label_correlated has it; known:",
        ),
        (
            "{data: digits, arrivals: weighted}",
            "arrivals.weights: missing; it has no default, give a list of numbers",
        ),
        ("{data: digits, worker: [sgd]}", "worker: ['sgd'] is not allowed; use one of sgd, mom"),
        ("{data: digits, 3: 4}", "3: the key 3 is no text; known: kind, workers,"),
        (
            "{data: digits, arrivals: {kind: trace, path: ''}}",
            "arrivals.path: '' is not allowed; use text that is not empty",
        ),
        ("{data: digits, workers: yes}", "workers: True is not allowed; use a whole number from 1"),
        ("{data: digits, seed: '1'}", "seed: '1' is not allowed; use a whole number from 0 to"),
        ("{data: digits, worker: {lr: '1'}}", "worker.lr: '1' is not allowed; use a number above"),
        (
            "{data: digits, arrivals: {kind: weighted, weights: ['1', 1]}}",
            "arrivals.weights.0: '1' is not allowed; use a number of at least 0",
        ),
        (
            "{data: digits, worker: {lr: 1.0e+300}}",
            "worker.lr: 1e+300 is not allowed; use a number above 0, at most 1e+09",
        ),
        (
            "{data: digits, arrivals: {max_delay: 1000001}}",
            "arrivals.max_delay: 1000001 is not allowed; use a whole number from 0 to 1000000",
        ),
        (
            "{data: digits, algorithm: {name: fadas, server: adam}}",
            "algorithm.server: fadas takes amsgrad only, not 'adam'; use fedbuff for other",
        ),
        (
            "{data: digits, algorithm: {name: fadas, server: {name: sgd}}}",
            "algorithm.server: fadas takes amsgrad only, not 'sgd'; use fedbuff for other",
        ),
        ("{data: digits, record_trace: maybe}", "record_trace: 'maybe' is not allowed; use true"),
    ],
)
def test_a_faulty_field_is_named_with_what_is_allowed(text: str, expected: str) -> None:
    """One faulty field gives one message: its path, what was found, what is allowed."""
    faults = _faults(text)

    assert len(faults) == 1
    assert faults[0].startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "{data: digits, algorithm: {collect: 120}}",
            "algorithm.collect: 120 is more than workers=100; use 1 to 100",
        ),
        (
            "{data: {name: digits, partition: {labels_per_worker: 12}}}",
            "data.partition.labels_per_worker: 12 is more than the 10 labels of digits; use 1 to",
        ),
        (
            "{data: digits, workers: 4, algorithm: {collect: 1}}",
            "data.partition.labels_per_worker: 4 workers with 2 labels each cannot hold all 10 lab",
        ),
        ("{}", "data: missing; logistic takes digits, mnist, cifar10"),
        (
            "{model: mnist_cnn, data: digits}",
            "data.name: mnist_cnn does not take digits; use mnist",
        ),
        (
            "{data: digits, arrivals: {kind: uniform, never_return: [400]}}",
            "arrivals.never_return: no such worker: 400; ids run from 0 to 99",
        ),
        (
            "{data: digits, workers: 20, arrivals: {never_return: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, "
            "10]}}",
            "algorithm.collect: 10 is more than the 9 workers that ever return",
        ),
        (
            "{data: digits, arrivals: {kind: label_correlated, favoured_labels: [10]}}",
            "arrivals.favoured_labels: 10 is no label; they run from 0 to 9",
        ),
        (
            "{data: digits, arrivals: {kind: weighted, weights: [1, 1]}}",
            "arrivals.weights: 2 values for workers=100; give one a worker",
        ),
        (
            "{data: digits, local_steps: {kind: uniform, low: 9, high: 3}}",
            "local_steps.low: 9 is more than high=3; use 1 to 3",
        ),
        (
            "{data: digits, local_steps: time_budget}",
            "local_steps.kind: time_budget counts steps of known duration; set service.per to",
        ),
        (
            "{data: digits, arrivals: {kind: periodic, groups: 10000000}}",
            "algorithm.collect: 10 is more than the smallest of the 10000000 groups has",
        ),
        (
            "{data: digits, algorithm: {name: afa_cs, slots: wait}, arrivals: {never_return: [0]}}",
            "algorithm.slots: wait needs every worker once, but 1 never return (such as 0); use "
            "zeros or seen",
        ),
        (
            "{model: {name: quadratic, centres: [0, 0, 0]}, workers: 3, "
            "algorithm: {name: mifa, slots: wait, collect: 1}, "
            "arrivals: {kind: weighted, weights: [1, 0, 2]}}",
            "algorithm.slots: wait needs every worker once, but 1 never return (such as 1); use "
            "zeros or seen",
        ),
        (
            "{model: {name: quadratic, centres: [0, 0, 0, 0]}, workers: 4, "
            "algorithm: {name: afa_cs, slots: wait, collect: 1}, "
            "arrivals: {kind: schedule, order: [0, 2]}}",
            "algorithm.slots: wait needs every worker once, but 2 never return (such as 1); use "
            "zeros or seen",
        ),
        (
            "{data: shakespeare, model: char_lstm}",
            "data.partition.kind: shakespeare has no classes; use natural or iid",
        ),
    ],
)
def test_fields_that_do_not_fit_together_are_named(text: str, expected: str) -> None:
    """A check between fields gives one message, at the field to change."""
    faults = _faults(text)

    assert len(faults) == 1
    assert faults[0].startswith(expected)


def test_faults_of_all_stages_come_together() -> None:
    """Faulty values, unknown words and checks between fields are reported in one go."""
    text = """
        data: {name: digits, partition: {labels_per_worker: 20}}
        workers: 40
        algorithm: {collect: 90, server_lr: -1}
        worker: {optimizer: sdg}
        arrivals: {kind: markov, turn_on: 0, turn_off: 7}
    """

    paths = {fault.split(":")[0] for fault in _faults(text)}

    assert paths == {
        "data.partition.labels_per_worker",
        "algorithm.collect",
        "algorithm.server_lr",
        "worker.optimizer",
        "arrivals.turn_on",
        "arrivals.turn_off",
    }


@pytest.mark.parametrize(
    ("text", "only"),
    [
        ("{data: digits, workers: -5, algorithm: {collect: 150}}", "workers"),
        ("{data: shakespeare, model: char_lstmm}", "model"),
        ("{data: {name: digts, partition: {labels_per_worker: 12}}}", "data.name"),
        ("{data: digits, arrivals: {kind: weighted, weights: [1, a, b]}}", "arrivals.weights"),
    ],
)
def test_nothing_is_concluded_from_a_replaced_value(text: str, only: str) -> None:
    """A check that looked at a faulty field says nothing: the default in its place proves nothing.

    The Shakespeare data do have a fault of their own, whatever the model.
    """
    paths = [fault.split(":")[0] for fault in _faults(text)]

    own_faults = [path for path in paths if path != "data.partition.kind"]
    assert {path.removesuffix(".1").removesuffix(".2") for path in own_faults} == {only}


def test_a_tag_may_be_left_out() -> None:
    """A mapping without its tag is the field's default kind, so that one rate can be set alone."""
    raw = yaml.safe_load("{data: digits, worker: {lr: 0.5}, algorithm: {collect: 3}}")

    experiment = FederatedExperiment.model_validate(raw)

    assert (experiment.worker.optimizer, experiment.worker.lr) == ("sgd", 0.5)
    assert (experiment.algorithm.name, experiment.algorithm.collect) == ("afa_cd", 3)


@pytest.mark.parametrize("server", ["amsgrad", "{name: amsgrad}", "{}"])
def test_fadas_takes_its_optimiser_as_a_bare_word(server: str) -> None:
    """A bare word stands for the record with its defaults, as for every other algorithm."""
    raw = yaml.safe_load(f"{{data: digits, algorithm: {{name: fadas, server: {server}}}}}")

    experiment = FederatedExperiment.model_validate(raw)

    assert experiment.algorithm.server == FadasAmsgrad()


def test_fadas_stays_adaptive_when_a_number_of_its_optimiser_is_set() -> None:
    """Only a threshold of null turns the delay-adaptive rate off."""

    def threshold(server: str) -> int | None:
        raw = yaml.safe_load(f"{{data: digits, algorithm: {{name: fadas, server: {server}}}}}")
        algorithm = FederatedExperiment.model_validate(raw).algorithm
        assert isinstance(algorithm, Fadas)
        return algorithm.server.delay_threshold

    assert threshold("{beta1: 0.95}") == 1
    assert threshold("amsgrad") == 1
    assert threshold("{delay_threshold: 3}") == 3
    assert threshold("{delay_threshold: null}") is None


ROWS = "ddp, zero1, zero2, zero3, zeropp, mics, hsdp, hfsdp, zero_topo"
DEGREES = "a mapping of forward, backward, gradients, optimizer"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "{partition: {forward: 3, backward: 1, gradients: 1, optimizer: 8}}",
            ["partition.forward: 3 does not divide 8 ranks; use 1, 2, 4 or 8"],
        ),
        (
            "{partition: {forward: x, backward: 1, gradients: 1, optimizer: 8}}",
            ["partition.forward: 'x' is not allowed; use a whole number from 1 to 10000000"],
        ),
        (
            "{partition: zero_tpo}",
            [
                "partition: 'zero_tpo' is unknown (did you mean 'zero_topo'?); known: "
                f"{ROWS} or {DEGREES}"
            ],
        ),
        ("{partition: 3}", [f"partition: 3 is not allowed; use {DEGREES} or one of {ROWS}"]),
        (
            "{partition: {forwad: 1, backward: 1, gradients: 1, optimizer: 8}, ranks: 0}",
            [
                "ranks: 0 is not allowed; use a whole number from 1 to 1000000",
                "partition.forward: missing; it has no default, give a whole number from 1 to "
                "10000000",
                "partition.forwad: unknown key (did you mean 'forward'?); known: forward, "
                "backward, gradients, optimizer",
            ],
        ),
        (
            "{transport: zerotopo}",
            [
                "transport: 'zerotopo' is unknown (did you mean 'zero_topo'?); known: full, "
                "zeropp, zero_topo, zero_topo_quantized_sync, sdp4bit"
            ],
        ),
        (
            "{topology: sumit}",
            [
                "topology: 'sumit' is no topology (did you mean 'summit'?); use aurora, "
                "dgx-a100, dgx-h100, frontier, "
                "frontier-calibrated, "
                "mini, perlmutter, summit, or the path of a YAML file"
            ],
        ),
    ],
)
def test_faults_of_a_training_are_told_once(text: str, expected: list[str]) -> None:
    """Also those of degrees, which a word may stand for: rows and degrees are both offered."""
    raw = {"kind": "training"} | yaml.safe_load(text)

    assert [str(fault) for fault in faults_in(TrainingExperiment, raw)] == expected


def test_an_unknown_preset_is_told_with_those_there_are() -> None:
    """The empty name, which means no preset, is none of them."""
    (fault,) = faults_in(TrainingExperiment, {"kind": "training", "model": "gpt-2"})

    assert fault.path == "model"
    assert fault.message.startswith("'gpt-2' is unknown")
    assert "; known: gpt-1m, gpt-3m, " in fault.message


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [
        ({"kind": "training", "lr": 1}, "experiment.lr: unknown key here (did you mean 'experim"
         "ent.optimizer.lr'?)"),
        ({"data": "digits", "lr": 1}, "experiment.lr: unknown key here (did you mean 'experiment"
         ".worker.lr'?)"),
        ({"data": "digits", "micro_batch": 1}, "experiment.micro_batch: unknown key here; training"
         " has it"),
        ({"kind": "trainin"}, "experiment.kind: 'trainin' is unknown (did you mean 'training'?)"),
    ],
)  # fmt: skip
def test_a_key_is_looked_for_in_the_own_kind_of_experiment(
    experiment: dict[str, Any], expected: str
) -> None:
    """A misplaced key is searched where the experiment's kind has it; else the kind is named."""
    (fault,) = faults_in(Study, {"name": "s", "experiment": experiment})

    assert str(fault).startswith(expected)


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ({1: [2]}, "grid.1: the key 1 is no text; quote it"),
        ({"x": {5: {"seed": 3}}}, "grid.x.5: the key 5 is no text; quote it"),
        ({"x": {"a": {5: 3}}}, "grid.x.a.5: the key 5 is no text; quote it"),
    ],
)
def test_a_key_that_is_no_text_is_told_as_the_fault(grid: dict[Any, Any], expected: str) -> None:
    """Not what stands below it, which is right; YAML files are read with keys of text."""
    raw = {"name": "s", "experiment": {"data": "digits"}, "grid": grid}

    assert [str(fault) for fault in faults_in(Study, raw)] == [expected]


_KEYS = st.sampled_from(
    ["data", "model", "partition", "transport", "forward", "preset", "topology",
     "algorithm", "arrivals", "service", "mean_s", "name", "kind", "collect",
     "workers", "weights", "experiment", "grid", "algorithm.collect", "x", "centres", "0",
     5, 1.5, True, None]
)  # fmt: skip
_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 200),
        st.floats(),
        st.sampled_from(
            ["digits", "quadratic", "afa_cs", "weighted", "uniform", "q", "", "training", "zero3"]
        ),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=70, deadline=None)
@given(raw=st.dictionaries(_KEYS, _VALUES, max_size=6))
def test_any_mapping_is_valid_or_has_faults(raw: dict[Any, Any]) -> None:
    """Whatever stands in a file, it is valid or has a fault in words; nothing else is raised."""
    for record in (FederatedExperiment, TrainingExperiment, Study):
        faults = faults_in(record, raw)

        if faults:
            assert all(fault.message for fault in faults)
        else:
            record.model_validate(raw)
