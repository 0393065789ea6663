"""The pool's form, and what a job is made of it."""

import asyncio
from typing import Any, cast
from uuid import uuid4

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import Flow, FlowRun
from prefect.server.schemas.core import WorkPool
from prefect.workers.base import BaseWorker

from configs.launchers import SlurmResources
from tasks.prefect_slurm.pool import RESOURCES, PoolFault, SlurmJobConfiguration
from tasks.prefect_slurm.worker import SlurmWorker

TEMPLATE = SlurmWorker.get_default_base_job_template()
PROPERTIES: dict[str, Any] = TEMPLATE["variables"]["properties"]


def _configured(**variables: Any) -> SlurmJobConfiguration:
    configured: SlurmJobConfiguration = asyncio.run(
        SlurmJobConfiguration.from_template_and_values(
            TEMPLATE,
            variables,
            client=cast("PrefectClient", object()),  # no block is looked up
        )
    )
    flow_id = uuid4()
    configured.prepare_for_flow_run(
        FlowRun(flow_id=flow_id, name="brisk-owl"), flow=Flow(id=flow_id, name="study", labels={})
    )
    return configured


def test_prefect_finds_the_worker() -> None:
    """By its type, through the entry point."""
    assert BaseWorker.get_worker_class_from_type("slurm") is SlurmWorker


def test_the_form_has_all_that_a_job_can_ask_for() -> None:
    """Described and bounded, as the launcher's fields are."""
    assert set(RESOURCES) <= set(PROPERTIES)
    assert {"runs_dir", "secrets_file", "python", "max_retries", "env"} <= set(PROPERTIES)
    assert all(one.get("description") and one.get("title") for one in PROPERTIES.values())
    assert (PROPERTIES["nodes"]["minimum"], PROPERTIES["nodes"]["maximum"]) == (1, 100_000)
    assert PROPERTIES["time_limit"]["default"] == "1:00:00"
    assert PROPERTIES["gpu_option"]["enum"] == ["gpus-per-node", "gres"]


def test_unions_are_forms_and_not_raw_json() -> None:
    """A discriminated union would be an editor of JSON."""
    assert "oneOf" not in str(TEMPLATE)
    assert "discriminator" not in str(TEMPLATE)
    assert len(PROPERTIES["container"]["anyOf"]) == 3


def test_prefects_server_takes_the_template() -> None:
    """Every variable that the configuration uses is in the form."""
    pool = WorkPool(name="p", type="slurm", base_job_template=TEMPLATE, default_queue_id=uuid4())

    assert pool.base_job_template == TEMPLATE


def test_what_is_not_set_is_as_in_the_launcher() -> None:
    """An empty form is a job with the defaults."""
    configured = _configured()

    assert configured.asked() == SlurmResources()
    assert configured.launcher(configured.asked()).max_retries == 0
    assert configured.flow_name == "study"
    assert configured.command_words() == ()


def test_what_is_set_reaches_the_job() -> None:
    """Also nested values and lists."""
    configured = _configured(
        partition="gpu",
        nodes=2,
        modules=["cuda/12", "gcc"],
        container={"kind": "pyxis", "image": "i.sqsh"},
        requeue=False,
        max_retries=4,
        command="prefect flow-run execute --flag",
        env={"A": "b"},
    )

    asked = configured.asked()

    assert (asked.partition, asked.nodes, asked.modules) == ("gpu", 2, ("cuda/12", "gcc"))
    assert asked.container is not None
    assert asked.container.kind == "pyxis"
    launcher = configured.launcher(asked)
    assert (launcher.max_retries, launcher.requeue, launcher.pack) == (4, False, "single")
    assert configured.command_words()[-1] == "--flag"
    assert configured.environment()["A"] == "b"
    assert configured.environment()["PREFECT__FLOW_RUN_ID"]


def test_all_faults_are_told_at_once() -> None:
    """Each with its variable: a fault of Slurm's, of the environment, of a path."""
    configured = _configured(
        nodes=0, time_limit="soon", env={"HF_TOKEN": "x"}, runs_dir="runs", python="bin/python"
    )

    with pytest.raises(PoolFault, match=r"^5 of the job variables") as refusal:
        configured.asked()

    words = str(refusal.value)
    for name in ("nodes: ", "time_limit: ", "env.HF_TOKEN: ", "runs_dir: ", "python: "):
        assert name in words
    assert "secrets_file" in words
