"""Dates of nights, over changes of summer time, and nights that were missed."""

from datetime import UTC, date, datetime, timedelta
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from prefect.client.schemas.objects import DeploymentSchedule, FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import Cancelled

from configs.presets import study_path
from tasks.steps.night_schedule import (
    NightSchedule,
    cron_faults,
    crons_of,
    lateness,
    missed_nights,
    night_of,
    reasons_of,
    time_zone_faults,
)

_BERLIN = ZoneInfo("Europe/Berlin")


def _cron(cron: str, time_zone: str = "UTC") -> CronSchedule:
    return CronSchedule(cron=cron, timezone=time_zone)


def _run(due: datetime, message: str, *, is_scheduled: bool = True, **parameters: str) -> FlowRun:
    """Return a flow run as Prefect's server tells it."""
    return FlowRun(
        flow_id=uuid4(),
        expected_start_time=due,
        auto_scheduled=is_scheduled,
        parameters=parameters,
        state=Cancelled(message=message),
    )


def _schedule(cron: str, *, active: bool = True, **parameters: str) -> DeploymentSchedule:
    return DeploymentSchedule(
        id=uuid4(), schedule=_cron(cron), active=active, parameters=parameters
    )


@pytest.mark.parametrize(
    ("scheduled", "zone", "night"),
    [
        (datetime(2026, 11, 22, 23, 30, tzinfo=UTC), "Europe/Berlin", date(2026, 11, 23)),
        (datetime(2026, 11, 22, 23, 30, tzinfo=UTC), "America/New_York", date(2026, 11, 22)),
        # The hour from 2 to 3 does not exist on 29 March, and is there twice on 25 October.
        (datetime(2026, 3, 29, 1, 0, tzinfo=UTC), "Europe/Berlin", date(2026, 3, 29)),
        (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), "Europe/Berlin", date(2026, 10, 25)),
        (datetime(2026, 10, 25, 1, 30, tzinfo=UTC), "Europe/Berlin", date(2026, 10, 25)),
    ],
)
def test_a_night_is_a_date_where_its_users_are(scheduled: datetime, zone: str, night: date) -> None:
    """Whatever the clock of the server."""
    assert night_of(scheduled, zone) == night


def test_an_unknown_zone_is_a_fault() -> None:
    """With what is allowed."""
    (fault,) = time_zone_faults("Mars/Olympus")

    assert "use an IANA name" in str(fault)
    assert time_zone_faults("Europe/Berlin") == []


def test_missed_nights_are_those_of_the_schedule() -> None:
    """None is missed for want of the hour at which the clocks change; reasons are those known."""
    scheduled = datetime(2026, 4, 2, 2, 30, tzinfo=_BERLIN)
    known = {date(2026, 3, 27), date(2026, 3, 28), date(2026, 3, 31)}
    reasons = {date(2026, 3, 30): "skipped: maintenance upgrade until 2026-03-30 08:00 CEST"}
    schedule = NightSchedule((_cron("30 2 * * *", "Europe/Berlin"),), "Europe/Berlin", reasons)

    missed = missed_nights(schedule, known, scheduled, date(2026, 4, 2))

    assert [(str(one.night), one.why.partition(":")[0]) for one in missed] == [
        ("2026-04-01", "no run"),
        ("2026-03-30", "skipped"),
        ("2026-03-29", "no run"),
    ]


def test_a_week_of_working_nights_misses_no_weekend() -> None:
    """Nights that the schedule does not have are not missed."""
    scheduled = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
    schedule = NightSchedule((_cron("0 2 * * 1-5"),), "UTC", {})

    missed = missed_nights(schedule, {date(2026, 11, 19)}, scheduled, date(2026, 11, 23))

    assert [one.night for one in missed] == [date(2026, 11, 20)]


def test_without_a_schedule_nothing_is_missed_but_what_prefect_tells() -> None:
    """A night by hand has no schedule; the flow runs of a deployment have their states."""
    scheduled = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
    cancelled = {date(2026, 11, 22): "Cancelled in Prefect"}

    def missed(schedule: NightSchedule, known: set[date]) -> list[str]:
        found = missed_nights(schedule, known, scheduled, date(2026, 11, 23))
        return [f"{one.night}: {one.why}" for one in found]

    assert missed(NightSchedule((), "UTC", {}), {date(2026, 11, 1)}) == []
    assert missed(NightSchedule((_cron("0 2 * * *"),), "UTC", {}), set()) == []
    assert missed(NightSchedule((), "UTC", cancelled), set()) == [
        "2026-11-22: Cancelled in Prefect"
    ]


def test_nights_before_those_that_are_compared_with_are_not_missed() -> None:
    """Prefect remembers two months of good nights; MLflow was asked for the newest ten."""
    scheduled = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
    days = [date(2026, 11, 23) - timedelta(days=number) for number in range(1, 31)]
    reasons = dict.fromkeys(days, "Completed in Prefect: no regression: 4 same")
    schedule = NightSchedule((_cron("0 2 * * *"),), "UTC", reasons)

    assert missed_nights(schedule, set(days[:10]), scheduled, date(2026, 11, 23)) == ()


def test_every_cron_has_its_nights_in_its_own_zone() -> None:
    """Working days and Sundays; 23:30 in New York is the next date in Berlin."""
    scheduled = datetime(2026, 11, 23, 5, 30, tzinfo=_BERLIN)  # a Monday
    crons = (_cron("30 23 * * 4", "America/New_York"), _cron("0 2 * * 0", "Europe/Berlin"))
    schedule = NightSchedule(crons, "Europe/Berlin", {})

    missed = missed_nights(schedule, {date(2026, 11, 16)}, scheduled, date(2026, 11, 23))

    assert [str(one.night) for one in missed] == ["2026-11-22", "2026-11-20"]


def test_flow_runs_of_other_studies_are_no_nights_of_this_one() -> None:
    """Somebody has tried another study by hand at the same deployment, on a night without one."""
    runs = [
        _run(datetime(2026, 11, 21, 12, 0, tzinfo=UTC), "tried", is_scheduled=False, study="tiny"),
        _run(datetime(2026, 11, 20, 2, 0, tzinfo=UTC), "over", study="nightly"),
        _run(datetime(2026, 11, 19, 2, 0, tzinfo=UTC), "by default"),
    ]

    reasons = reasons_of(runs, "nightly", "UTC")

    assert reasons == {
        date(2026, 11, 20): "Cancelled in Prefect: over",
        date(2026, 11, 19): "Cancelled in Prefect: by default",
    }
    assert list(reasons_of(runs, "tiny", "UTC")) == [date(2026, 11, 21)]
    assert reasons_of(runs, str(study_path("nightly")), "UTC") == reasons


def test_of_one_date_the_scheduled_flow_run_is_told() -> None:
    """However many were started by hand after it; without one, the newest of these."""
    scheduled = _run(datetime(2026, 11, 20, 2, 0, tzinfo=UTC), "was due", study="nightly")
    noon, evening = (
        _run(datetime(2026, 11, 20, hour, 0, tzinfo=UTC), f"at {hour}", is_scheduled=False)
        for hour in (12, 18)
    )

    night = date(2026, 11, 20)
    assert reasons_of([evening, noon, scheduled], "nightly", "UTC") == {
        night: "Cancelled in Prefect: was due"
    }
    assert reasons_of([evening, noon], "nightly", "UTC") == {night: "Cancelled in Prefect: at 18"}


def test_all_active_crons_of_the_study_are_read() -> None:
    """One that is off is none, nor is that of another study."""
    deployment = DeploymentResponse(
        name="nightly-scaling",
        labels={},
        flow_id=uuid4(),
        parameters={"study": "nightly"},
        schedules=[
            _schedule("0 1 * * *", active=False),
            _schedule("0 2 * * *"),
            _schedule("0 3 * * *", study="scaling-mini"),
            _schedule("0 4 * * 0", study=str(study_path("nightly"))),
        ],
    )

    found = crons_of(deployment, "nightly")

    assert [one.cron for one in found] == ["0 2 * * *", "0 4 * * 0"]
    assert [one.cron for one in crons_of(deployment, "scaling-mini")] == ["0 3 * * *"]


@pytest.mark.parametrize("cron", ["abc", "0 2 * *", "99 2 * * *"])
def test_what_is_no_cron_is_a_fault(cron: str) -> None:
    """With what is allowed, before anything runs."""
    (fault,) = cron_faults(cron)

    assert str(fault).startswith(f"cron: '{cron}' is no cron expression; use five fields")
    assert cron_faults("") == cron_faults("0 2 * * 1-5") == []


def test_a_late_night_says_so() -> None:
    """From a quarter of an hour on."""
    due = datetime(2026, 11, 23, 2, 0, tzinfo=_BERLIN)

    assert lateness(due, due + timedelta(minutes=14)) == ""
    assert lateness(due, (due + timedelta(hours=2, minutes=5)).astimezone(UTC)) == (
        "Tonight began 2 h 5 min late: it was due at 2026-11-23 02:00 CET."
    )
