"""The flow of a night: run a study, compare it with the nights before, fail on a regression."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated
from uuid import UUID
from zoneinfo import ZoneInfo

import httpx
from prefect import State, flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.exceptions import Pause, PrefectException
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed
from pydantic import Field

from configs.base import Fault
from configs.directories import runs_directory
from configs.form_base import Setting
from configs.loading import ConfigError, load_study
from configs.presets import study_path
from configs.study import Study
from flows.choosing import flow_of
from flows.parameters import NamedStudy, NumParallel, RunsDir, titled
from flows.resolving import checked
from tasks.runtime.errors import DamagedFileError
from tasks.steps.cancelling import Wish, cancelled_by_prefect
from tasks.steps.creation import create_study_directory
from tasks.steps.ending import pause_in_words
from tasks.steps.flow_record import read_flow_record
from tasks.steps.launching import default_parallel
from tasks.steps.night_lock import night_lock
from tasks.steps.night_schedule import (
    DEFAULT_STUDY,
    cron_faults,
    lateness,
    read_schedule,
    time_zone_faults,
)
from tasks.steps.nightly import Criteria, judge_night, maintenance
from tasks.steps.stale_tasks import close_stale_tasks
from tasks.steps.study_lock import study_lock
from tasks.tracking.nightly_comparison import Outcome
from tasks.tracking.nightly_metrics import metric_faults, metrics_for
from tasks.tracking.nightly_record import NightRecord, directory_of_night, read_night, write_night
from tasks.tracking.nightly_statistics import Rule
from tasks.tracking.store import default_tracking_uri
from tasks.tracking.study_directory import StudyDirectory

SKIPPED = "Skipped"
"""Name of the state, of type COMPLETED, of a night that did not run, for a maintenance."""
ALREADY_RUNNING = "AlreadyRunning"
"""The same of a night that did not run because another process was at it, or at its study."""


@flow(name="nightly")
def nightly(
    study: Annotated[NamedStudy, titled("Study")] = DEFAULT_STUDY,
    settings: Annotated[list[Setting], titled("Settings")] = [],  # noqa: B006  Prefect copies it
    nights: Annotated[int, Field(ge=2, le=365), titled("Nights to compare with")] = 10,
    metrics: Annotated[list[str], titled("Metrics")] = [],  # noqa: B006
    least_effect: Annotated[float, Field(ge=0, le=10), titled("Least effect")] = 0.02,
    confidence: Annotated[float, Field(ge=0.5, lt=1), titled("Confidence")] = 0.95,
    runs_dir: RunsDir = None,
    time_zone: Annotated[str, titled("Time zone")] = "UTC",
    cron: Annotated[str, titled("Cron of the nights")] = "",
    since: Annotated[date | None, titled("Compare since")] = None,
    night: Annotated[date | None, titled("Night")] = None,
    machine: Annotated[str, titled("Machine")] = "",
    num_parallel: NumParallel = None,
) -> State[str]:
    """Run a study for one night, and compare it with the nights before.

    Args:
        study: A shipped study, by its name, or the path of a YAML file.
        settings: Changes of the study, each PATH=VALUE, such as steps=100 or launcher.kind=slurm;
            the value is YAML.
        nights: Earlier nights to compare with, at most: the newest of the same configuration and
            machine. Fewer than two tell nothing.
        metrics: What to compare by, such as tokens_per_s, step_s or train_loss. Default:
            train_loss, and tokens_per_s of trainings or wall_s of federated studies.
        least_effect: A smaller change is none; 0.02 is 2 %.
        confidence: In nights without any change, a mark better or worse comes up in
            1 - confidence of them at most.
        runs_dir: Directory of all runs, and of MLflow's database where there is no server. Empty:
            WATERSHED_RUNS_DIR, else runs.
        time_zone: IANA name of the zone of the nights' dates; that of the schedule.
        cron: When nights are due, to say which were missed. Default: the deployment's schedule.
        since: Compare with nights from this date on only: the first one after a change that is
            meant to stay. Default: all nights.
        night: Date of the night. Default: that of the scheduled start.
        machine: Name of the machine, where the host's changes. Default: the host's, or cluster and
            partition.
        num_parallel: Most local jobs at a time. 0: that of the study.

    Returns:
        Completed (no regression; or a night that could not run: with the name Skipped for a
        maintenance, AlreadyRunning for another process at the same study), Failed (the message
        begins with regression, points failed, configuration or not compared) or Cancelled.
    """
    try:
        loaded = load_study(study_path(study), settings)
    except ConfigError as error:
        return _misconfigured(error.faults)
    except LookupError as error:
        return _misconfigured([Fault(path="study", message=str(error.args[0]))])
    faults = [*metric_faults(loaded, metrics), *time_zone_faults(time_zone), *cron_faults(cron)]
    if faults := [*faults, *checked(loaded)]:
        return _misconfigured(faults)
    runs_dir = runs_directory(runs_dir)
    due = _due(night, ZoneInfo(time_zone))
    record = NightRecord(
        night=due.date(),
        time_zone=time_zone,
        machine=machine,
        since=since,
        num_parallel=num_parallel,
        flow_run_id=str(flow_run.get_id()),
        began=datetime.now(UTC),
    )
    criteria = Criteria(
        metrics=metrics_for(loaded, metrics),
        num_nights=nights,
        rule=Rule(least_effect=least_effect, confidence=confidence),
    )
    with ExitStack() as stack:
        try:
            lock = night_lock(runs_dir, loaded.name, str(flow_run.get_name()))
            holder = stack.enter_context(lock)
        except OSError as error:
            return _unusable(runs_dir, error)
        if holder:
            return _skipped(f"a night of {loaded.name} runs already: {holder}", ALREADY_RUNNING)
        if blocked := maintenance(loaded):
            return _skipped(blocked)
        return _run_night(_measured_anew(loaded), record, criteria, runs_dir, due, cron)


def _due(night: date | None, zone: ZoneInfo) -> datetime:
    """Return when tonight was due: at its scheduled start, or on the date that the user names."""
    scheduled = flow_run.get_scheduled_start_time()
    at = datetime.fromtimestamp(scheduled.timestamp(), zone) if scheduled else datetime.now(zone)
    return at if night is None else datetime.combine(night, at.timetz())


def _misconfigured(faults: Sequence[Fault]) -> State[str]:
    return Failed(message=f"configuration: {'; '.join(map(str, faults))}", data="")


def _unusable(runs_dir: Path, error: OSError) -> State[str]:
    path = Path(error.filename or runs_dir)
    message = f"{path} cannot be used: {error.strerror}; "
    if path.name.startswith(".nightly-"):
        message += "if no night runs, remove it or have its owner do so, or "
    message += "use a directory of your own"
    return _misconfigured([Fault(path="runs_dir", message=message)])


def _skipped(why: str, name: str = SKIPPED) -> State[str]:
    return Completed(name=name, message=f"skipped: {why}", data="")


def _measured_anew(study: Study) -> Study:
    """Take no finished points over from earlier nights: they are what is measured."""
    if study.scaling is None:
        return study
    scaling = study.scaling.model_copy(update={"reuse": False})
    return study.model_copy(update={"scaling": scaling})


def _run_night(
    study: Study,
    record: NightRecord,
    criteria: Criteria,
    runs_dir: Path,
    due: datetime,
    cron: str,
) -> State[str]:
    try:
        directory, record = _begun(study, record, runs_dir)
        study = directory.read_study()
        read_flow_record(directory.path)  # which tells a damaged one before anything is made
    except DamagedFileError as fault:  # nothing was made
        return Failed(message=str(fault), data="")
    except OSError as error:
        return _unusable(runs_dir, error)
    due = datetime.combine(record.night, due.timetz())
    num_parallel = record.num_parallel or default_parallel(study)
    with study_lock(directory.path) as holder:
        if holder:
            return _skipped(f"{directory.path} is run already by {holder}", ALREADY_RUNNING)
        if (earlier := read_flow_record(directory.path)) is not None:
            close_stale_tasks(earlier.flow_run_id)
            _end_study_run(directory, Crashed(message="the night's process ended before it did"))
        with _stopping_with_us(directory) as wish:
            ended = flow_of(study, directory.path.name, num_parallel)(
                study, study_dir=directory.path, num_parallel=num_parallel, return_state=True
            )
    if wish.is_pause:
        raise Pause(state=wish.state)
    flow_record = read_flow_record(directory.path)
    if ended.is_cancelled():
        return Cancelled(message=f"the study was stopped: {ended.message}", data="")
    if flow_record is None:  # it has ended before any job
        return Failed(message=f"points failed: {ended.message}", data="")
    schedule = read_schedule(
        deployment.get_id(),
        str(flow_run.get_id()),
        str(flow_run.get_parameters()["study"]),
        due,
        cron=cron,
        time_zone=record.time_zone,
    )
    judged = judge_night(
        directory.path,
        default_tracking_uri(directory.path.parent),
        criteria,
        schedule,
        due,
        lateness(due, record.began) if record.began else "",
    )
    is_bad = judged.outcome in {None, Outcome.REGRESSION, Outcome.FAILED}
    state = Failed if is_bad else Completed
    return state(message=judged.message, data=str(judged.report or directory.path))


def _begun(study: Study, record: NightRecord, runs_dir: Path) -> tuple[StudyDirectory, NightRecord]:
    """Make tonight's directory, or find that of an earlier attempt of this flow run again."""
    path = directory_of_night(record.flow_run_id, runs_dir)
    if path is not None and (before := read_night(path)) is not None:
        get_run_logger().info("the night goes on in %s", path)
        return StudyDirectory(path), before
    directory = create_study_directory(study, runs_dir, datetime.now().astimezone())
    write_night(directory.path, record)
    return directory, record


@contextmanager
def _stopping_with_us(directory: StudyDirectory) -> Iterator[Wish]:
    """Cancel the study's flow run when that of the night is cancelled or paused; Prefect does not.

    Once paused, the study's flow run is over: the night gives it another when it goes on, but
    Prefect would keep one that is being cancelled, and never begin it again.
    """

    def cancel() -> None:
        _set_study_run(directory, Cancelling())

    with cancelled_by_prefect(str(flow_run.get_id()), cancel) as wish:
        try:
            yield wish
        finally:
            if wish.is_pause:
                get_run_logger().info(pause_in_words(directory, wish))
                _end_study_run(directory, Cancelled(message="the night was paused"))


def _end_study_run(directory: StudyDirectory, state: State[str]) -> None:
    """End the study's flow run in Prefect, if it has one that has not ended and Prefect answers."""
    with suppress(LookupError, httpx.HTTPError, PrefectException):
        _set_study_run(directory, state)


def _set_study_run(directory: StudyDirectory, state: State[str]) -> None:
    """Set the state of the study's flow run.

    Raises:
        LookupError: It is not known yet, or is over.
    """
    record = read_flow_record(directory.path)
    if record is None:
        raise LookupError("the study's flow run is not known yet")
    with get_client(sync_client=True) as client:
        known = client.read_flow_run(UUID(record.flow_run_id)).state
        if known is not None and known.is_final():  # that of the night's earlier attempt
            raise LookupError("the study's flow run has not begun yet")
        client.set_flow_run_state(UUID(record.flow_run_id), state, force=state.is_final())
