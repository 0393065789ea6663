"""Scaling studies: what a file becomes, and what is wrong with it."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.faults import faults_in
from configs.federated import FederatedExperiment
from configs.loading import ConfigError, load_study
from configs.scaling import ScalingStudy, strong_batch
from configs.stability import effective_step
from configs.study import Point, Study
from configs.training import TrainingExperiment
from tasks.zero.cost_model import predict

STUDIES = Path(__file__).parents[3] / "configs" / "studies"
TRAINING: dict[str, Any] = {"kind": "training", "topology": "frontier", "micro_batch": 2}
FEDERATED: dict[str, Any] = {
    "kind": "federated",
    "workers": 20,
    "model": {"name": "quadratic", "centres": [float(n) for n in range(20)]},
    "algorithm": {"name": "afa_cd", "collect": 2, "server_lr": 3.0},
    "local_steps": {"kind": "constant", "steps": 2},
}
PAIR = {"ZeRO-3": {"partition": "zero3"}, "ZeRO-topo": {"partition": "zero_topo"}}


def _raw(**fields: Any) -> dict[str, Any]:
    return {"kind": "scaling", "name": "s", "experiment": TRAINING, "sizes": [8, 16]} | fields


def _faults(**fields: Any) -> list[str]:
    return [str(fault) for fault in faults_in(ScalingStudy, _raw(**fields))]


def _study(**fields: Any) -> Study:
    return ScalingStudy.model_validate(_raw(**fields)).study()


def _server_rates(study: Study) -> list[float]:
    """Return the server's rate of each point of a federated study."""
    experiments = [point.experiment for point in study.points()]
    return [one.algorithm.server_lr for one in experiments if isinstance(one, FederatedExperiment)]


def test_it_becomes_a_study_of_seeds_strategies_and_sizes() -> None:
    """Seeds are the outermost axis, so that drift falls on all strategies alike."""
    study = _study(strategies=PAIR, repeats=2, experiment=TRAINING | {"seed": 7})

    assert list(study.grid) == ["seed", "strategy", "ranks"]
    assert [point.label for point in study.points()][:3] == [
        "seed=7 · ZeRO-3 · ranks=8",
        "seed=7 · ZeRO-3 · ranks=16",
        "seed=7 · ZeRO-topo · ranks=8",
    ]
    trained = [point.experiment for point in study.points()]
    assert [one.seed for one in trained] == [7] * 4 + [8] * 4
    assert study.scaling is not None
    assert (study.scaling.strategy_axis, study.scaling.size_axis) == ("strategy", "ranks")


def test_a_base_needs_no_ranks() -> None:
    """The smallest size is taken: the default of 8 ranks does not fill two nodes of 6."""
    machine = {"name": "six", "levels": [{"name": "node", "ranks": 6}]}

    study = _study(experiment={"kind": "training", "topology": machine}, sizes=[12, 6])

    assert [getattr(point.experiment, "ranks", 0) for point in study.points()] == [12, 6]


def test_it_survives_the_form_of_prefect_and_the_study_directory() -> None:
    """Both records are the same after they have been written as JSON, defaults included."""
    scaling = ScalingStudy.model_validate(_raw(strategies=PAIR, measure={"up_to": 8}))
    study = scaling.study()

    assert ScalingStudy.model_validate_json(scaling.model_dump_json()).study() == study
    again = Study.model_validate_json(study.model_dump_json())
    assert again.scaling == study.scaling
    assert [p.config_hash for p in again.points()] == [p.config_hash for p in study.points()]


@given(
    micro_batch=st.integers(1, 12),
    accumulation=st.integers(1, 12),
    first=st.sampled_from([1, 2, 4, 8]),
    data=st.data(),
)
def test_strong_scaling_keeps_the_batch(
    micro_batch: int, accumulation: int, first: int, data: st.DataObject
) -> None:
    """What divides the batch can share it, with the largest micro-batch that the base allows."""
    batch = first * micro_batch * accumulation
    ranks = data.draw(st.sampled_from([n for n in range(1, batch + 1) if batch % n == 0]))
    base = TrainingExperiment.model_validate(
        {"kind": "training", "micro_batch": micro_batch, "accumulation": accumulation}
    )

    overrides = strong_batch(base, first, ranks)

    assert ranks * overrides["micro_batch"] * overrides["accumulation"] == batch
    per_rank = batch // ranks
    assert overrides["micro_batch"] == max(
        n for n in range(1, micro_batch + 1) if per_rank % n == 0
    )


def test_strong_scaling_divides_accumulation_first() -> None:
    """From 8 to 64 ranks: 4 micro-batches of 2, then 1 of 2, then 1 of 1."""
    base = TRAINING | {"accumulation": 4}

    study = _study(experiment=base, mode="strong", sizes=[8, 32, 64])

    trained = [point.experiment for point in study.points()]
    assert all(isinstance(one, TrainingExperiment) for one in trained)
    shares = [(one.micro_batch, one.accumulation) for one in trained if one.kind == "training"]
    assert shares == [(2, 4), (2, 1), (1, 1)]


def test_federated_sizes_are_returns_times_local_steps() -> None:
    """The server's rate grows with the root of m K, from the base's 3.0 at m K = 4."""
    study = _study(experiment=FEDERATED, sizes=[2, 8], local_steps=[2, 8], strategies={})

    found = {
        point.coordinates["m x K"]: point.experiment.algorithm.server_lr
        for point in study.points()
        if point.experiment.kind == "federated"
    }
    assert found == {"2 x 2": 3.0, "2 x 8": 6.0, "8 x 2": 6.0, "8 x 8": 12.0}


@pytest.mark.parametrize(
    "algorithm",
    [
        {"name": "afa_cd"},
        {"name": "afa_cd", "normalise": False},
        {"name": "afa_cs", "normalise": False},
        {"name": "fedavg"},
        {"name": "fedbuff"},
        {"name": "mifa"},
        {"name": "ca2fl"},
        {"name": "fedavg", "server": "momentum"},
    ],
)
def test_the_effective_step_grows_with_the_root_of_m_k(algorithm: dict[str, Any]) -> None:
    """Whole changes contain K already: the rate is divided by it, so that the root is left."""
    base = FEDERATED | {"algorithm": algorithm | {"collect": 2, "server_lr": 3.0}}

    points = _study(experiment=base, sizes=[2, 8], local_steps=[2, 32]).points()

    found = {
        point.coordinates["m x K"]: effective_step(point.experiment)
        for point in points
        if point.experiment.kind == "federated"
    }
    ratios = {label: step / found["2 x 2"] for label, step in found.items()}
    assert ratios == pytest.approx({"2 x 2": 1, "2 x 32": 4, "8 x 2": 2, "8 x 32": 8})


@pytest.mark.parametrize(
    "algorithm", [{"name": "fadas"}, {"name": "fedbuff", "server": {"name": "adam"}}]
)
def test_an_adaptive_server_has_divided_k_out_already(algorithm: dict[str, Any]) -> None:
    """Adam's step does not depend on the size of the direction, so that its rate is the step."""
    base = FEDERATED | {"algorithm": algorithm | {"collect": 2, "server_lr": 3.0}}

    study = _study(experiment=base, sizes=[2], local_steps=[2, 32])

    assert _server_rates(study) == [3.0, 12.0]


def test_the_rate_grows_with_m_alone_where_the_local_steps_stay() -> None:
    """Without local_steps there is no K to divide by."""
    base = FEDERATED | {"algorithm": {"name": "fedavg", "collect": 2, "server_lr": 3.0}}

    study = _study(experiment=base, sizes=[2, 8])

    assert _server_rates(study) == [3.0, 6.0]


def test_area_can_be_scaled_at_a_constant_rate() -> None:
    """Its server_lr is a share of the mean model, which the sizes leave as it is."""
    base = FEDERATED | {"algorithm": {"name": "area", "collect": 2}}

    study = _study(experiment=base, sizes=[2, 8], server_rate="constant")

    assert _server_rates(study) == [1.0, 1.0]


def test_a_federated_rate_may_stay() -> None:
    """With server_rate: constant a strategy may set the rate itself."""
    tuned = {"slow": {"algorithm.server_lr": 0.5}, "fast": {"algorithm.server_lr": 2.0}}

    study = _study(
        experiment=FEDERATED, sizes=[2, 8], server_rate="constant", strategies=tuned, repeats=1
    )

    assert _server_rates(study) == [0.5, 0.5, 2.0, 2.0]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"sizes": []},
            ["sizes: [] is not allowed; use a list of whole numbers with at least one"],
        ),
        ({"experiment": None}, ["experiment: null is not allowed; use"]),
        ({"sizes": [0, 8]}, ["sizes: 0 is none; use 1 or more"]),
        ({"sizes": [8, 8]}, ["sizes: 8 stands twice; remove one"]),
        (
            {"sizes": [12, 20], "strategies": PAIR},
            [
                "sizes: 12 ranks do not fill nodes of 8 (frontier); use 8 or 16",
                "sizes: 20 ranks do not fill nodes of 8 (frontier); use 16 or 24",
            ],
        ),
        (
            {"sizes": [8, 24], "mode": "strong"},
            [
                "sizes: 24 do not divide the 16 sequences of a train step (8 ranks x micro_batch 2 "
                "x accumulation 1), which strong scaling keeps; use 8, 16, or another accumulation"
            ],
        ),
        (
            {"sizes": [8, 12], "mode": "strong"},
            ["sizes: 12 ranks do not fill", "sizes: 12 do not divide the 16 sequences"],
        ),
        ({"measure": "some"}, ["measure: 'some' is unknown; use all, none, or {up_to: RANKS}"]),
        ({"local_steps": [2]}, ["local_steps: a training has none; it is of federated studies"]),
        (
            {"strategies": {"a": {"ranks": 4}}},
            ["strategies.a: sets ranks, which the sizes set; remove it here"],
        ),
        (
            {"strategies": {"a": {"accumulation": 4}}, "mode": "strong"},
            ["strategies.a: sets accumulation, which the sizes set; remove it here"],
        ),
        (
            {"strategies": {"a": {"partitoin": "zero3"}, "b": {"partition": "zero4"}}},
            [
                "strategies.a: partitoin: unknown key (did you mean 'partition'?)",
                "strategies.b: partition: 'zero4' is unknown (did you mean 'zero3'?)",
            ],
        ),
        (
            {"strategies": {"a": {"partition": "hsdp"}, "b": {"partition": "hsdp"}}},
            ["strategies: 'a · ranks=8' and 'b · ranks=8' are the same experiment; remove one"],
        ),
        (
            {
                "published": [
                    {"quantity": "tflops", "strategy": "x", "size": 8, "value": 1, "source": "y"}
                ]
            },
            ["published.0.strategy: 'x' is no strategy; known: none"],
        ),
        (
            {"launcher": {"kind": "slurm", "nodes": 2}},
            ["launcher.nodes: 2 nodes of 8 tasks do not match 8 ranks on nodes of 8 (frontier)"],
        ),
        (
            {"experiment": FEDERATED, "mode": "strong", "measure": "none"},
            [
                "mode: strong keeps the batch of a train step, and federated averaging has none",
                "measure: federated averaging is not predicted, so every point runs; use all",
            ],
        ),
        (
            {"experiment": FEDERATED, "strategies": {"a": {"algorithm.server_lr": 1.0}}},
            ["strategies.a: sets algorithm.server_lr, which the sizes set; use server_rate: const"],
        ),
        (
            {"experiment": FEDERATED, "strategies": {"a": {"algorithm": {"name": "fadas"}}}},
            ["strategies.a: sets algorithm.server_lr, which the sizes set; use server_rate: const"],
        ),
        (
            {
                "experiment": FEDERATED,
                "server_rate": "constant",
                "strategies": {"a": {"algorithm": {"name": "afa_cs", "collect": 3}}},
            },
            ["strategies.a: sets algorithm.collect, which the sizes set; remove it here"],
        ),
        (
            {"experiment": FEDERATED | {"algorithm": {"name": "area"}}},
            ["server_rate: the server_lr of area is a share of the mean model, no step"],
        ),
        (
            {"experiment": FEDERATED, "strategies": {"a": {"algorithm.name": "area"}}},
            ["strategies.a: the server_lr of area is a share of the mean model, no step"],
        ),
        (
            {
                "experiment": FEDERATED,
                "sizes": [2],
                "local_steps": [1, 4],
                "strategies": {"a": {"seed": 0}, "b": {"algorithm": "fedavg"}},
            },
            [
                "strategies.b: its step grows with K at one server_lr, while the base's does not "
                "depend on K, and the sizes set one server_lr for both; use server_rate: constant"
            ],
        ),
        (
            {
                "experiment": FEDERATED,
                "sizes": [2, 4],
                "strategies": {"a": {"seed": 0}, "b": {"algorithm": "fedavg"}},
            },
            [],
        ),
        ({"experiment": FEDERATED, "local_steps": [-1]}, ["local_steps: -1 is none; use 1 or"]),
        (
            {
                "experiment": TRAINING | {"micro_batch": 10_000, "accumulation": 10_000},
                "sizes": [8, 56],
                "mode": "strong",
            },
            ["sizes: 56 do not divide the 800000000 sequences of a train step"],
        ),
        (
            {
                "published": [
                    {"quantity": "tflops", "strategy": "a", "size": 64, "value": 1, "source": "y"}
                ],
                "strategies": {"a": {"partition": "hsdp"}},
            },
            ["published.0.size: 64 is none of the sizes 8, 16; add it there"],
        ),
        ({"experiment": FEDERATED, "sizes": [21]}, ["sizes: algorithm.collect: 21 is more than"]),
    ],
)
def test_faults_are_said_in_terms_of_the_file(fields: dict[str, Any], expected: list[str]) -> None:
    """All at once, at the field where they are, with what would do."""
    faults = _faults(**fields)

    assert len(faults) == len(expected), faults
    for fault, begin in zip(faults, expected, strict=True):
        assert fault.startswith(begin)


def _load(path: Path, text: str, *settings: str) -> Study:
    path.write_text(text)
    return load_study(path, settings)


FILE = """
kind: scaling
experiment: {kind: training, topology: machine.yaml}
strategies: {a: {partition: zero3}, b: {partition: zero1, data.source: t.txt, data.name: file}}
sizes: [2, 4]
"""


def test_a_file_is_loaded_like_any_other(tmp_path: Path) -> None:
    """Its name is the file's; files that it names are beside it; its own fields can be set."""
    (tmp_path / "machine.yaml").write_text("levels: [{name: node, ranks: 2}]")
    (tmp_path / "t.txt").write_text("text")

    study = _load(tmp_path / "grow.yaml", FILE, "measure=2", "steps=5", "reuse=false", "repeats=2")

    assert study.name == "grow"
    assert study.scaling is not None
    assert (study.scaling.reuse, len(study.points())) == (False, 8)
    experiments = [
        p.experiment for p in study.points() if isinstance(p.experiment, TrainingExperiment)
    ]
    assert {one.steps for one in experiments} == {5}
    assert {one.topology.name for one in experiments} == {"machine"}
    assert {one.data.source for one in experiments} == {None, str(tmp_path / "t.txt")}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("ranks=4", "ranks: sizes set ranks and would win; change it there"),
        ("partition=hsdp", "partition: strategies set partition and would win; change it there"),
        ("measur=none", "measur: unknown key"),
    ],
)
def test_what_the_study_varies_cannot_be_set(tmp_path: Path, setting: str, message: str) -> None:
    """A setting that would have no effect is refused."""
    (tmp_path / "machine.yaml").write_text("levels: [{name: node, ranks: 2}]")

    with pytest.raises(ConfigError, match=message):
        _load(tmp_path / "grow.yaml", FILE, setting)


def test_a_section_names_axes_of_its_grid() -> None:
    """A study with a section of its own hand is checked, too."""
    raw = {"name": "s", "experiment": TRAINING, "scaling": {"size_axis": "rank"}}

    faults = faults_in(Study, raw | {"grid": {"ranks": [8, 16]}})

    assert [str(fault) for fault in faults] == [
        "scaling.size_axis: 'rank' is no axis of the grid; known: ranks"
    ]


def _point(**fields: Any) -> Point:
    return Study.model_validate({"name": "s", "experiment": TRAINING | fields}).points()[0]


MACHINE: dict[str, Any] = {"name": "m", "levels": [{"name": "node", "ranks": 8}]}


@pytest.mark.parametrize(
    "change",
    [
        {"description": "measured anew"},
        {"network": {"gb_per_s": 12.5}},
        {"levels": [{"name": "node", "ranks": 8, "link": {"gb_per_s": 50}}]},
        {"device": {"power_w": 300, "memory_bytes": 10, "rates": {}}},
    ],
)
def test_what_predictions_are_made_from_is_no_part_of_the_hash(change: dict[str, Any]) -> None:
    """A calibration does not make earlier measurements those of another experiment."""
    assert _point(topology=MACHINE).config_hash == _point(topology=MACHINE | change).config_hash


@pytest.mark.parametrize(
    "change",
    [
        {"topology": MACHINE | {"name": "other"}},
        {"topology": MACHINE | {"levels": [{"name": "node", "ranks": 4}]}},
        {"topology": MACHINE | {"device": {"peak_tflops": {"float32": 2}}}},
        {"topology": MACHINE, "steps": 7},
    ],
)
def test_what_a_job_sees_is_part_of_the_hash(change: dict[str, Any]) -> None:
    """Another machine, other levels, another peak (of the MFU), other train steps."""
    assert _point(topology=MACHINE).config_hash != _point(**change).config_hash


def test_points_that_differ_in_what_is_predicted_are_no_twins() -> None:
    """A study may vary the bandwidth of a machine."""
    study = Study.model_validate(
        {
            "name": "s",
            "experiment": TRAINING | {"topology": MACHINE},
            "grid": {"topology.network.gb_per_s": [10, 20]},
        }
    )

    assert len(study.points()) == 2


@pytest.mark.parametrize("name", ["frontier-20b", "scaling-mini", "scaling-federated"])
def test_the_shipped_studies_are_valid(name: str) -> None:
    """They are scaling studies, and expand."""
    study = load_study(STUDIES / f"{name}.yaml")

    assert study.scaling is not None
    assert len(study.points()) >= 16


def test_frontier_is_predicted_as_it_was_calibrated() -> None:
    """The study gives the published ratio of ZeRO-topo over ZeRO-3 that its machine is fitted to.

    That of ZeRO++ lies between them; with its gathers in INT8 inside a node it is not the published
    one (docs/frontier.md).
    """
    speeds = {
        point.coordinates["strategy"]: predict(point.experiment).tflops
        for point in load_study(STUDIES / "frontier-20b.yaml").points()
        if isinstance(point.experiment, TrainingExperiment) and point.experiment.ranks == 384
    }

    assert speeds["ZeRO-topo"] / speeds["ZeRO-3"] == pytest.approx(1.405 * 1.707, rel=0.01)
    assert speeds["ZeRO-3"] < speeds["ZeRO++"] < speeds["ZeRO-topo"]


def test_settings_do_not_hide_what_is_wrong_with_a_strategy(tmp_path: Path) -> None:
    """A strategy that is no mapping is a fault of the file, whatever is set besides."""
    path = tmp_path / "s.yaml"
    path.write_text(
        "kind: scaling\nexperiment: {kind: training, topology: frontier}\nsizes: [8]\n"
        "strategies: {a: 5}\n"
    )

    with pytest.raises(ConfigError, match=r"strategies\.a: 5 is not allowed"):
        load_study(path, ["steps=3"])
