"""Server-side optimisers: how a direction becomes the next model.

The direction is a mean of local changes, so it points downhill already: every optimiser adds it,
x_{t+1} = x_t + rate * f(direction). State stands in ``ServerState.memory`` under names that begin
with ``optimizer/``; moments have the model's dtype. Nothing is changed in place.

References:
    Reddi et al., "Adaptive Federated Optimization", ICLR 2021, arXiv:2003.00295.
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv:1412.6980.
    Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond" (AMSGrad), ICLR 2018,
    arXiv:1904.09237.
    Wang et al., "FADAS: Towards Federated Adaptive Asynchronous Optimization", ICML 2024,
    arXiv:2407.18365.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from configs.algorithms import (
    AlgorithmBase,
    ServerAdam,
    ServerAmsgrad,
    ServerMomentum,
    ServerSgd,
)
from tasks.federated.algorithms.interface import Returns, ServerState

Memory = dict[str, Tensor]


@dataclass(frozen=True)
class Optimizer:
    """A server-side optimiser as two pure functions.

    Attributes:
        init: Model, shape (P,) -> the optimiser's memory.
        apply: (model, direction, max_delay, memory) -> (next model, the memory's new entries).
            Model and direction have shape (P,); max_delay is the largest delay in the buffer, in
            rounds; memory may hold other names too, which are left alone.
    """

    init: Callable[[Tensor], Memory]
    apply: Callable[[Tensor, Tensor, int, Memory], tuple[Tensor, Memory]]

    def step(self, state: ServerState, direction: Tensor, returns: Returns) -> ServerState:
        """Apply one direction, which makes version t into t + 1.

        Args:
            state: At version t.
            direction: Shape (P,).
            returns: The buffer that the direction comes from, for its largest delay.

        Returns:
            The state at version t + 1.
        """
        model, memory = self.apply(state.model, direction, int(returns.delay.max()), state.memory)
        return ServerState(model, state.version + 1, state.memory | memory)


def optimizer(config: AlgorithmBase) -> Optimizer:
    """Make the server-side optimiser of an algorithm.

    Args:
        config: The algorithm's configuration; ``server`` and ``server_lr`` are used.

    Returns:
        The optimiser, with the rate bound in.
    """
    server, rate = config.server, config.server_lr
    match server:
        case ServerSgd():
            return sgd(rate)
        case ServerMomentum():
            return momentum(server, rate)
        case ServerAdam():
            return adam(server, rate)
        case ServerAmsgrad():
            return amsgrad(server, rate)
        case _:
            assert_never(server)


def sgd(rate: float) -> Optimizer:
    """Make x += rate * d.

    Args:
        rate: eta, above 0.

    Returns:
        The optimiser; it has no memory.
    """

    def init(_model: Tensor) -> Memory:
        return {}

    def apply(
        model: Tensor, direction: Tensor, _max_delay: int, _memory: Memory
    ) -> tuple[Tensor, Memory]:
        return torch.add(model, direction, alpha=rate), {}

    return Optimizer(init, apply)


def momentum(config: ServerMomentum, rate: float) -> Optimizer:
    """Make heavy ball: v = beta v + d; x += rate * v.

    Args:
        config: beta.
        rate: eta, above 0.

    Returns:
        The optimiser; its memory is ``optimizer/velocity``, v, shape (P,).
    """

    def init(model: Tensor) -> Memory:
        return {"optimizer/velocity": torch.zeros_like(model)}

    def apply(
        model: Tensor, direction: Tensor, _max_delay: int, memory: Memory
    ) -> tuple[Tensor, Memory]:
        velocity = torch.add(direction, memory["optimizer/velocity"], alpha=config.beta)
        return torch.add(model, velocity, alpha=rate), {"optimizer/velocity": velocity}

    return Optimizer(init, apply)


def adam(config: ServerAdam, rate: float) -> Optimizer:
    """Make Adam: x += rate * m^ / (sqrt(v^) + epsilon).

    m = beta1 m + (1 - beta1) d, m^ = m / (1 - beta1^n); v = beta2 v + (1 - beta2) d^2,
    v^ = v / (1 - beta2^n); n counts updates, which are fewer than versions where an algorithm
    waits. The source's federated Adam has no bias correction; with it, ``rate`` is the size of the
    first step instead of ``rate`` (1 - beta1) / sqrt(1 - beta2).

    Args:
        config: beta1, beta2, epsilon.
        rate: eta, above 0.

    Returns:
        The optimiser; its memory is ``optimizer/first`` and ``optimizer/second``, shape (P,), and
        ``optimizer/num_updates``, shape (), int64.
    """

    def init(model: Tensor) -> Memory:
        return {
            "optimizer/first": torch.zeros_like(model),
            "optimizer/second": torch.zeros_like(model),
            "optimizer/num_updates": torch.zeros((), dtype=torch.int64, device=model.device),
        }

    def apply(
        model: Tensor, direction: Tensor, _max_delay: int, memory: Memory
    ) -> tuple[Tensor, Memory]:
        first, second = _moments(direction, memory, config)
        num_updates = memory["optimizer/num_updates"] + 1
        count = int(num_updates)
        unbiased_first = first / (1 - config.beta1**count)
        unbiased_second = second / (1 - config.beta2**count)
        scaled = unbiased_first / (unbiased_second.sqrt() + config.epsilon)
        return torch.add(model, scaled, alpha=rate), {
            "optimizer/first": first,
            "optimizer/second": second,
            "optimizer/num_updates": num_updates,
        }

    return Optimizer(init, apply)


def amsgrad(config: ServerAmsgrad, rate: float) -> Optimizer:
    """Make AMSGrad, with FADAS's delay-adaptive rate: x += rate_t * m / (sqrt(v^) + epsilon).

    m and v as in Adam, not bias-corrected; v^ = max(v^, v). With a threshold tau_c, rate_t =
    min(rate, 1 / tau_max,t) in an update whose largest delay tau_max,t is above tau_c, else
    rate_t = rate. Where epsilon stands in the source is not known here; outside the root, as in
    Adam.

    Args:
        config: beta1, beta2, epsilon, delay_threshold.
        rate: eta, above 0.

    Returns:
        The optimiser; its memory is ``optimizer/first``, ``optimizer/second`` and
        ``optimizer/second_max``, shape (P,).
    """

    def init(model: Tensor) -> Memory:
        return {
            name: torch.zeros_like(model)
            for name in ("optimizer/first", "optimizer/second", "optimizer/second_max")
        }

    def apply(
        model: Tensor, direction: Tensor, max_delay: int, memory: Memory
    ) -> tuple[Tensor, Memory]:
        first, second = _moments(direction, memory, config)
        second_max = torch.maximum(memory["optimizer/second_max"], second)
        scaled = first / (second_max.sqrt() + config.epsilon)
        alpha = rate
        if config.delay_threshold is not None and max_delay > config.delay_threshold:
            alpha = min(rate, 1 / max_delay)
        return torch.add(model, scaled, alpha=alpha), {
            "optimizer/first": first,
            "optimizer/second": second,
            "optimizer/second_max": second_max,
        }

    return Optimizer(init, apply)


def _moments(
    direction: Tensor, memory: Memory, config: ServerAdam | ServerAmsgrad
) -> tuple[Tensor, Tensor]:
    """Decay the first and second moments towards the direction and its square."""
    first = memory["optimizer/first"].lerp(direction, 1 - config.beta1)
    second = memory["optimizer/second"].lerp(direction.square(), 1 - config.beta2)
    return first, second
