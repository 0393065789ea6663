"""The run forms: what they choose, what they refuse and how, and what Prefect shows of them."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from configs.federated import FederatedExperiment
from configs.federated_form import FederatedForm
from configs.form_base import StudyForm
from configs.forms import FederatedInput, ScalingInput, TrainingInput
from configs.loading import ConfigError, load_study
from configs.presets import shipped_studies, study_path
from configs.scaling import ScalingStudy
from configs.scaling_form import ScalingForm
from configs.study import Study
from configs.titles import title_of
from configs.topology import Topology
from configs.training import TrainingExperiment
from configs.training_form import TrainingForm

FORMS: tuple[type[StudyForm], ...] = (FederatedForm, TrainingForm, ScalingForm)
INPUTS: tuple[Any, ...] = (FederatedInput, TrainingInput, ScalingInput, Topology)


def faults_of(form: StudyForm) -> dict[str, str]:
    """Field -> reason, of a faulty form."""
    with pytest.raises(ConfigError) as caught:
        form.study()
    return {fault.path: fault.message for fault in caught.value.faults}


def labels(form: StudyForm) -> list[str]:
    """Labels of the points that a form asks for."""
    return [point.label for point in form.study().points()]


@pytest.mark.parametrize("form", FORMS)
def test_a_form_without_changes_is_its_preset(form: type[StudyForm]) -> None:
    """Every preset in the drop-down gives the study that its file gives."""
    presets = form.model_json_schema()["properties"]["preset"]["enum"]

    for preset in presets:
        assert form(preset=preset).study() == load_study(study_path(preset))


def test_the_drop_downs_hold_each_shipped_study_once() -> None:
    """No shipped study is left out, and none is offered by two forms."""
    offered = [
        name for form in FORMS for name in form.model_json_schema()["properties"]["preset"]["enum"]
    ]

    assert sorted(offered) == list(shipped_studies())


def test_fields_and_settings_change_the_study() -> None:
    """What is filled in reaches the experiment and the launcher; settings win."""
    form = FederatedForm.model_validate(
        {
            "preset": "digits",
            "name": "mine",
            "rounds": 20,
            "lr": 0.02,
            "collect": 5,
            "launcher": {"partition": "gpu", "time_limit": "30:00"},
            "settings": ["worker.lr=0.01", "launcher.exclusive=true"],
        }
    )

    study = form.study()
    base = study.experiment

    assert isinstance(base, FederatedExperiment)
    assert (study.name, base.rounds, base.worker.lr, base.algorithm.collect) == (
        "mine",
        20,
        0.01,
        5,
    )
    assert study.launcher.model_dump(exclude_unset=True) == {
        "kind": "slurm",
        "partition": "gpu",
        "time_limit": "30:00",
        "exclusive": True,
    }


def test_words_keep_the_points_of_the_grid_that_have_them() -> None:
    """Of what the preset compares, the chosen algorithm, arrivals or partition alone run."""
    assert labels(FederatedForm(algorithm="fedavg", arrivals="uniform")) == [
        "FedAvg \N{MIDDLE DOT} arrivals=anarchic"
    ]
    assert labels(TrainingForm(preset="nightly", partition="zero3", seeds=(4, 5))) == [
        "seed=4 \N{MIDDLE DOT} partition=zero3",
        "seed=5 \N{MIDDLE DOT} partition=zero3",
    ]
    kept = FederatedForm(algorithm="fedavg").study().points()[0].experiment
    assert isinstance(kept, FederatedExperiment)
    assert kept.algorithm.server_lr == 0.18  # what hangs on the word in the grid stays with it


def test_a_word_that_the_grid_does_not_have_takes_the_place_of_its_axis() -> None:
    """Another algorithm runs at every other axis; the axis of algorithms has gone."""
    study = FederatedForm(algorithm="mifa").study()

    assert list(study.grid) == ["arrivals"]
    for point in study.points():
        assert isinstance(point.experiment, FederatedExperiment)
        assert point.experiment.algorithm.name == "mifa"


def test_a_number_takes_the_place_of_what_the_grid_sets() -> None:
    """One server rate for all algorithms; their labels still tell the truth."""
    study = FederatedForm(server_lr=0.3).study()

    rates = set()
    for point in study.points():
        assert isinstance(point.experiment, FederatedExperiment)
        rates.add(point.experiment.algorithm.server_lr)
    assert rates == {0.3}
    assert len(study.points()) == 9


def test_an_axis_of_words_leaves_numbers_to_the_form(tmp_path: Path) -> None:
    """Words keep the base's rate, which the form sets; a mapping has one of its own, and wins."""
    path = tmp_path / "mine.yaml"
    path.write_text("experiment: {data: digits}\ngrid: {algorithm: [afa_cd, fedavg]}\n")

    points = FederatedForm(file=str(path), server_lr=0.3).study().points()

    assert [point.label for point in points] == ["afa_cd", "fedavg"]
    for point in points:
        assert isinstance(point.experiment, FederatedExperiment)
        assert point.experiment.algorithm.server_lr == 0.3
    path.write_text("experiment: {data: digits}\ngrid: {algorithm: [{name: afa_cd}, fedavg]}\n")
    assert (
        "leave this as in the preset"
        in faults_of(FederatedForm(file=str(path), server_lr=0.3))["server_lr"]
    )


def test_a_setting_may_name_the_experiment() -> None:
    """A fault of it is still the setting's."""
    faults = faults_of(FederatedForm(settings=("experiment.worker.lrr=3",)))

    assert faults["settings.0"].startswith("worker.lrr: unknown key (did you mean 'lr'?)")


def test_seeds_become_an_axis() -> None:
    """Several seeds are repeats; one seed is none."""
    assert list(TrainingForm(seeds=(1, 2)).study().grid) == ["seed"]
    assert TrainingForm(seeds=(7,)).study().grid == {}
    assert TrainingForm(seeds=(7,)).study().experiment.seed == 7


def test_a_model_replaces_the_sizes_of_the_preset() -> None:
    """The sizes that the preset wrote out are not those of the chosen model; the rest stays."""
    model = TrainingForm(model="gpt-10m").study().experiment.model

    assert (model.layers, model.hidden, model.tied) == (6, 384, True)  # type: ignore[union-attr]  # Gpt


def test_batch_tokens_set_the_accumulation() -> None:
    """8 ranks x 4 sequences x 64 tokens are 2,048 tokens, so that 16K in thousands do not fit."""
    base = TrainingForm(batch_tokens="8192").study().experiment

    assert isinstance(base, TrainingExperiment)
    assert (base.accumulation, base.tokens_per_step) == (4, 8192)
    assert faults_of(TrainingForm(batch_tokens="16K")) == {
        "batch_tokens": "16,000 tokens are no multiple of the 2,048 of one micro-batch (8 ranks x "
        "4 x 64 tokens); use 14336 or 16384"
    }
    assert "is not a count" in faults_of(TrainingForm(batch_tokens="many"))["batch_tokens"]


def test_a_scaling_study_gets_sizes_and_measures() -> None:
    """Sizes, repeats and how much is measured are those of the form."""
    study = ScalingForm(sizes=(1, 2), repeats=2, measure_up_to=1).study()

    assert study.grid["ranks"] == [1, 2]
    assert study.grid["seed"] == [0, 1]
    assert study.scaling is not None
    assert study.scaling.measure.up_to == 1  # type: ignore[union-attr]  # UpTo
    both = ScalingForm(measure="all", measure_up_to=1)
    assert faults_of(both) == {"measure_up_to": "measure is all; leave one of the two empty"}


def test_all_faults_are_told_each_at_its_field() -> None:
    """Faults of the form's fields bear their names, those of settings their numbers."""
    faults = faults_of(FederatedForm(model="mnist_cnn", settings=("rounds=50", "worker.lrr=3")))

    assert faults["data"] == "mnist_cnn does not take digits; use mnist"
    assert faults["settings.1"].startswith("worker.lrr: unknown key (did you mean 'lr'?)")
    assert len(faults) == 2
    assert faults_of(FederatedForm(seeds=(1, 1))) == {"seeds": "1 stands twice; remove one"}
    assert "more than all 7" in faults_of(TrainingForm(steps=7))["warmup_steps"]


def test_what_would_make_labels_lie_is_refused() -> None:
    """An axis that sets a partition with its transport has no place for another partition."""
    faults = faults_of(TrainingForm(preset="gpt-20b-frontier", partition="hsdp"))

    assert faults["partition"].startswith("hsdp is not in the study's axis 'how', which sets it")


def test_a_number_that_labels_tell_keeps_the_points_that_have_it() -> None:
    """Of ``m x K``: no point labelled ``1 x 2`` may collect four returns."""
    study = FederatedForm(preset="linear-speedup", collect=4, seeds=(0,)).study()

    assert [point.label for point in study.points()] == ["m x K=4 x 1", "m x K=4 x 4"]
    for point in study.points():
        assert isinstance(point.experiment, FederatedExperiment)
        assert point.experiment.algorithm.collect == 4
    faults = faults_of(FederatedForm(preset="linear-speedup", collect=3))
    assert faults["collect"].startswith("3 is not in the study's axis 'm x K'")


def test_a_batch_that_points_reach_differently_is_refused(tmp_path: Path) -> None:
    """One accumulation for micro-batches of 2 and 4 sequences gives them different batches."""
    path = tmp_path / "mine.yaml"
    path.write_text("experiment: {kind: training}\ngrid: {micro_batch: [2, 4]}\n")

    faults = faults_of(TrainingForm(file=str(path), batch_tokens="8192"))

    assert list(faults) == ["batch_tokens"]
    assert "need 2, 4 micro-batches each" in faults["batch_tokens"]


def test_a_partition_of_slurm_beside_local_is_refused() -> None:
    """What only Slurm has is not silently left out."""
    form = FederatedForm.model_validate({"launcher": {"kind": "local", "partition": "gpu"}})

    assert list(faults_of(form)) == ["launcher.partition"]


def test_a_file_takes_the_place_of_the_preset(tmp_path: Path) -> None:
    """A file is read, one of another kind or none at all is told as such."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "kind: federated\nrounds: 3\nmodel: quadratic\nworkers: 2\nalgorithm: {collect: 1}\n"
    )

    assert FederatedForm(file=str(path)).study().name == "mine"
    assert "use the flow of its own kind" in faults_of(TrainingForm(file=str(path)))["file"]
    assert "is no study" in faults_of(FederatedForm(file="nothing"))["file"]
    missing = faults_of(FederatedForm(file=str(tmp_path / "missing.yaml")))
    assert "cannot be read" in " ".join(missing.values())


def test_what_a_flow_is_given_is_told_apart_by_its_keys() -> None:
    """A mapping with an experiment is a study; faults are of what was meant alone."""
    adapter: TypeAdapter[Any] = TypeAdapter(ScalingInput)
    whole = load_study(study_path("digits")).model_dump(mode="json")

    assert isinstance(adapter.validate_python({}), ScalingForm)
    assert isinstance(adapter.validate_python(whole), Study)
    assert isinstance(
        adapter.validate_python(
            {"kind": "scaling", "name": "s", "sizes": [1], "experiment": {"kind": "training"}}
        ),
        ScalingStudy,
    )
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python({"name": "a b", "experiment": {"data": "digits", "workerz": 3}})
    assert sorted(".".join(map(str, one["loc"])) for one in caught.value.errors()) == [
        "experiment.workerz",
        "name",
    ]


@cache
def _whole_schemas() -> tuple[dict[str, Any], ...]:
    return tuple(TypeAdapter(given).json_schema() for given in INPUTS)


def _schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    for schema in _whole_schemas():
        yield from schema.get("$defs", {}).items()
        if "properties" in schema:
            yield schema["title"], schema


def test_every_field_is_titled_and_described() -> None:
    """A form without a word for a field would leave its reader guessing."""
    lacking = {
        f"{record}.{name}"
        for record, schema in _schemas()
        for name, field in schema.get("properties", {}).items()
        if not field.get("description") or not field.get("title")
    }

    assert lacking == set()


def test_no_schema_says_one_of() -> None:
    """Prefect's form shows oneOf, and discriminators, as raw JSON."""
    for schema in _whole_schemas():
        text = str(schema)
        assert "oneOf" not in text
        assert "discriminator" not in text


def test_records_of_a_union_are_tabs_with_a_constant_tag() -> None:
    """A tab bears the word that the file has, and its tag comes first and cannot be changed."""
    records = dict(_schemas())

    assert records["AfaCs"]["title"] == "afa_cs"
    assert next(iter(records["AfaCs"]["properties"].items())) == (
        "name",
        {
            "const": "afa_cs",
            "default": "afa_cs",
            "title": "Name",
            "type": "string",
            "description": "Chooses this record.",
        },
    )
    assert records["FedAsync"]["title"] == "fedasync"
    assert records["Study"]["title"] == "Whole study"


@pytest.mark.parametrize("form", FORMS)
def test_a_field_that_may_be_empty_is_one_input(form: type[StudyForm]) -> None:
    """No tabs for None, no default of null, and what all forms have is at the end."""
    fields = form.model_json_schema()["properties"]

    assert all("anyOf" not in field for field in fields.values())
    assert all(field.get("default", "") is not None for field in fields.values())
    assert list(fields)[:2] == ["preset", "name"]
    assert list(fields)[-3:] == ["launcher", "file", "settings"]


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("budget_s", "Budget (s)"),
        ("server_lr", "Server learning rate"),
        ("gb_per_s", "Bandwidth (GB/s)"),
        ("memory_gb_per_s", "Memory (GB/s)"),
        ("gpus_per_node", "GPUs per node"),
        ("never_return", "Never return"),
    ],
)
def test_titles_are_words_with_units(name: str, title: str) -> None:
    """A title is in sentence case, in the field's words, with the unit in brackets."""
    assert title_of(name) == title
