"""What `up` writes down, and how others find out whether it is still true."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tasks.services.errors import ServicesError
from tasks.services.processes import boot_id, identify
from tasks.services.state import (
    LOCK_NAME,
    STATE_NAME,
    KeptProcess,
    Services,
    claimed,
    find_services,
    forget_services,
    leftovers,
    read_services,
    write_services,
)

Make = Callable[..., Services]


@pytest.fixture
def make() -> Make:
    """Return what makes the record of an `up` of this host."""

    def record(**changes: Any) -> Services:
        values = {
            "phase": "up",
            "host": socket.gethostname(),
            "boot_id": boot_id(),
            "pid": os.getpid(),
            "started": datetime(2026, 1, 1, tzinfo=UTC),
            "prefect_api": "http://127.0.0.1:4200/api",
            "prefect_ui": "http://127.0.0.1:4200",
            "mlflow": "http://127.0.0.1:5000",
            "pool": "watershed",
            "worker": "here",
            "is_external": False,
        }
        return Services.model_validate(values | changes)

    return record


def test_what_is_up_is_found_while_it_holds_the_lock(tmp_path: Path, make: Make) -> None:
    """A record is true as long as its writer lives, and not a moment longer."""
    with claimed(tmp_path) as is_ours:
        write_services(tmp_path, make())
        found = find_services(tmp_path)

    assert is_ours
    assert found == make()
    assert find_services(tmp_path) is None
    assert read_services(tmp_path) == make()


def test_a_directory_has_one_up(tmp_path: Path, make: Make) -> None:
    """A second claim fails while another process has the first; it is given up by a kill -9."""
    code = (
        "import sys, time, pathlib\nfrom tasks.services.state import claimed\n"
        "with claimed(pathlib.Path(sys.argv[1])) as ours: print(ours, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"True\n"
        write_services(tmp_path, make(pid=other.pid))

        with claimed(tmp_path) as is_ours:
            assert not is_ours
        assert find_services(tmp_path) is not None
        other.kill()

    assert find_services(tmp_path) is None
    with claimed(tmp_path) as is_ours:
        assert is_ours


def test_another_host_is_believed_for_a_minute(tmp_path: Path, make: Make) -> None:
    """Its lock need not be seen here; the age of its file tells, and its directory is kept."""
    write_services(tmp_path, make(host="elsewhere"))
    (tmp_path / LOCK_NAME).touch()

    fresh = find_services(tmp_path)
    with claimed(tmp_path) as is_ours:
        assert not is_ours
    os.utime(tmp_path / STATE_NAME, (time.time() - 100, time.time() - 100))

    assert fresh is not None
    assert find_services(tmp_path) is None
    with claimed(tmp_path) as is_ours:
        assert is_ours


def test_loopback_addresses_of_another_host_are_of_no_use(make: Make) -> None:
    """They would name whatever runs on this one."""
    public = {"prefect_ui": "http://head:4200", "mlflow": "http://head:5000"}

    assert make().is_reachable
    assert not make(host="elsewhere").is_reachable
    assert make(host="elsewhere", **public).is_reachable


def test_leftovers_are_living_processes_of_this_boot(make: Make) -> None:
    """Dead pids, pids that others have now, and pids from before a reboot are none."""
    with subprocess.Popen(["sleep", "60"]) as process:
        ticks = identify(process.pid).start_ticks
        left = KeptProcess(name="left", pid=process.pid, start_ticks=ticks)
        reused = KeptProcess(name="reused", pid=process.pid, start_ticks=ticks - 1)
        record = make(processes=(left, reused))
        found = leftovers(record)
        after_reboot = leftovers(make(processes=(left,), boot_id="another"))
        process.kill()

    assert found == [left]
    assert after_reboot == []
    assert leftovers(record) == []


def test_leftovers_of_another_host_are_its_own_business(make: Make) -> None:
    """Nobody can see from here what runs there."""
    with pytest.raises(ServicesError, match="were started on elsewhere; stop them there, or"):
        leftovers(make(host="elsewhere"))


@pytest.mark.parametrize("content", ["", "{", '{"phase": "up"}', "[]"])
def test_a_file_that_cannot_be_read_says_nothing(tmp_path: Path, content: str) -> None:
    """Torn or of another version: as if it were not there."""
    (tmp_path / STATE_NAME).write_text(content)

    assert read_services(tmp_path) is None
    assert find_services(tmp_path) is None


def test_forgetting_twice_is_no_fault(tmp_path: Path, make: Make) -> None:
    """The end of `up` may find its file gone."""
    write_services(tmp_path, make())

    forget_services(tmp_path)
    forget_services(tmp_path)

    assert read_services(tmp_path) is None
