"""Random draws and minibatches of returns that are computed together.

Each return's draws are keyed by its worker and by how many returns that worker made before; they
are drawn on the CPU, whatever the device, so that they do not depend on it.

Symbols: n returns computed together, K local steps, B samples a batch, N samples in all.
"""

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.datasets import Dataset
from models.partition import Shards
from tasks.federated.randomness import Stream, generator, rekey

Ints = NDArray[np.int64]

_HELD_BYTES = 1 << 24
"""Draws of a group that are held at once; those of later steps are drawn when it comes to them."""
_FIRST_STEPS = 64
"""Steps drawn for at first, then twice as many each time: a return may end long before its K."""


@dataclass(frozen=True)
class Group:
    """Returns computed together, by descending number of local steps.

    Attributes:
        start: The models that the workers pulled, shape (n, P).
        worker: Worker ids, shape (n,).
        sequence: How many returns each worker had made before, shape (n,).
        num_steps: K of each, shape (n,).
        correction: What SCAFFOLD adds to each gradient, shape (n, P); None for other optimisers.
    """

    start: Tensor
    worker: Ints
    sequence: Ints
    num_steps: Ints
    correction: Tensor | None = None

    @cached_property
    def num_active(self) -> list[int]:
        """How many returns do each local step; they are the first rows."""
        steps = np.arange(self.num_steps[0])
        done = np.searchsorted(self.num_steps[::-1], steps, side="right")
        counts: list[int] = (len(self.num_steps) - done).tolist()
        return counts


class Draws:
    """Draws random numbers for each local step of each return.

    Args:
        seed: The experiment's seed.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._local = threading.local()

    def by_step(
        self,
        stream: Stream,
        group: Group,
        size: int,
        draw: Callable[[np.random.Generator, int, tuple[int, int]], NDArray[np.generic]],
    ) -> Iterator[Tensor]:
        """Draw ``size`` numbers for each step of each return.

        Args:
            stream: What they are for.
            group: The returns.
            size: Numbers a step.
            draw: (generator of a return, its row, shape) -> numbers of that shape.

        Yields:
            The numbers of the returns that do the step, shape (active, size), on their device.
        """
        generators = self._generators(stream, group)
        num_active = group.num_active
        most_held = max(1, _HELD_BYTES // (8 * size * len(generators)))
        begin, window = 0, min(_FIRST_STEPS, most_held)
        while begin < len(num_active):
            num_steps = np.minimum(group.num_steps - begin, window)
            drawn = [
                draw(generators[row], row, (num_steps[row], size))
                for row in range(num_active[begin])
            ]
            block = np.empty((num_steps[0], len(drawn), size), dtype=drawn[0].dtype)
            for row, numbers in enumerate(drawn):
                block[: len(numbers), row] = numbers
            on_device = torch.from_numpy(block).to(group.start.device)
            for step in range(len(block)):
                yield on_device[step, : num_active[begin + step]]
            begin, window = begin + window, min(2 * window, most_held)

    def _generators(self, stream: Stream, group: Group) -> list[np.random.Generator]:
        """One generator a return; this thread's earlier ones are used again, as that is cheaper."""
        pool: list[np.random.Generator] = self._local.__dict__.setdefault(stream.name, [])
        keys = list(zip(group.worker.tolist(), group.sequence.tolist(), strict=True))
        while len(pool) < len(keys):
            pool.append(generator(self._seed, stream))
        for existing, (worker, sequence) in zip(pool, keys, strict=False):
            rekey(existing, self._seed, stream, worker, sequence)
        return pool[: len(keys)]


def samples_of_step(shards: Shards, batch_size: int) -> int:
    """Return how many samples a local step uses: B, or 1 if nobody holds more than one.

    Args:
        shards: Which worker holds which samples.
        batch_size: B, as configured.
    """
    return 1 if int(shards.counts.max()) == 1 else batch_size


class Minibatches:
    """Draws minibatches, with replacement, from the workers' own shards.

    Args:
        dataset: The data.
        shards: Which worker holds which training samples.
        batch_size: B. A shard of one sample needs no more than that one.
        draws: Where random numbers come from.
    """

    def __init__(self, dataset: Dataset, shards: Shards, batch_size: int, draws: Draws) -> None:
        self._inputs = dataset.train_inputs
        self._targets = dataset.train_targets
        self._shards = shards
        self._draws = draws
        self.batch_size = samples_of_step(shards, batch_size)
        self._is_single = int(shards.counts.max()) == 1

    @property
    def num_bytes(self) -> int:
        """Bytes of one minibatch."""
        inputs = self._inputs
        return self.batch_size * math.prod(inputs.shape[1:]) * inputs.element_size()

    def of(self, group: Group) -> Iterator[tuple[Tensor, Tensor]]:
        """Gather the minibatches of a group.

        Args:
            group: The returns.

        Yields:
            For each local step, inputs of shape (active, B, ...) and targets of (active, B, ...).
            They are overwritten by the next step's.
        """
        if self._is_single:
            yield from self._single(group)
            return
        buffers = [
            samples.new_empty((len(group.worker) * self.batch_size, *samples.shape[1:]))
            for samples in (self._inputs, self._targets)
        ]
        for index in self._indices(group):
            picked = index.reshape(-1)
            inputs, targets = (
                torch.index_select(samples, 0, picked, out=buffer[: len(picked)])
                for samples, buffer in zip((self._inputs, self._targets), buffers, strict=True)
            )
            yield (
                inputs.view(*index.shape, *inputs.shape[1:]),
                targets.view(*index.shape, *targets.shape[1:]),
            )

    def _single(self, group: Group) -> Iterator[tuple[Tensor, Tensor]]:
        """Every step's minibatch is the worker's only sample."""
        samples = self._shards.order[self._shards.offsets[group.worker]]
        index = torch.from_numpy(samples).to(self._inputs.device)
        inputs, targets = self._inputs[index, None], self._targets[index, None]
        for num_active in group.num_active:
            yield inputs[:num_active], targets[:num_active]

    def _indices(self, group: Group) -> Iterator[Tensor]:
        """Sample ids of each step, shape (active, B)."""
        shards = self._shards
        offsets, counts = shards.offsets[group.worker], shards.counts[group.worker]

        def draw(rng: np.random.Generator, row: int, shape: tuple[int, int]) -> Ints:
            samples: Ints = shards.order[offsets[row] + rng.integers(counts[row], size=shape)]
            return samples

        return self._draws.by_step(Stream.BATCHES, group, self.batch_size, draw)
