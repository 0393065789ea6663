"""``watershed calibrate``: what it leaves where Slurm is not."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.command_line import main


@pytest.fixture
def usual_umask() -> Iterator[None]:
    """The umask that most users have."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("usual_umask")
def test_the_directory_of_its_job_is_closed_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As run directories are, whatever the umask; it is named also if the job cannot be sent."""
    machine, launcher = tmp_path / "pairs.yaml", tmp_path / "launcher.yaml"
    machine.write_text("levels:\n- {name: node, ranks: 2}\n")
    launcher.write_text('time_limit: "10"\n')
    monkeypatch.setenv("PATH", str(tmp_path))
    where = ["--launcher", launcher, "--runs-dir", tmp_path / "runs", "--output", tmp_path / "x"]

    code = main(["calibrate", str(machine), *map(str, where)])

    assert code == 1
    assert "Slurm" in capsys.readouterr().err
    (study,) = (tmp_path / "runs").iterdir()
    assert stat.S_IMODE(study.stat().st_mode) == 0o700
    assert stat.S_IMODE((study / "run").stat().st_mode) == 0o700
