"""Synchronous rounds on the virtual clock."""

from collections.abc import Callable

import numpy as np

from configs.federated import FederatedExperiment
from tasks.federated.arrivals import build
from tasks.federated.service import ServiceTimes

MakeExperiment = Callable[..., FederatedExperiment]


def test_a_round_lasts_as_long_as_its_slowest_worker(make_experiment: MakeExperiment) -> None:
    """All pull the newest version at the start; the next round starts at the last return."""
    experiment = make_experiment(
        workers=6,
        collect=3,
        arrivals="synchronous",
        service={"law": "lognormal", "per": "step"},
        local_steps={"kind": "uniform", "low": 1, "high": 9},
    )
    service = ServiceTimes(experiment.service, workers=6, seed=experiment.seed)
    process = build(experiment)
    now_s = 0.0

    for version in range(50):
        buffer = process.next_buffer(version)

        durations_s = service.durations_s(buffer.worker, buffer.sequence, buffer.num_steps)
        assert buffer.pulled.tolist() == [version] * 3
        assert buffer.pulled_at_s.tolist() == [now_s] * 3
        assert buffer.returned_at_s.tolist() == (now_s + durations_s).tolist()
        assert buffer.released == (version,)
        now_s += durations_s.max()
    assert np.isfinite(now_s)


def test_workers_that_return_together_stand_in_order_of_their_ids(
    make_experiment: MakeExperiment,
) -> None:
    """Equal service times: the buffer is sorted by worker."""
    experiment = make_experiment(
        workers=8, collect=8, arrivals="synchronous", service={"law": "constant", "mean_s": 2.0}
    )

    buffer = build(experiment).next_buffer(0)

    assert buffer.worker.tolist() == list(range(8))
    assert buffer.returned_at_s.tolist() == [2.0] * 8
