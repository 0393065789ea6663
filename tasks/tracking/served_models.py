"""The final model of a run as files that ``mlflow models`` loads, made without torch.

Beside the parameters stand the job, what the network is, and the few modules of ``models/`` that
build it, so that the model also loads where Watershed is not installed.
"""

import ast
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from configs.federated import FederatedExperiment
from configs.study import Experiment
from configs.training import TrainingExperiment
from tasks.runtime.records import JobFile
from tasks.runtime.run_directory import RunDirectory

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

MOST_BYTES = 100_000_000
"""Of the model of a training that is logged: an artifact store is not made for larger ones."""
_MODELS = Path(__file__).parents[2] / "models"
_NETWORK_FILE, _MODEL_FILE, _JOB_FILE = "network.json", "model.safetensors", "job.json"
_REQUIRED = ("torch", "numpy", "safetensors")
_NUM_EXAMPLES = 2
_EXAMPLE_TOKENS = 8
# What ``models.gpt`` asks of a GPT, some of it computed from the fields.
_GPT_SIZES = (
    "layers", "hidden", "heads", "vocabulary", "head_width", "mlp_width", "rotary_width",
    "rotary_base", "parallel_residual", "tied", "norm_epsilon",
)  # fmt: skip
Example = NDArray[np.float32] | NDArray[np.int64]


@dataclass(frozen=True)
class Served:
    """How a model answers.

    Attributes:
        loader: The module of ``models`` that loads it.
        network: What that module has to know of the network, as JSON.
        example: Two inputs, drawn at random, not from the data.
        inputs: Shape of inputs, -1 for any size.
        answer: Type and shape of an answer, -1 for any size.
        output: What it answers if nothing else is asked for.
    """

    loader: str
    network: dict[str, object]
    example: Example
    inputs: tuple[int, ...]
    answer: tuple[str, tuple[int, ...]]
    output: str


def can_be_served(run: RunDirectory, experiment: Experiment) -> bool:
    """Say whether the model of a run answers to inputs, and is small enough to be logged.

    The quadratic test problem has nothing to answer. The model of a training on ranks may have any
    size: one of more than ``MOST_BYTES`` stays in the run directory.

    Args:
        run: The run directory, with the final model.
        experiment: What the run runs.

    Raises:
        OSError: There is no model.
    """
    if isinstance(experiment, TrainingExperiment):
        return run.model.stat().st_size <= MOST_BYTES
    return experiment.model.name != "quadratic"


@contextmanager
def served_model(run: RunDirectory, job: JobFile) -> Iterator[Path]:
    """Make the directory of an MLflow model, with a ``MLmodel`` of the pyfunc flavour.

    Args:
        run: The run directory, with the final model.
        job: What it has run.

    Yields:
        The directory, which is removed at the end.

    Raises:
        OSError: A file cannot be read or written.
    """
    from mlflow import pyfunc  # noqa: PLC0415  3 s

    served = served_as(job.experiment)
    with tempfile.TemporaryDirectory(prefix="watershed-model-") as made:
        data, code, model = (Path(made) / name for name in ("data", "models", "model"))
        data.mkdir()
        code.mkdir()
        (data / _NETWORK_FILE).write_text(json.dumps(served.network, indent=2))
        shutil.copyfile(run.model, data / _MODEL_FILE)
        shutil.copyfile(run.job, data / _JOB_FILE)
        for source in (_MODELS / "__init__.py", *_loaded_by(served.loader)):
            shutil.copyfile(source, code / source.name)
        pyfunc.save_model(
            str(model),
            loader_module=served.loader,
            data_path=str(data),
            code_paths=[str(code)],
            signature=_signature(served),
            input_example=served.example,
            pip_requirements=_requirements(),
            metadata={"study": job.study, "point": job.point, "config_hash": job.config_hash},
        )
        yield model


def _loaded_by(module: str) -> list[Path]:
    """Find the files of ``models`` that a module loads, itself included, without loading it."""
    source = _MODELS / f"{module.removeprefix('models.')}.py"
    imported = [
        node.module
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("models.")
    ]
    below = [path for name in imported for path in _loaded_by(name)]
    return list(dict.fromkeys([source, *below]))


def served_as(experiment: Experiment) -> Served:
    """Return how the model of a run answers.

    Args:
        experiment: A training, or a federated run on a data set.
    """
    rng = np.random.default_rng(0)
    if isinstance(experiment, TrainingExperiment):
        return _served_gpt(experiment, rng)
    return _served_network(experiment, rng)


def _served_gpt(experiment: TrainingExperiment, rng: np.random.Generator) -> Served:
    """Numbers of tokens in; of the token behind each, all log-probabilities out."""
    model = experiment.model
    shape = (_NUM_EXAMPLES, min(_EXAMPLE_TOKENS, experiment.sequence))
    return Served(
        loader="models.served_gpt",
        network={
            "sizes": {name: getattr(model, name) for name in _GPT_SIZES},
            "sequence": experiment.sequence,
        },
        example=rng.integers(0, model.vocabulary, shape, dtype=np.int64),
        inputs=(-1, -1),
        answer=("float32", (-1, -1, model.vocabulary)),
        output="log_probabilities",
    )


def _served_network(experiment: FederatedExperiment, rng: np.random.Generator) -> Served:
    """Samples as the training saw them in, of text numbers of symbols; probabilities out."""
    inputs = _shape(experiment)
    shape = (_NUM_EXAMPLES, *inputs)
    is_text = experiment.model.name == "char_lstm"
    return Served(
        loader="models.served",
        network={
            "name": experiment.model.name,
            "sizes": experiment.model.model_dump(mode="json", exclude={"name", "execution"}),
            "dtype": experiment.dtype,
            "input_shape": inputs,
        },
        example=rng.integers(0, 32, shape, dtype=np.int64)
        if is_text
        else rng.random(shape).round(3).astype(np.float32),
        inputs=(-1, *inputs),
        # Of shape (-1, C), or (-1,) for labels: the schema of a tensor cannot say both.
        answer=(experiment.dtype, (-1, -1)),
        output="probabilities",
    )


def _shape(experiment: FederatedExperiment) -> tuple[int, ...]:
    if experiment.data is None:
        raise AssertionError("validated: only the quadratic model has no data")
    return experiment.data.facts.shape


def _signature(served: Served) -> "ModelSignature":
    from mlflow.models import ModelSignature  # noqa: PLC0415  with mlflow
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec  # noqa: PLC0415

    answer, shape = served.answer
    return ModelSignature(
        inputs=Schema([TensorSpec(served.example.dtype, served.inputs)]),
        outputs=Schema([TensorSpec(np.dtype(answer), shape)]),
        params=ParamSchema([ParamSpec("output", "string", served.output)]),
    )


def _requirements() -> list[str]:
    """Pin what the model needs. A build for one kind of device (``2.9.0+cpu``) is no version."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in _REQUIRED]
