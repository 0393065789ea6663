"""What `up` shows: in a log file a line when its words change, and no more."""

import contextlib
import io
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from flows.up_screen import make_screen, print_line, print_login, print_opened
from tasks.services.login import Login
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


@pytest.mark.parametrize(
    ("host", "own", "told"),
    [
        ("127.0.0.1", {}, "Neither server has a login: other users of this machine can start jobs"),
        ("0.0.0.0", {}, "Open to others (0.0.0.0). Neither server has a login: whoever"),  # noqa: S104
        (
            "127.0.0.1",
            {"PREFECT_SERVER_API_AUTH_STRING": "me:secret"},
            "MLflow does not have a login: other users of this machine can read and write your",
        ),
    ],
)
def test_servers_without_a_login_are_told_with_what_it_means(
    host: str, own: dict[str, str], told: str
) -> None:
    """In one line, with what to do."""
    console = _file()

    print_opened(console, host, own, has_login=False)

    (line,) = _written(console)
    assert line.startswith(told)
    assert "--login" in line
    assert "secret" not in line


def test_servers_with_a_login_need_no_warning_but_of_who_listens() -> None:
    """Nothing is said of servers that are not ours, either."""
    opened, closed = _file(), _file()

    print_opened(opened, "0.0.0.0", {}, has_login=True)  # noqa: S104
    print_opened(closed, "127.0.0.1", {}, has_login=True)
    print_opened(closed, "", {}, has_login=False)

    assert "the password can be read on the way" in " ".join(_written(opened))
    assert _written(closed) == []


def test_a_password_is_shown_on_a_terminal_alone() -> None:
    """What is in a log file, others may be given to read."""
    login, file = Login("me", "secret"), _file()
    leader, follower = os.openpty()
    with os.fdopen(follower, "w") as terminal:
        print_login(Console(file=terminal, width=200), Path("/data"), login)
    print_login(file, Path("/data"), login)

    with os.fdopen(leader) as screen:
        screen.readline()
        assert "me:secret" in screen.readline()
    (line,) = _written(file)
    assert line.startswith("Login    USER:PASSWORD of /data/login.txt")
