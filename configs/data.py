"""Which data set, from where, and how it is divided among the workers."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.base import Fault, PositiveFloat, Record, Whole, raise_faults, tagged_by

MOST_SAMPLES = 10**9
DATA_ENVIRONMENT = "WATERSHED_DATA"
"""Environment variable that names the directory of all data sets."""

_IMAGES = (
    "a directory in the Hugging Face layout: parquet files train-*.parquet and test-*.parquet, at "
    "its top or one level below, with an image column and the column 'label'"
)


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a data set without loading it.

    Attributes:
        num_labels: Number of classes (for text: of symbols, None while unknown).
        shape: Shape of one sample.
        hub_name: Its name on the Hugging Face hub; None for bundled data, empty for the user's own.
        local_name: Its name below ``WATERSHED_DATA``; empty for bundled data.
        layout: What must stand there, in words.
        has_natural_partition: Whether it says who produced each sample.
    """

    num_labels: int | None
    shape: tuple[int, ...]
    hub_name: str | None = None
    local_name: str = ""
    layout: str = ""
    has_natural_partition: bool = False


DATASETS: dict[str, DatasetFacts] = {
    "digits": DatasetFacts(10, (64,)),
    "mnist": DatasetFacts(10, (1, 28, 28), "ylecun/mnist", "mnist", _IMAGES),
    "cifar10": DatasetFacts(10, (3, 32, 32), "uoft-cs/cifar10", "cifar10", _IMAGES),
    "images": DatasetFacts(None, (), "", "", _IMAGES),
    "shakespeare": DatasetFacts(
        None,
        (80,),
        "karpathy/tiny_shakespeare",
        "tinyshakespeare.txt",
        "a text file, or a directory with one in it",
        has_natural_partition=True,
    ),
}


class LocationError(ValueError):
    """A data set that is not where it should be; says what to put where."""


def locate(
    name: str, source: str | None, environment: Mapping[str, str] | None = None
) -> Path | str:
    """Find where a data set that is not bundled is to be read from.

    Args:
        name: Its name in the configuration.
        source: ``data.source``: a path or a hub name; None for the default place.
        environment: Variables of who reads it; None for those of this process.

    Returns:
        An existing path, or a name on the hub.

    Raises:
        LocationError: Nothing is at the path given, or below ``WATERSHED_DATA``; or the data
            are bundled.
    """
    facts = DATASETS[name]
    if facts.hub_name is None:
        raise LocationError(f"{name} is bundled and comes from nowhere else; remove this key")
    if source is not None:
        path = Path(source).expanduser()
        if path.exists():
            return path
        if may_be_hub_name(source):
            return source
        raise LocationError(how_to_provide(name, f"{source} does not exist"))
    root = (os.environ if environment is None else environment).get(DATA_ENVIRONMENT)
    if not root:
        return facts.hub_name
    found = [Path(root, facts.local_name)]
    if name == "shakespeare":  # any text file or directory of that name will do
        found += sorted(Path(root).glob("shakespeare*"))
    for path in found:
        if path.exists():
            return path
    problem = f"{DATA_ENVIRONMENT} is {root}, which holds no {facts.local_name}"
    raise LocationError(how_to_provide(name, problem))


def may_be_hub_name(source: str) -> bool:
    """Whether a source reads like ``owner/name`` on the hub, not like a path."""
    return source.count("/") <= 1 and not source.startswith((".", "/", "~"))


def how_to_provide(name: str, problem: str) -> str:
    """Say what a data set has to look like, and the ways to say where it is.

    Args:
        name: Its name in the configuration; not of bundled data.
        problem: What was found.

    Returns:
        The problem, and what to do about it.
    """
    facts = DATASETS[name]
    if not facts.hub_name:
        return f"{name}: {problem}. Needed is {facts.layout}, or a name on the hub"
    return (
        f"{name}: {problem}. Needed is {facts.layout}. Name it in data.source, or put it at "
        f"<directory>/{facts.local_name} and set {DATA_ENVIRONMENT}=<directory>; without either it "
        f"is downloaded from the Hugging Face hub ({facts.hub_name})"
    )


class ByLabels(Record):
    """p labels a worker, equal sizes: the authors' protocol (dossier 6.2)."""

    kind: Literal["labels"] = "labels"
    labels_per_worker: Whole = Field(
        default=2, ge=1, le=1_000_000, description="p: how many different labels a worker holds."
    )


class Dirichlet(Record):
    """Label shares of each worker drawn from a Dirichlet distribution."""

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: PositiveFloat = Field(
        default=0.5, description="Concentration: small is heterogeneous, large is iid."
    )
    min_samples: Whole = Field(
        default=1, ge=1, le=MOST_SAMPLES, description="Fewest samples that a worker may hold."
    )


class Iid(Record):
    """A random division into equal parts."""

    kind: Literal["iid"] = "iid"


class Natural(Record):
    """By who produced the samples: the speaking role, for Shakespeare."""

    kind: Literal["natural"] = "natural"
    min_samples: Whole = Field(
        default=1,
        ge=1,
        le=MOST_SAMPLES,
        description="A role with fewer samples is no worker of its own.",
    )


Partition = Annotated[
    ByLabels | Dirichlet | Iid | Natural, tagged_by("kind", "labels"), Field(discriminator="kind")
]


Side = Annotated[Whole, Field(ge=1, le=4096)]


def _is_none(value: object) -> bool:
    """Leave a field out of a configuration's hash, which is older than the field."""
    return value is None


class Data(Record):
    """A data set and its division among the workers."""

    name: Literal["digits", "mnist", "cifar10", "images", "shakespeare"] = Field(
        default="digits",
        description="digits is bundled; the others come from source; images are your own.",
    )
    source: str | None = Field(
        default=None,
        description=(
            "A local directory in the Hugging Face layout (or a text file, for shakespeare), or a "
            "hub name. Default: the directory of that name below WATERSHED_DATA if it is set, "
            "else the hub."
        ),
    )
    shape: tuple[Side, Side, Side] | None = Field(
        default=None,
        exclude_if=_is_none,
        description="Of own images: channels (1 grey, 3 colours), then height and width in pixels.",
    )
    classes: Whole | None = Field(
        default=None,
        ge=2,
        le=1_000_000,
        exclude_if=_is_none,
        description="Of own images: their labels are 0 to classes - 1.",
    )
    partition: Partition = Field(default=ByLabels(), description="How samples go to workers.")
    max_samples: Whole | None = Field(
        default=None,
        ge=1,
        le=MOST_SAMPLES,
        description="Use only the first so many training samples (for trials).",
    )
    seed: Whole = Field(
        default=6, ge=0, lt=2**63, description="Seed of the division; 6 in the authors' protocol."
    )

    @model_validator(mode="after")
    def _says_what_images_are(self) -> "Data":
        given = {"source": self.source, "shape": self.shape, "classes": self.classes}
        faults = []
        for field, value in given.items():
            if self.name == "images" and value is None:
                message = "missing; images are your own: say where they are, of what shape, and "
                faults.append(Fault(path=field, message=f"{message}how many classes they have"))
            elif self.name != "images" and field != "source" and value is not None:
                message = f"{self.name} has its own; remove this key, or use images"
                faults.append(Fault(path=field, message=message, related=("name",)))
        if self.shape is not None and self.shape[0] not in {1, 3}:
            message = f"{self.shape[0]} channels are not read; use 1 (grey) or 3 (colours)"
            faults.append(Fault(path="shape.0", message=message))
        raise_faults("Data", faults)
        return self

    @property
    def facts(self) -> DatasetFacts:
        """What is known of it without loading it."""
        known = DATASETS[self.name]
        if self.shape is None:
            return known
        return replace(known, shape=self.shape, num_labels=self.classes)


DataField = Annotated[Data, tagged_by("name", "digits")]
