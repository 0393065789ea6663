"""Dates of nights, over changes of summer time, and nights that were missed."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tasks.steps.night_schedule import (
    NightSchedule,
    cron_faults,
    lateness,
    missed_nights,
    night_of,
    time_zone_faults,
)

_BERLIN = ZoneInfo("Europe/Berlin")


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
    schedule = NightSchedule("30 2 * * *", "Europe/Berlin", reasons)

    missed = missed_nights(schedule, known, scheduled, date(2026, 4, 2))

    assert [(str(one.night), one.why.partition(":")[0]) for one in missed] == [
        ("2026-04-01", "no run"),
        ("2026-03-30", "skipped"),
        ("2026-03-29", "no run"),
    ]


def test_a_week_of_working_nights_misses_no_weekend() -> None:
    """Nights that the schedule does not have are not missed."""
    scheduled = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
    schedule = NightSchedule("0 2 * * 1-5", "UTC", {})

    missed = missed_nights(schedule, {date(2026, 11, 19)}, scheduled, date(2026, 11, 23))

    assert [one.night for one in missed] == [date(2026, 11, 20)]


def test_without_a_schedule_nothing_is_missed_but_what_prefect_tells() -> None:
    """A night by hand has no schedule; the flow runs of a deployment have their states."""
    scheduled = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
    cancelled = {date(2026, 11, 22): "Cancelled in Prefect"}

    def missed(schedule: NightSchedule, known: set[date]) -> list[str]:
        found = missed_nights(schedule, known, scheduled, date(2026, 11, 23))
        return [f"{one.night}: {one.why}" for one in found]

    assert missed(NightSchedule("", "UTC", {}), {date(2026, 11, 1)}) == []
    assert missed(NightSchedule("0 2 * * *", "UTC", {}), set()) == []
    assert missed(NightSchedule("", "UTC", cancelled), set()) == [
        "2026-11-22: Cancelled in Prefect"
    ]


def test_nights_before_those_that_are_compared_with_are_not_missed() -> None:
    """Prefect remembers two months of good nights; MLflow was asked for the newest ten."""
    scheduled = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
    days = [date(2026, 11, 23) - timedelta(days=number) for number in range(1, 31)]
    reasons = dict.fromkeys(days, "Completed in Prefect: no regression: 4 same")
    schedule = NightSchedule("0 2 * * *", "UTC", reasons)

    assert missed_nights(schedule, set(days[:10]), scheduled, date(2026, 11, 23)) == ()


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
