"""What the server does with the returns, and what optimiser a worker runs on its own data."""

from functools import lru_cache
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from configs.base import (
    MOST_ROUNDS,
    MOST_WORKERS,
    Number,
    PositiveFloat,
    Probability,
    Record,
    Weight,
    Whole,
    tagged_by,
)

Beta = Annotated[Probability, Field(lt=1)]


class ServerSgd(Record):
    """x += server_lr * direction."""

    name: Literal["sgd"] = "sgd"


class ServerMomentum(Record):
    """Heavy ball: v = beta * v + direction; x += server_lr * v."""

    name: Literal["momentum"] = "momentum"
    beta: Beta = Field(default=0.9, description="Decay of the velocity.")


class ServerAdam(Record):
    """Adam on the direction, with bias correction."""

    name: Literal["adam"] = "adam"
    beta1: Beta = Field(default=0.9, description="Decay of the first moment.")
    beta2: Beta = Field(default=0.99, description="Decay of the second moment.")
    epsilon: PositiveFloat = Field(default=1e-8, description="Added to the square root.")


class ServerAmsgrad(Record):
    """AMSGrad on the direction; with delay_threshold it is FADAS's delay-adaptive rate."""

    name: Literal["amsgrad"] = "amsgrad"
    beta1: Beta = Field(default=0.9, description="Decay of the first moment.")
    beta2: Beta = Field(default=0.99, description="Decay of the second moment.")
    epsilon: PositiveFloat = Field(default=1e-8, description="Added to the square root.")
    delay_threshold: Whole | None = Field(
        default=None,
        ge=1,
        le=MOST_ROUNDS,
        description="In a round whose largest delay is above, the rate is min(server_lr, 1/delay).",
    )


class FadasAmsgrad(ServerAmsgrad):
    """AMSGrad as FADAS has it: the rate adapts to the delay, whatever else is set."""

    delay_threshold: Whole | None = Field(
        default=1,
        ge=1,
        le=MOST_ROUNDS,
        description="tau_c: in a round whose largest delay is above, the rate is "
        "min(server_lr, 1/delay); null leaves the rate.",
    )


ServerOptimizer = Annotated[
    ServerSgd | ServerMomentum | ServerAdam | ServerAmsgrad,
    tagged_by("name", "sgd"),
    Field(discriminator="name"),
]
Slots = Literal["zeros", "wait", "seen"]


class AlgorithmBase(Record):
    """What all server algorithms have."""

    has_worker_memory: ClassVar[bool] = False
    """Whether the server keeps a vector of the model's size for every registered worker."""

    collect: Whole = Field(
        default=10,
        ge=1,
        le=MOST_WORKERS,
        description="m: returns that the server collects before one update.",
    )
    server_lr: PositiveFloat = Field(
        default=1.0,
        description=(
            "eta, the server-side learning rate. Normalised algorithms average (x_K - x_0) / K, so "
            "that K * eta here is eta of an un-normalised one."
        ),
    )
    server: ServerOptimizer = Field(
        default=ServerSgd(), description="Server-side optimiser that applies the direction."
    )

    @property
    def is_normalised(self) -> bool:
        """Whether each return is divided by its own number of local steps."""
        return False

    @property
    def waits_for_all(self) -> bool:
        """Whether the model stays until every worker has returned once."""
        return False


class AfaCd(AlgorithmBase):
    """Anarchic federated averaging, cross-device: the mean of the returns as they come."""

    name: Literal["afa_cd"] = "afa_cd"
    normalise: bool = Field(
        default=True, description="Divide each return by its own number of local steps."
    )

    @property
    def is_normalised(self) -> bool:
        """As ``normalise`` says."""
        return self.normalise


class AfaCs(AlgorithmBase):
    """Anarchic federated averaging, cross-silo: the mean of every worker's latest return."""

    has_worker_memory = True
    name: Literal["afa_cs"] = "afa_cs"
    normalise: bool = Field(
        default=True, description="Divide each return by its own number of local steps."
    )
    slots: Slots = Field(
        default="zeros",
        description=(
            "Memory before a worker's first return: zeros; wait (no update until all have "
            "returned); seen (divide by the number of workers seen)."
        ),
    )

    @property
    def is_normalised(self) -> bool:
        """As ``normalise`` says."""
        return self.normalise

    @property
    def waits_for_all(self) -> bool:
        """As ``slots`` says."""
        return self.slots == "wait"


class FedAvg(AlgorithmBase):
    """Two-sided FedAvg: the mean of the whole local changes, not normalised."""

    name: Literal["fedavg"] = "fedavg"


class FedAsync(AlgorithmBase):
    """FedAsync: mixes each return into the model, less the staler it is."""

    name: Literal["fedasync"] = "fedasync"
    collect: Literal[1] = Field(default=1, description="FedAsync updates on every return.")
    server_lr: Annotated[Number, Field(gt=0, le=1)] = Field(
        default=0.6, description="alpha: share of the returned model in the mixture."
    )
    staleness: Literal["constant", "polynomial", "hinge"] = Field(
        default="polynomial", description="How alpha falls with the delay."
    )
    exponent: PositiveFloat = Field(
        default=0.5, description="a: polynomial (delay+1)^-a; slope of hinge beyond its knee."
    )
    knee: Whole = Field(
        default=4, ge=0, le=MOST_ROUNDS, description="b: hinge leaves delays up to b undamped."
    )

    def damping(self, delay: float) -> float:
        """Return by how much alpha is multiplied.

        Args:
            delay: In rounds, at least 0.

        Returns:
            s(delay), in (0, 1].
        """
        match self.staleness:
            case "constant":
                return 1.0
            case "polynomial":
                return float((1 + delay) ** -self.exponent)
            case "hinge":
                return 1 / (1 + self.exponent * max(0, delay - self.knee))


class FedBuff(AlgorithmBase):
    """FedBuff: the mean of buffered changes, optionally damped by 1/sqrt(1 + delay)."""

    name: Literal["fedbuff"] = "fedbuff"
    damp_stale: bool = Field(default=True, description="Weight each change by 1/sqrt(1+delay).")


def _only_amsgrad(server: object) -> object:
    """Say that FADAS has one optimiser: the words of the others are not unknown.

    Args:
        server: What stands in the file.

    Returns:
        The same.

    Raises:
        PydanticCustomError: Another optimiser is named.
    """
    name = server.get("name", "amsgrad") if isinstance(server, dict) else server
    if isinstance(name, str) and name != "amsgrad":
        reason = f"fadas takes amsgrad only, not '{name}'; use fedbuff for other optimisers"
        raise PydanticCustomError("refused", "{reason}", {"reason": reason})
    return server


class Fadas(AlgorithmBase):
    """FADAS: FedBuff's undamped mean under AMSGrad with a delay-adaptive rate."""

    name: Literal["fadas"] = "fadas"
    server_lr: PositiveFloat = Field(default=0.01, description="eta of AMSGrad.")
    server: Annotated[
        FadasAmsgrad, tagged_by("name", "amsgrad"), BeforeValidator(_only_amsgrad)
    ] = Field(default=FadasAmsgrad(), description="FADAS is AMSGrad by definition.")


class Mifa(AlgorithmBase):
    """MIFA: the mean of every worker's latest change, not normalised."""

    has_worker_memory = True
    name: Literal["mifa"] = "mifa"
    slots: Slots = Field(
        default="zeros", description="Memory before a worker's first return, as for afa_cs."
    )

    @property
    def waits_for_all(self) -> bool:
        """As ``slots`` says."""
        return self.slots == "wait"


class Ca2fl(AlgorithmBase):
    """CA2FL: the buffer's changes calibrated by a memory of all (SAGA where MIFA is SAG)."""

    has_worker_memory = True
    name: Literal["ca2fl"] = "ca2fl"


class Area(AlgorithmBase):
    """AREA: each worker sends the change of its own local model since its last return."""

    has_worker_memory = True
    name: Literal["area"] = "area"


class RescaledAsgd(AlgorithmBase):
    """Rescaled ASGD: each return weighs as long as its worker took, which undoes frequency."""

    name: Literal["rescaled_asgd"] = "rescaled_asgd"

    @property
    def is_normalised(self) -> bool:
        """Always."""
        return True


Algorithm = Annotated[
    AfaCd | AfaCs | FedAvg | FedAsync | FedBuff | Fadas | Mifa | Ca2fl | Area | RescaledAsgd,
    tagged_by("name", "afa_cd"),
    Field(discriminator="name"),
]


class WorkerBase(Record):
    """What all worker-side optimisers have."""

    lr: PositiveFloat = Field(default=0.1, description="eta_L, the worker-side learning rate.")
    batch_size: Whole = Field(
        default=32,
        ge=1,
        le=1_000_000,
        description="Samples of a local step, drawn with replacement.",
    )
    clip_norm: PositiveFloat | None = Field(
        default=None, description="Clip each stochastic gradient to this 2-norm."
    )

    def gradient_weight(self, num_steps: int) -> float:
        """Return by how much the gradients of a return count together, FedNova's normaliser.

        A return is x_K - x_0 = -lr * sum_j a_j g_j over its K gradients, and this is sum_j |a_j|.

        Args:
            num_steps: K, at least 1.

        Returns:
            K where all gradients count alike; at least 1.
        """
        return float(num_steps)


class WorkerSgd(WorkerBase):
    """Plain SGD."""

    optimizer: Literal["sgd"] = "sgd"


class WorkerMomentum(WorkerBase):
    """Heavy-ball SGD; the velocity starts at zero with each pull."""

    optimizer: Literal["momentum"] = "momentum"
    beta: Beta = Field(default=0.9, description="Decay of the velocity.")

    def gradient_weight(self, num_steps: int) -> float:
        """Return sum_{j=1..K} (1 - beta^j) / (1 - beta): early gradients stay in the velocity.

        Args:
            num_steps: K, at least 1.

        Returns:
            Between K and K / (1 - beta).
        """
        return _momentum_weight(self.beta, num_steps)


class FedProx(WorkerBase):
    """SGD with the proximal term mu/2 * |x - x_pulled|^2."""

    optimizer: Literal["fedprox"] = "fedprox"
    mu: Weight = Field(default=0.1, description="Weight of the proximal term.")

    def gradient_weight(self, num_steps: int) -> float:
        """Return sum_{j<K} |1 - lr mu|^j: the pull back makes early gradients fade.

        Args:
            num_steps: K, at least 1.

        Returns:
            Between 1 and K for lr mu up to 2, beyond which the pull back diverges.
        """
        return _proximal_weight(abs(1 - self.lr * self.mu), num_steps)


@lru_cache(maxsize=4096)
def _momentum_weight(beta: float, num_steps: int) -> float:
    velocity, change = 0.0, 0.0
    for _ in range(num_steps):  # heavy ball on gradients of one; the closed form cancels near 1
        velocity = beta * velocity + 1
        change += velocity
    return change


@lru_cache(maxsize=4096)
def _proximal_weight(kept: float, num_steps: int) -> float:
    change = 0.0
    for _ in range(num_steps):
        change = kept * change + 1
    return change


class Scaffold(WorkerBase):
    """SGD corrected by control variates (SCAFFOLD, option II)."""

    optimizer: Literal["scaffold"] = "scaffold"


Worker = Annotated[
    WorkerSgd | WorkerMomentum | FedProx | Scaffold,
    tagged_by("optimizer", "sgd"),
    Field(discriminator="optimizer"),
]
