"""A trace replays what was recorded."""

from collections.abc import Callable
from pathlib import Path

import pytest

from configs.federated import FederatedExperiment
from tasks.federated.arrivals import build
from tasks.federated.arrivals.interface import Arrivals
from tasks.federated.arrivals.recorder import TraceRecorder
from tasks.runtime.errors import JobError

MakeExperiment = Callable[..., FederatedExperiment]


def _who_pulled_what(buffers: list[Arrivals]) -> list[tuple[list[int], list[int], list[int]]]:
    return [(b.worker.tolist(), b.pulled.tolist(), b.num_steps.tolist()) for b in buffers]


def _run(experiment: FederatedExperiment, rounds: int) -> list[Arrivals]:
    process = build(experiment)
    return [process.next_buffer(version) for version in range(rounds)]


@pytest.mark.parametrize(
    "arrivals",
    [
        {"kind": "event_driven"},
        {"kind": "event_driven", "max_delay": 2},
        {"kind": "uniform", "max_delay": 4, "round_s": 0.1},
        {"kind": "markov", "max_delay": 2, "turn_off": 0.4, "round_s": 0.3},
        {"kind": "synchronous"},
    ],
)
@pytest.mark.parametrize("law", ["exponential", "constant"])
def test_a_recorded_run_replays_exactly(
    make_experiment: MakeExperiment, tmp_path: Path, arrivals: dict[str, object], law: str
) -> None:
    """Workers, versions, local steps and times of a recorded run come again, ties included."""
    path = tmp_path / "trace.csv"
    common: dict[str, object] = {
        "workers": 7,
        "collect": 3,
        "rounds": 60,
        "service": {"law": law, "mean_s": [1.0, 1.0, 2.0, 0.1, 0.3, 3.0, 0.2]},
        "local_steps": {"kind": "uniform", "low": 1, "high": 9},
    }
    original = _run(make_experiment(**common, arrivals=arrivals), rounds=60)
    with TraceRecorder(path) as recorder:
        for buffer in original:
            recorder.add(buffer)
        recorder.flush()

    replayed = _run(
        make_experiment(**common, arrivals={"kind": "trace", "path": str(path)}), rounds=60
    )

    assert _who_pulled_what(replayed) == _who_pulled_what(original)
    for one, other in zip(original, replayed, strict=True):
        assert one.pulled_at_s.tolist() == other.pulled_at_s.tolist()
        assert one.returned_at_s.tolist() == other.returned_at_s.tolist()
        assert "max_delay" in arrivals or one.sequence.tolist() == other.sequence.tolist()


def test_versions_follow_from_the_times(make_experiment: MakeExperiment, tmp_path: Path) -> None:
    """With m = 2, updates are at 2.0 and 4.0; who pulls at 2.0 gets version 1, earlier ones 0."""
    path = tmp_path / "trace.csv"
    path.write_text(
        "worker,pull_time,return_time\n2,2.0,4.0\n0,0,1\n1,0,2.0\n0,1.5,3\n1,3.9,5\n2,4.0,6\n"
    )
    experiment = make_experiment(
        workers=3,
        collect=2,
        rounds=3,
        arrivals={"kind": "trace", "path": str(path)},
        local_steps={"kind": "per_worker", "steps": [4, 5, 6]},
    )

    buffers = _run(experiment, rounds=3)

    # Without the column num_steps, the experiment's law says how many.
    assert _who_pulled_what(buffers) == [
        ([0, 1], [0, 0], [4, 5]),
        ([0, 2], [0, 1], [4, 6]),
        ([1, 2], [1, 2], [5, 6]),
    ]
    assert [b.sequence.tolist() for b in buffers] == [[0, 0], [1, 0], [1, 1]]
    assert [b.released for b in buffers] == [(), (0,), (1, 2)]


def test_a_trace_that_is_too_short_is_refused(
    make_experiment: MakeExperiment, tmp_path: Path
) -> None:
    """The job says how many rounds the trace is good for, before anything is computed."""
    path = tmp_path / "trace.csv"
    path.write_text("worker,pull_time,return_time\n" + "0,0,1\n" * 12)
    experiment = make_experiment(
        workers=3, collect=3, rounds=5, arrivals={"kind": "trace", "path": str(path)}
    )

    with pytest.raises(JobError, match="trace has 12 returns, enough for 4 rounds of collect=3"):
        build(experiment)
