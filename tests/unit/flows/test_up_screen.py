"""What `up` shows: in a log file a line when its words change, and no more."""

import contextlib
import io
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from flows.up_screen import make_screen, print_line, print_opened
from tasks.services.state import Services

_SERVICES = Services(
    phase="up",
    host="here",
    boot_id="",
    pid=1,
    started=datetime(2026, 1, 1, tzinfo=UTC),
    prefect_api="http://127.0.0.1:4200/api",
    prefect_ui="http://127.0.0.1:4200",
    mlflow="http://127.0.0.1:5000",
    pool="watershed",
    worker="here:watershed-123456",
    is_external=False,
)


def _file() -> Console:
    return Console(file=io.StringIO(), width=60, color_system=None, force_terminal=False)


def _written(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_log_file_gets_a_line_when_something_changes() -> None:
    """Seconds and numbers of flow runs are no news; a server that does not answer is."""
    console = _file()

    with make_screen(console, "/data") as screen:
        for elapsed_s in range(3):
            screen.waiting({"Prefect server": "10 to 40 s"}, elapsed_s)
        screen.is_up(_SERVICES)
        for elapsed_s in range(3, 6):
            screen.health({}, elapsed_s, elapsed_s)
        screen.health({"MLflow server": "does not answer"}, None, 6)
        screen.health({}, 0, 7)
        screen.stopping(["worker"], 1, 0)
        screen.stopping(["worker"], 2, 1)
        screen.handing_over(["worker"], 1, 2)
        screen.tell("handed over: calm-lynx")

    assert _written(console) == [
        "starting: Prefect server (10 to 40 s)",
        "Prefect  http://127.0.0.1:4200",
        "MLflow   http://127.0.0.1:5000",
        "Pool     http://127.0.0.1:4200/work-pools/work-pool/watershed  "
        "here:watershed-123456 serves it",
        "Data and logs are in /data.",
        "all are well; Ctrl-C stops them",
        "not well: MLflow server does not answer",
        "all are well; Ctrl-C stops them",
        "stopping: worker; 1 flow run stops its jobs at a checkpoint (Ctrl-C again: at once)",
        "stopping: worker; 2 flow runs stop their jobs at a checkpoint (Ctrl-C again: at once)",
        "stopping: worker; 1 flow run hands over its jobs: those of Slurm go on, those here stop "
        "at a checkpoint (Ctrl-C: at once)",
        "handed over: calm-lynx",
    ]


def test_a_reader_that_is_gone_is_no_reason_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends `tee` in `up | tee`, too; Rich would end us before the servers."""
    reading, writing = os.pipe()
    os.close(reading)
    with (tmp_path / "out").open("w") as out, os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", out)  # Rich redirects it
        print_line(Console(file=pipe), "stopping")
        print_line(Console(file=pipe), "still stopping")
        with contextlib.suppress(BrokenPipeError):
            pipe.close()


def test_opening_the_servers_is_told_with_what_it_means() -> None:
    """Nothing is said of the loopback interface, and of servers that are not ours."""
    opened, closed = _file(), _file()

    print_opened(opened, "0.0.0.0")  # noqa: S104
    print_opened(closed, "127.0.0.1")
    print_opened(closed, "")

    assert "have no login" in " ".join(_written(opened))
    assert "start jobs as you" in " ".join(_written(opened))
    assert _written(closed) == []
