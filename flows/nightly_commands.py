"""The command that runs a night by hand: ``watershed nightly``."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from configs.presets import study_path
from configs.study import Study
from flows.arguments import (
    EXIT_CONFIGURATION,
    EXIT_FAILED,
    Parallel,
    RunsDir,
    Settings,
    checked_study,
    give_up,
    leave,
    say,
)
from flows.console import make_console
from flows.environment import flow_environment, told_servers
from flows.exit_codes import EXIT_CTRL_C
from flows.orchestration import PATIENCE_S, stop_requests
from tasks.steps.night_lock import night_lock
from tasks.tracking.nightly_metrics import metric_faults
from tasks.tracking.terminal_markdown import TerminalMarkdown

LOG_NAME = "nightly.log"
_POLL_S = 0.2
_ALREADY_RUNNING = 75
_USUAL_ZONE = "UTC"


def nightly(
    study: Annotated[
        str, typer.Argument(metavar="FILE", help="A study in YAML, or the name of a shipped one.")
    ],
    settings: Settings = [],  # noqa: B006  as typer wants it
    runs_dir: RunsDir = Path("runs"),
    parallel: Parallel = None,
    *,
    nights: Annotated[
        int, typer.Option(min=2, max=365, help="Earlier nights to compare with, at most.")
    ] = 10,
    metric: Annotated[
        list[str],
        typer.Option(metavar="NAME", help="What to compare by; can be given again."),
    ] = [],  # noqa: B006
    least_effect: Annotated[
        float, typer.Option(min=0, max=10, help="A smaller change is none; 0.02 is 2 %.")
    ] = 0.02,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="Of all marks of a night together.")
    ] = 0.95,
    time_zone: Annotated[str, typer.Option(help="Zone of the nights' dates.")] = _USUAL_ZONE,
    cron: Annotated[str, typer.Option(help="When nights are due, to say which were missed.")] = "",
    since: Annotated[
        str,
        typer.Option(
            metavar="DATE",
            help="Compare with nights from this date on only: the first after a change that is "
            "meant to stay.",
        ),
    ] = "",
    night: Annotated[
        str, typer.Option(metavar="DATE", help="Date of the night, YYYY-MM-DD. Default: today.")
    ] = "",
    machine: Annotated[
        str, typer.Option(help="Name of the machine, where that of the host changes.")
    ] = "",
) -> None:
    """Run a study for one night and compare it with earlier nights, as the deployment does.

    Exit codes: 0 no regression, or skipped for a maintenance; 1 a regression or failed points; 2
    the configuration is faulty; 75 a night of this study runs already; 130 stopped.
    """
    try:
        path = study_path(study)
    except LookupError as error:
        give_up(str(error.args[0]), EXIT_CONFIGURATION)
    checked = checked_study(path, settings)
    if checked is None:
        leave(EXIT_CONFIGURATION)
    _refuse_faulty(checked, metric, time_zone, cron)
    parameters = {
        "study": str(path.resolve()),
        "settings": settings,
        "nights": nights,
        "metrics": metric,
        "least_effect": least_effect,
        "confidence": confidence,
        "runs_dir": str(runs_dir.resolve()),
        "time_zone": time_zone,
        "cron": cron,
        "machine": machine,
        "night": _date("--night", night),
        "since": _date("--since", since),
        "num_parallel": parallel,
    }
    try:
        with night_lock(runs_dir, checked.name, "not begun yet") as holder:
            if holder:  # said at once; Prefect takes seconds to start
                give_up(f"a night of {checked.name} runs already: {holder}", _ALREADY_RUNNING)
        code, told = _run(parameters, runs_dir)
    except OSError as error:
        give_up(f"cannot run a night in {runs_dir}: {error.strerror or error}", EXIT_FAILED)
    message, _, report = told.strip().partition("\n")
    if report and Path(report).is_file():
        console = make_console()
        lines = Path(report).read_text(encoding="utf-8").splitlines()
        shown = [line for line in lines if not line.startswith("![")]  # a terminal has no figures
        console.print(TerminalMarkdown("\n".join(shown)))
        typer.echo(f"Report: {report}")
    (typer.echo if code == 0 else say)(message or f"no word; see {runs_dir / LOG_NAME}")
    leave(code)


def _refuse_faulty(study: Study, metrics: list[str], time_zone: str, cron: str) -> None:
    """Exit, before anything is begun or announced, if the night's own settings are faulty."""
    faults = [("--metric", fault) for fault in metric_faults(study, metrics)]
    if cron or time_zone != _USUAL_ZONE:
        # Prefect reads the cron expression, and takes seconds to import.
        from tasks.steps.night_schedule import (  # noqa: PLC0415
            cron_faults,
            time_zone_faults,
        )

        faults += [("--time-zone", fault) for fault in time_zone_faults(time_zone)]
        faults += [("--cron", fault) for fault in cron_faults(cron)]
    if faults:
        told = [f"{option}: {fault.message}" for option, fault in faults]
        give_up("\n".join(told), EXIT_CONFIGURATION)


def _date(option: str, text: str) -> str | None:
    try:
        return date.fromisoformat(text).isoformat() if text else None
    except ValueError:
        give_up(f"{option}: {text!r} is no date; write YYYY-MM-DD", EXIT_CONFIGURATION)


def _run(parameters: dict[str, object], runs_dir: Path) -> tuple[int, str]:
    """Run the flow in a process of its own; return its exit code and what it has told.

    In a session of its own, so that Ctrl-C reaches the flow alone, not Prefect's server beside it.

    Raises:
        OSError: It cannot be started.
    """
    if told := told_servers(runs_dir, os.environ):
        typer.echo(told)
    typer.echo(f"The night runs; what Prefect says is in {runs_dir / LOG_NAME}.")
    with stop_requests() as stops, (runs_dir / LOG_NAME).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.run_nightly", json.dumps(parameters)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=flow_environment(runs_dir, os.environ) | {"PYTHONSAFEPATH": "1"},
            start_new_session=True,
        )
        asked_at: float | None = None
        try:
            while process.poll() is None:
                if stops and asked_at is None:
                    asked_at = time.monotonic()
                    process.send_signal(signal.SIGINT)
                if len(stops) > 1 or (asked_at and time.monotonic() - asked_at > PATIENCE_S):
                    break
                time.sleep(_POLL_S)
        finally:
            has_ended = process.poll() is not None
            with contextlib.suppress(ProcessLookupError):  # Prefect's server, if it is still there
                os.killpg(process.pid, signal.SIGTERM if has_ended else signal.SIGKILL)
        told = process.communicate()[0].decode(errors="replace")
    return EXIT_CTRL_C if process.returncode < 0 else process.returncode, told
