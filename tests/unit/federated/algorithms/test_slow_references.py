"""Each algorithm beside a slow twin in plain Python floats, over random workers, steps and delays.

A twin knows one coordinate only, (rounds, x_0, M) -> x_T: all the updates are coordinate-wise.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.algorithms import (
    AfaCd,
    AfaCs,
    Algorithm,
    Area,
    Ca2fl,
    Fadas,
    FadasAmsgrad,
    FedAsync,
    FedAvg,
    FedBuff,
    Mifa,
    RescaledAsgd,
    WorkerSgd,
)
from tasks.federated.algorithms import build
from tasks.federated.algorithms.interface import Returns

ETA = 0.5


@dataclass(frozen=True)
class Return:
    """One worker's return."""

    worker: int
    starts: tuple[float, ...]
    deltas: tuple[float, ...]
    num_steps: int
    delay: int
    at_s: float


@dataclass(frozen=True)
class Scalar:
    """One coordinate of a return."""

    worker: int
    start: float
    delta: float
    num_steps: int
    delay: int
    at_s: float

    @property
    def change(self) -> float:
        """The whole local change."""
        return self.delta * self.num_steps


Rounds = list[list[Scalar]]
Twin = Callable[[Rounds, float, int], float]


def afa_cd(rounds: Rounds, x: float, _num_workers: int) -> float:
    """Mean of normalised changes."""
    for buffer in rounds:
        x += ETA * sum(r.delta for r in buffer) / len(buffer)
    return x


def fedavg(rounds: Rounds, x: float, _num_workers: int) -> float:
    """Mean of whole changes."""
    for buffer in rounds:
        x += ETA * sum(r.change for r in buffer) / len(buffer)
    return x


def fedbuff(rounds: Rounds, x: float, _num_workers: int) -> float:
    """Mean of changes, each over sqrt(1 + delay)."""
    for buffer in rounds:
        x += ETA * sum(r.change / math.sqrt(1 + r.delay) for r in buffer) / len(buffer)
    return x


def fedasync(rounds: Rounds, x: float, _num_workers: int) -> float:
    """Mix local models in, by (1 + delay)^-0.5."""
    for buffer in rounds:
        for r in buffer:
            alpha = ETA * (r.delay + 1) ** -0.5
            x = (1 - alpha) * x + alpha * (r.start + r.change)
    return x


def fedasync_hinge(rounds: Rounds, x: float, _num_workers: int) -> float:
    """Mix local models in, undamped up to delay 4."""
    for buffer in rounds:
        for r in buffer:
            alpha = ETA if r.delay <= 4 else ETA / (1 + 0.5 * (r.delay - 4))
            x = (1 - alpha) * x + alpha * (r.start + r.change)
    return x


def fadas(rounds: Rounds, x: float, _num_workers: int) -> float:
    """AMSGrad, no bias correction, 1 / delay beyond delay 2."""
    first = second = largest = 0.0
    for buffer in rounds:
        d = sum(r.change for r in buffer) / len(buffer)
        first = 0.9 * first + 0.1 * d
        second = 0.99 * second + 0.01 * d * d
        largest = max(largest, second)
        max_delay = max(r.delay for r in buffer)
        rate = min(ETA, 1 / max_delay) if max_delay > 2 else ETA
        x += rate * first / (math.sqrt(largest) + 1e-3)
    return x


def afa_cs(rounds: Rounds, x: float, num_workers: int) -> float:
    """Mean over M of the latest normalised changes."""
    slots: dict[int, float] = {}
    for buffer in rounds:
        for r in buffer:
            slots[r.worker] = r.delta
        x += ETA * sum(slots.values()) / num_workers
    return x


def afa_cs_seen(rounds: Rounds, x: float, _num_workers: int) -> float:
    """Mean over the workers seen so far."""
    slots: dict[int, float] = {}
    for buffer in rounds:
        for r in buffer:
            slots[r.worker] = r.delta
        x += ETA * sum(slots.values()) / len(slots)
    return x


def afa_cs_wait(rounds: Rounds, x: float, num_workers: int) -> float:
    """No update before every worker has been seen."""
    slots: dict[int, float] = {}
    for buffer in rounds:
        for r in buffer:
            slots[r.worker] = r.delta
        if len(slots) == num_workers:
            x += ETA * sum(slots.values()) / num_workers
    return x


def mifa(rounds: Rounds, x: float, num_workers: int) -> float:
    """Mean over M of the latest whole changes."""
    slots: dict[int, float] = {}
    for buffer in rounds:
        for r in buffer:
            slots[r.worker] = r.change
        x += ETA * sum(slots.values()) / num_workers
    return x


def ca2fl(rounds: Rounds, x: float, num_workers: int) -> float:
    """Mean of the cache, and of the changes less the cache."""
    cache = [0.0] * num_workers
    for buffer in rounds:
        calibration = sum(r.change - cache[r.worker] for r in buffer) / len(buffer)
        x += ETA * (sum(cache) / num_workers + calibration)
        for r in buffer:
            cache[r.worker] = r.change
    return x


def area_as_published(rounds: Rounds, x: float, num_workers: int) -> float:
    """Add what local models have moved, over M."""
    local_models = [x] * num_workers
    for buffer in rounds:
        for r in buffer:
            local_model = r.start + r.change
            x += (local_model - local_models[r.worker]) / num_workers
            local_models[r.worker] = local_model
    return x


def area(rounds: Rounds, x: float, num_workers: int) -> float:
    """Move towards the mean of all local models."""
    local_models = [x] * num_workers
    for buffer in rounds:
        for r in buffer:
            local_models[r.worker] = r.start + r.change
        x += ETA * (sum(local_models) / num_workers - x)
    return x


def rescaled_asgd(rounds: Rounds, x: float, num_workers: int) -> float:
    """Weigh by the time since the previous return."""
    last_s = [0.0] * num_workers
    gaps: list[float] = []
    for buffer in rounds:
        for r in buffer:
            gaps.append(r.at_s - last_s[r.worker])
            last_s[r.worker] = r.at_s
        mean_gap = sum(gaps) / len(gaps)
        newest_gaps = gaps[-len(buffer) :]
        weights = [gap / mean_gap if mean_gap else 1.0 for gap in newest_gaps]
        weighted = (w * r.delta for w, r in zip(weights, buffer, strict=True))
        x += ETA * sum(weighted) / len(buffer)
    return x


PAIRS: list[tuple[Algorithm, Twin]] = [
    (AfaCd(server_lr=ETA), afa_cd),
    (AfaCd(server_lr=ETA, normalise=False), fedavg),
    (FedAvg(server_lr=ETA), fedavg),
    (FedBuff(server_lr=ETA), fedbuff),
    (FedBuff(server_lr=ETA, damp_stale=False), fedavg),
    (FedAsync(server_lr=ETA), fedasync),
    (FedAsync(server_lr=ETA, staleness="hinge"), fedasync_hinge),
    (Fadas(server_lr=ETA, server=FadasAmsgrad(epsilon=1e-3, delay_threshold=2)), fadas),
    (AfaCs(server_lr=ETA), afa_cs),
    (AfaCs(server_lr=ETA, slots="seen"), afa_cs_seen),
    (AfaCs(server_lr=ETA, slots="wait"), afa_cs_wait),
    (AfaCs(server_lr=ETA, normalise=False), mifa),
    (Mifa(server_lr=ETA), mifa),
    (Ca2fl(server_lr=ETA), ca2fl),
    (Area(), area_as_published),
    (Area(server_lr=ETA), area),
    (RescaledAsgd(server_lr=ETA), rescaled_asgd),
]

NUM_WORKERS, NUM_PARAMETERS = 4, 2
# Eighths, so that failing examples are readable and most sums are exact.
numbers = st.integers(-80, 80).map(lambda n: n / 8)
vectors = st.tuples(*[numbers] * NUM_PARAMETERS)


@st.composite
def histories(draw: st.DrawFn) -> list[list[Return]]:
    """Draw rounds of returns in order of arrival; a worker may be absent, or twice in a buffer."""
    clock_s = 0.0
    rounds = []
    for _ in range(draw(st.integers(1, 6))):
        buffer = []
        for _ in range(draw(st.integers(1, 5))):
            clock_s += draw(st.integers(0, 24)) / 8
            buffer.append(
                Return(
                    worker=draw(st.integers(0, NUM_WORKERS - 1)),
                    starts=draw(vectors),
                    deltas=draw(vectors),
                    num_steps=draw(st.integers(1, 6)),
                    delay=draw(st.integers(0, 20)),
                    at_s=clock_s,
                )
            )
        rounds.append(buffer)
    return rounds


def coordinate(rounds: list[list[Return]], index: int) -> Rounds:
    """Take one coordinate of all returns."""
    return [
        [
            Scalar(r.worker, r.starts[index], r.deltas[index], r.num_steps, r.delay, r.at_s)
            for r in buffer
        ]
        for buffer in rounds
    ]


@pytest.mark.parametrize(
    ("config", "twin"), PAIRS, ids=[f"{t.__name__}-{i}" for i, (_, t) in enumerate(PAIRS)]
)
@given(rounds=histories(), initial=vectors)
@settings(max_examples=25, deadline=None)
def test_equals_its_slow_twin(
    config: Algorithm,
    twin: Twin,
    rounds: list[list[Return]],
    initial: tuple[float, ...],
    make_returns: Callable[..., Returns],
) -> None:
    """The server algorithm on tensors gives what its definition gives on floats."""
    algorithm = build(config, NUM_WORKERS, WorkerSgd())
    state = algorithm.init(torch.tensor(initial, dtype=torch.float64))
    expected = [twin(coordinate(rounds, i), initial[i], NUM_WORKERS) for i in range(NUM_PARAMETERS)]

    for buffer in rounds:
        state = algorithm.aggregate(
            state,
            make_returns(
                [r.worker for r in buffer],
                [r.deltas for r in buffer],
                start=[r.starts for r in buffer],
                num_steps=[r.num_steps for r in buffer],
                delay=[r.delay for r in buffer],
                at_s=[r.at_s for r in buffer],
            ),
        )

    # Some hundred float64 operations on numbers below 1e4.
    assert state.model.tolist() == pytest.approx(expected, rel=1e-11, abs=1e-11)
