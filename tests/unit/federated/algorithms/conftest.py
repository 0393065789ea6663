"""Buffers of returns, written down as plain lists."""

from collections.abc import Callable, Sequence

import pytest
import torch

from tasks.federated.algorithms.interface import Returns


@pytest.fixture(scope="session")
def make_returns() -> Callable[..., Returns]:
    """Return a function that makes a buffer; what is not given is plain (K = 1, no delay, ...)."""

    def make(
        worker: Sequence[int],
        delta: Sequence[Sequence[float]],
        *,
        start: Sequence[Sequence[float]] | None = None,
        num_steps: Sequence[int] | None = None,
        delay: Sequence[int] | None = None,
        at_s: Sequence[float] | None = None,
        control: Sequence[Sequence[float]] | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Returns:
        rows = torch.tensor(delta, dtype=dtype)
        num_returns = len(worker)
        return Returns(
            worker=torch.tensor(worker),
            start=torch.zeros_like(rows) if start is None else torch.tensor(start, dtype=dtype),
            delta=rows,
            num_steps=torch.tensor(num_steps or [1] * num_returns),
            delay=torch.tensor(delay or [0] * num_returns),
            returned_at_s=torch.tensor(at_s or [1.0] * num_returns, dtype=torch.float64),
            control=None if control is None else torch.tensor(control, dtype=dtype),
        )

    return make
