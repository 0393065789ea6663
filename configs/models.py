"""Which network (or test problem) is trained. One record a model; the tag is ``name``."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from configs.base import LARGEST, Number, PositiveFloat, Record, Weight, Whole, tagged_by

Coordinate = Annotated[Number, Field(ge=-LARGEST, le=LARGEST)]
Centre = Coordinate | tuple[Coordinate, ...]
Execution = Literal["auto", "batched", "looped", "threads"]


class ModelBase(Record):
    """What all models have."""

    datasets: ClassVar[tuple[str, ...]] = ()
    """The data sets that it takes; none for a problem that brings its own."""


class NetworkBase(ModelBase):
    """What all networks have."""

    execution: Execution = Field(
        default="auto",
        description="How a round's workers are computed; auto takes what the benchmark found best. "
        "A model has the same bits on a CPU whatever the number of threads, except with looped.",
    )


class Quadratic(ModelBase):
    """The closed-form test problem: worker i has ``f_i(x) = h_i/2 * |x - c_i|^2``."""

    name: Literal["quadratic"] = "quadratic"
    centres: tuple[Centre, ...] = Field(
        default=(0.0, 100.0),
        min_length=1,
        description="One centre c_i a worker: a number, or a list of equal length for all workers.",
    )
    curvatures: PositiveFloat | tuple[PositiveFloat, ...] = Field(
        default=1.0, description="Curvature h_i: one number for all workers, or one a worker."
    )
    noise: Weight = Field(
        default=0.0,
        description="Standard deviation of the gradient noise, per coordinate and local step.",
    )
    start: Coordinate = Field(default=0.0, description="Every coordinate of the initial model.")

    @property
    def dimension(self) -> int:
        """Length of the model vector."""
        first = self.centres[0]
        return len(first) if isinstance(first, tuple) else 1

    def curvature_of(self, worker: int) -> float:
        """Curvature h_i of one worker."""
        if isinstance(self.curvatures, tuple):
            return self.curvatures[worker]
        return self.curvatures


class Logistic(ModelBase):
    """Multinomial logistic regression, starting from zeros."""

    datasets = ("digits", "mnist", "cifar10", "images")

    name: Literal["logistic"] = "logistic"
    l2: Weight = Field(default=0.0, description="Weight of the penalty l2/2 * |x|^2.")


class MnistCnn(NetworkBase):
    """The CNN for 28 x 28 grey images of the authors' protocol (dossier 6.2)."""

    datasets = ("mnist",)

    name: Literal["mnist_cnn"] = "mnist_cnn"


class Cifar10Cnn(NetworkBase):
    """The CNN for 32 x 32 colour images of the authors' protocol (dossier 6.2)."""

    datasets = ("cifar10",)

    name: Literal["cifar10_cnn"] = "cifar10_cnn"


class CharLstm(NetworkBase):
    """Next-character LSTM for Shakespeare (LEAF's convention, dossier 6.2)."""

    datasets = ("shakespeare",)

    name: Literal["char_lstm"] = "char_lstm"
    embedding: Whole = Field(default=8, ge=1, le=4096, description="Embedding width.")
    hidden: Whole = Field(default=256, ge=1, le=8192, description="Hidden units of each layer.")
    layers: Whole = Field(default=2, ge=1, le=8, description="Stacked LSTM layers.")


Model = Annotated[
    Quadratic | Logistic | MnistCnn | Cifar10Cnn | CharLstm,
    tagged_by("name", "logistic"),
    Field(discriminator="name"),
]
