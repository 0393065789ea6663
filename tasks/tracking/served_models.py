"""The final model of a federated run as files that ``mlflow models`` loads, made without torch.

Beside the parameters stand the job, what the network is, and the few modules of ``models/`` that
build it, so that the model also loads where Watershed is not installed.
"""

import ast
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from configs.federated import FederatedExperiment
from configs.study import Experiment
from tasks.runtime.records import JobFile
from tasks.runtime.run_directory import RunDirectory

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

_MODELS = Path(__file__).parents[2] / "models"
_LOADER = "models.served"
_NETWORK_FILE, _MODEL_FILE, _JOB_FILE = "network.json", "model.safetensors", "job.json"
_REQUIRED = ("torch", "numpy", "safetensors")
_NUM_EXAMPLES = 2


def can_be_served(experiment: Experiment) -> bool:
    """Say whether the model of a run answers to samples.

    The quadratic test problem has nothing to answer. The model of a training on ranks may have any
    size; it stays in the run directory.

    Args:
        experiment: What the run runs.
    """
    return isinstance(experiment, FederatedExperiment) and experiment.model.name != "quadratic"


@contextmanager
def served_model(run: RunDirectory, job: JobFile) -> Iterator[Path]:
    """Make the directory of an MLflow model, with a ``MLmodel`` of the pyfunc flavour.

    Args:
        run: The run directory, with the final model.
        job: What it has run.

    Yields:
        The directory, which is removed at the end.

    Raises:
        JobError: The run is a training on ranks.
        OSError: A file cannot be read or written.
    """
    from mlflow import pyfunc  # noqa: PLC0415  3 s

    with tempfile.TemporaryDirectory(prefix="watershed-model-") as made:
        data, code, model = (Path(made) / name for name in ("data", "models", "model"))
        data.mkdir()
        code.mkdir()
        (data / _NETWORK_FILE).write_text(json.dumps(network_of(job.federated), indent=2))
        shutil.copyfile(run.model, data / _MODEL_FILE)
        shutil.copyfile(run.job, data / _JOB_FILE)
        for source in (_MODELS / "__init__.py", *_loaded_by(_LOADER)):
            shutil.copyfile(source, code / source.name)
        example = example_of(job.federated)
        pyfunc.save_model(
            str(model),
            loader_module=_LOADER,
            data_path=str(data),
            code_paths=[str(code)],
            signature=_signature(job.federated, example),
            input_example=example,
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


def network_of(experiment: FederatedExperiment) -> dict[str, object]:
    """Return what ``models.served`` has to know of a network.

    Args:
        experiment: A run on a data set.
    """
    return {
        "name": experiment.model.name,
        "sizes": experiment.model.model_dump(mode="json", exclude={"name", "execution"}),
        "dtype": experiment.dtype,
        "input_shape": _shape(experiment),
    }


def example_of(experiment: FederatedExperiment) -> NDArray[np.float32] | NDArray[np.int64]:
    """Return two samples of the shape that the training saw: drawn at random, not from the data.

    Args:
        experiment: A run on a data set.

    Returns:
        Shape (2, ...); float32, or of text symbol numbers, int64.
    """
    rng = np.random.default_rng(0)
    shape = (_NUM_EXAMPLES, *_shape(experiment))
    if experiment.model.name == "char_lstm":
        return rng.integers(0, 32, shape, dtype=np.int64)
    return rng.random(shape).round(3).astype(np.float32)


def _shape(experiment: FederatedExperiment) -> tuple[int, ...]:
    if experiment.data is None:
        raise AssertionError("validated: only the quadratic model has no data")
    return experiment.data.facts.shape


def _signature(
    experiment: FederatedExperiment, example: NDArray[np.float32] | NDArray[np.int64]
) -> "ModelSignature":
    from mlflow.models import ModelSignature  # noqa: PLC0415  with mlflow
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec  # noqa: PLC0415

    # Of shape (-1, C), or (-1,) for labels: the schema of a tensor cannot say both.
    answer = np.dtype(experiment.dtype)
    return ModelSignature(
        inputs=Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]),
        outputs=Schema([TensorSpec(answer, (-1, -1))]),
        params=ParamSchema([ParamSpec("output", "string", "probabilities")]),
    )


def _requirements() -> list[str]:
    """Pin what the model needs. A build for one kind of device (``2.9.0+cpu``) is no version."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in _REQUIRED]
