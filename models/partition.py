"""Which worker holds which training samples.

Symbols: M workers, N samples, C labels, p labels a worker, q samples of each of them.
"""

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.data import ByLabels, Dirichlet, Iid, Natural, Partition
from models.errors import PartitionError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_MOST_NAMED = 5


@dataclass(frozen=True)
class Shards:
    """The samples of every worker, one worker after the other.

    Attributes:
        order: Sample ids; those of worker i are ``order[offsets[i] : offsets[i] + counts[i]]``.
        offsets: Where each worker begins, shape (M,), int64.
        counts: How many samples each holds, shape (M,), int64, at least 1.
    """

    order: Ints
    offsets: Ints
    counts: Ints

    def __len__(self) -> int:
        return len(self.counts)

    def of(self, worker: int) -> Ints:
        """Return the sample ids of one worker."""
        begin = self.offsets[worker]
        return self.order[begin : begin + self.counts[worker]]

    @classmethod
    def from_lists(cls, samples: list[Ints]) -> "Shards":
        """Join one array of sample ids a worker."""
        counts = np.array([len(ids) for ids in samples], dtype=np.int64)
        order = np.concatenate(samples).astype(np.int64, copy=False)
        return cls(order, np.cumsum(counts) - counts, counts)


def partition(
    labels: Ints, owners: Ints | None, config: Partition, *, workers: int, seed: int
) -> Shards:
    """Divide the training samples among the workers.

    Args:
        labels: Label of each sample, shape (N,), from 0.
        owners: Who produced each sample, shape (N,), for the natural partition; else None.
        config: How to divide.
        workers: M.
        seed: Seed of the division.

    Returns:
        Disjoint shards, none of them empty.

    Raises:
        PartitionError: There are too few samples (or owners) for so many workers.
    """
    rng = np.random.default_rng(seed)
    match config:
        case ByLabels():
            samples = _by_labels(labels, config.labels_per_worker, workers, rng)
        case Dirichlet():
            samples = _dirichlet(labels, config, workers, rng)
        case Iid():
            samples = _iid(len(labels), workers, rng)
        case Natural():
            samples = _natural(owners, config.min_samples, workers, rng)
    return Shards.from_lists(samples)


def single_samples(workers: int) -> Shards:
    """Give sample i to worker i, as the quadratic problem wants it.

    Args:
        workers: M, which is also the number of samples.

    Returns:
        Shards of one sample each.
    """
    return Shards(np.arange(workers), np.arange(workers), np.ones(workers, dtype=np.int64))


def label_shares(shards: Shards, labels: Ints, num_labels: int) -> Floats:
    """Return which share of each worker's samples has which label.

    Args:
        shards: The division.
        labels: Label of each sample, shape (N,).
        num_labels: C.

    Returns:
        Shape (M, C); rows sum to one.
    """
    worker = np.repeat(np.arange(len(shards)), shards.counts)
    cells = worker * num_labels + labels[shards.order]
    counts = np.bincount(cells, minlength=len(shards) * num_labels)
    return counts.reshape(len(shards), num_labels) / shards.counts[:, None]


def _by_labels(
    labels: Ints, labels_per_worker: int, workers: int, rng: np.random.Generator
) -> list[Ints]:
    """The authors' protocol (dossier 6.2): equal classes, p classes a worker, q samples of each.

    q = floor(C * n_min / (M * p)) there. Where C does not divide M * p, so many samples of whole
    classes do not exist for all workers; n_min over the rounded-up number of takers is then used.

    Raises:
        PartitionError: There are fewer labels than p, or no sample for each of their takers.
    """
    num_labels = int(labels.max()) + 1
    if labels_per_worker > num_labels:
        raise PartitionError(
            f"labels_per_worker={labels_per_worker}, but the samples have {num_labels} labels; use "
            f"1 to {num_labels}"
        )
    smallest = int(np.bincount(labels).min())
    takers = -(-workers * labels_per_worker // num_labels)
    per_class = smallest // takers
    if smallest == 0:
        absent = np.flatnonzero(np.bincount(labels) == 0).tolist()
        some = ", ".join(map(str, absent[:_MOST_NAMED]))
        more = f" and {len(absent) - _MOST_NAMED} more" if len(absent) > _MOST_NAMED else ""
        raise PartitionError(
            f"no sample has label {some}{more} (of 0 to {num_labels - 1}), and workers are to have "
            "as many of each; use a larger data.max_samples, or dirichlet or iid as data.partition"
        )
    if per_class == 0:
        most = smallest * num_labels // labels_per_worker
        raise PartitionError(
            f"the rarest label has {smallest} samples: too few for {workers} workers with "
            f"{labels_per_worker} of {num_labels} labels each; use at most {most} workers, fewer "
            "labels a worker, or more samples"
        )
    piles = [rng.permutation(np.flatnonzero(labels == label)) for label in range(num_labels)]
    takes = _choose_labels(smallest // per_class, num_labels, labels_per_worker, workers, rng)
    used = np.zeros(num_labels, dtype=np.int64)
    samples = []
    for row in takes:
        samples.append(np.concatenate([piles[c][used[c] : used[c] + per_class] for c in row]))
        used[row] += per_class
    return samples


def _choose_labels(
    takers: int, num_labels: int, labels_per_worker: int, workers: int, rng: np.random.Generator
) -> Ints:
    """Draw p different labels a worker from those that have a taker's part left.

    Plain draws can leave the last workers with fewer than p labels to choose from. A label with as
    many parts left as there are workers left is *urgent*: passing it over wastes a part. ``spare``
    counts the parts that may still be wasted, so that only draws that would end in a dead end are
    steered, and every feasible division ends.

    Returns:
        Shape (M, p).
    """
    left = np.full(num_labels, takers)
    takes = np.empty((workers, labels_per_worker), dtype=np.int64)
    for worker in range(workers):
        remaining = workers - worker
        urgent = np.flatnonzero(left >= remaining)
        spare = np.minimum(left, remaining).sum() - labels_per_worker * remaining
        forced = rng.permutation(urgent)[: max(0, len(urgent) - spare)]
        free = np.setdiff1d(np.flatnonzero(left), forced)
        drawn = rng.choice(free, labels_per_worker - len(forced), replace=False)
        takes[worker] = np.concatenate([forced, drawn])
        left[takes[worker]] -= 1
    return takes


def _dirichlet(
    labels: Ints, config: Dirichlet, workers: int, rng: np.random.Generator
) -> list[Ints]:
    """Divide each label's samples by shares that are drawn from a Dirichlet distribution.

    Workers that come out below ``min_samples`` are filled up, one sample at a time, from whoever
    holds most then: drawing again until nobody is below need not end.
    """
    _require_samples(len(labels), workers, config.min_samples)
    held: list[list[int]] = [[] for _ in range(workers)]
    for label in np.unique(labels):
        ids = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(workers, config.alpha))
        cuts = np.rint(np.cumsum(shares)[:-1] * len(ids)).astype(np.int64)
        for worker, part in enumerate(np.split(ids, cuts)):
            held[worker].extend(part.tolist())
    largest = [(-len(ids), worker) for worker, ids in enumerate(held)]
    heapq.heapify(largest)
    for poor in held:
        while len(poor) < config.min_samples:
            _, donor = heapq.heappop(largest)
            poor.append(held[donor].pop(int(rng.integers(len(held[donor])))))
            heapq.heappush(largest, (-len(held[donor]), donor))
    return [np.array(samples, dtype=np.int64) for samples in held]


def _iid(num_samples: int, workers: int, rng: np.random.Generator) -> list[Ints]:
    _require_samples(num_samples, workers, 1)
    return np.array_split(rng.permutation(num_samples), workers)


def _natural(
    owners: Ints | None, min_samples: int, workers: int, rng: np.random.Generator
) -> list[Ints]:
    """One owner a worker; when there are more owners than workers, a random choice of them.

    Raises:
        PartitionError: Owners are unknown, or fewer than the workers.
    """
    if owners is None:
        raise PartitionError(
            "the data set does not say who produced its samples; use labels, dirichlet or iid"
        )
    ids, counts = np.unique(owners, return_counts=True)
    able = ids[counts >= min_samples]
    if len(able) < workers:
        raise PartitionError(
            f"{workers} workers, but only {len(able)} owners have at least {min_samples} samples; "
            f"use at most {len(able)} workers or a smaller data.partition.min_samples"
        )
    by_owner = np.split(np.argsort(owners, kind="stable"), np.cumsum(counts)[:-1])
    chosen = np.sort(rng.choice(len(able), workers, replace=False))
    return [by_owner[np.searchsorted(ids, owner)] for owner in able[chosen]]


def _require_samples(num_samples: int, workers: int, min_samples: int) -> None:
    if num_samples < workers * min_samples:
        raise PartitionError(
            f"{num_samples} samples are too few for {workers} workers with at least {min_samples} "
            f"each; use at most {num_samples // min_samples} workers, or more samples"
        )
