"""The command line, as far as it runs no flow."""

import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from configs.loading import load_study
from flows.command_line import main
from tasks.steps.creation import create_study_directory

ROOT = Path(__file__).parents[3]
STUDY = "{experiment: {data: digits, rounds: 20}, grid: {seed: [1, 2]}}"


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WATERSHED_DATA", raising=False)
    Path("good.yaml").write_text(STUDY)


def test_a_good_study_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    """The number of runs is said; nothing is written."""
    code = main(["check", "good.yaml"])

    assert code == 0
    assert capsys.readouterr().out == "good.yaml: ok, 2 runs\n"
    assert [path.name for path in Path().iterdir()] == ["good.yaml"]


def test_all_faults_of_all_files_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    """Every file is checked, every fault has its path, the exit code is 2."""
    Path("bad.yaml").write_text(
        "{data: {name: digits, partition: {labels_per_worker: 11}}, algorithm: {colect: 3}, "
        "worker: {lr: -1}}"
    )
    Path("torn.yaml").write_text("workers: [")

    code = main(["check", "bad.yaml", "good.yaml", "torn.yaml"])

    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == "good.yaml: ok, 2 runs\n"
    assert [line.split(": ")[:2] for line in captured.err.splitlines()] == [
        ["bad.yaml", "algorithm.colect"],
        ["bad.yaml", "worker.lr"],
        ["bad.yaml", "data.partition.labels_per_worker"],
        ["torn.yaml", "line 1, column 11"],
    ]


def test_a_training_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    """A file of the other kind needs no other command; its settings are its own fields."""
    Path("gpt.yaml").write_text("{kind: training, model: gpt-1m, device: cpu}")

    good = main(["check", "gpt.yaml", "--set", "transport.weights=int8", "--set", "ranks=4"])
    bad = main(["check", "gpt.yaml", "--set", "partition={forward: 3}", "--set", "rounds=4"])

    captured = capsys.readouterr()
    assert (good, bad) == (0, 2)
    assert captured.out.endswith("gpt.yaml: ok, 1 run\n")  # after a note where cores are few
    assert {line.split(": ")[1] for line in captured.err.splitlines()} == {
        "rounds", "partition.backward", "partition.gradients", "partition.optimizer",
    }  # fmt: skip


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "runs").glob("*.yaml")), ids=str)
def test_the_runs_that_come_with_it_are_right(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every shipped training passes its own checks."""
    code = main(["check", str(path)])

    assert code == 0, capsys.readouterr().err


def test_settings_are_checked_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A setting changes the base; a faulty one is a fault."""
    good = main(["check", "good.yaml", "--set", "rounds=5", "--set", "algorithm=afa_cs"])
    bad = main(["check", "good.yaml", "--set", "rounds=0", "--set", "seed=1"])

    told = capsys.readouterr().err.splitlines()
    assert (good, bad) == (0, 2)
    assert told == [
        "good.yaml: seed: the grid axis 'seed' sets seed and would win; change it in the file",
        "good.yaml: rounds: 0 is not allowed; use a whole number from 1 to 1000000000",
    ]


def test_a_missing_data_directory_is_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    """What the machine lacks is reported before anything is submitted."""
    Path("mnist.yaml").write_text("{model: mnist_cnn, data: {name: mnist, source: ./mnist}}")

    code = main(["run", "mnist.yaml"])

    assert code == 2
    assert "data.source: " in capsys.readouterr().err
    assert not Path("runs").exists()


def test_what_should_be_known_before_a_run_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Unstable steps are warned of, large memories are said in bytes; neither is a fault."""
    Path("fast.yaml").write_text(
        "{workers: 2, model: {name: quadratic, centres: [0, 1]}, worker: {lr: 9}, "
        "algorithm: {collect: 1}}"
    )
    Path("large.yaml").write_text("{workers: 1000000, data: digits, algorithm: afa_cs}")

    code = main(["check", "fast.yaml", "large.yaml"])

    told = capsys.readouterr().out
    assert code == 0
    assert "fast.yaml: warning: " in told
    assert "large.yaml: note: afa_cs keeps 2,600,000,000 bytes at the server" in told


@pytest.mark.parametrize("command", ["show", "resume"])
def test_an_unknown_run_is_explained(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without such a run, the way to one is shown; the exit code is 2."""
    code = main([command, "nothing"])

    assert code == 2
    assert capsys.readouterr().err.startswith("runs holds no runs; start one with: watershed run")


def test_a_run_that_has_not_begun_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """The table has the points that wait, and the command that continues them."""
    directory = create_study_directory(
        load_study(Path("good.yaml")), Path("runs"), datetime.now().astimezone()
    )

    code = main(["show"])

    told = capsys.readouterr().out
    assert code == 0
    assert told.startswith(f"{directory.path.name} is not running")
    assert told.count("waiting") == 2
    assert told.splitlines()[-1].endswith(f"watershed resume {directory.path}")


def test_a_run_of_one_point_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """The directory of a grid point may be named, too."""
    directory = create_study_directory(
        load_study(Path("good.yaml")), Path("runs"), datetime.now().astimezone()
    )

    code = main(["show", str(directory.points()[1].path)])

    assert code == 0
    assert capsys.readouterr().out.startswith("seed=2  waiting  0 of 20 rounds")


def test_a_run_of_another_version_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A study.json that cannot be read gives no traceback."""
    Path("runs/old").mkdir(parents=True)
    Path("runs/old/study.json").write_text('{"name": "old", "steps": 3}')

    code = main(["show", "old"])

    assert code == 2
    assert capsys.readouterr().err == (
        "runs/old/study.json lacks the field 'experiment', has the field 'steps', which this "
        "version does not know; another version of Watershed has made it: look at it with the "
        "checkout of then; or, restore it from a copy, or begin a new run with: watershed run\n"
    )


def test_a_runs_directory_that_cannot_be_made_is_explained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A file in its place is said, without a traceback."""
    Path("runs").write_text("mine")

    code = main(["run", "good.yaml"])

    assert code == 2
    assert capsys.readouterr().err == (
        "cannot make a directory in runs: File exists; name another one with --runs-dir\n"
    )


@pytest.mark.parametrize("command", ["check", "run", "resume", "show"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command explains itself with a command that works."""
    code = main([command, "--help"])

    assert code == 0
    assert f"Example:  watershed {command}" in capsys.readouterr().out


def test_the_benchmark_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """``bench gpu`` is a command of its own group."""
    code = main(["bench", "gpu", "--help"])

    assert code == 0
    assert "Example:  watershed bench gpu" in capsys.readouterr().out


def test_the_settings_of_a_retry_are_those_of_the_launcher(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its help does not offer the fields of the experiment, which it refuses."""
    main(["retry", "--help"])
    of_retry = " ".join(capsys.readouterr().out.replace("│", " ").split())
    main(["run", "--help"])
    of_run = " ".join(capsys.readouterr().out.replace("│", " ").split())

    assert "Change a field of the launcher, such as launcher.memory=32G" in of_retry
    assert "base experiment" not in of_retry
    assert "base experiment" in of_run


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--time-zone", "Mars"], ["--time-zone: 'Mars' is no time zone; use an IANA name"]),
        (
            ["--time-zone", "Mars", "--cron", "bad"],
            ["--time-zone: 'Mars' is no time zone", "--cron: 'bad' is no cron expression; use"],
        ),
        (["--metric", "sped"], ["--metric: "]),
    ],
)
def test_a_faulty_night_is_refused_before_it_is_announced(
    options: list[str], told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """All faults at once, nothing on the output, no directory of runs; the exit code is 2."""
    code = main(["nightly", "good.yaml", *options])

    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert [line.startswith(one) for line, one in zip(captured.err.splitlines(), told, strict=True)]
    assert not Path("runs").exists()


def test_unknown_commands_and_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Usage errors have exit code 2 and name the help."""
    codes = [main(["runn"]), main(["run"]), main(["run", "good.yaml", "--parallel", "0"])]

    assert codes == [2, 2, 2]
    assert capsys.readouterr().err.count("for help") == 3


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("watershed run good.yaml --set algorithm.serv", "algorithm.server_lr="),
        ("watershed show tri", "trial-20260102-030405"),
    ],
)
def test_the_shell_completes_fields_and_runs(typed: str, offered: str) -> None:
    """``--set`` offers the fields of an experiment, RUN the runs that there are."""
    Path("trial.yaml").write_text(STUDY)
    create_study_directory(
        load_study(Path("trial.yaml")), Path("runs"), datetime(2026, 1, 2, 3, 4, 5)
    )
    environment = os.environ | {
        "_WATERSHED_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }

    ended = subprocess.run(
        [Path(sys.executable).with_name("watershed")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert offered in ended.stdout.split()
