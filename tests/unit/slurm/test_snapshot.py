"""Copies of the code: what is in them, and that they are what runs."""

import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks.slurm.snapshot import take

CHECKOUT = Path(__file__).parents[3]
PACKAGES = ("configs", "flows", "models", "tasks")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Four small packages."""
    root = tmp_path / "checkout"
    for package in PACKAGES:
        (root / package / "part").mkdir(parents=True)
        (root / package / "__init__.py").write_text(f"WORD = 'old {package}'\n")
        (root / package / "part" / "data.yaml").write_text("a: 1\n")
    return root


def _files(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


def test_a_copy_holds_what_the_packages_hold(checkout: Path, tmp_path: Path) -> None:
    """Every file of the four packages is there, in its place, and nothing else."""
    expected = _files(checkout)
    (checkout / "tests").mkdir()
    (checkout / "tests" / "test_x.py").write_text("")
    (checkout / "tasks" / "__pycache__").mkdir()
    (checkout / "tasks" / "__pycache__" / "x.pyc").write_bytes(b"\0")
    (checkout / "tasks" / ".x.py.swp").write_bytes(b"\0")
    (checkout / "tasks" / "link.py").symlink_to("/etc/passwd")

    copy = take(checkout, tmp_path / "code")

    assert _files(copy) == expected
    assert (copy / "tasks" / "part" / "data.yaml").read_text() == "a: 1\n"


def test_the_same_code_is_copied_once(checkout: Path, tmp_path: Path) -> None:
    """Taken again, also after Python has left its caches, the copy is the one that is there."""
    first = take(checkout, tmp_path / "code")
    (first / "tasks" / "__pycache__").mkdir()
    before = (first / "tasks" / "__init__.py").stat()

    second = take(checkout, tmp_path / "code")

    assert second == first
    assert (second / "tasks" / "__init__.py").stat() == before
    assert [path.name for path in (tmp_path / "code").iterdir()] == [first.name]


@pytest.mark.parametrize("change", ["edit", "rename", "add", "remove", "move a line"])
def test_other_code_has_another_name(checkout: Path, tmp_path: Path, change: str) -> None:
    """Whatever is changed in the packages, the copy is another one and the old one stays."""
    first = take(checkout, tmp_path / "code")
    one, other = (checkout / "tasks" / "part" / "data.yaml", checkout / "tasks" / "__init__.py")
    if change == "edit":
        one.write_text("a: 2\n")
    elif change == "rename":
        one.rename(one.with_name("facts.yaml"))
    elif change == "add":
        one.with_name("empty.py").write_text("")
    elif change == "remove":
        one.unlink()
    else:
        other.write_text(other.read_text() + one.read_text())
        one.write_text("")

    second = take(checkout, tmp_path / "code")

    assert second != first
    assert (first / "tasks" / "part" / "data.yaml").read_text() == "a: 1\n"


def test_a_copy_is_closed_and_read_only(checkout: Path, tmp_path: Path) -> None:
    """Others cannot look in, and an editor does not change it by mistake."""
    copy = take(checkout, tmp_path / "code")

    directories = [tmp_path / "code", copy, copy / "tasks", copy / "tasks" / "part"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in directories} == {0o700}
    assert stat.S_IMODE((copy / "tasks" / "__init__.py").stat().st_mode) == 0o400


def test_a_damaged_copy_is_replaced(checkout: Path, tmp_path: Path) -> None:
    """A crash of the machine may leave empty files under the right name; they are not run."""
    copy = take(checkout, tmp_path / "code")
    (copy / "tasks" / "__init__.py").chmod(0o600)
    (copy / "tasks" / "__init__.py").write_text("")

    again = take(checkout, tmp_path / "code")

    assert again == copy
    assert (again / "tasks" / "__init__.py").read_text() == "WORD = 'old tasks'\n"


def test_processes_that_copy_at_once_agree(checkout: Path, tmp_path: Path) -> None:
    """Two flows of one study end with one whole copy."""
    copies: list[Path] = []
    threads = [
        threading.Thread(target=lambda: copies.append(take(checkout, tmp_path / "code")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(copies) == 8
    assert len(set(copies)) == 1
    assert [path.name for path in (tmp_path / "code").iterdir()] == [copies[0].name]
    assert _files(copies[0]) == _files(checkout)


def test_an_absent_package_is_an_error(checkout: Path, tmp_path: Path) -> None:
    """Nothing is left of a copy that cannot be whole."""
    shutil.rmtree(checkout / "models")

    with pytest.raises(FileNotFoundError, match="models"):
        take(checkout, tmp_path / "code")

    assert not (tmp_path / "code").exists()


def _word(copy: Path, tmp_path: Path) -> str:
    """What a job of this copy sees, with the environment of a batch script."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import tasks, os; print(tasks.WORD, os.path.dirname(tasks.__file__))",
        ],
        env={**os.environ, "PYTHONPATH": str(copy), "PYTHONSAFEPATH": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_editing_the_checkout_does_not_change_what_runs(checkout: Path, tmp_path: Path) -> None:
    """A job, also one that is queued again, runs the code of its submission."""
    copy = take(checkout, tmp_path / "code")
    (checkout / "tasks" / "__init__.py").write_text("WORD = 'edited'\n")
    (tmp_path / "tasks").mkdir()  # and neither does a directory where the job happens to be
    (tmp_path / "tasks" / "__init__.py").write_text("WORD = 'from the working directory'\n")

    assert _word(copy, tmp_path) == f"old tasks {copy / 'tasks'}"


def test_a_copy_wins_over_the_installed_packages(tmp_path: Path) -> None:
    """PYTHONPATH comes before an editable install: modules come from the copy of this checkout."""
    copy = take(CHECKOUT, tmp_path / "code")
    modules = ["tasks.slurm.plan", "configs.launchers", "tasks.runtime.run_directory"]
    program = (
        f"import {', '.join(modules)}, sys; print(*(sys.modules[m].__file__ for m in {modules}))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(copy), "PYTHONSAFEPATH": "1"},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )

    expected = [copy / (module.replace(".", "/") + ".py") for module in modules]
    assert done.stdout.split() == list(map(str, expected))
