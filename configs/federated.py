"""One federated experiment: the whole input of a simulation, validated together."""

from typing import Literal

from pydantic import Field, model_validator

from configs.algorithms import AfaCd, Algorithm, Worker, WorkerSgd
from configs.arrivals import (
    Arrivals,
    ConstantSteps,
    LocalSteps,
    Service,
    Uniform,
)
from configs.base import MOST_ROUNDS, MOST_WORKERS, Record, Whole, raise_faults
from configs.data import MOST_SAMPLES, DataField
from configs.federated_faults import faults_together
from configs.models import Logistic, Model


class FederatedExperiment(Record):
    """An anarchic (or synchronous) federated training, simulated on a virtual clock or real."""

    kind: Literal["federated"] = Field(default="federated", description="Kind of the experiment.")
    workers: Whole = Field(
        default=100, ge=1, le=MOST_WORKERS, description="M: registered workers, in all."
    )
    rounds: Whole = Field(default=200, ge=1, le=MOST_ROUNDS, description="T: server updates.")
    seed: Whole = Field(default=0, ge=0, lt=2**63, description="Seed of every random draw.")
    model: Model = Field(default=Logistic(), description="What is trained.")
    data: DataField | None = Field(
        default=None, description="What it is trained on; the quadratic model has no data."
    )
    algorithm: Algorithm = Field(default=AfaCd(), description="The server side.")
    worker: Worker = Field(default=WorkerSgd(), description="The worker side.")
    local_steps: LocalSteps = Field(
        default=ConstantSteps(), description="K: local steps of each return."
    )
    arrivals: Arrivals = Field(default=Uniform(), description="Who returns when, and how stale.")
    service: Service = Field(default=Service(), description="How long workers take.")
    dtype: Literal["float32", "float64"] = Field(
        default="float32", description="Floating-point type of models and returns."
    )
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="Where to compute.")
    evaluate_every: Whole = Field(
        default=10,
        ge=1,
        le=MOST_ROUNDS,
        description="Rounds between two lines of the journal.",
    )
    evaluate_samples: Whole | None = Field(
        default=None,
        ge=1,
        le=MOST_SAMPLES,
        description=(
            "Use only so many training samples, spread evenly over the workers, for the loss and "
            "its gradient. Default: all."
        ),
    )
    record_trace: bool = Field(
        default=False,
        description=(
            "Write who returned when to trace.csv, which can be replayed; arrivals slurm always do."
        ),
    )
    checkpoint_every: Whole = Field(
        default=100, ge=1, le=MOST_ROUNDS, description="Rounds between two checkpoints."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "FederatedExperiment":
        raise_faults("FederatedExperiment", list(faults_together(self)))
        return self

    @property
    def num_steps(self) -> int:
        """How far it goes: rounds."""
        return self.rounds

    @property
    def unit(self) -> str:
        """What ``num_steps`` counts."""
        return "round"
