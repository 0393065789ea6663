r"""Renders batch scripts: ``sbatch job.sh`` does by hand what the launcher does.

How sbatch reads its ``#SBATCH`` lines was tried on Slurm 22.05: words end at blanks outside quotes,
``#`` outside quotes begins a comment, and a backslash takes the next character as it is, also
between single quotes, where a shell would not. Between double quotes with ``\`` and ``"`` escaped
everything arrives as it is, ``$(...)`` too, as no shell is asked.
"""

import re
import shlex
import sys
from collections.abc import Iterator
from os.path import commonpath
from pathlib import Path

from configs.launchers import Apptainer, Pyxis, SlurmResources
from tasks.slurm.errors import NotScriptable
from tasks.slurm.plan import Batch, JobPlan, job_name

RUNS_FILE = "runs.json"
"""Beside the script of many jobs: a JSON list of their run directories."""

_PLAIN_WORD = re.compile(r"[\w.,:/@%+=-]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LONGEST_LABEL = 200
_CONTINUED = " \\\n    "


def render(batch: Batch, submission: int) -> str:
    """Write the batch script of a batch.

    Args:
        batch: The jobs.
        submission: Number of this submission, from 1; the script may be told another one by the
            environment variable ``WATERSHED_SUBMISSION``.

    Returns:
        The script, for bash; it holds no carriage return, which sbatch would refuse.

    Raises:
        NotScriptable: A path cannot be written into a script.
    """
    _check_paths(batch)
    sections = [
        _header(batch, submission),
        "\n".join(f"#SBATCH {option}" for option in _options(batch, submission)),
        _strictness(),
        *_surroundings(batch),
        _execution(batch, submission),
    ]
    return "\n\n".join(sections) + "\n"


def _header(batch: Batch, submission: int) -> str:
    # Under a name of its own, so that nobody takes it for the submission that it comes after.
    name = job_name(batch.key, submission + 1)
    again = f"WATERSHED_SUBMISSION={submission + 1} sbatch --job-name={name}"
    about = {
        "single": [],
        "array": [f"Task i, from 0, runs in directory i of {RUNS_FILE} beside this file."],
        "allocation": [f"Runs in every directory of {RUNS_FILE} beside this file, some at a time."],
    }[batch.mode]
    one_task = [f"    {again} --array=3 job.sh"] if batch.mode == "array" else []
    lines = [
        "",
        _label(batch),
        "",
        *about,
        "Submitted by: sbatch job.sh",
        "Submitted once more it does nothing: the first submission has the run. To run what has",
        "stopped again, from its last checkpoint, give it a higher number:",
        f"    {again} job.sh",
        *one_task,
    ]
    return "\n".join(["#!/bin/bash", *(f"# {line}".rstrip() for line in lines)])


def _options(batch: Batch, submission: int) -> Iterator[str]:
    """Options of sbatch, in a fixed order."""
    resources = _resources(batch)
    # Slurm expands %a and the like in the whole path of the output, also in its directory.
    output = str(batch.directory).replace("%", "%%") + "/slurm"
    yield f"--job-name={job_name(batch.key, submission)}"
    yield _option("comment", _label(batch))
    yield _option("chdir", str(batch.directory))
    yield _option("output", f"{output}-%a.out" if batch.mode == "array" else f"{output}.out")
    yield "--open-mode=append"
    if batch.mode == "array":
        limit = f"%{batch.max_running}" if batch.max_running else ""
        yield f"--array=0-{len(batch.jobs) - 1}{limit}"
    for name, value in _wishes(resources):
        if value is not None:
            yield _option(name, str(value))
    if resources.exclusive:
        yield "--exclusive"
    yield "--requeue" if resources.requeue else "--no-requeue"
    yield f"--signal=B:USR1@{resources.signal_before_s}"
    yield from resources.extra


def _wishes(resources: SlurmResources) -> Iterator[tuple[str, str | int | None]]:
    """Options that have a value, by name; None for those not asked for."""
    yield "partition", resources.partition
    yield "account", resources.account
    yield "qos", resources.qos
    yield "constraint", resources.constraint
    yield "nodes", resources.nodes
    yield "ntasks-per-node", resources.tasks_per_node
    yield "cpus-per-task", resources.cpus_per_task
    if resources.gpus_per_node:
        yield _gpus(resources, resources.gpus_per_node)
    yield "mem", resources.memory
    yield "time", resources.time_limit
    yield "nodelist", resources.nodelist
    yield "exclude", resources.exclude
    yield "reservation", resources.reservation
    yield "licenses", resources.licenses
    yield "dependency", resources.dependency
    yield "mail-user", resources.mail_user
    yield "mail-type", resources.mail_type


def _gpus(resources: SlurmResources, count: int) -> tuple[str, str]:
    """Name and value of the option that asks for GPUs."""
    wanted = f"{resources.gpu_type}:{count}" if resources.gpu_type else str(count)
    if resources.gpu_option == "gres":
        return "gres", f"gpu:{wanted}"
    return "gpus-per-node", wanted


def _strictness() -> str:
    return "\n".join(
        [
            "# A line that fails ends the job and is named. (No set -u: modules do not bear it.)",
            "set -e",
            "trap '' USR1  # sent before the time limit; what the job becomes, heeds it",
            """trap 'echo "job.sh, line $LINENO, has failed: $BASH_COMMAND" >&2' ERR""",
        ]
    )


def _surroundings(batch: Batch) -> Iterator[str]:
    """Sections that set up what the job runs in."""
    resources, job = _resources(batch), batch.jobs[0]
    yield "\n".join(
        [
            "# Threads; what follows may set others.",
            'export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"',
            'export MKL_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"',
        ]
    )
    if resources.modules:
        lines = [
            "# Modules",
            "command -v module >/dev/null || . /etc/profile || true",
            *(f"module load {shell_word(module)}" for module in resources.modules),
        ]
        yield "\n".join(lines)
    environment = resources.environment | job.environment
    if environment:
        lines = [f"export {name}={shell_word(value)}" for name, value in environment.items()]
        yield "\n".join(["# Environment", *lines])
    if resources.setup:
        yield "\n".join(["# Set-up lines, as they stand in the configuration", *resources.setup])
    lines = ["# The code: what stands in the directory of the job is not imported."]
    if job.code_dir is not None:
        code_dir = shell_word(str(job.code_dir))
        lines += [f"export PYTHONPATH={code_dir}${{PYTHONPATH:+:$PYTHONPATH}}"]
    yield "\n".join([*lines, "export PYTHONSAFEPATH=1"])


def _execution(batch: Batch, submission: int) -> str:
    """The line that becomes the job."""
    resources, job = _resources(batch), batch.jobs[0]
    runs = shell_word(str(batch.directory / RUNS_FILE))
    if batch.mode == "single":
        what = f"--run {shell_word(str(job.run_dir))}"
    elif batch.mode == "array":
        what = f'--runs {runs} --index "$SLURM_ARRAY_TASK_ID"'
    else:
        what = f"--runs {runs} --parallel {min(resources.tasks_per_node, len(batch.jobs))}"
    parts = [
        f"exec {shell_word(_python(job))}{_bare(job)} -m tasks.runtime.wrapper",
        f'--submission "${{WATERSHED_SUBMISSION:-{submission}}}"',
        what,
        *(["--requeue"] if resources.requeue else []),
        "--",
        *(" ".join(map(shell_word, words)) for words in _command(batch)),
    ]
    return f"cd -- {shell_word(str(batch.directory))}\n" + _CONTINUED.join(parts)


def _bare(job: JobPlan) -> str:
    """The option that keeps site-packages, and what their .pth files import, from the wrapper.

    It needs the standard library and the code alone. The engine is another process and has them.
    Where no code was copied, the wrapper itself may lie in site-packages.
    """
    return "" if job.code_dir is None else " -S"


def _command(batch: Batch) -> Iterator[list[str]]:
    """The engine's command, in parts; the wrapper adds the path of ``job.json``."""
    resources, job = _resources(batch), batch.jobs[0]
    container = resources.container
    if step := _step(batch):
        yield step
    if isinstance(container, Pyxis):
        yield [f"--container-image={container.image}", *_mounts(batch, container)]
    elif isinstance(container, Apptainer):
        yield ["apptainer", "exec", *_binds(batch, container), container.image]
    python = container.python if container else _python(job)
    yield [python, "-m", job.module]


def _step(batch: Batch) -> list[str]:
    """The srun before the engine; empty where one process on the first node will do.

    Since Slurm 22.05 srun does not take the CPUs of a task from the job. ``--export=ALL`` undoes an
    ``--export`` of the job, which would keep our variables from the engine.
    """
    resources = _resources(batch)
    cpus = f"--cpus-per-task={resources.cpus_per_task}"
    is_pyxis = isinstance(resources.container, Pyxis)
    if batch.mode == "allocation":
        # A step each, so that no two have the same GPU. Without --mem=0 a step would take all the
        # memory of the job, and the others would wait for its end.
        if not (resources.gpus_per_node or is_pyxis):
            return []
        name, value = _gpus(resources, resources.gpus_per_node // resources.tasks_per_node)
        step = ["srun", "--export=ALL", "--exact", "--nodes=1", "--ntasks=1", cpus, "--mem=0"]
        return [*step, f"--{name}={value}"] if resources.gpus_per_node else step
    if resources.nodes * resources.tasks_per_node > 1 or is_pyxis:
        return ["srun", "--export=ALL", "--kill-on-bad-exit=1", cpus]
    return []


def _mounts(batch: Batch, container: Pyxis) -> list[str]:
    mounts = [f"{path}:{path}" for path in _shared_paths(batch)]
    return [f"--container-mounts={','.join([*mounts, *container.mounts])}", *container.flags]


def _binds(batch: Batch, container: Apptainer) -> Iterator[str]:
    for bind in [*map(str, _shared_paths(batch)), *container.binds]:
        yield f"--bind={bind}"
    yield from container.flags


def _shared_paths(batch: Batch) -> list[Path]:
    """What must be seen inside an image: the code, and all that the runs read and write."""
    code_dir = batch.jobs[0].code_dir
    runs = Path(commonpath([job.run_dir for job in batch.jobs]))
    return [runs] if code_dir is None else [code_dir, runs]


def _check_paths(batch: Batch) -> None:
    job = batch.jobs[0]
    written = [batch.directory] if job.code_dir is None else [batch.directory, job.code_dir]
    for path in written:
        # In a path of output, a backslash keeps Slurm from expanding %a.
        if _CONTROL.search(str(path)) or "\\" in str(path):
            raise NotScriptable(f"{str(path)!r} holds a backslash or control character; rename it")
    if job.code_dir is not None and ":" in str(job.code_dir):
        raise NotScriptable(f"{str(job.code_dir)!r} holds a colon, PYTHONPATH's own; rename it")
    if _resources(batch).container is not None:
        for path in _shared_paths(batch):
            if re.search("[:,]", str(path)):
                message = f"{str(path)!r} holds a colon or comma, which no container can bind"
                raise NotScriptable(f"{message}; rename it")


def _resources(batch: Batch) -> SlurmResources:
    return batch.jobs[0].resources or SlurmResources()


def _python(job: JobPlan) -> str:
    return job.python or sys.executable


def _label(batch: Batch) -> str:
    """What the jobs are, on one line without control characters."""
    more = len(batch.jobs) - 1
    name = "".join(c if c.isprintable() else " " for c in batch.jobs[0].name)
    return name[:_LONGEST_LABEL] + (f" and {more} more" if more else "")


def _option(name: str, value: str) -> str:
    """Write an option of sbatch as its own parser reads it."""
    if not _PLAIN_WORD.fullmatch(value):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        value = f'"{escaped}"'
    return f"--{name}={value}"


_ESCAPES = {"\\": r"\\", "'": r"\'", "\n": r"\n", "\r": r"\r", "\t": r"\t"}


def shell_word(text: str) -> str:
    """Quote a word for bash, on one line whatever it holds.

    Args:
        text: Any text without NUL.

    Returns:
        The word as it is if nothing in it is special to a shell; else quoted.
    """
    if not _CONTROL.search(text):
        return shlex.quote(text)
    # A line break between plain quotes would do for bash, but sbatch refuses carriage returns.
    return "$'" + re.sub(r"[\\'\x00-\x1f\x7f]", _escaped, text) + "'"


def _escaped(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[0], f"\\x{ord(match[0]):02x}")
