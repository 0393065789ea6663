"""Server-side optimisers: pure, and equal to their formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.algorithms import (
    AfaCd,
    ServerAdam,
    ServerAmsgrad,
    ServerMomentum,
    ServerOptimizer,
    ServerSgd,
)
from tasks.federated.algorithms.server_optimizers import Optimizer, amsgrad, optimizer

RATE = 0.25
CONFIGS: list[ServerOptimizer] = [
    ServerSgd(),
    ServerMomentum(beta=0.5),
    ServerAdam(beta1=0.5, beta2=0.75, epsilon=0.125),
    ServerAmsgrad(beta1=0.5, beta2=0.75, epsilon=0.125),
    ServerAmsgrad(beta1=0.5, beta2=0.75, epsilon=0.125, delay_threshold=2),
]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)


def follow(made: Optimizer, directions: list[tuple[float, int]]) -> float:
    """Apply (direction, max_delay) pairs from x = 1 on."""
    model = torch.ones(1, dtype=torch.float64)
    memory = made.init(model)
    for direction, max_delay in directions:
        moved = torch.tensor([direction], dtype=torch.float64)
        model, changed = made.apply(model, moved, max_delay, memory)
        memory |= changed
    return model.item()


def by_definition(config: ServerOptimizer, directions: list[tuple[float, int]]) -> float:
    """Apply the formulas on floats."""
    x, first, second, largest = 1.0, 0.0, 0.0, 0.0
    for count, (d, max_delay) in enumerate(directions, start=1):
        match config:
            case ServerSgd():
                x += RATE * d
            case ServerMomentum():
                first = config.beta * first + d
                x += RATE * first
            case ServerAdam():
                first = config.beta1 * first + (1 - config.beta1) * d
                second = config.beta2 * second + (1 - config.beta2) * d**2
                m, v = first / (1 - config.beta1**count), second / (1 - config.beta2**count)
                x += RATE * m / (math.sqrt(v) + config.epsilon)
            case ServerAmsgrad():
                first = config.beta1 * first + (1 - config.beta1) * d
                second = config.beta2 * second + (1 - config.beta2) * d**2
                largest = max(largest, second)
                late = config.delay_threshold is not None and max_delay > config.delay_threshold
                rate = min(RATE, 1 / max_delay) if late else RATE
                x += rate * first / (math.sqrt(largest) + config.epsilon)
    return x


@every_config
@given(
    directions=st.lists(
        st.tuples(st.integers(-80, 80).map(lambda n: n / 8), st.integers(0, 40)),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=50, deadline=None)
def test_equals_its_formula(config: ServerOptimizer, directions: list[tuple[float, int]]) -> None:
    """Any sequence of directions and delays moves the model as the formula does."""
    made = optimizer(AfaCd(server=config, server_lr=RATE))

    moved = follow(made, directions)

    # A dozen updates of size 10 at most, in float64.
    assert moved == pytest.approx(by_definition(config, directions), rel=1e-12, abs=1e-12)


@every_config
def test_changes_nothing_in_place(config: ServerOptimizer) -> None:
    """Model, direction and memory are as before; the same call gives the same bits again."""
    made = optimizer(AfaCd(server=config, server_lr=RATE))
    model, direction = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -4.0])
    memory = made.init(model)
    memory |= made.apply(model, direction, 0, memory)[1]
    kept = {name: tensor.clone() for name, tensor in memory.items()}

    first, first_memory = made.apply(model, direction, 5, memory)
    second, second_memory = made.apply(model, direction, 5, memory)

    assert model.tolist() == [1, 2]
    assert direction.tolist() == [3, -4]
    assert all(torch.equal(memory[name], kept[name]) for name in kept)
    assert torch.equal(first, second)
    assert all(torch.equal(first_memory[name], second_memory[name]) for name in first_memory)


@every_config
def test_memory_is_named_as_the_optimisers(config: ServerOptimizer) -> None:
    """Every update replaces exactly the names that init made, all under optimizer/."""
    made = optimizer(AfaCd(server=config, server_lr=RATE))
    memory = made.init(torch.ones(2))

    changed = made.apply(torch.ones(2), torch.ones(2), 0, memory)[1]

    assert changed.keys() == memory.keys()
    assert all(name.startswith("optimizer/") for name in memory)


@every_config
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_keeps_the_dtype(config: ServerOptimizer, dtype: torch.dtype) -> None:
    """The model keeps its dtype through every optimiser."""
    made = optimizer(AfaCd(server=config, server_lr=RATE))
    model = torch.ones(2, dtype=dtype)

    moved, _ = made.apply(model, model, 3, made.init(model))

    assert moved.dtype == dtype


@pytest.mark.parametrize(
    ("rate", "max_delay", "expected"),
    [(1, 0, 1), (1, 2, 1), (1, 3, 1 / 3), (1, 100, 0.01), (0.25, 3, 0.25), (0.25, 5, 0.2)],
)
def test_delay_adaptive_rate(rate: float, max_delay: int, expected: float) -> None:
    """Above the threshold of 2 the rate is min(rate, 1 / delay); at and below it, the rate."""
    made = amsgrad(ServerAmsgrad(beta1=0, beta2=0, epsilon=1e-15, delay_threshold=2), rate)
    model = torch.zeros(1, dtype=torch.float64)

    moved, _ = made.apply(model, torch.ones_like(model), max_delay, made.init(model))

    # Without memory of the past m / sqrt(v^) is 1, so the step is the rate.
    assert moved.item() == pytest.approx(expected, rel=1e-14)


def test_without_a_threshold_delays_do_not_matter() -> None:
    """AMSGrad without a threshold keeps its rate at any delay."""
    made = amsgrad(ServerAmsgrad(beta1=0, beta2=0, epsilon=1e-15), RATE)
    model = torch.zeros(1, dtype=torch.float64)

    moved, _ = made.apply(model, torch.ones_like(model), 1000, made.init(model))

    assert moved.item() == pytest.approx(RATE, rel=1e-14)
