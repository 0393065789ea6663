"""What a server algorithm is: a pure function from state and returns to state.

Symbols: M workers in all, m returns in a buffer, P parameters, t the version (server updates so
far), mu the version that a worker pulled, K its local steps, eta the server-side rate.

A state's tensors may be reused by its successor (a memory of M x P is not copied every round), so
the caller never uses a state again after passing it in; ``ServerState.clone`` keeps one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import Tensor


@dataclass(frozen=True)
class Returns:
    """The buffer of one server update, one row a return, in order of arrival.

    Attributes:
        worker: Worker ids, shape (m,), int64. A worker may stand in it twice.
        start: The models that the workers pulled, x_mu, shape (m, P).
        delta: Normalised changes (x_K - x_mu) / K, shape (m, P); ``gradient_weights`` says what
            takes the place of K where an algorithm averages those of momentum or FedProx.
        num_steps: K, shape (m,), int64, at least 1.
        delay: t - mu, in rounds, shape (m,), int64; 0 for the newest model.
        returned_at_s: Virtual time of each return, shape (m,), float64, not decreasing; of real
            workers when the server took it, see ``Arrivals``.
        control: SCAFFOLD's changes of the control variates, shape (m, P), else None.
    """

    worker: Tensor
    start: Tensor
    delta: Tensor
    num_steps: Tensor
    delay: Tensor
    returned_at_s: Tensor
    control: Tensor | None = None

    @property
    def change(self) -> Tensor:
        """The whole local changes x_K - x_mu, shape (m, P)."""
        return self.delta * self.num_steps.to(self.delta.dtype)[:, None]

    def __len__(self) -> int:
        return int(self.worker.shape[0])


@dataclass(frozen=True)
class ServerState:
    """Everything that a server carries from one update to the next.

    Attributes:
        model: The global model x_t, shape (P,).
        version: t.
        memory: The algorithm's own tensors by name (``slots``, ``slot_sum``, ...); the server-side
            optimiser's are named ``optimizer/...``. Each algorithm's file lists its names.
    """

    model: Tensor
    version: int = 0
    memory: dict[str, Tensor] = field(default_factory=dict)

    def clone(self) -> "ServerState":
        """Return a copy that shares no storage."""
        return replace(
            self,
            model=self.model.clone(),
            memory={name: tensor.clone() for name, tensor in self.memory.items()},
        )


@dataclass(frozen=True)
class ServerAlgorithm:
    """A server algorithm, ready to run.

    Attributes:
        init: Initial model, shape (P,) -> initial state.
        aggregate: (state, returns) -> next state, whose version is one higher. The buffer has at
            least one return.
    """

    init: Callable[[Tensor], ServerState]
    aggregate: Callable[[ServerState, Returns], ServerState]
