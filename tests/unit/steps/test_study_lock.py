"""One flow at a time in a study's directory."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.liveness import is_alive
from tasks.steps.study_lock import study_lock

_HOLD = """
import sys
from pathlib import Path
from tasks.steps.study_lock import study_lock
with study_lock(Path(sys.argv[1])) as holder:
    print("held" + holder, flush=True)
    sys.stdin.read()
"""


def test_another_process_is_told_by_its_number_and_host(tmp_path: Path) -> None:
    """Who comes second learns who holds the lock, which goes with its process, even killed."""
    first = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"

    with study_lock(tmp_path) as holder:
        pass
    first.kill()
    first.wait()
    first.stdout.close()
    assert first.stdin is not None
    first.stdin.close()
    with study_lock(tmp_path) as holder_after:
        is_held = is_alive(RunDirectory(tmp_path))

    assert holder == f"process {first.pid} on {socket.gethostname()}"
    assert holder_after == ""
    assert is_held
    assert not is_alive(RunDirectory(tmp_path))


def test_a_process_may_ask_again_for_what_it_holds(tmp_path: Path) -> None:
    """The command line holds the lock before Prefect is loaded; its flow asks for it once more."""
    with study_lock(tmp_path), study_lock(tmp_path) as holder:
        written = RunDirectory(tmp_path).lock.read_text()

    assert holder == ""
    assert written == f"{socket.gethostname()} {os.getpid()}\n"
