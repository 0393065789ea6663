"""When nights are due: their dates, those that were missed, and what Prefect knows of them."""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import PrefectException
from pydantic import ValidationError

from configs.base import Fault
from configs.presets import study_path
from tasks.tracking.nightly_history import UnusedNight

DEFAULT_STUDY = "nightly"
"""What a flow run of a night runs that names no study."""
LATE_AFTER = timedelta(minutes=15)
_CAUGHT_UP_AFTER = timedelta(hours=24)
"""Then it is not late: somebody has named the date of an earlier night."""
_LOOKED_BACK = timedelta(days=60)
_PAGE = 200
"""Flow runs of one request, as many as Prefect's server gives."""
_MOST_FLOW_RUNS = 2000


@dataclass(frozen=True)
class NightSchedule:
    """When the nights of a study are due.

    Attributes:
        crons: All that nights are due by; none if it is not known.
        time_zone: IANA name of the zone of the nights' dates; a cron may have another.
        reasons: Date -> what became of the flow run of that night, as Prefect knows it.
    """

    crons: tuple[CronSchedule, ...]
    time_zone: str
    reasons: Mapping[date, str]


def time_zone_faults(time_zone: str) -> list[Fault]:
    """Find a zone that there is none of.

    Args:
        time_zone: IANA name.
    """
    try:
        ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        message = f"{time_zone!r} is no time zone; use an IANA name, such as Europe/Berlin or UTC"
        return [Fault(path="time_zone", message=message)]
    return []


def cron_faults(cron: str) -> list[Fault]:
    """Find what is no cron expression.

    Args:
        cron: The expression; empty for none.
    """
    try:
        if cron:
            CronSchedule(cron=cron)
    except ValidationError:
        message = f"{cron!r} is no cron expression; use five fields, such as '0 2 * * *'"
        return [Fault(path="cron", message=message)]
    return []


def night_of(scheduled: datetime, time_zone: str) -> date:
    """Return the date of a night: that of its scheduled start where its users are.

    Args:
        scheduled: With a time zone.
        time_zone: IANA name of the users' zone.
    """
    return scheduled.astimezone(ZoneInfo(time_zone)).date()


def read_schedule(
    deployment_id: str | None,
    flow_run_id: str,
    study: str,
    scheduled: datetime,
    *,
    cron: str,
    time_zone: str,
) -> NightSchedule:
    """Ask Prefect for the schedule of a deployment, and for its earlier flow runs.

    A deployment may run other studies, too: by a schedule with parameters of its own, or by hand.

    Args:
        deployment_id: Of the flow run; None for one that was started by hand.
        flow_run_id: Of tonight.
        study: Tonight's study, as the flow run has it.
        scheduled: Tonight's scheduled start.
        cron: Said by the user, in the nights' zone; else those of the deployment.
        time_zone: Of the nights' dates.

    Returns:
        What is known; a server that does not answer knows nothing.
    """
    said = (CronSchedule(cron=cron, timezone=time_zone),) if cron else ()
    if deployment_id is None:
        return NightSchedule(said, time_zone, {})
    try:
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment(UUID(deployment_id))
            runs = list(_runs_before(client, deployment.id, scheduled))
    except (httpx.HTTPError, PrefectException, OSError):
        return NightSchedule(said, time_zone, {})
    others = [run for run in runs if str(run.id) != flow_run_id]
    reasons = reasons_of(others, study, time_zone)
    return NightSchedule(said or crons_of(deployment, study), time_zone, reasons)


def _runs_before(
    client: SyncPrefectClient, deployment_id: UUID, scheduled: datetime
) -> Iterator[FlowRun]:
    """List the flow runs of a deployment, the newest first."""
    wanted = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[deployment_id]),
        expected_start_time=FlowRunFilterExpectedStartTime(
            after_=scheduled - _LOOKED_BACK, before_=scheduled
        ),
    )
    for offset in range(0, _MOST_FLOW_RUNS, _PAGE):
        page = client.read_flow_runs(
            flow_run_filter=wanted,
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=_PAGE,
            offset=offset,
        )
        yield from page
        if len(page) < _PAGE:
            return


def reasons_of(runs: Sequence[FlowRun], study: str, time_zone: str) -> dict[date, str]:
    """Say what became of the nights of a study.

    Args:
        runs: Flow runs of a deployment, the newest first.
        study: The study; runs of others are left out.
        time_zone: Of the nights' dates.

    Returns:
        Date -> what became of its flow run: the newest one of the schedule, else the newest one.
    """
    reasons: dict[date, str] = {}
    for run in sorted(runs, key=lambda one: not one.auto_scheduled):
        if run.expected_start_time is not None and _is_of(run.parameters, study):
            reasons.setdefault(night_of(run.expected_start_time, time_zone), _told(run.state))
    return reasons


def crons_of(deployment: DeploymentResponse, study: str) -> tuple[CronSchedule, ...]:
    """Return the active crons of a study.

    Args:
        deployment: Its schedules may have parameters of their own.
        study: The study; schedules of others are left out.
    """
    return tuple(
        one.schedule
        for one in deployment.schedules
        if one.active
        and isinstance(one.schedule, CronSchedule)
        and _is_of({**deployment.parameters, **one.parameters}, study)
    )


def _is_of(parameters: Mapping[str, object], study: str) -> bool:
    """Say whether parameters are those of a study, by whatever name they call it."""
    return _file_of(str(parameters.get("study", DEFAULT_STUDY))) == _file_of(study)


def _file_of(study: str) -> Path:
    try:
        return study_path(study).resolve()
    except LookupError:  # it was shipped once
        return Path(study)


def _told(state: "State[object] | None") -> str:
    """Say what became of a flow run."""
    if state is None:
        return "no state in Prefect"
    message = (state.message or "").strip().partition("\n")[0]
    if message.startswith("skipped: "):
        return message
    return f"{state.name} in Prefect" + (f": {message}" if message else "")


def missed_nights(
    schedule: NightSchedule, known: Collection[date], scheduled: datetime, tonight: date
) -> tuple[UnusedNight, ...]:
    """Find the nights that were due and have left nothing in MLflow.

    Args:
        schedule: When they are due.
        known: Dates that MLflow has.
        scheduled: Tonight's scheduled start.
        tonight: Tonight's date.

    Returns:
        The nights from the first that is known of on, at most two months back, the newest first.
        What is known ends with the nights that are compared with: before them none is missed.
    """
    earliest = scheduled - _LOOKED_BACK
    seen = [one for one in known or schedule.reasons if one < tonight]
    if not seen:
        return ()
    expected = {one for one in schedule.reasons if one >= min(seen)}
    first = datetime.combine(min(seen), datetime.min.time(), ZoneInfo(schedule.time_zone))
    for cron in schedule.crons:
        expected |= _due(cron, schedule.time_zone, max(first, earliest), scheduled)
    missed = sorted((one for one in expected if one < tonight and one not in known), reverse=True)
    nothing = "no run: neither Prefect nor MLflow knows of one"
    return tuple(UnusedNight(one, schedule.reasons.get(one, nothing)) for one in missed)


def _due(cron: CronSchedule, time_zone: str, start: datetime, end: datetime) -> set[date]:
    """Return the dates for which Prefect would have scheduled a night."""
    # It takes a second to import, and is needed once a night.
    from prefect.server.schemas.schedules import CronSchedule as ServerSchedule  # noqa: PLC0415

    schedule = ServerSchedule.model_validate(cron.model_dump())

    async def dates() -> list[datetime]:
        return list(await schedule.get_dates(n=1000, start=start, end=end))

    return {night_of(one, time_zone) for one in asyncio.run(dates())}


def lateness(scheduled: datetime, now: datetime) -> str:
    """Say that a night began late; empty if it did not.

    Args:
        scheduled: When it was due.
        now: When it began.
    """
    late = now - scheduled
    if not LATE_AFTER <= late < _CAUGHT_UP_AFTER:
        return ""
    hours, minutes = divmod(int(late.total_seconds()) // 60, 60)
    told = f"{hours} h {minutes} min" if hours else f"{minutes} min"
    return f"Tonight began {told} late: it was due at {scheduled:%Y-%m-%d %H:%M %Z}."
