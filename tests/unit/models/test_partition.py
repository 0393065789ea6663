"""Divisions of samples among workers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.data import ByLabels, Dirichlet, Iid, Natural, Partition
from models.errors import PartitionError
from models.partition import Shards, label_shares, partition, single_samples

LABELS = np.random.default_rng(0).integers(10, size=2000)


def assert_disjoint(shards: Shards, num_samples: int) -> None:
    """Every worker has samples that exist, and no sample has two workers."""
    assert shards.order.dtype == shards.offsets.dtype == shards.counts.dtype == np.int64
    assert shards.counts.min() >= 1
    assert len(np.unique(shards.order)) == len(shards.order) == shards.counts.sum()
    assert shards.order.min() >= 0
    assert shards.order.max() < num_samples
    joined = np.concatenate([shards.of(worker) for worker in range(len(shards))])
    assert np.array_equal(joined, shards.order)


@settings(deadline=None)
@given(data=st.data())
def test_by_labels_ends_for_every_feasible_division(data: st.DataObject) -> None:
    """Each worker gets p different labels, as many samples of each, and all workers as many."""
    num_labels = data.draw(st.integers(1, 12), "labels")
    labels_per_worker = data.draw(st.integers(1, num_labels), "p")
    workers = data.draw(st.integers(1, 60), "workers")
    takers = -(-workers * labels_per_worker // num_labels)
    sizes = data.draw(
        st.lists(st.integers(takers, 3 * takers), min_size=num_labels, max_size=num_labels)
    )
    labels = np.repeat(np.arange(num_labels), sizes)
    config = ByLabels(labels_per_worker=labels_per_worker)

    shards = partition(labels, None, config, workers=workers, seed=data.draw(st.integers(0, 99)))

    per_class = min(sizes) // takers
    assert_disjoint(shards, len(labels))
    assert len(shards) == workers
    for worker in range(workers):
        held = np.bincount(labels[shards.of(worker)], minlength=num_labels)
        assert np.count_nonzero(held) == labels_per_worker
        assert set(held) <= {0, per_class}


@pytest.mark.parametrize("labels_per_worker", [1, 2, 5, 10])
def test_by_labels_takes_as_many_samples_as_the_protocol(labels_per_worker: int) -> None:
    """With 100 workers and 10 labels, a worker has floor(10 n_min / (100 p)) of each of its p."""
    labels = np.repeat(np.arange(10), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
    config = ByLabels(labels_per_worker=labels_per_worker)

    shards = partition(labels, None, config, workers=100, seed=6)

    per_class = 10 * 5421 // (100 * labels_per_worker)
    assert set(shards.counts) == {per_class * labels_per_worker}


def test_by_labels_says_how_many_workers_there_may_be() -> None:
    """Too many workers for the rarest label are refused with the largest number, which works."""
    labels = np.repeat(np.arange(4), [7, 20, 20, 20])

    with pytest.raises(PartitionError, match=r"rarest label has 7 .* use at most 14 workers"):
        partition(labels, None, ByLabels(labels_per_worker=2), workers=15, seed=0)

    assert len(partition(labels, None, ByLabels(labels_per_worker=2), workers=14, seed=0)) == 14


def test_by_labels_names_labels_that_no_sample_has() -> None:
    """Fewer workers would not help: of a label without samples nobody can have any."""
    labels = np.array([0, 2, 2, 5, 5, 5])

    with pytest.raises(PartitionError) as refused:
        partition(labels, None, ByLabels(labels_per_worker=2), workers=2, seed=0)

    assert str(refused.value) == (
        "no sample has label 1, 3, 4 (of 0 to 5), and workers are to have as many of each; use a "
        "larger data.max_samples, or dirichlet or iid as data.partition"
    )
    assert len(partition(labels, None, Iid(), workers=2, seed=0)) == 2


def test_by_labels_refuses_more_labels_than_there_are() -> None:
    """Asking for more labels a worker than the samples have is refused with their number."""
    labels = np.repeat(np.arange(3), 10)

    with pytest.raises(PartitionError, match="labels_per_worker=4, but the samples have 3 labels"):
        partition(labels, None, ByLabels(labels_per_worker=4), workers=2, seed=0)


@settings(deadline=None, max_examples=50)
@given(
    alpha=st.floats(0.01, 100),
    workers=st.integers(1, 100),
    min_samples=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_dirichlet_hands_out_every_sample(
    alpha: float, workers: int, min_samples: int, seed: int
) -> None:
    """Every sample goes to exactly one worker, and nobody is below the minimum."""
    config = Dirichlet(alpha=alpha, min_samples=min_samples)

    shards = partition(LABELS, None, config, workers=workers, seed=seed)

    assert_disjoint(shards, len(LABELS))
    assert shards.counts.sum() == len(LABELS)
    assert shards.counts.min() >= min_samples


def test_dirichlet_is_more_heterogeneous_for_small_alpha() -> None:
    """The mean share of a worker's commonest label falls from near 1 to near 1/10 with alpha."""

    def commonest(alpha: float) -> float:
        shards = partition(LABELS, None, Dirichlet(alpha=alpha), workers=20, seed=1)
        return float(label_shares(shards, LABELS, 10).max(axis=1).mean())

    shares = [commonest(alpha) for alpha in (0.01, 0.5, 100.0)]

    assert shares[0] > 0.8
    assert shares[0] > shares[1] > shares[2]
    # 100 samples a worker: the commonest of ten labels has 10 +- 3, the largest of ten about 15.
    assert shares[2] < 0.2


@settings(deadline=None, max_examples=50)
@given(num_samples=st.integers(1, 200), data=st.data())
def test_iid_parts_are_equal(num_samples: int, data: st.DataObject) -> None:
    """Every sample goes to one worker, and worker sizes differ by at most one."""
    workers = data.draw(st.integers(1, num_samples))

    shards = partition(np.zeros(num_samples, int), None, Iid(), workers=workers, seed=0)

    assert_disjoint(shards, num_samples)
    assert shards.counts.sum() == num_samples
    assert np.ptp(shards.counts) <= 1


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=30),
    min_samples=st.integers(1, 20),
    seed=st.integers(0, 9),
)
def test_natural_workers_are_owners(sizes: list[int], min_samples: int, seed: int) -> None:
    """Each worker holds exactly the samples of one owner who has enough of them."""
    owners = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)) * 7, sizes))
    able = sum(size >= min_samples for size in sizes)
    config = Natural(min_samples=min_samples)
    labels = np.zeros(len(owners), int)

    with pytest.raises(PartitionError, match=f"only {able} owners"):
        partition(labels, owners, config, workers=able + 1, seed=seed)

    for workers in range(1, able + 1):
        shards = partition(labels, owners, config, workers=workers, seed=seed)
        assert_disjoint(shards, len(owners))
        held = [owners[shards.of(worker)] for worker in range(workers)]
        assert len({ids[0] for ids in held}) == workers
        for ids in held:
            assert len(ids) >= min_samples
            assert np.array_equal(ids, owners[owners == ids[0]])


def test_natural_needs_owners() -> None:
    """Data that do not say who produced them cannot be divided by that."""
    with pytest.raises(PartitionError, match="does not say who produced its samples"):
        partition(LABELS, None, Natural(), workers=2, seed=0)


@pytest.mark.parametrize(("config", "most"), [(Iid(), 2000), (Dirichlet(min_samples=300), 6)])
def test_too_many_workers_are_refused(config: Partition, most: int) -> None:
    """Where samples do not suffice, the largest possible number of workers is named."""
    with pytest.raises(PartitionError, match=f"use at most {most} workers"):
        partition(LABELS, None, config, workers=most + 1, seed=0)


@pytest.mark.parametrize("config", [ByLabels(), Dirichlet(), Iid()])
def test_the_seed_decides(config: Partition) -> None:
    """The same seed gives the same division, another seed another one."""
    orders = [
        partition(LABELS, None, config, workers=10, seed=seed).order.tolist() for seed in (6, 6, 7)
    ]

    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_label_shares_count_each_workers_labels() -> None:
    """Shares are the label counts of a worker over its samples."""
    labels = np.array([0, 2, 2, 1, 0])
    shards = Shards.from_lists([np.array([1, 2, 3]), np.array([0]), np.array([4])])

    shares = label_shares(shards, labels, 4)

    assert np.array_equal(
        shares, [[0.0, 1 / 3, 2 / 3, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    )


def test_single_samples_give_each_worker_its_own() -> None:
    """Worker i holds sample i and nothing else."""
    shards = single_samples(3)

    assert [shards.of(worker).tolist() for worker in range(3)] == [[0], [1], [2]]
