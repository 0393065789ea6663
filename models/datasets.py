"""Data sets as tensors, by the name of their configuration.

Images are scaled to [0, 1] and normalised by channel as in the authors' protocol (dossier 6.2).
Departure: its CIFAR-10 loader flips and crops at random; here nothing is augmented, so that the
objective is a fixed function whose gradient can be evaluated.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.data import DATASETS, Data
from configs.models import Quadratic
from models.hub import locate, read_images, read_text
from models.shakespeare import speaking_roles, windows

Ints = NDArray[np.int64]

_NORMALISATION = {
    "mnist": ((0.1307,), (0.3081,)),
    "cifar10": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
_DIGITS_SPLIT_SEED = 0


@dataclass(frozen=True)
class Dataset:
    """Training and test samples.

    Attributes:
        train_inputs: Shape (N, ...); floating point, or small integers for text.
        train_targets: Shape (N,), int64.
        test_inputs: Shape (N_test, ...).
        test_targets: Shape (N_test,), int64.
        labels: Label of each training sample, by which it is partitioned, shape (N,), int64.
        num_labels: Number of classes (for text, of symbols).
        owners: Who produced each training sample, shape (N,), int64; None where unknown.
    """

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    labels: Ints
    num_labels: int
    owners: Ints | None = None

    def to(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> "Dataset":
        """Move to a device; floating-point inputs also take the type, integers keep theirs."""

        def moved(inputs: Tensor) -> Tensor:
            return inputs.to(device=device, dtype=dtype if inputs.is_floating_point() else None)

        return replace(
            self,
            train_inputs=moved(self.train_inputs),
            train_targets=self.train_targets.to(device),
            test_inputs=moved(self.test_inputs),
            test_targets=self.test_targets.to(device),
        )


def load(config: Data | Quadratic) -> Dataset:
    """Load a data set.

    Args:
        config: Which one, and from where. The quadratic problem brings its own samples.

    Returns:
        Tensors on the CPU; floating-point ones are float32 (float64 for the quadratic problem).

    Raises:
        DatasetError: It is not where it should be, cannot be downloaded, or has another layout.
    """
    if isinstance(config, Quadratic):
        return _quadratic(config)
    match config.name:
        case "digits":
            dataset = _digits()
        case "mnist" | "cifar10" | "images":
            dataset = _images(config)
        case "shakespeare":
            dataset = _shakespeare(config)
    return dataset if config.max_samples is None else _first(dataset, config.max_samples)


def _first(dataset: Dataset, num_samples: int) -> Dataset:
    return replace(
        dataset,
        train_inputs=dataset.train_inputs[:num_samples],
        train_targets=dataset.train_targets[:num_samples],
        labels=dataset.labels[:num_samples],
        owners=None if dataset.owners is None else dataset.owners[:num_samples],
    )


def _quadratic(config: Quadratic) -> Dataset:
    """One sample a worker: its centre, then its curvature."""
    centres = np.array(config.centres, dtype=np.float64).reshape(len(config.centres), -1)
    curvatures = np.broadcast_to(config.curvatures, len(centres))
    inputs = torch.from_numpy(np.column_stack([centres, curvatures]))
    targets = torch.zeros(len(inputs), dtype=torch.int64)
    return Dataset(inputs, targets, inputs, targets, targets.numpy(), num_labels=1)


def _digits() -> Dataset:
    """scikit-learn's handwritten digits, 8 x 8 of 0..16; every fifth, drawn once, is for tests."""
    from sklearn.datasets import (  # type: ignore[import-untyped]  # noqa: PLC0415  2 s
        load_digits,
    )

    inputs, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(_DIGITS_SPLIT_SEED).permutation(len(labels))
    inputs = torch.from_numpy(inputs[order] / 16).float()
    targets = torch.from_numpy(labels[order]).long()
    num_test = len(labels) // 5
    return Dataset(
        train_inputs=inputs[num_test:],
        train_targets=targets[num_test:],
        test_inputs=inputs[:num_test],
        test_targets=targets[:num_test],
        labels=targets[num_test:].numpy(),
        num_labels=10,
    )


def _images(config: Data) -> Dataset:
    """Labelled images; own ones are normalised by what their training samples are like."""
    source = locate(config.name, config.source)

    def read(split: str) -> tuple[Tensor, Ints]:
        pixels, labels = read_images(source, config, split)
        return torch.from_numpy(pixels).float().div_(255), labels

    train_inputs, labels = read("train")
    test_inputs, test_labels = read("test")
    if config.name in _NORMALISATION:
        mean, deviation = (torch.tensor(v).view(-1, 1, 1) for v in _NORMALISATION[config.name])
    else:
        deviation, mean = torch.std_mean(train_inputs, dim=(0, 2, 3), correction=0, keepdim=True)
        deviation[deviation == 0] = 1  # one colour everywhere
    return Dataset(
        train_inputs=train_inputs.sub_(mean).div_(deviation),
        train_targets=torch.from_numpy(labels),
        test_inputs=test_inputs.sub_(mean).div_(deviation),
        test_targets=torch.from_numpy(test_labels),
        labels=labels,
        num_labels=config.facts.num_labels or 0,
    )


def _shakespeare(config: Data) -> Dataset:
    """The next character after 80, with the speaking role as the owner."""
    source = locate(config.name, config.source)
    text = read_text(source, config.name)
    speeches = speaking_roles(text, str(source))
    split = windows(speeches, context=DATASETS[config.name].shape[0])
    return Dataset(
        train_inputs=torch.from_numpy(split.train[:, :-1]),
        train_targets=torch.from_numpy(split.train[:, -1]).long(),
        test_inputs=torch.from_numpy(split.test[:, :-1]),
        test_targets=torch.from_numpy(split.test[:, -1]).long(),
        labels=split.train[:, -1].astype(np.int64),
        num_labels=len(split.symbols),
        owners=split.owners,
    )
