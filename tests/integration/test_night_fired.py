"""Nights that nobody starts: fired by their schedule, taken by the worker of `watershed up`.

A person has changed the deployment's schedule and parameters in the browser (the same requests are
made here), and has made the automation of docs/nightly.md. The tests build on one another's nights.
"""

import contextlib
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tasks.services.errors import UnreachableError
from tasks.services.web import prefect_server
from tests.integration.up_process import (
    EXPERIMENT,
    Up,
    start_up,
    stop_up,
    succeed,
    user_environment,
)

pytestmark = pytest.mark.slow

_DOCUMENT = Path(__file__).parents[2] / "docs" / "nightly.md"
_NAME = "nightly/nightly-scaling"
_FIRED_S = 400.0
_EVERY_MINUTE = "* * * * *"
_STUDY: dict[str, Any] = {"experiment": EXPERIMENT, "grid": {"seed": [0, 1]}}
_BROKEN: dict[str, Any] = {
    "workers": 2,
    "model": "logistic",
    "algorithm": {"collect": 2},
    "data": {"name": "mnist", "source": "empty", "partition": "iid"},
}


class Nightly:
    """The deployment of the nights, as a person sees and changes it.

    Args:
        up: The servers.
        directory: Where studies are written.
    """

    def __init__(self, up: Up, directory: Path) -> None:
        self.up = up
        self._directory = directory
        self._server = prefect_server(up.state["prefect_api"], {})
        self.id = str(up.ask(f"/deployments/name/{_NAME}")["id"])

    def study(self, name: str, **changes: Any) -> str:
        """Write a study; return its path."""
        path = self._directory / f"{name}.yaml"
        experiment = {**_STUDY["experiment"], **changes}
        path.write_text(json.dumps({**_STUDY, "experiment": experiment}))  # YAML has JSON in it
        return str(path)

    def parameters(self, **parameters: Any) -> None:
        """Change the parameters."""
        body = {"parameters": {"time_zone": "UTC", "metrics": ["train_loss"], **parameters}}
        self._server.ask(f"/deployments/{self.id}", body, method="PATCH")

    def schedule(self, cron: str, *, active: bool = True) -> None:
        """Change the schedule."""
        (one,) = self.up.ask(f"/deployments/{self.id}")["schedules"]
        body = {"schedule": {"cron": cron, "timezone": "UTC"}, "active": active}
        self._server.ask(f"/deployments/{self.id}/schedules/{one['id']}", body, method="PATCH")

    def run(self, **parameters: Any) -> str:
        """Press *Run*; return the id of the flow run."""
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return str(self.up.ask(f"/deployments/{self.id}/create_flow_run", body)["id"])

    def fired(self, *states: str, since: datetime) -> dict[str, Any]:
        """Wait for a flow run of the schedule that was due since then and is in a state."""
        wanted = {
            "deployments": {"id": {"any_": [self.id]}},
            "flow_runs": {
                "state": {"type": {"any_": list(states)}},
                "expected_start_time": {"after_": since.isoformat()},
            },
        }
        deadline = time.monotonic() + _FIRED_S
        while not (runs := self._auto_scheduled(wanted)):
            assert time.monotonic() < deadline, self.up.log("worker")
            time.sleep(0.5)
        return runs[0]

    def _auto_scheduled(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        with contextlib.suppress(UnreachableError):  # on a machine with other work, for a while
            found = self.up.ask("/flow_runs/filter", wanted)
            return [run for run in found if run["auto_scheduled"]]
        return []


def _soon() -> str:
    """Return a cron that is due once, in one to two minutes."""
    return (datetime.now(UTC) + timedelta(seconds=75)).strftime("%M %H %d %m *")


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nightly]:
    """The deployment, at an `up` of this file's own."""
    directory = tmp_path_factory.mktemp("night")
    up = start_up(directory)
    yield Nightly(up, directory)
    stop_up(up)


def test_a_night_is_fired_by_its_schedule(night: Nightly) -> None:
    """At its minute the worker takes it; jobs run here, and MLflow has the night."""
    began = datetime.now(UTC)
    night.parameters(study=night.study("tiny"))
    night.schedule(_soon())

    fired = night.fired("PENDING", "RUNNING", "COMPLETED", "FAILED", "CRASHED", since=began)
    run = night.up.wait_for(fired["id"], "COMPLETED", "FAILED", "CRASHED")

    assert run["state_type"] == "COMPLETED", f"{run['state']}\n{night.up.log('worker')}"
    assert run["state"]["message"].startswith("no earlier night of this configuration")
    assert set(run["tags"]) == {"auto-scheduled", "nightly", "watershed"}
    started = datetime.fromisoformat(run["start_time"])
    early = datetime.fromisoformat(run["expected_start_time"]) - started
    assert early < timedelta(seconds=1)  # Prefect's runner may be some milliseconds early
    (directory,) = night.up.data.glob("tiny-*")
    assert json.loads((directory / "night.json").read_text())["night"] == str(started.date())
    client = MlflowClient(night.up.state["mlflow"])
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = {one.info.run_name: one for one in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {directory.name, "seed=0", "seed=1"}
    assert {one.info.status for one in runs.values()} == {"FINISHED"}
    assert runs[directory.name].data.tags["watershed.nightly.verdict"] == "no earlier night"


def test_the_third_night_is_compared_with_those_before(night: Nightly) -> None:
    """The second cannot tell; the loss of the third is to the bit that of the others."""
    messages = []
    for days in (1, 2):
        later = str(datetime.now(UTC).date() + timedelta(days=days))
        run = night.up.wait_for(night.run(night=later), "COMPLETED", "FAILED", "CRASHED")
        messages.append(str(run["state"]["message"]))
        assert run["state_type"] == "COMPLETED", f"{run['state']}\n{night.up.log('worker')}"

    assert messages[0].startswith("cannot tell:")
    assert messages[1] == "no regression: 1 same"
    artifacts = night.up.ask(
        "/artifacts/filter", {"artifacts": {"key": {"any_": ["nightly-tiny"]}}}
    )
    assert len(artifacts) == 3


class _Listening(ThreadingHTTPServer):
    """Somebody's chat, which takes notifications.

    Attributes:
        received: What was posted.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.received: list[dict[str, str]] = []


class _Receiver(BaseHTTPRequestHandler):
    server: _Listening

    def do_POST(self) -> None:
        """Take a notification."""
        length = int(self.headers["Content-Length"])
        self.server.received.append(json.loads(self.rfile.read(length)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        """Be quiet."""


@pytest.fixture
def chat() -> Iterator[_Listening]:
    """A chat that listens on loopback."""
    server = _Listening()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


_MAKE_BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
block = CustomWebhookNotificationBlock(
    name="chat", url=sys.argv[1], json_data={"subject": "{{subject}}", "body": "{{body}}"}
)
print(block.save("chat", overwrite=True))
"""


def _automation(night: Nightly, chat: _Listening, directory: Path) -> None:
    """Make the automation of the document, for a notification block of one's own."""
    environment = user_environment(
        PREFECT_API_URL=night.up.state["prefect_api"], HOME=str(directory), NO_COLOR="1"
    )

    def said(*arguments: str) -> str:
        return succeed(sys.executable, *arguments, environment=environment, directory=directory)

    url = f"http://127.0.0.1:{chat.server_port}/"
    block_id = said("-c", _MAKE_BLOCK, url).splitlines()[-1]
    (shown,) = re.findall(r"```yaml\n(# automation\.yaml.*?)```", _DOCUMENT.read_text(), re.S)
    assert shown.count("ID-OF-A-NOTIFICATION-BLOCK") == 1
    file = directory / "automation.yaml"
    file.write_text(shown.replace("ID-OF-A-NOTIFICATION-BLOCK", block_id))
    said("-m", "prefect", "automation", "create", "--from-file", str(file))


def test_a_failed_night_is_notified(night: Nightly, chat: _Listening, tmp_path: Path) -> None:
    """Once, by the automation of the document; a night that went well says nothing."""
    _automation(night, chat, tmp_path)
    (tmp_path / "empty").mkdir()
    broken = {**_BROKEN, "data": {**_BROKEN["data"], "source": str(tmp_path / "empty")}}

    well = night.up.wait_for(night.run(), "COMPLETED", "FAILED", "CRASHED")
    failed = night.up.wait_for(
        night.run(study=night.study("broken", **broken)), "COMPLETED", "FAILED", "CRASHED"
    )
    deadline = time.monotonic() + 60
    while not chat.received and time.monotonic() < deadline:
        time.sleep(0.5)
    time.sleep(5)  # for one too many

    assert well["state_type"] == "COMPLETED", well["state"]
    assert failed["state_type"] == "FAILED", failed["state"]
    assert failed["state"]["message"].startswith("points failed: 2 runs have not finished")
    assert chat.received == [{"subject": failed["name"], "body": failed["state"]["message"]}]


def test_a_night_that_is_due_while_another_runs_is_cancelled(night: Nightly) -> None:
    """By Prefect, as the deployment runs one at a time; the one that runs goes on."""
    began = datetime.now(UTC)
    night.parameters(study=night.study("endless", rounds=50_000_000))
    night.schedule(_EVERY_MINUTE)

    first = night.fired("RUNNING", since=began)
    next_due = datetime.fromisoformat(first["expected_start_time"]) + timedelta(seconds=1)
    second = night.fired("CANCELLED", since=next_due)
    night.schedule(_EVERY_MINUTE, active=False)
    still = night.up.ask(f"/flow_runs/{first['id']}")
    cancelling = {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": True}
    night.up.ask(f"/flow_runs/{first['id']}/set_state", cancelling)
    ended = night.up.wait_for(first["id"], "CANCELLED", "COMPLETED", "FAILED", "CRASHED")

    assert "concurrency limit" in second["state"]["message"]
    assert second["run_count"] == 0  # start_time is set even so: when it was cancelled
    assert still["state_type"] == "RUNNING"
    assert ended["state_type"] == "CANCELLED", ended["state"]
    assert len(list(night.up.data.glob("endless-*"))) == 1
