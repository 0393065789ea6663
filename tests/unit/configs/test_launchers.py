"""Launchers: times as Slurm writes them, what does not go together, and no secrets."""

from typing import Any

import pytest

from configs.faults import faults_in
from configs.launchers import SlurmLauncherConfig, time_limit_s
from configs.study import Study

EXPERIMENT = {"workers": 20, "data": "digits"}


def _faults(**launcher: object) -> dict[str, str]:
    raw: dict[str, Any] = {"name": "s", "experiment": EXPERIMENT}
    raw["launcher"] = {"kind": "slurm", **launcher}
    return {fault.path.removeprefix("launcher."): fault.message for fault in faults_in(Study, raw)}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("1:30:00", 5400),
        ("2-0", 172_800),
        ("1-2:03", 93_780),
        ("1-2:03:04", 93_784),
        ("365-0", 31_536_000),
    ],
)
def test_times_are_those_of_slurm(text: str, seconds: int) -> None:
    """minutes, minutes:seconds, hours:minutes:seconds, days-hours and so on."""
    assert time_limit_s(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0:00", "1h", "-5", "1:2:3:4", "366-0", "UNLIMITED"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """A limit must be known, to plan, to be signalled before it, and for backfill."""
    with pytest.raises(ValueError, match="is no time"):
        time_limit_s(text)


def test_a_bare_word_is_a_launcher_with_defaults() -> None:
    """``launcher: slurm`` will do."""
    study = Study.model_validate({"name": "s", "experiment": EXPERIMENT, "launcher": "slurm"})

    assert study.launcher == SlurmLauncherConfig()


@pytest.mark.parametrize(
    ("launcher", "path", "message"),
    [
        ({"gpu_type": "a100"}, "gpu_type", "'a100' is asked for, but no GPU; set gpus_per_node"),
        (
            {"time_limit": "2:00"},
            "signal_before_s",
            "120 s before a time limit of 120 s is too soon after the start, as Slurm may be 30 s "
            "early; use a time_limit of more than 180 s, or 30 to 59 here",
        ),
        (
            {"time_limit": "3:00"},
            "signal_before_s",
            "120 s before a time limit of 180 s is too soon after the start, as Slurm may be 30 s "
            "early; use a time_limit of more than 180 s, or 30 to 119 here",
        ),
        (
            {"time_limit": "1:10", "signal_before_s": 30},
            "signal_before_s",
            "30 s before a time limit of 70 s is too soon after the start, as Slurm may be 30 s "
            "early; use a time_limit of more than 90 s",
        ),
        (
            {"mail_user": "a@b"},
            "mail_user",
            "set, but no mail is asked for; set mail_type, such as END,FAIL",
        ),
        (
            {"memory": "1G", "extra": ["--mem-per-cpu=1G"]},
            "memory",
            "memory is also set by an option in extra; keep one of the two",
        ),
        (
            {"pack": "allocation", "nodes": 2},
            "nodes",
            "the points of an allocation run on one node; use 1, or pack: array",
        ),
        (
            {"pack": "allocation", "gpus_per_node": 3, "tasks_per_node": 2},
            "gpus_per_node",
            "3 GPUs cannot be dealt to 2 points at a time (tasks_per_node); use a multiple",
        ),
        (
            {"pack": "allocation", "max_running": 4},
            "max_running",
            "an allocation runs tasks_per_node points at a time; set that instead",
        ),
        ({"python": "venv/python"}, "python", "'venv/python' is relative; write the whole path"),
        (
            {"partition": "a\nb"},
            "partition",
            "'a\\nb' holds a line break or control character; remove it",
        ),
        (
            {"account": "\ud800"},
            "account",
            "'\\ud800' is not allowed; use text that is not empty",
        ),
        (
            {"setup": ["a\r\nb"]},
            "setup.0",
            "'a\\r\\nb' holds a NUL or a carriage return; use Unix line ends",
        ),
        (
            {"time_limit": "1h"},
            "time_limit",
            "'1h' is no time; write minutes, hours:minutes:seconds or days-hours",
        ),
    ],
)
def test_what_cannot_be_is_said(launcher: dict[str, object], path: str, message: str) -> None:
    """The fault stands at its field, and says what to do."""
    assert _faults(**launcher) == {path: message}


@pytest.mark.parametrize(
    ("time_limit", "signal_before_s"), [("3:01", 120), ("3:00", 119), ("1:31", 30)]
)
def test_a_limit_leaves_time_before_the_warning(time_limit: str, signal_before_s: int) -> None:
    """A second more than a minute is enough; what the message says is allowed, is."""
    SlurmLauncherConfig(time_limit=time_limit, signal_before_s=signal_before_s)


def test_a_text_alone_is_a_list_of_one() -> None:
    """One module, one line of shell, one option need no brackets; modules may stand in a line."""
    launcher = SlurmLauncherConfig.model_validate(
        {
            "modules": "rocm cray-python",
            "setup": "source venv/bin/activate",
            "extra": "--nice=100",
            "container": {"image": "a.sif", "flags": "--nv", "binds": "/data"},
        }
    )

    assert launcher.modules == ("rocm", "cray-python")
    assert launcher.setup == ("source venv/bin/activate",)
    assert launcher.extra == ("--nice=100",)
    assert launcher.container is not None
    assert launcher.container.flags == ("--nv",)
    assert _faults(extra="--time=3", setup="a\r", modules="") == {
        "extra.0": "--time=3 is set by a field of its own; use time_limit",
        "setup": "'a\\r' holds a NUL or a carriage return; use Unix line ends",
    }


def test_a_variable_that_is_no_text_is_to_be_quoted() -> None:
    """YAML reads 010 as 8 and off as false: what was written is not known."""
    faults = _faults(environment={"OMP_NUM_THREADS": 4, "A": 1.5, "B": False, "C": "4"})

    assert faults == {
        "environment.OMP_NUM_THREADS": "YAML reads this as the number 4; quote what is meant, like "
        "'4'",
        "environment.A": "YAML reads this as the number 1.5; quote what is meant, like '1.5'",
        "environment.B": "YAML reads this as false; quote what is meant, like 'on'",
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--partition=x", "--partition=x is set by a field of its own; use partition"),
        ("--part=x", "--part=x is set by a field of its own; use partition"),
        ("-px", "-px is set by a field of its own; use partition"),
        ("-N 3", "-N is set by a field of its own; use nodes"),
        ("--nice=3 --time 4", "--time is set by a field of its own; use time_limit"),
        ("--array=0-3", "--array=0-3 is set by a field of its own; use pack and max_running"),
        ("--job-name=x", "--job-name is set by Watershed; remove it"),
        ("-o x", "--output is set by Watershed; remove it"),
        ("-H", "--hold is set by Watershed; remove it"),
        (
            "--gres=gpu:2",
            "--gres=gpu:2 is set by a field of its own; use gpus_per_node and gpu_option",
        ),
        ("--gpus-per-t=1", "--gpus-per-t=1 is set by a field of its own; use gpus_per_node"),
        ("--test-only", "--test-only is set by Watershed; remove it"),
        ("nice", "'nice' is no option of sbatch; write one such as --nice=100"),
        ("# --nice", "'# --nice' is no option of sbatch; write one such as --nice=100"),
        ("--comment='x", '"--comment=\'x" has a quote that does not end; add it'),
    ],
)
def test_options_that_would_undo_ours_are_refused(line: str, message: str) -> None:
    """Fields and what finds a job again are not set twice, in whatever spelling sbatch takes."""
    assert _faults(extra=[line]) == {"extra.0": message}


@pytest.mark.parametrize(
    "line",
    [
        "--nice=100",
        '--comment="a b" # why',
        "--mem-per-cpu=1G",
        "--time-min=10",
        "--switches=1@10:00",
        "--gres-flags=enforce-binding",
        "--export=NONE",
        "--gres=lscratch:100",
    ],
)
def test_other_options_are_taken_as_they_are(line: str) -> None:
    """What has no field can be asked for all the same."""
    assert _faults(extra=[line]) == {}


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "hf_token",
        "MLFLOW_TRACKING_PASSWORD",
        "PGPASSWORD",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "MY_SECRET",
        "DB_PASS",
        "APIKEY",
        "PREFECT_API_AUTH_STRING",
    ],
)
def test_names_of_secrets_are_refused_without_their_value(name: str) -> None:
    """A secret would stand in job.sh; the message says where it belongs, and does not repeat it."""
    message = _faults(environment={name: "hunter2"})[f"environment.{name}"]

    assert message.startswith("looks like a secret, and would stand in job.sh; set it by")
    assert "a line of setup that reads a file of mode 0600" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    "name", ["TOKENIZERS_PARALLELISM", "MAX_TOKENS", "HF_TOKEN_PATH", "BYPASS", "AUTHOR", "KEYS"]
)
def test_names_that_only_look_similar_are_taken(name: str) -> None:
    """Common names of what is no secret do not get in the way."""
    assert _faults(environment={name: "1"}) == {}


@pytest.mark.parametrize(
    "launcher",
    [
        {"environment": {"DATABASE": "postgresql://me:hunter2@db.example.org/x"}},
        {"environment": {"KEY": "-----BEGIN OPENSSH PRIVATE KEY-----hunter2"}},
        {"environment": {"X": "hf_hunter2hunter2hunter2"}},
        {"setup": ["export HF_TOKEN=hunter2"]},
        {"setup": ["curl https://me:hunter2@example.org/"]},
        {"extra": ["--export=ALL,HF_TOKEN=hunter2"]},
        {"container": {"image": "i", "flags": ["--env=HF_TOKEN=hunter2"]}},
        {"container": {"image": "docker://me:hunter2@host/image"}},
        {"container": {"image": "i", "binds": ["https://me:hunter2@host/data:/data"]}},
        {"container": {"kind": "pyxis", "image": "i", "mounts": ["s3://me:hunter2@host/d:/d"]}},
        {"container": {"kind": "pyxis", "image": "https://me:hunter2@host/image"}},
        {"setup": ["curl -H 'Authorization: Bearer hunter2' https://host/data"]},
        {"setup": ['curl -H "authorization: token hunter2" https://host/data']},
    ],
)
def test_secrets_in_other_places_are_refused(launcher: dict[str, object]) -> None:
    """Values, lines of set-up and options are looked at, too."""
    (message,) = _faults(**launcher).values()

    assert "would stand in job.sh" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    "line",
    [
        'export HF_TOKEN="$(cat ~/.hf_token)"',
        "HF_TOKEN=`cat ~/.hf_token`",
        "export HF_TOKEN=$MINE",
        'curl -H "Authorization: Bearer $(cat ~/.token)" https://host',
        'curl -H "Authorization: Bearer $MINE" https://host',
        "export HF_TOKEN_PATH=~/.hf_token",
    ],
)
def test_lines_that_read_a_secret_elsewhere_are_taken(line: str) -> None:
    """This is what the message asks for."""
    assert _faults(setup=[line]) == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("A B", "'A B' is no name of a variable; use letters, digits and underscores"),
        ("1A", "'1A' is no name of a variable; use letters, digits and underscores"),
        ("RANDOM", "the shell sets this variable itself; remove it"),
        ("OPTIND", "the shell sets this variable itself; remove it"),
        ("UID", "the shell sets this variable itself; remove it"),
        (
            "SLURM_JOB_ID",
            "Slurm or Watershed sets this variable; remove it, or export it in a line of setup",
        ),
        (
            "WATERSHED_ATTEMPT",
            "Slurm or Watershed sets this variable; remove it, or export it in a line of setup",
        ),
    ],
)
def test_variables_that_no_script_can_set_are_refused(name: str, message: str) -> None:
    """Bash reads some names as arithmetic, which runs commands; others it does not change."""
    assert _faults(environment={name: "a[$(date)]"}) == {f"environment.{name}": message}


@pytest.mark.parametrize("name", ["WATERSHED_DATA", "WATERSHED_CACHE", "WATERSHED_INTERFACE"])
def test_what_a_user_says_of_the_nodes_may_be_set(name: str) -> None:
    """Where data lie and what ranks listen on differs between login and compute nodes."""
    assert _faults(environment={name: "/scratch"}) == {}


def test_values_that_no_variable_can_hold_are_refused() -> None:
    """NUL ends a variable, half a character is no text, and Linux bounds the size."""
    assert _faults(environment={"A": "a\0b"}) == {
        "environment.A": "its value holds a NUL character, which no variable can; remove it"
    }
    assert _faults(environment={"A": "\ud800"}) == {
        "environment.A": "its value holds what UTF-8 cannot express; remove it"
    }
    assert _faults(environment={"A": "x" * 100_000}) == {
        "environment": "100,001 bytes; use 100,000 bytes at most, put more into a file"
    }


def test_a_study_with_a_launcher_comes_back_from_its_file() -> None:
    """What was valid is valid when ``study.json`` is read again, defaults included."""
    launcher = {"kind": "slurm", "pack": "single", "environment": {"A": "it's\n"}, "setup": ["x"]}
    study = Study.model_validate({"name": "s", "experiment": EXPERIMENT, "launcher": launcher})

    assert Study.model_validate_json(study.model_dump_json()) == study
