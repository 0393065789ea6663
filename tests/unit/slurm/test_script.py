"""Batch scripts: what stands in them, and that every value arrives as it is."""

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.launchers import Apptainer, Pyxis, SlurmResources
from configs.scripts import environment_faults
from tasks.slurm.errors import NotScriptable
from tasks.slurm.plan import Batch, BatchMode, JobPlan
from tasks.slurm.script import render, shell_word

ROOT = Path(__file__).parents[3]
STUDY = Path("/data/runs/digits-20260101-120000")
EVERYTHING = SlurmResources(
    partition="batch,debug",
    account="phy 123",
    qos="normal",
    constraint="a100&nvme",
    nodes=2,
    tasks_per_node=4,
    cpus_per_task=8,
    gpus_per_node=4,
    gpu_type="a100",
    gpu_option="gres",
    memory="64G",
    time_limit="1-12",
    exclusive=True,
    nodelist="node[01-04]",
    exclude="node03",
    reservation="friday's",
    licenses="matlab:1",
    dependency="afterok:12",
    requeue=False,
    signal_before_s=300,
    mail_user="someone@example.org",
    mail_type="END,FAIL",
    extra=("--nice=100", '--switches="1@10:00"'),
    modules=("python/3.11", "rocm/6.0"),
    environment={"PLAIN": "word", "QUOTES": 'it\'s "$(date)"', "STORY": "one\ntwo\r\n\tthree\\"},
    setup=("source /sw/site.sh", 'export HF_TOKEN="$(cat ~/.hf_token)"'),
)


def _plan(number: int = 0, resources: SlurmResources | None = None) -> JobPlan:
    return JobPlan(
        name=f"digits seed={number}",
        module="tasks.federated.simulate_job",
        run_dir=STUDY / "points" / f"{number:03d}",
        resources=resources or SlurmResources(),
        code_dir=STUDY / "code" / "0123456789ab",
        python="/opt/venv/bin/python",
    )


def _single(resources: SlurmResources | None = None, **changes: object) -> Batch:
    plan = _plan(resources=resources).model_copy(update=changes)
    return Batch(mode="single", jobs=(plan,), directory=plan.run_dir)


def _shared(mode: BatchMode, resources: SlurmResources | None = None, **changes: object) -> Batch:
    jobs = tuple(_plan(number, resources) for number in range(5))
    batch = Batch(mode=mode, jobs=jobs, directory=STUDY / "batches" / "abc")
    return batch.model_copy(update=changes)


@pytest.mark.parametrize(
    ("name", "batch"),
    [
        ("single.sh", _single()),
        ("everything.sh", _single(EVERYTHING)),
        ("array.sh", _shared("array", max_running=2)),
        ("allocation.sh", _shared("allocation", SlurmResources(tasks_per_node=4))),
        (
            "allocation-gpus.sh",
            _shared(
                "allocation", SlurmResources(tasks_per_node=2, gpus_per_node=4, gpu_type="a100")
            ),
        ),
        (
            "apptainer.sh",
            _shared(
                "array",
                SlurmResources(
                    container=Apptainer(
                        image="/img/a b.sif", binds=("/sw:/sw:ro",), flags=("--nv",)
                    )
                ),
            ),
        ),
        (
            "pyxis.sh",
            _single(
                SlurmResources(
                    nodes=2, container=Pyxis(image="docker://python:3.11", mounts=("/sw:/sw",))
                )
            ),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_scripts_are_those_in_golden(
    name: str, batch: Batch, check_golden: Callable[[str, str], None]
) -> None:
    """A script is what a person has read and found good; ``--update-golden`` writes it anew."""
    check_golden(name, render(batch, submission=1))


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for Python that leaves its environment and its arguments, byte for byte."""
    directory = tmp_path_factory.mktemp("recorder")
    path = directory / "python"
    lines = ["#!/bin/bash", f"/bin/cat /proc/$$/environ >{directory}/environment"]
    path.write_text("\n".join([*lines, f"printf '%s\\0' \"$@\" >{directory}/arguments\n"]))
    path.chmod(stat.S_IRWXU)
    return path


def _recorded(recorder: Path, what: str) -> list[bytes]:
    return (recorder.parent / what).read_bytes().split(b"\0")[:-1]


def _run(batch: Batch, recorder: Path) -> dict[bytes, bytes]:
    """Run a script by a real bash, and return the environment of what it becomes."""
    script = render(batch, submission=1)
    done = subprocess.run(
        ["/bin/bash"],
        input=script.encode(),
        env={"PATH": os.defpath, "SLURM_CPUS_PER_TASK": "3"},
        cwd=recorder.parent,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return dict(line.split(b"=", 1) for line in _recorded(recorder, "environment"))


NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
SHELLISH = st.text(st.sampled_from("'\"\\$(){}`!#&|;<>*?[]~= \t\r\n\x01\x7fxn1é·"), max_size=40)


@settings(max_examples=100, deadline=None)  # a process each: about 10 ms
@given(environment=st.dictionaries(NAMES, TEXTS | SHELLISH, max_size=8))
def test_values_of_the_environment_arrive_byte_for_byte(
    environment: dict[str, str], recorder: Path
) -> None:
    """What configurations accept reaches the job as that very value, whatever it holds."""
    refused = {fault.path.partition(".")[2] for fault in environment_faults(environment)}
    accepted = {name: value for name, value in environment.items() if name not in refused}
    resources = SlurmResources(environment=accepted)
    directory = recorder.parent

    seen = _run(
        _single(resources, run_dir=directory, python=str(recorder)).model_copy(
            update={"directory": directory}
        ),
        recorder,
    )

    ours = {b"PYTHONPATH", b"PYTHONSAFEPATH"}
    expected = {name.encode(): value.encode() for name, value in accepted.items()}
    assert {name: seen[name] for name in expected.keys() - ours} == {
        name: value for name, value in expected.items() if name not in ours
    }


def test_commands_in_values_are_not_run(tmp_path: Path, recorder: Path) -> None:
    """Substitutions, also such as bash does in arithmetic, stay text."""
    trap = tmp_path / "ran"
    values = [f"$(touch {trap})", f"`touch {trap}`", f"';touch {trap};'", f"a[$(touch {trap})]"]
    resources = SlurmResources(
        environment={f"V{number}": value for number, value in enumerate(values)},
        partition=values[0],
        account=values[2],
    )

    batch = _single(resources, python=str(recorder), name="\n".join(values))
    seen = _run(batch.model_copy(update={"directory": tmp_path}), recorder)

    assert [seen[f"V{number}".encode()].decode() for number in range(4)] == values
    assert not trap.exists()


def test_paths_arrive_as_they_are(tmp_path: Path, recorder: Path) -> None:
    """The wrapper gets run directory and code as they are called, blanks, quotes and all."""
    directory = tmp_path / "a b'c\"d $(e) #f"
    directory.mkdir()
    batch = _single(run_dir=directory, code_dir=directory / "code", python=str(recorder))

    seen = _run(batch.model_copy(update={"directory": directory}), recorder)

    arguments = [argument.decode() for argument in _recorded(recorder, "arguments")]
    assert arguments == [
        "-S",
        "-m",
        "tasks.runtime.wrapper",
        "--submission",
        "1",
        "--run",
        str(directory),
        "--requeue",
        "--",
        str(recorder),
        "-m",
        "tasks.federated.simulate_job",
    ]
    assert seen[b"PYTHONPATH"].decode() == str(directory / "code")
    assert seen[b"PYTHONSAFEPATH"] == b"1"


def _imports(listing: str) -> set[str]:
    """Modules that a Python has imported, by what it prints with PYTHONPROFILEIMPORTTIME."""
    return set(re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", listing, re.MULTILINE))


def test_what_the_script_becomes_imports_the_standard_library_alone(tmp_path: Path) -> None:
    """Neither site nor what .pth files name comes before user code, which has both."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "job.json").write_text("{}")
    batch = _single(run_dir=run, code_dir=ROOT, python=sys.executable, module="json.tool")
    script = render(batch.model_copy(update={"directory": run}), submission=1)

    done = subprocess.run(
        ["/bin/bash", "-c", script],
        env={"PATH": os.defpath, "SLURM_JOB_ID": "7", "PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    wrapper, engine = _imports(done.stderr), _imports((run / "stdout.log").read_text())
    foreign = {name for name in wrapper if name.partition(".")[0] not in sys.stdlib_module_names}
    assert "tasks.runtime.supervisor" in foreign
    assert {name for name in foreign if not name.startswith("tasks")} == set()
    assert "site" not in wrapper
    assert "site" in engine


def test_a_wrapper_that_was_not_copied_is_found_where_it_is_installed(
    tmp_path: Path, recorder: Path
) -> None:
    """Without a copy of the code it may lie in site-packages, which -S would hide."""
    batch = _single(code_dir=None, python=str(recorder)).model_copy(update={"directory": tmp_path})

    _run(batch, recorder)

    assert _recorded(recorder, "arguments")[:2] == [b"-m", b"tasks.runtime.wrapper"]


def test_threads_are_those_of_the_task_unless_set(tmp_path: Path, recorder: Path) -> None:
    """OMP_NUM_THREADS is the number of CPUs of a task; the configuration may say otherwise."""
    plain = _single(python=str(recorder)).model_copy(update={"directory": tmp_path})
    chosen = _single(
        SlurmResources(environment={"OMP_NUM_THREADS": "1"}), python=str(recorder)
    ).model_copy(update={"directory": tmp_path})

    seen = _run(plain, recorder)[b"OMP_NUM_THREADS"], _run(chosen, recorder)[b"OMP_NUM_THREADS"]

    assert seen == (b"3", b"1")


def test_a_line_of_setup_that_fails_ends_the_job_and_is_named(tmp_path: Path) -> None:
    """The job does not run in surroundings that are not there; the message says what failed."""
    resources = SlurmResources(setup=("unset UNBOUND; echo $UNBOUND", "cd /no/such/place"))
    script = render(_single(resources, python="/bin/true"), submission=1)

    done = subprocess.run(
        ["/bin/bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert re.search(r"job.sh, line \d+, has failed: cd /no/such/place", done.stderr)


def test_modules_are_loaded_where_the_shell_has_none(tmp_path: Path, recorder: Path) -> None:
    """A job without a login shell gets ``module`` defined; a function of the user's own is kept."""
    resources = SlurmResources(modules=("gcc/12", "a b"))
    batch = _single(resources, python=str(recorder)).model_copy(update={"directory": tmp_path})
    module = f"module() {{ printf '%s|' \"$@\" >>{tmp_path}/loaded; }}\n"

    done = subprocess.run(
        ["/bin/bash"], input=(module + render(batch, submission=1)).encode(), check=False
    )

    assert done.returncode == 0
    assert (tmp_path / "loaded").read_text() == "load|gcc/12|load|a b|"


def _words(line: str) -> list[str]:
    """Divide a line as sbatch does: the slow reference, after trials with Slurm 22.05."""
    words: list[str] = []
    word, quote, is_escaped, is_word = "", "", False, False
    for character in line + "\n":
        if is_escaped:
            word, is_escaped = word + character, False
        elif character == "\\":
            is_escaped = is_word = True
        elif quote:
            quote, word = ("", word) if character == quote else (quote, word + character)
        elif character in "\"'":
            quote, is_word = character, True
        elif character == "#":
            break
        elif character in " \t\n":
            words, word, is_word = ([*words, word] if is_word else words), "", False
        else:
            word, is_word = word + character, True
    assert not quote
    return words


@given(text=TEXTS | SHELLISH)
def test_options_arrive_as_they_are(text: str) -> None:
    """Every word that configurations accept is one option of sbatch, and that very value."""
    partition = re.sub(r"[\x00-\x1f\x7f]", "", text)[:1000] or "p"

    options = _options_of(render(_single(SlurmResources(partition=partition)), submission=1))

    assert f"--partition={partition}" in options


def _options_of(script: str) -> Iterator[str]:
    for line in script.split("\n"):
        if line.startswith("#SBATCH "):
            yield from _words(line.removeprefix("#SBATCH "))


@given(name=st.text(min_size=1))
def test_labels_cannot_leave_their_line(name: str) -> None:
    """Whatever a job is called, its name adds no line and no option to the script."""
    script = render(_single(name=name), submission=1)

    plain = render(_single(), submission=1)
    assert len(script.split("\n")) == len(plain.split("\n"))
    assert len(list(_options_of(script))) == len(list(_options_of(plain)))


def test_percent_signs_of_a_directory_are_not_expanded() -> None:
    """Slurm expands %j and %a in the path of output; a directory may hold them all the same."""
    directory = Path("/data/100%j")
    batch = _shared("array", directory=directory)

    options = list(_options_of(render(batch, submission=1)))

    assert "--output=/data/100%%j/slurm-%a.out" in options
    assert "--chdir=/data/100%j" in options


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (_single().model_copy(update={"directory": Path("/a\\b")}), "'/a.*b' holds a backslash"),
        (_single().model_copy(update={"directory": Path("/a\nb")}), "or control character; rename"),
        (_single(code_dir=Path("/a:b")), "holds a colon, PYTHONPATH's own; rename it"),
        (
            _single(SlurmResources(container=Apptainer(image="i")), run_dir=Path("/a,b")),
            "holds a colon or comma, which no container can bind",
        ),
    ],
)
def test_paths_that_no_script_can_hold_are_refused(batch: Batch, message: str) -> None:
    """What would arrive as another path is refused, with what to do."""
    with pytest.raises(NotScriptable, match=message):
        render(batch, submission=1)


def test_the_submission_may_be_told_by_the_environment(tmp_path: Path, recorder: Path) -> None:
    """``WATERSHED_SUBMISSION=7 sbatch job.sh`` runs submission 7 of a script of submission 2."""
    batch = _single(python=str(recorder)).model_copy(update={"directory": tmp_path})
    script = render(batch, submission=2).encode()

    numbers = []
    for environment in ({}, {"WATERSHED_SUBMISSION": "7"}):
        subprocess.run(["/bin/bash"], input=script, env=environment, check=True)
        arguments = _recorded(recorder, "arguments")
        numbers.append(arguments[arguments.index(b"--submission") + 1])

    assert numbers == [b"2", b"7"]


@given(text=TEXTS | SHELLISH)
def test_quoted_words_stay_on_one_line(text: str) -> None:
    """A quoted word holds no line break and no carriage return, which sbatch would refuse."""
    assert not re.search("[\n\r]", shell_word(text))
