"""What a person does with the two interfaces: start, cancel, retry and compare studies.

One set of servers is used by all tests, in the order in which they stand: the later ones look at
what the earlier ones have run.
"""

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tasks.runtime.run_directory import RunDirectory
from tasks.services.state import Services
from tasks.steps.flow_record import read_flow_record
from tasks.tracking.cursor import read_cursor
from tasks.tracking.study_directory import StudyDirectory
from tests.browser.camera import Camera
from tests.browser.conftest import Visit
from tests.browser.mlflow_ui import (
    close_assistant,
    curves,
    paint_runs,
    parallel_axes,
    parallel_lines,
    run_names,
    search_charts,
    widen_chart,
)
from tests.browser.prefect_ui import FlowRun, open_deployment, open_form, schedule_switch

_POINTS = ["AFA-CD", "AFA-CS", "FedAvg"]
"""Of the preset digits with arrivals of one kind."""
_BEGIN_S = 120.0
_COLOURS = ["#0b6fc2", "#d1550b", "#2e8b3d"]
_LONG = """
name: two-lengths
description: Which points are left when a study is cancelled?
experiment:
  kind: federated
  rounds: 20
  checkpoint_every: 1000
  model: logistic
  data: digits
  algorithm: afa_cd
grid:
  length:
    short: {rounds: 20}
    long: {rounds: 20000}
"""
_PAUSED = """
name: paused
description: Does a study that was paused end as others do?
experiment: {kind: federated, rounds: 10000, model: logistic, data: digits, algorithm: afa_cd}
grid: {seed: [0]}
"""


@dataclass(frozen=True)
class Study:
    """A study that was run from the form.

    Attributes:
        address: Of its flow run's page.
        state: In which the page shows that it has ended.
    """

    address: str
    state: str


@pytest.fixture(scope="module")
def finished(services: Services, visit: Visit, camera: Camera) -> Study:
    """Return a study that was started from a preset with two changed fields, at its end."""
    with visit() as page:
        form = open_form(page, services.prefect_ui, "federated-study")
        form.number("Rounds").fill("60")
        form.select("Arrivals", "uniform")
        page.get_by_role("main").get_by_text("Study to begin with").scroll_into_view_if_needed()
        camera.take(page, "prefect-run-form")
        run = form.start()
        return Study(page.url, run.end())


def test_a_study_is_started_from_the_form_and_its_report_is_read(
    finished: Study, visit: Visit, camera: Camera
) -> None:
    """The page shows the study's end, a task run for each point, and the report with its figure."""
    with visit() as page:
        page.goto(finished.address)
        run = FlowRun(page)
        run.show("Task Runs")
        for point in _POINTS:
            expect(run.task_run(point)).to_contain_text("Completed")
        camera.take(page, "prefect-flow-run")
        run.open_artifact("Report of")
        figure = page.get_by_role("img", name="Curves of digits")
        expect(figure).to_be_visible()

        assert finished.state == "Completed"
        rows = page.get_by_role("table").first.get_by_role("row")
        expect(rows).to_have_count(1 + len(_POINTS))
        assert figure.evaluate("image => image.complete && image.naturalWidth") > 600
        camera.take(page, "prefect-report", size=(1440, 1500))


def test_a_value_out_of_bounds_is_refused_by_the_form(
    services: Services, visit: Visit, camera: Camera
) -> None:
    """No rounds are refused at the field itself, with the bound; nothing is started."""
    with visit() as page:
        form = open_form(page, services.prefect_ui, "federated-study")
        rounds = form.number("Rounds")
        rounds.fill("0")
        form.submit()

        expect(rounds).to_be_focused()
        assert "greater than or equal to 1" in rounds.evaluate("field => field.validationMessage")
        assert page.url.split("?")[0].endswith("/run")
        page.mouse.wheel(0, -200)  # to the field's title, which takes the message away
        rounds.evaluate("field => field.reportValidity()")
        camera.take(page, "prefect-refused-value")


def test_what_only_our_checks_find_is_told_with_field_and_reason(
    services: Services, visit: Visit, data: Path
) -> None:
    """More returns than workers end the flow run at once: field and reason are its message."""
    with visit() as page:
        form = open_form(page, services.prefect_ui, "federated-study")
        form.number("Returns per round").fill("500")
        studies = set(data.glob("digits-*"))
        run = form.start()

        assert run.end() == "Failed"
        expect(run.show("Details")).to_contain_text("collect: 500 is more than workers=100")
        assert set(data.glob("digits-*")) == studies


@pytest.fixture(scope="module")
def cancelled(
    services: Services, visit: Visit, camera: Camera, tmp_path_factory: pytest.TempPathFactory
) -> Study:
    """Return a study that was cancelled when its short point had finished, and the long one ran."""
    file = tmp_path_factory.mktemp("study") / "two-lengths.yaml"
    file.write_text(_LONG, encoding="utf-8")
    with visit() as page:
        form = open_form(page, services.prefect_ui, "federated-study")
        form.write("File instead of a preset", str(file))
        run = form.start()
        address = page.url
        run.await_task_run("length=short", "Completed")
        run.await_task_run("length=long", "Running")
        run.cancel()
        state = run.end()
        run.show("Task Runs")
        camera.take(page, "prefect-cancelled-run")
        return Study(address, state)


def test_a_cancelled_study_stops_its_jobs_and_keeps_what_has_finished(
    cancelled: Study, data: Path
) -> None:
    """The page shows Cancelled; no job is left, and the short point has its result."""
    study_dir = _only(data.glob("two-lengths-*"))
    short, long = _points(study_dir)

    assert cancelled.state == "Cancelled"
    assert _processes_of(study_dir) == []
    assert short.read_result() is not None
    assert _status(short) == "finished"
    assert _status(long) == "interrupted"


@pytest.mark.slow
def test_a_retried_study_finishes_and_runs_nothing_twice(
    cancelled: Study, visit: Visit, data: Path
) -> None:
    """Retry completes the same flow run in the same directory; only the long point ran again."""
    with visit() as page:
        page.goto(cancelled.address)
        run = FlowRun(page)
        run.retry()

        assert run.end() == "Completed"
    short, long = _points(_only(data.glob("two-lengths-*")))
    assert [_status(point) for point in (short, long)] == ["finished", "finished"]
    assert [len(point.attempts()) for point in (short, long)] == [1, 2]


@pytest.mark.slow
def test_a_paused_study_resumes_and_is_run_again(
    services: Services, visit: Visit, data: Path, tmp_path: Path
) -> None:
    """Pause stops its job; Resume completes it in its directory; a copy is a study of its own."""
    file = tmp_path / "paused.yaml"
    file.write_text(_PAUSED, encoding="utf-8")
    with visit() as page:
        form = open_form(page, services.prefect_ui, "federated-study")
        form.write("File instead of a preset", str(file))
        run = form.start()
        run.await_task_run("seed=0", "Running")
        study_dir = _only(data.glob("paused-*"))
        (point,) = _points(study_dir)
        _await_lines(point)
        run.pause()
        run.await_log("Resume continues from their checkpoints")
        paused = (_processes_of(study_dir), _status(point))
        run.resume()
        ended = run.end()
        copied = run.copy().start()
        copied.await_task_run("seed=0", "Running")
        copied.cancel()
        ends = [ended, copied.end()]

    assert paused == ([], "interrupted")
    assert ends == ["Completed", "Cancelled"]
    assert (_status(point), len(point.attempts())) == ("finished", 2)
    assert "continues from round" in point.stdout.read_text()
    (other,) = set(data.glob("paused-*")) - {study_dir}
    assert [_status(one) for one in _points(other)] == ["interrupted"]


def test_the_schedule_of_the_nights_is_paused_and_resumed(services: Services, visit: Visit) -> None:
    """The switch of its deployment does it, and still stands so when the page is loaded anew."""
    with visit() as page:
        open_deployment(page, services.prefect_ui, "nightly-scaling")
        switch = schedule_switch(page)
        switch.click()
        expect(page.get_by_text("Deployment schedule paused")).to_be_visible()
        page.reload()
        expect(switch).not_to_be_checked()
        switch.click()
        expect(page.get_by_text("Deployment schedule active")).to_be_visible()
        page.reload()
        expect(switch).to_be_checked()


def test_the_points_of_a_study_are_compared_in_mlflow(
    finished: Study, visit: Visit, camera: Camera
) -> None:
    """The flow run links to MLflow, which draws the curves of all points and names them."""
    with visit() as page:
        page.goto(finished.address)
        FlowRun(page).open_artifact("The points of digits")
        page.get_by_role("link", name="Compare in MLflow").click()
        page.wait_for_url("**/#/experiments/**")
        for point in _POINTS:
            expect(run_names(page).filter(has_text=point)).to_be_visible()
        close_assistant(page)
        search_charts(page, "train/loss")
        drawn = curves(page)
        if camera.directory is not None:
            page.set_viewport_size({"width": 1440, "height": 900})
            paint_runs(page, dict(zip(_POINTS, _COLOURS, strict=True)))
            widen_chart(page)  # where its legend has room for all
        camera.take(page, "mlflow-comparison")

        assert [name.partition(" · ")[0] for name in drawn] == _POINTS


def test_the_grid_of_a_study_is_shown_in_parallel_coordinates(
    finished: Study, services: Services, visit: Visit, camera: Camera, data: Path
) -> None:
    """The description of the study's run links to them: a line a run, through grid and result."""
    del finished
    with visit() as page:
        page.goto(_page_of(_only(data.glob("digits-*")), services.mlflow))
        with page.expect_popup() as opened:
            page.get_by_role("link", name="grid (parallel coordinates)").click()
        grid = opened.value
        for point in _POINTS:
            expect(run_names(grid).filter(has_text=point)).to_be_visible()
        close_assistant(grid)
        axes = parallel_axes(grid)
        camera.take(grid, "mlflow-grid", size=(1440, 900))

        assert axes == ["algorithm", "algorithm.server_lr", "result/train_loss"]
        assert parallel_lines(grid) == len(_POINTS)


def _page_of(study_dir: Path, mlflow: str) -> str:
    """Return the address of a study's run, on which its description stands."""
    record = read_flow_record(study_dir)
    assert record is not None
    run_id = read_cursor(RunDirectory(study_dir), record.tracking_uri).run_id
    return f"{mlflow}/#/experiments/{record.experiment_id}/runs/{run_id}"


def _only(paths: Iterable[Path]) -> Path:
    (path,) = paths
    return path


def _points(study_dir: Path) -> list[RunDirectory]:
    return StudyDirectory(study_dir).points()


def _status(run: RunDirectory) -> str | None:
    result = run.read_result()
    return result.status if result else None


def _await_lines(run: RunDirectory) -> None:
    """Wait until a job has measured something, so that there is something to go on from."""
    deadline = time.monotonic() + _BEGIN_S
    while not (run.journal.is_file() and run.journal.stat().st_size):
        assert time.monotonic() < deadline, f"nothing is measured in {run.path}"
        time.sleep(0.1)


def _processes_of(study_dir: Path) -> list[str]:
    """Return the commands of all processes that run a job of a study."""
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            commands.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [command for command in commands if str(study_dir) in command]
