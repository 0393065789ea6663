"""Models and searches in a real MLflow store (SQLite), as ``docs/mlflow.md`` tells them."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file

from configs.gpt import Gpt
from configs.study import Study
from flows.command_line import main
from models.gpt import build_gpt
from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.model_store import register_model
from tasks.tracking.served_models import MOST_BYTES
from tasks.tracking.store import default_tracking_uri, open_store
from tasks.tracking.study_directory import StudyDirectory
from tasks.tracking.tracker import StudyTracker
from tests.integration.model_server import served
from tests.unit.tracking.conftest import federated_line, training_line, write_run

_DOCUMENT = Path(__file__).parents[2] / "docs" / "mlflow.md"
_DONE = Result(status="finished", wall_s=3.0)
_GPT = {"layers": 2, "hidden": 32, "heads": 2, "vocabulary": 50}


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model puts its code first on the path, and its ``models`` has not all of ours."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies, as they are after their end, sent to the store beside them."""
    runs_dir = tmp_path_factory.mktemp("runs")
    federated = {
        "name": "digits",
        "experiment": {"kind": "federated", "data": "digits"},
        "grid": {
            "algorithm": {"AFA-CD": {"algorithm.name": "afa_cd"}},
            "worker.lr": [0.05],
            "seed": [0, 1],
        },
    }
    training = {
        "name": "speed",
        "experiment": {"kind": "training", "model": _GPT, "sequence": 16},
        "grid": {"partition": ["zero_topo", "zero3"]},
    }
    torch.manual_seed(0)
    for raw in (federated, training):
        study = Study.model_validate(raw)
        directory = StudyDirectory(runs_dir / f"{study.name}-20260101-000000")
        directory.path.mkdir()
        directory.study.write_text(study.model_dump_json())
        for point in study.points():
            run = directory.point(point.index, point.label)
            is_training = study.experiment.kind == "training"
            write_run(
                run,
                point,
                study=study.name,
                line=training_line if is_training else _federated_line,
                steps=range(1, 40, 10),
                result=_DONE,
            )
            save_file(_gpt() if is_training else {"model": torch.randn(650)}, run.model)
        assert StudyTracker(directory.path, default_tracking_uri(runs_dir)).close().error is None
    return runs_dir


def _gpt() -> dict[str, torch.Tensor]:
    model = build_gpt(Gpt.model_validate(_GPT), 16, seed=1)
    return {name: value.detach() for name, value in model.named_parameters()}


def _federated_line(_: object, step: int) -> dict[str, float]:
    return federated_line(1 / (4 + step), step)


@pytest.fixture
def uri(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The store; no other is asked."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return default_tracking_uri(runs_dir)


def _first(runs_dir: Path, study: str = "digits") -> tuple[RunDirectory, str]:
    run = StudyDirectory(runs_dir / f"{study}-20260101-000000").points()[0]
    return run, str(json.loads(run.tracking.read_bytes())["run_id"])


def _filters() -> list[str]:
    blocks = re.findall(r"```mlflow-filter\n(.*?)```", _DOCUMENT.read_text("utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line[0] != "#"]


@pytest.mark.parametrize("condition", _filters())
def test_every_search_of_the_document_finds_what_it_says(
    condition: str, runs_dir: Path, uri: str
) -> None:
    """Each of the filters finds some of the runs, and not all of them."""
    client = MlflowClient(uri)
    experiments = [one.experiment_id for one in client.search_experiments()]
    config_hash = _first(runs_dir)[0].read_job().config_hash

    found = client.search_runs(experiments, condition.replace("HASH", config_hash))

    everything = client.search_runs(experiments)
    assert 0 < len(found) < len(everything) == 6


@pytest.mark.slow  # two processes that import MLflow, one of them torch, too
def test_a_logged_model_answers_where_watershed_is_not_installed(
    runs_dir: Path, uri: str, tmp_path: Path
) -> None:
    """By ``mlflow models predict``, whose process finds the code beside the model."""
    run, run_id = _first(runs_dir)
    samples = np.random.default_rng(0).random((3, 64)).round(2)
    asked = {"inputs": samples.tolist(), "params": {"output": "logits"}}
    (tmp_path / "in.json").write_text(json.dumps(asked))
    command = [*(sys.executable, "-m", "mlflow", "models", "predict", "--env-manager", "local")]
    command += ["-m", f"runs:/{run_id}/model", "-t", "json"]
    command += ["-i", str(tmp_path / "in.json"), "-o", str(tmp_path / "out.json")]

    environment = os.environ | {"MLFLOW_TRACKING_URI": uri, "PYTHONSAFEPATH": "1"}
    subprocess.run(command, check=True, env=environment, cwd=tmp_path, capture_output=True)

    answer = json.loads((tmp_path / "out.json").read_text())["predictions"]
    flat = load_file(run.model)["model"].numpy()
    expected = samples @ flat[:640].reshape(10, 64).T + flat[640:]
    assert np.array(answer) == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow  # a server that imports MLflow and torch
def test_a_logged_model_is_served_where_watershed_is_not_installed(
    runs_dir: Path, uri: str, tmp_path: Path
) -> None:
    """The input example that lies beside it, sent as it is, is answered as the model answers it."""
    run, run_id = _first(runs_dir)
    mlflow.set_tracking_uri(uri)
    model = f"runs:/{run_id}/model"
    files = Path(mlflow.artifacts.download_artifacts(model, dst_path=str(tmp_path / "files")))
    asked = (files / "serving_input_example.json").read_bytes()

    environment = os.environ | {"MLFLOW_TRACKING_URI": uri, "PYTHONSAFEPATH": "1"}
    with served(model, tmp_path, environment) as address:
        answer = _posted(f"{address}/invocations", asked)
        labels = _posted(
            f"{address}/invocations",
            json.dumps({**json.loads(asked), "params": {"output": "labels"}}).encode(),
        )
        with pytest.raises(urllib.error.HTTPError, match="400"):
            _posted(f"{address}/invocations", b'{"inputs": [[0.5, 0.5]]}')

    flat = load_file(run.model)["model"]
    samples = torch.tensor(json.loads(asked)["inputs"])
    expected = (samples @ flat[:640].reshape(10, 64).T + flat[640:]).softmax(dim=1)
    assert np.array(answer) == pytest.approx(expected.numpy(), abs=1e-5)
    assert labels == expected.argmax(dim=1).tolist()


def _posted(address: str, content: bytes) -> object:
    """Send JSON, as curl does it in the document, and return the predictions."""
    request = urllib.request.Request(  # noqa: S310  on this machine
        address, content, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return json.load(answer)["predictions"]


def test_a_model_has_signature_example_and_pinned_requirements(runs_dir: Path, uri: str) -> None:
    """What ``mlflow models serve`` checks requests by, and what it installs."""
    _, run_id = _first(runs_dir)
    mlflow.set_tracking_uri(uri)

    loaded = mlflow.pyfunc.load_model(f"runs:/{run_id}/model")

    example = loaded.input_example
    assert loaded.predict(example).shape == (2, 10)
    assert loaded.predict(example).sum(axis=1) == pytest.approx(np.ones(2), abs=1e-5)
    assert str(loaded.metadata.signature.inputs) == "[Tensor('float32', (-1, 64))]"
    requirements = mlflow.pyfunc.get_model_dependencies(f"runs:/{run_id}/model")
    lines = Path(requirements).read_text().split()
    assert all("==" in line and "+" not in line for line in lines)
    assert {line.partition("==")[0] for line in lines} == {
        "mlflow",
        "torch",
        "numpy",
        "safetensors",
    }


def test_sending_again_sends_no_second_model(runs_dir: Path, uri: str) -> None:
    """A crash after the model was sent, before that was written down, doubles nothing."""
    run, run_id = _first(runs_dir)
    cursor = json.loads(run.tracking.read_bytes())
    run.tracking.write_text(json.dumps(cursor | {"num_ended": 0}))
    client = MlflowClient(uri)
    for model in client.search_logged_models([client.get_run(run_id).info.experiment_id]):
        client.delete_logged_model_tag(model.model_id, "watershed.model_sha256")

    followed = StudyTracker(run.path.parents[1], uri).close()

    assert followed.error is None
    stored = client.get_run(run_id)
    assert stored.outputs is not None
    assert len(stored.outputs.model_outputs) == 1
    assert len(client.search_logged_models([stored.info.experiment_id])) == 2  # of two points


def test_an_older_server_gets_a_file_and_that_is_told(
    runs_dir: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without logged models a server answers 404 in HTML; waiting would not help."""
    run, run_id = _first(runs_dir)
    cursor = json.loads(run.tracking.read_bytes())
    run.tracking.write_text(json.dumps(cursor | {"num_ended": 0}))
    older = ThreadingHTTPServer(("127.0.0.1", 0), _Older)
    threading.Thread(target=older.serve_forever, daemon=True).start()
    asked = MlflowClient(f"http://127.0.0.1:{older.server_port}")
    monkeypatch.setattr(open_store(uri).client, "search_logged_models", asked.search_logged_models)

    tracker = StudyTracker(run.path.parents[1], uri)
    told, again = (tracker.close(patience_s=0).error or "" for _ in range(2))
    older.shutdown()
    older.server_close()

    assert told == again
    assert "404" in told
    assert "need a server of MLflow 3" in told
    stored = MlflowClient(uri)
    assert "model.safetensors" in [file.path for file in stored.list_artifacts(run_id)]
    assert stored.get_run(run_id).info.status == "FINISHED"


class _Older(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_model_is_registered_once_under_its_name(
    runs_dir: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With tags and alias; registered again it stays the same version, another is the next."""
    arguments = ["--name", "digits-classifier", "--runs-dir", str(runs_dir)]

    codes = [
        main(["register", f"digits/{point}", *arguments, "--alias", "champion"])
        for point in (0, 0, 1)
    ]

    assert codes == [0, 0, 0]
    assert "models:/digits-classifier@champion" in capsys.readouterr().out
    client = MlflowClient(uri)
    versions = client.search_model_versions("name = 'digits-classifier'")
    assert {int(version.version) for version in versions} == {1, 2}
    champion = client.get_model_version_by_alias("digits-classifier", "champion")
    run = StudyDirectory(runs_dir / "digits-20260101-000000").points()[1]
    assert champion.tags["watershed.config_hash"] == run.read_job().config_hash
    mlflow.set_tracking_uri(uri)
    loaded = mlflow.pyfunc.load_model("models:/digits-classifier@champion")
    assert loaded.predict(np.zeros((1, 64), dtype=np.float32)).shape == (1, 10)


def test_a_name_with_an_apostrophe_is_found_again(runs_dir: Path, uri: str) -> None:
    """MLflow's filters know no escapes; a name that is not found would be made twice."""
    _, run_id = _first(runs_dir)

    made = [
        register_model(open_store(uri), run_id, "it's mine", tags={}, alias="") for _ in range(2)
    ]

    assert made == ["1", "1"]


def test_the_model_of_a_training_answers_as_it_was_trained(runs_dir: Path, uri: str) -> None:
    """Token numbers of any length in, log-probabilities of the next token out."""
    _, run_id = _first(runs_dir, "speed")
    mlflow.set_tracking_uri(uri)
    tokens = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])

    loaded = mlflow.pyfunc.load_model(f"runs:/{run_id}/model")
    answer, logits = (loaded.predict(tokens, params=one) for one in ({}, {"output": "logits"}))

    with torch.no_grad():
        expected = build_gpt(Gpt.model_validate(_GPT), 16, seed=1)(torch.from_numpy(tokens))
    assert logits == pytest.approx(expected.numpy(), abs=1e-6)
    assert answer == pytest.approx(expected.log_softmax(dim=-1).numpy(), abs=1e-5)
    assert answer.dtype == np.float32
    assert loaded.predict(loaded.input_example).shape == (2, 8, 50)
    assert str(loaded.metadata.signature.inputs) == "[Tensor('int64', (-1, -1))]"
    assert str(loaded.metadata.signature.outputs) == "[Tensor('float32', (-1, -1, 50))]"


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[0] * 17], r"tokens of shape \(1, 17\); give sequences of 1 to 16, \(B, s\)"),
        ([[0, 50]], "tokens from 0 to 50; known are 0 to 49"),
        ([[-1, 0]], "tokens from -1 to 0; known are 0 to 49"),
    ],
)
def test_a_model_of_a_training_says_which_tokens_it_knows(
    tokens: list[list[int]], message: str, runs_dir: Path, uri: str
) -> None:
    """Longer sequences than it was trained on, and numbers of no token, are refused."""
    mlflow.set_tracking_uri(uri)
    loaded = mlflow.pyfunc.load_model(f"runs:/{_first(runs_dir, 'speed')[1]}/model")

    with pytest.raises(ValueError, match=message):
        loaded.predict(np.array(tokens))


@pytest.mark.slow  # a server that imports MLflow and torch
def test_the_model_of_a_training_is_served_where_watershed_is_not_installed(
    runs_dir: Path, uri: str, tmp_path: Path
) -> None:
    """The input example that lies beside it is answered with what follows each token, how likely.

    The code beside the model has no ``configs``, and nothing else to find it.
    """
    _, run_id = _first(runs_dir, "speed")
    mlflow.set_tracking_uri(uri)
    model = f"runs:/{run_id}/model"
    files = Path(mlflow.artifacts.download_artifacts(model, dst_path=str(tmp_path / "files")))
    asked = (files / "serving_input_example.json").read_bytes()

    environment = os.environ | {"MLFLOW_TRACKING_URI": uri, "PYTHONSAFEPATH": "1"}
    with served(model, tmp_path, environment) as address:
        answer = np.array(_posted(f"{address}/invocations", asked))
        with pytest.raises(urllib.error.HTTPError, match="400"):
            _posted(f"{address}/invocations", b'{"inputs": [[1000]]}')

    assert answer.shape == (2, 8, 50)
    assert np.exp(answer).sum(axis=-1) == pytest.approx(np.ones((2, 8)), abs=1e-5)


def test_the_model_of_a_training_is_registered_as_others_are(
    runs_dir: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the name of its study and the number of its point."""
    code = main(["register", "speed/1", "--name", "adder", "--runs-dir", str(runs_dir)])

    assert code == 0
    assert "version 1 of adder" in capsys.readouterr().out
    assert len(MlflowClient(uri).search_model_versions("name = 'adder'")) == 1


def test_a_large_model_of_a_training_stays_where_it_is(
    runs_dir: Path, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An artifact store is not made for it; the message says where it is, and what the limit is."""
    del uri
    copied = tmp_path / "speed-20260101-000000"
    shutil.copytree(runs_dir / copied.name, copied)
    run = StudyDirectory(copied).points()[0]
    os.truncate(run.model, MOST_BYTES + 1)

    code = main(["register", "speed/0", "--name", "m", "--runs-dir", str(tmp_path)])

    told = capsys.readouterr().err
    assert code == 2
    assert "trainings' are logged up to 100 MB" in told
    assert str(run.model) in told


def test_a_model_is_made_without_torch_and_brings_its_code(runs_dir: Path, tmp_path: Path) -> None:
    """The login side describes a network that it never builds; the loader is the one beside it."""
    program = (
        "import sys; from pathlib import Path\n"
        "from mlflow import pyfunc\n"
        "from tasks.runtime.run_directory import RunDirectory\n"
        "from tasks.tracking.served_models import served_model\n"
        f"run = RunDirectory(Path({str(_first(runs_dir)[0].path)!r}))\n"
        "with served_model(run, run.read_job()) as model:\n"
        "    print('torch' in sys.modules)\n"
        "    pyfunc.load_model(str(model))\n"
        "    print(Path(sys.modules['models.served'].__file__).relative_to(model))"
    )

    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True
    )

    assert ended.stdout.split() == ["False", "code/models/served.py"]
