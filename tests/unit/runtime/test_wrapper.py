"""The wrapper's own needs: little to import, and clear words for wrong arguments."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run(*arguments: str, code: str = "") -> "subprocess.CompletedProcess[str]":
    """Run the wrapper in a Python without installed packages, or some code in its place."""
    program = ["-c", code] if code else ["-m", "tasks.runtime.wrapper"]
    return subprocess.run(
        [sys.executable, "-S", *program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"},
    )


def test_the_standard_library_is_all_it_imports() -> None:
    """Nothing else is loaded, and nothing slow of it: each module costs a cluster some time."""
    ended = run(
        code="import sys\nfrom tasks.runtime import wrapper, invocation\nprint(*sys.modules)"
    )

    modules = set(ended.stdout.split())
    foreign = {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name for name in foreign if not name.startswith(("tasks", "__main__"))} == set()
    slow = {"argparse", "asyncio", "dataclasses", "inspect", "logging", "tempfile", "typing"}
    assert modules & slow == set()
    assert "tasks.runtime.supervisor" in modules


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--run x -- true", "--submission is missing"),
        ("--submission 1 -- true", "--runs is missing"),
        ("--submission 1 --runs runs.json -- true", "--index is missing"),
        ("--submission 1 --runs runs.json --index 2 -- true", "runs.json has 2 runs, number 2 is"),
        ("--submission 1 --runs runs.json --index -1 -- true", "runs.json has 2 runs, number -1"),
        ("--submission 1 --runs absent.json --index 0 -- true", "absent.json"),
        ("--submission 1 --run x", "-- COMMAND is missing"),
        ("--submission 1 --run x --", "-- COMMAND is missing"),
        ("--submission one --run x -- true", "'one'"),
        (
            "--submission 1 --run x --fast -- true",
            "unknown argument --fast; there are --sub",
        ),
    ],
)
def test_wrong_arguments_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, complaint: str
) -> None:
    """What is wrong is said, and nothing is run."""
    monkeypatch.chdir(tmp_path)
    Path("runs.json").write_text('["a", "b"]')

    ended = run(*arguments.split())

    assert ended.returncode == 2
    assert complaint in ended.stderr
    assert "Traceback" not in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["runs.json"]


def test_a_run_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """A directory that is absent is named."""
    ended = run("--submission", "1", "--run", str(tmp_path / "absent"), "--", "true")

    assert ended.returncode == 1
    assert f"cannot claim {tmp_path / 'absent'}" in ended.stderr


ENGINE = """
import pathlib, shutil, sys, time
run = pathlib.Path(sys.argv[-1]).parent
time.sleep({"0": 0.5, "1": 3.0}[run.name])
(run / "ended").touch()
if run.name == "0":
    shutil.rmtree(run / "attempts")  # so that its end cannot be written down
"""


def test_a_full_file_system_ends_no_other_run(tmp_path: Path) -> None:
    """What cannot be said is not said: of two runs in an allocation, the second goes on."""
    engine = tmp_path / "engine.py"
    engine.write_text(ENGINE)
    for name in "01":
        (tmp_path / name).mkdir()
        (tmp_path / name / "job.json").write_text("{}")
    (tmp_path / "runs.json").write_text(f'["{tmp_path}/0", "{tmp_path}/1"]')
    options = f"--submission 1 --runs {tmp_path}/runs.json --parallel 2 -- {sys.executable}"

    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-S", "-m", "tasks.runtime.wrapper", *options.split(), str(engine)],
            stderr=full,
            check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT), "SLURM_JOB_ID": "7"},
        )

    assert (tmp_path / "1" / "ended").exists()
    assert ended.returncode == 0
