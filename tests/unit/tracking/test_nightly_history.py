"""Earlier nights in a real MLflow (SQLite), and what is compared with them."""

from datetime import date
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tasks.tracking.nightly_comparison import Outcome, compare_points, outcome_of, unmeasured
from tasks.tracking.nightly_history import History, read_nights
from tasks.tracking.nightly_points import PointGroup, Repeat
from tasks.tracking.nightly_report import Tonight, headline, night_report
from tasks.tracking.nightly_statistics import Rule
from tasks.tracking.store import Store

_TONIGHT = date(2026, 11, 23)
_HERE, _CORES = "local: here", "2 cores"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    """A database that exists; making one takes seconds."""
    return MlflowClient(f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")


@pytest.fixture
def experiment(client: MlflowClient, request: pytest.FixtureRequest) -> str:
    """An experiment of its own for each test."""
    return str(client.create_experiment(request.node.name))


def _night(
    client: MlflowClient,
    experiment: str,
    day: str,
    *values: float,
    status: str = "FINISHED",
    machine: str = _HERE,
    cores: str = _CORES,
    mark: str = "",
    since: str = "",
    start_time: int | None = None,
) -> None:
    """Store a night: the study's run, and a run for each repeat with its speed."""
    tags = {"watershed.night": day, "watershed.allocation": cores}
    tags |= {"watershed.nightly_since": since} if since else {}
    above = {"watershed.study_directory": "/runs/x", "mlflow.source.git.commit": f"c{day}"}
    at = start_time or int(day.replace("-", ""))
    parent = client.create_run(experiment, start_time=at, tags=tags | above).info.run_id
    for number, value in enumerate(values):
        own = {"mlflow.parentRunId": parent, "watershed.config_hash": f"h{number}"}
        own |= {"watershed.machine": machine}
        own |= {"watershed.nightly.tokens_per_s": mark} if mark else {}
        run_id = client.create_run(experiment, start_time=at, tags=tags | own).info.run_id
        client.log_metric(run_id, "result/tokens_per_s", value)
        client.set_terminated(run_id, "FINISHED")
    client.set_terminated(parent, status)


def _group(*values: float, state: str = "finished") -> PointGroup:
    return PointGroup(
        "base",
        tuple(
            Repeat(
                config_hash=f"h{number}",
                label=f"seed={number}",
                state=state,  # type: ignore[arg-type]
                message="" if state == "finished" else "no space left",
                machine=_HERE,
                run_id=f"run{number}",
                values={"tokens_per_s": value},
            )
            for number, value in enumerate(values)
        ),
    )


def _read(
    client: MlflowClient,
    experiment: str,
    *groups: PointGroup,
    num_nights: int = 10,
    since: date | None = None,
    page_size: int = 200,
) -> History:
    return read_nights(
        Store(client.tracking_uri),
        experiment,
        groups,
        tonight=_TONIGHT,
        allocation=_CORES,
        machine="",
        num_nights=num_nights,
        since=since,
        page_size=page_size,
    )


def _days(history: History) -> list[int]:
    return [one.night.day for one in history.nights]


def test_the_newest_nights_are_found_over_pages(client: MlflowClient, experiment: str) -> None:
    """Three of five nights, two runs a request."""
    for day in range(18, 23):
        _night(client, experiment, f"2026-11-{day}", 100.0 + day, 200.0 + day)

    history = _read(client, experiment, _group(1.0, 2.0), num_nights=3, page_size=2)

    assert _days(history) == [22, 21, 20]
    newest = history.nights[0]
    assert newest.commit == "c2026-11-22"
    speeds = {name: run.values["tokens_per_s"] for name, run in newest.runs.items()}
    assert speeds == {"h0": 122.0, "h1": 222.0}


def test_nights_that_did_not_finish_are_said_and_not_used(
    client: MlflowClient, experiment: str
) -> None:
    """Failed, stopped, without an end, elsewhere, with another allocation: each in its words."""
    _night(client, experiment, "2026-11-17", 1.0, machine="local: there")
    _night(client, experiment, "2026-11-18", 1.0, cores="64 cores")
    _night(client, experiment, "2026-11-19", 1.0, status="FAILED")
    _night(client, experiment, "2026-11-20", 1.0, status="KILLED")
    _night(client, experiment, "2026-11-21", 1.0, status="RUNNING")
    _night(client, experiment, "2026-11-22", 1.0)

    history = _read(client, experiment, _group(1.0))

    assert _days(history) == [22]
    told = {one.night.day: one.why for one in history.unused}
    assert told == {
        21: "it has no end: its process died, or it still runs",
        20: "it was stopped before its end",
        19: "a point failed",
        18: "on another machine: local: here (64 cores)",
        17: "on another machine: local: there (2 cores)",
    }


def test_a_night_counts_once(client: MlflowClient, experiment: str) -> None:
    """Of several runs for one date the newest that finished; tonight's own date does not count."""
    _night(client, experiment, "2026-11-22", 1.0, start_time=1)
    _night(client, experiment, "2026-11-22", 2.0, start_time=2)
    _night(client, experiment, "2026-11-22", 3.0, start_time=3, status="FAILED")
    _night(client, experiment, "2026-11-23", 4.0, start_time=4)

    history = _read(client, experiment, _group(1.0))

    (night,) = history.nights
    assert night.runs["h0"].values["tokens_per_s"] == 2.0
    assert history.unused == ()


def test_a_repeat_that_is_new_has_no_history(client: MlflowClient, experiment: str) -> None:
    """Nights without one of tonight's repeats are not compared with; those with more are."""
    _night(client, experiment, "2026-11-21", 1.0)
    _night(client, experiment, "2026-11-22", 1.0, 1.0, 1.0)
    group = _group(1.0, 1.0)

    history = _read(client, experiment, group)
    (result,) = compare_points(
        [group], history, ["tokens_per_s"], Rule(), tonight=_TONIGHT, commit="", num_nights=5
    )

    assert [night.day for night, _ in result.nights] == [22]
    assert result.nights[0][1] == (1.0, 1.0)


def _with_a_regression(client: MlflowClient, experiment: str, *, since: str = "") -> None:
    """Five good nights, then two that were worse."""
    for day, value in zip(range(16, 21), (100.0, 101.0, 99.0, 100.5, 99.5), strict=True):
        _night(client, experiment, f"2026-11-{day}", value, mark="same")
    for day in (21, 22):
        _night(client, experiment, f"2026-11-{day}", 80.0, mark="worse", since=since)


def test_a_regression_is_told_until_it_is_mended(client: MlflowClient, experiment: str) -> None:
    """Nights that were worse are no reference; the first of them is the one since which it is."""
    _with_a_regression(client, experiment)
    group = _group(80.0)

    history = _read(client, experiment, group, num_nights=5)
    compared = compare_points(
        [group], history, ["tokens_per_s"], Rule(), tonight=_TONIGHT, commit="new", num_nights=5
    )

    (one,) = compared
    assert one.result.verdict == "worse"
    assert [night.day for night, _ in one.nights] == [20, 19, 18, 17, 16]
    assert one.origin is not None
    assert one.origin.since == date(2026, 11, 21)
    assert one.origin.commit == "c2026-11-21"
    assert one.origin.good is not None
    assert one.reference_run_id == one.origin.good.runs["h0"].run_id
    assert outcome_of([group], compared, []) is Outcome.REGRESSION
    text = _report(client, group, history)
    assert "80 instead of 100, -20.0 %" in text
    assert "Since the night of 2026-11-21 (commit c2026-11-21)" in text
    assert "`git log --oneline c2026-11-20..c2026-11-21`" in text


def test_a_change_that_is_meant_to_stay_is_accepted(client: MlflowClient, experiment: str) -> None:
    """With ``since`` the nights from then on count, what they were marked before is forgotten."""
    _with_a_regression(client, experiment)
    group = _group(80.5)

    history = _read(client, experiment, group, since=date(2026, 11, 21))
    (one,) = compare_points(
        [group], history, ["tokens_per_s"], Rule(), tonight=_TONIGHT, commit="", num_nights=5
    )

    assert [night.day for night, _ in one.nights] == [22, 21]
    assert one.result.verdict == "same"


def test_marks_given_after_an_acceptance_count(client: MlflowClient, experiment: str) -> None:
    """A night that was worse by the same ``since`` as tonight's is no reference."""
    _with_a_regression(client, experiment, since="2026-11-16")

    history = _read(client, experiment, _group(80.0), since=date(2026, 11, 16))
    (one,) = compare_points(
        [_group(80.0)], history, ["tokens_per_s"], Rule(), tonight=_TONIGHT, commit="",
        num_nights=5,
    )  # fmt: skip

    assert one.result.verdict == "worse"


def _report(client: MlflowClient, group: PointGroup, history: History) -> str:
    compared = compare_points(
        [group], history, ["tokens_per_s"], Rule(), tonight=_TONIGHT, commit="new", num_nights=5
    )
    tonight = Tonight("x", _TONIGHT, "x-1", "new", False, client.tracking_uri, "1")  # noqa: FBT003
    outcome = outcome_of([group], compared, [])
    return night_report(tonight, outcome, compared, [], history, Rule(), missing=[], figure="")


def test_a_night_that_cannot_be_judged_says_why(client: MlflowClient, experiment: str) -> None:
    """After one earlier night nothing is known of the noise; that is not *no regression*."""
    _night(client, experiment, "2026-11-22", 100.0)
    group = _group(50.0)
    history = _read(client, experiment, group)

    compared = compare_points(
        [group], history, ["tokens_per_s"], Rule(), tonight=_TONIGHT, commit="", num_nights=5
    )

    outcome = outcome_of([group], compared, [])
    assert outcome is Outcome.CANNOT_TELL
    assert headline(outcome, compared, [], []) == (
        "cannot tell: one earlier night does not tell by how much nights differ"
    )


def test_failed_points_are_no_regression() -> None:
    """What failed, why, and that nothing could be compared."""
    group = _group(1.0, state="failed")

    outcome = outcome_of([group], [], [])

    assert outcome is Outcome.FAILED
    assert headline(outcome, [], list(group.repeats), []) == (
        "points failed: 1 run has not finished (seed=0: no space left)"
    )


def test_what_nobody_has_measured_is_told() -> None:
    """A metric that vanishes is no success, and no failed point either."""
    group = _group(1.0)

    missing = unmeasured([group], ["tokens_per_s", "mfu"])

    assert missing == [f"mfu of {group.label}"]
    outcome = outcome_of([group], [], missing)
    assert outcome is Outcome.CANNOT_TELL
    assert headline(outcome, [], [], missing) == f"cannot tell: nobody has measured {missing[0]}"


def test_a_value_without_a_logarithm_is_no_reference(client: MlflowClient, experiment: str) -> None:
    """One zero among good nights does not hide that tonight is half as fast."""
    for day in range(10, 18):
        speed = 0.0 if day == 15 else 100.0 + day % 3
        _night(client, experiment, f"2026-11-{day}", speed)
    group = _group(50.0)

    (one,) = compare_points(
        [group],
        _read(client, experiment, group),
        ["tokens_per_s"],
        Rule(),
        tonight=_TONIGHT,
        commit="",
        num_nights=10,
    )

    assert one.result.verdict == "worse"
    assert len(one.nights) == 7


def test_an_empty_mlflow_has_no_nights(
    client: MlflowClient, experiment: str, tmp_path: Path
) -> None:
    """A study that never ran for a night: ordinary runs do not count."""
    run = client.create_run(experiment, tags={"watershed.study_directory": str(tmp_path)})
    client.set_terminated(run.info.run_id)

    history = _read(client, experiment, _group(1.0))

    assert history == History((), ())
