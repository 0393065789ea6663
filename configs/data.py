"""Which data set, from where, and how it is divided among the workers."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from configs.base import PositiveFloat, Record, tagged_by


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a data set without loading it.

    Attributes:
        num_labels: Number of classes (for text: of symbols, None while unknown).
        shape: Shape of one sample.
        hub_name: Its name on the Hugging Face hub; None for bundled data.
        has_natural_partition: Whether it says who produced each sample.
    """

    num_labels: int | None
    shape: tuple[int, ...]
    hub_name: str | None
    has_natural_partition: bool = False


DATASETS: dict[str, DatasetFacts] = {
    "digits": DatasetFacts(10, (64,), None),
    "mnist": DatasetFacts(10, (1, 28, 28), "ylecun/mnist"),
    "cifar10": DatasetFacts(10, (3, 32, 32), "uoft-cs/cifar10"),
    "shakespeare": DatasetFacts(
        None, (80,), "karpathy/tiny_shakespeare", has_natural_partition=True
    ),
}


class ByLabels(Record):
    """p labels a worker, equal sizes: the authors' protocol (dossier 6.2)."""

    kind: Literal["labels"] = "labels"
    labels_per_worker: int = Field(
        default=2, ge=1, description="p: how many different labels a worker holds."
    )


class Dirichlet(Record):
    """Label shares of each worker drawn from a Dirichlet distribution."""

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: PositiveFloat = Field(
        default=0.5, description="Concentration: small is heterogeneous, large is iid."
    )
    min_samples: int = Field(default=1, ge=1, description="Fewest samples that a worker may hold.")


class Iid(Record):
    """A random division into equal parts."""

    kind: Literal["iid"] = "iid"


class Natural(Record):
    """By who produced the samples: the speaking role, for Shakespeare."""

    kind: Literal["natural"] = "natural"
    min_samples: int = Field(
        default=1, ge=1, description="A role with fewer samples is no worker of its own."
    )


Partition = Annotated[
    ByLabels | Dirichlet | Iid | Natural, tagged_by("kind", "labels"), Field(discriminator="kind")
]


class Data(Record):
    """A data set and its division among the workers."""

    name: Literal["digits", "mnist", "cifar10", "shakespeare"] = Field(
        default="digits", description="digits is bundled; the others come from source."
    )
    source: str | None = Field(
        default=None,
        description=(
            "A local directory in the Hugging Face layout (or a text file, for shakespeare), or a "
            "hub name. Default: the directory of that name below WATERSHED_DATA if it is set, "
            "else the hub."
        ),
    )
    partition: Partition = Field(default=ByLabels(), description="How samples go to workers.")
    max_samples: int | None = Field(
        default=None, ge=1, description="Use only the first so many training samples (for trials)."
    )
    seed: int = Field(
        default=6, ge=0, description="Seed of the division; 6 in the authors' protocol."
    )


DataField = Annotated[Data, tagged_by("name", "digits")]
