"""The deployments: their flows load, their forms show what they should, faults end them at once."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow, State
from prefect.flows import load_flow_from_entrypoint
from prefect.logging import disable_run_logger
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate

from configs.federated_form import FederatedForm
from configs.loading import load_study
from configs.presets import shipped_studies
from configs.quantities import count_of
from configs.scaling_form import ScalingForm
from configs.training_form import TrainingForm
from flows.federated import federated_study
from flows.plan_files import plan_text
from flows.plan_wishes import read_wish
from flows.planning import plan_training_flow, told_plan
from flows.scaling import scaling_study
from flows.training import training_run
from tasks.zero.planner import plan

ROOT = Path(__file__).parents[3]
DEPLOYED: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
FLOWS = {
    "federated-study": "federated-study",
    "training-run": "training-run",
    "scaling-study": "scaling-study",
    "nightly-scaling": "nightly",
    "plan-training": "plan-training",
}
"""Name of each deployment -> name of its flow."""


def loaded(deployment: dict[str, Any]) -> Flow[..., Any]:
    """The flow of a deployment; a faulty import is not hidden by a placeholder."""
    return load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)


@cache
def schema_of(flow: Flow[..., Any]) -> dict[str, Any]:
    """What Prefect makes the form of, and what its server validates by."""
    return parameter_schema(flow.fn).model_dump()


def refusal(flow: Flow[..., Any], parameters: dict[str, Any]) -> str:
    """What the server answers to parameters; empty if it takes them."""
    try:
        validate(parameters, schema_of(flow), raise_on_error=True)
    except ValidationError as error:
        return str(error)
    return ""


def said(state: State[str]) -> str:
    """The message of a state that failed."""
    assert state.is_failed()
    return str(state.message)


def test_every_deployment_has_its_flow() -> None:
    """All five are there, under the names that documents and commands use."""
    found = {one["name"]: loaded(one).name for one in DEPLOYED}

    assert found == FLOWS


@pytest.mark.parametrize("deployment", DEPLOYED, ids=lambda one: str(one["name"]))
def test_its_form_is_complete_and_its_defaults_are_valid(deployment: dict[str, Any]) -> None:
    """Every parameter is titled in words and described; what it is deployed with is accepted."""
    flow = loaded(deployment)
    schema = schema_of(flow)

    for name, field in schema["properties"].items():
        assert field["description"], name
        assert field["title"][0].isupper(), name
        assert "_" not in field["title"], name
    assert "oneOf" not in json.dumps(schema)
    assert validate(deployment["parameters"], schema, ignore_required=True) == []


@pytest.mark.parametrize("flow", [federated_study, training_run, scaling_study])
def test_what_the_form_sends_unchanged_is_taken(flow: Flow[..., Any]) -> None:
    """Prefect's form sends the defaults of what nobody has touched; they mean none."""
    schema = schema_of(flow)
    sent = {
        name: field["default"] for name, field in schema["properties"].items() if name != "study"
    }
    form = schema["definitions"][schema["properties"]["study"]["anyOf"][0]["$ref"].split("/")[-1]]
    sent["study"] = {
        key: one["default"] for key, one in form["properties"].items() if "default" in one
    }

    assert refusal(flow, sent) == ""
    taken = flow.validate_parameters(sent)
    rest = {"runs_dir": None, "study_dir": None, "num_parallel": None, "points": None}
    assert {key: taken[key] for key in rest} == rest


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"rounds": 0}, "'study.rounds'. Failure reason: 0 is less than the minimum of 1"),
        ({"preset": "digit"}, "'study.preset'. Failure reason: 'digit' is not one of ['anarchic"),
        ({"lr": -1}, "'study.lr'. Failure reason: -1 is less than or equal to the minimum of 0"),
        ({"launcher": {"kind": "pbs"}}, "'study.launcher.kind'. Failure reason: 'pbs' is not one"),
        ({"settings": ["rounds"]}, "'study.settings[0]'. Failure reason: 'rounds' does not match"),
    ],
)
def test_the_server_refuses_what_the_schema_can_say(parameters: dict[str, Any], told: str) -> None:
    """The refusal names the field and the reason, though the study is a union."""
    assert told in refusal(federated_study, {"study": parameters})


def test_the_forms_have_their_drop_downs() -> None:
    """Names that are known are chosen, not typed."""
    studies = schema_of(federated_study)["definitions"]["FederatedForm"]["properties"]
    assert studies["preset"]["enum"] == list(shipped_studies("federated"))
    assert {"afa_cd", "afa_cs", "fedavg"} <= set(studies["algorithm"]["enum"])
    assert {"synchronous", "uniform"} <= set(studies["arrivals"]["enum"])
    assert (studies["rounds"]["minimum"], studies["rounds"]["type"]) == (1, "integer")

    trainings = schema_of(training_run)["definitions"]["TrainingForm"]["properties"]
    assert {"gpt-1m", "gpt-20b"} <= set(trainings["model"]["enum"])
    assert {"zero3", "zeropp", "zero_topo"} <= set(trainings["partition"]["enum"])
    assert {"frontier", "mini"} <= set(trainings["topology"]["enum"])

    planned = schema_of(plan_training_flow)["properties"]
    shipped, own = planned["topology"]["anyOf"]
    assert "frontier" in shipped["enum"]
    assert own["type"] == "string"
    assert planned["devices"]["minimum"] == 1


@pytest.mark.parametrize(
    ("flow", "form", "told"),
    [
        (
            federated_study,
            FederatedForm(model="mnist_cnn", settings=("worker.lrr=1",)),
            "settings.0: worker.lrr: unknown key (did you mean 'lr'?); known: lr, batch_size, "
            "clip_norm, optimizer; data: mnist_cnn does not take digits; use mnist",
        ),
        (
            training_run,
            TrainingForm(steps=7),
            "warmup_steps: 20 are more than all 7 train steps; use fewer",
        ),
        (scaling_study, ScalingForm(sizes=(3, 3)), "sizes: 3 stands twice; remove one"),
    ],
)
def test_a_faulty_form_ends_the_flow_before_anything_is_made(
    flow: Flow[..., State[str]],
    form: FederatedForm | TrainingForm | ScalingForm,
    told: str,
    tmp_path: Path,
) -> None:
    """What only the study itself can tell is told by the flow: each field with its reason."""
    state = flow.fn(form, runs_dir=tmp_path / "runs")

    assert said(state) == told
    assert not (tmp_path / "runs").exists()


def test_the_checks_of_the_command_line_are_made_too(tmp_path: Path) -> None:
    """A valid study whose data are not where they should be ends the flow as well."""
    form = FederatedForm(
        preset="mnist-logistic", settings=(f"data.source={tmp_path / 'nothing'}", "rounds=1")
    )

    with disable_run_logger():
        state = federated_study.fn(form, runs_dir=tmp_path / "runs")

    assert said(state).startswith("data.source: mnist: ")
    assert not (tmp_path / "runs").exists()


def test_a_faulty_plan_is_told_by_its_parameters() -> None:
    """All faults at once, each at the parameter that the form shows."""
    state = plan_training_flow.fn(model="gpt-1m", topology="frontiers", batch_tokens="many")

    message = said(state)
    assert "topology: 'frontiers' is no topology (did you mean 'frontier'?)" in message
    assert "batch_tokens: 'many' is not a count" in message
    ranks = plan_training_flow.fn(model="gpt-1m", topology="frontier", devices=9)
    assert said(ranks).startswith("devices: 9 ranks do not fill nodes of 8")


def test_a_plan_is_told_with_reasons_and_a_study_that_runs(tmp_path: Path) -> None:
    """The YAML in the artifact is a study as it is."""
    raw = {"model": "gpt-125m", "topology": "frontier", "ranks": 16, "sequence": 2048}
    raw |= {"dtype": "bfloat16", "engine": "ours"}
    wish = read_wish(raw, "64K", None, is_exact=True, top=3)
    found = plan(wish)
    text = plan_text("gpt-125m-planned", "frontier", wish, found)

    told = told_plan(wish, found, text)

    (tmp_path / "plan.yaml").write_text(told.split("```yaml\n")[1].split("```")[0])
    study = load_study(tmp_path / "plan.yaml")
    assert study.name == "gpt-125m-planned"
    assert study.experiment.kind == "training"
    assert "\n- " in told.split("## Why")[1].split("## The study")[0]
    head = told.split("## Why")[0]
    assert "**Caution: the file of frontier gives no latency for package, node and cluster" in head
    assert "**On a worse network (node and cluster: " in head
    assert count_of("64K") == wish.batch_tokens
