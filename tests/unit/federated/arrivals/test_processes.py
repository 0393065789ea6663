"""What every arrival process promises, over random experiments of every kind."""

from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from configs.federated import FederatedExperiment
from configs.trace import trace_faults
from tasks.federated.arrivals import build
from tasks.federated.arrivals.interface import ArrivalProcess, Arrivals
from tasks.federated.arrivals.recorder import TraceRecorder

_ROUNDS = 15
_KINDS = (
    "synchronous",
    "uniform",
    "weighted",
    "label_correlated",
    "schedule",
    "periodic",
    "markov",
    "event_driven",
    "trace",
)
_WITHOUT_REPLACEMENT = {"synchronous", "uniform", "periodic", "markov"}
_CLASSES = 10

pytestmark = pytest.mark.parametrize("kind", _KINDS)
_FEW = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def _services(draw: st.DrawFn, workers: int) -> dict[str, Any]:
    means = st.sampled_from([0.1, 0.5, 1.0, 2.0])
    return {
        "law": draw(st.sampled_from(["constant", "exponential", "lognormal"])),
        "mean_s": draw(means | st.lists(means, min_size=workers, max_size=workers)),
        "per": draw(st.sampled_from(["return", "step"])),
        "spread": draw(st.sampled_from([0.0, 1.0])),
    }


@st.composite
def _local_steps(draw: st.DrawFn, workers: int, *, per_step: bool) -> dict[str, Any]:
    laws: list[dict[str, Any]] = [
        {"kind": "constant", "steps": 3},
        {"kind": "uniform", "low": 2, "high": 6},
        {"kind": "per_worker", "steps": [1 + i % 4 for i in range(workers)]},
        {"kind": "speed", "mean": 3.5},
    ]
    if per_step:
        laws.append({"kind": "time_budget", "budget_s": 2.0, "max_steps": 50})
    return draw(st.sampled_from(laws))


@st.composite
def _arrivals(
    draw: st.DrawFn, kind: str, workers: int, collect: int, absent: frozenset[int]
) -> dict[str, Any]:
    config: dict[str, Any] = {"kind": kind, "never_return": sorted(absent)}
    if kind == "event_driven":
        return config | {"max_delay": draw(st.none() | st.integers(0, 3))}
    if kind == "trace":
        return config | {"max_delay": draw(st.none() | st.integers(2, 5))}
    if kind == "synchronous":
        return config
    config["max_delay"] = draw(st.integers(0, 5))
    config["delay"] = draw(st.sampled_from(["uniform", "constant"]))
    config["round_s"] = draw(st.sampled_from([0.1, 1.0]))
    present = [w for w in range(workers) if w not in absent]
    if kind == "weighted":
        config["weights"] = [draw(st.sampled_from([0.5, 1.0, 7.0])) for _ in range(workers)]
    if kind == "label_correlated":
        config["favoured_labels"] = draw(st.lists(st.integers(0, _CLASSES - 1), min_size=1))
    if kind == "schedule" and draw(st.booleans()):
        config["order"] = draw(st.lists(st.integers(0, workers - 1), max_size=10)) + present[:1]
    if kind == "periodic":
        fits = [
            groups
            for groups in range(1, workers + 1)
            if all(sum(w % groups == g for w in present) >= collect for g in range(groups))
        ]
        config |= {"groups": draw(st.sampled_from(fits)), "period": draw(st.integers(1, 4))}
    if kind == "markov":
        config |= {"turn_on": draw(st.floats(0.5, 1)), "turn_off": draw(st.floats(0, 0.3))}
    return config


def _draw_experiment(data: st.DataObject, kind: str, directory: Path) -> FederatedExperiment:
    workers = data.draw(st.integers(1, 8), label="workers")
    absent = data.draw(
        st.frozensets(st.integers(0, workers - 1), max_size=workers - 1), label="absent"
    )
    collect = data.draw(st.integers(1, workers - len(absent)), label="collect")
    service = data.draw(_services(workers), label="service")
    raw: dict[str, Any] = {
        "workers": workers,
        "rounds": _ROUNDS,
        "seed": data.draw(st.integers(0, 2**63 - 1), label="seed"),
        "algorithm": {"name": "afa_cd", "collect": collect},
        "model": {"name": "quadratic", "centres": [0.0] * workers},
        "service": service,
        "local_steps": data.draw(
            _local_steps(workers, per_step=service["per"] == "step"), label="local_steps"
        ),
        "arrivals": data.draw(_arrivals(kind, workers, collect, absent), label="arrivals"),
    }
    if kind == "label_correlated":
        raw |= {"model": "logistic", "data": {"name": "digits", "partition": "iid"}}
    if kind == "trace":
        raw["arrivals"]["path"] = str(directory / "trace.csv")
        _record(raw | {"arrivals": "event_driven"}, directory / "trace.csv")
        experiment = FederatedExperiment.model_validate(raw)
        assume(not trace_faults(experiment))  # so many may be dropped that it is too short
        return experiment
    return FederatedExperiment.model_validate(raw)


def _record(raw: dict[str, Any], path: Path) -> None:
    source = build(FederatedExperiment.model_validate(raw))
    with TraceRecorder(path) as recorder:
        for version in range(6 * _ROUNDS):
            recorder.add(source.next_buffer(version))
        recorder.flush()


def _build(experiment: FederatedExperiment) -> ArrivalProcess:
    shares: NDArray[np.float64] = np.random.default_rng(0).dirichlet(
        np.ones(_CLASSES), experiment.workers
    )
    return build(experiment, shares)


def _run(experiment: FederatedExperiment) -> list[Arrivals]:
    process = _build(experiment)
    return [process.next_buffer(version) for version in range(_ROUNDS)]


@given(data=st.data())
@_FEW
def test_buffers_keep_the_contract(kind: str, tmp_path: Path, data: st.DataObject) -> None:
    """Ids, versions, steps, counts and times are as the interface says, in every buffer."""
    experiment = _draw_experiment(data, kind, tmp_path)
    present = set(range(experiment.workers)) - set(experiment.arrivals.never_return)
    max_delay = getattr(experiment.arrivals, "max_delay", 0)
    can_drop = kind in {"event_driven", "trace"} and max_delay is not None
    counts = dict.fromkeys(range(experiment.workers), 0)
    now_s = 0.0

    for version, buffer in enumerate(_run(experiment)):
        workers = buffer.worker.tolist()
        assert len(workers) == experiment.algorithm.collect
        assert set(workers) <= present
        if kind in _WITHOUT_REPLACEMENT:
            assert len(set(workers)) == len(workers)
        assert buffer.pulled.min() >= 0
        assert buffer.pulled.max() <= version
        if max_delay is not None:
            assert version - buffer.pulled.min() <= max_delay
        assert buffer.num_steps.min() >= 1
        times = [now_s, *buffer.returned_at_s.tolist()]
        assert times == sorted(times)
        assert (buffer.pulled_at_s < buffer.returned_at_s).all()
        now_s = times[-1]
        for worker, sequence in zip(workers, buffer.sequence.tolist(), strict=True):
            # a dropped return takes a number, too
            assert sequence >= counts[worker] if can_drop else sequence == counts[worker]
            counts[worker] = sequence + 1
        for field in (buffer.worker, buffer.pulled, buffer.num_steps, buffer.sequence):
            assert field.dtype == np.int64
            assert field.shape == (len(workers),)


@given(data=st.data())
@_FEW
def test_a_released_version_is_never_pulled_again(
    kind: str, tmp_path: Path, data: st.DataObject
) -> None:
    """Each version is released at most once, not before it exists, and not before its last use."""
    experiment = _draw_experiment(data, kind, tmp_path)
    gone: set[int] = set()

    for version, buffer in enumerate(_run(experiment)):
        assert gone.isdisjoint(buffer.pulled.tolist())
        assert len(set(buffer.released)) == len(buffer.released)
        assert gone.isdisjoint(buffer.released)
        assert all(0 <= old <= version for old in buffer.released)
        gone.update(buffer.released)


@given(data=st.data(), stop=st.integers(0, _ROUNDS))
@_FEW
def test_a_restored_process_goes_on_identically(
    kind: str, tmp_path: Path, data: st.DataObject, stop: int
) -> None:
    """A state, wherever taken, leads to the same buffers, and later rounds do not change it."""
    experiment = _draw_experiment(data, kind, tmp_path)
    process = _build(experiment)
    for version in range(stop):
        process.next_buffer(version)
    state = process.state()
    expected = [process.next_buffer(version) for version in range(stop, _ROUNDS)]

    restored = _build(experiment)
    restored.restore(state)
    found = [restored.next_buffer(version) for version in range(stop, _ROUNDS)]

    assert all(array.ndim >= 1 for array in state.values())
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_equal(astuple(one), astuple(other))


@given(data=st.data())
@_FEW
def test_the_seed_decides_everything(kind: str, tmp_path: Path, data: st.DataObject) -> None:
    """Two processes of one experiment give the same buffers."""
    experiment = _draw_experiment(data, kind, tmp_path)

    one, other = _run(experiment), _run(experiment)

    np.testing.assert_equal([astuple(b) for b in one], [astuple(b) for b in other])
