"""What may stand in a batch script: words, lines of shell, variables, options of sbatch.

A value that sbatch or bash would not hand on as it is gets refused here, with what to do instead;
so does a password, which would be there to read for whoever can read the script.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from configs.base import Fault


def refused(reason: str) -> PydanticCustomError:
    """Return the error for a validator to raise, with what is shown to the author."""
    return PydanticCustomError("refused", "{reason}", {"reason": reason})


def _of_one_line(text: str) -> str:
    if any(character < " " or character == "\x7f" for character in text):
        raise refused(f"{text!r} holds a line break or control character; remove it")
    return text


def _of_unix(text: str) -> str:
    if "\0" in text or "\r" in text:  # sbatch refuses a script that holds one
        raise refused(f"{text!r} holds a NUL or a carriage return; use Unix line ends")
    return text


Word = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_of_one_line)]
"""One argument: any text without control characters; it is quoted where it is used."""
ShellLines = Annotated[str, Field(max_length=100_000), AfterValidator(_of_unix)]
"""A line of shell, or several, that is written as it stands."""


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _split(value: object) -> object:
    return tuple(value.split()) if isinstance(value, str) else value


def _quoted(value: object) -> object:
    # What was written is not known any more: YAML reads 010 as 8, 1:30 as 90 and off as false.
    if isinstance(value, bool):
        raise refused(f"YAML reads this as {str(value).lower()}; quote what is meant, like 'on'")
    if isinstance(value, (int, float)):
        raise refused(f"YAML reads this as the number {value}; quote what is meant, like '{value}'")
    return value


Words = Annotated[tuple[Word, ...], BeforeValidator(_listed)]
"""A list of arguments; a text alone is a list of one."""
ModuleNames = Annotated[tuple[Word, ...], BeforeValidator(_split)]
"""Names of modules; in a text alone there are blanks between them, as for module load."""
SetupLines = Annotated[tuple[ShellLines, ...], BeforeValidator(_listed)]
"""Lines of shell; a text alone, of one line or several, is a list of one."""
VariableValue = Annotated[str, BeforeValidator(_quoted)]
"""Value of an environment variable; text."""

_MOST_ENVIRONMENT_BYTES = 100_000
"""Linux lets one variable have 128 KiB."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OF_THE_SHELL = re.compile(
    # Some are evaluated as arithmetic when they are set, and so can run a command.
    r"_|BASH\w*|COMP_\w+|DIRSTACK|EPOCH\w+|EUID|FUNCNAME|GROUPS|HISTCMD|IFS|LINENO|OLDPWD|OPTARG"
    r"|OPTIND|PIPESTATUS|PPID|PWD|RANDOM|SECONDS|SHELLOPTS|SHLVL|SRANDOM|UID"
)
_OF_THE_USER = "DATA|CACHE|INTERFACE"
"""Of a job that is written for other nodes: where its data lie, what it listens on."""
_OF_THE_JOB = re.compile(rf"SLURMD?_\w*|WATERSHED_(?!(?:{_OF_THE_USER})$)\w*|PYTHONSAFEPATH")
_SECRET = re.compile(
    r"(?:TOKEN|PASSW(?:OR)?D|PASSPHRASE|SECRETS?|CREDENTIALS?|AUTH|(?:API|ACCESS|PRIVATE)_?KEY"
    r"|(?:^|_)PASS)(?:_|$)",
    re.IGNORECASE,
)
_NAMES_A_FILE = re.compile(r"_(?:FILE|PATH|DIR)$", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"\w://[^/\s:@]*:[^/\s@]+@"  # user and password of an address
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|(?i:\bauthorization[\"']?\s*[:=]\s*[\"']?(?:bearer|basic|token)\s+)(?![\"'$`{<])\S"
    r"|\b(?:hf_|gh[opsru]_|github_pat_|glpat-|sk-|xox[abeprs]-)[\w-]{16,}|\bA[KS]IA[0-9A-Z]{16}\b"
)
_LITERAL_ASSIGNMENT = re.compile(r"""\b(?P<name>[A-Za-z_]\w*)=(?=["']?[^\s"'$`;])""")
_INSTEAD = "and would stand in job.sh; set it by a line of setup that reads a file of mode 0600"


def environment_faults(environment: Mapping[str, str]) -> Iterator[Fault]:
    """Find variables that a batch script cannot set to that very value, or must not.

    Args:
        environment: Name -> value.

    Yields:
        A fault for each, at ``environment.<name>``.
    """
    num_bytes = 0
    for name, value in environment.items():
        num_bytes += len(name) + len(value.encode(errors="replace"))
        if message := _fault_of(name, value):
            yield Fault(path=f"environment.{name}".rstrip("."), message=message)
    if num_bytes > _MOST_ENVIRONMENT_BYTES:
        allowed = f"{_MOST_ENVIRONMENT_BYTES:,} bytes at most"
        yield Fault(
            path="environment", message=f"{num_bytes:,} bytes; use {allowed}, put more into a file"
        )


def _fault_of(name: str, value: str) -> str:
    if not _VARIABLE.fullmatch(name):
        return f"{name!r} is no name of a variable; use letters, digits and underscores"
    if _OF_THE_SHELL.fullmatch(name):
        return "the shell sets this variable itself; remove it"
    if _OF_THE_JOB.fullmatch(name):
        return "Slurm or Watershed sets this variable; remove it, or export it in a line of setup"
    if _is_secret(name):
        return f"looks like a secret, {_INSTEAD}"
    if _SECRET_VALUE.search(value):
        return f"its value holds a password or key, {_INSTEAD}"
    if "\0" in value:
        return "its value holds a NUL character, which no variable can; remove it"
    if re.search("[\ud800-\udfff]", value):
        return "its value holds what UTF-8 cannot express; remove it"
    return ""


def secret_fault(text: str) -> str:
    """Say that a text writes out a secret, as in ``export HF_TOKEN=...``.

    Args:
        text: Lines of shell, or options.

    Returns:
        What to do about it; empty if none is seen. ``export HF_TOKEN="$(cat FILE)"`` is fine.
    """
    for match in _LITERAL_ASSIGNMENT.finditer(text):
        if _is_secret(match["name"]):
            return f"{match['name']} looks like a secret, {_INSTEAD}"
    if _SECRET_VALUE.search(text):
        return f"this holds a password or key, {_INSTEAD}"
    return ""


def _is_secret(name: str) -> bool:
    return bool(_SECRET.search(name)) and not _NAMES_A_FILE.search(name)


_FIELDS = {
    "account": "account",
    "array": "pack and max_running",
    "constraint": "constraint",
    "cpus-per-task": "cpus_per_task",
    "dependency": "dependency",
    "exclude": "exclude",
    "exclusive": "exclusive",
    "gpus": "gpus_per_node",
    "gpus-per-node": "gpus_per_node",
    "gpus-per-socket": "gpus_per_node",
    "gpus-per-task": "gpus_per_node",
    "gres": "gpus_per_node and gpu_option",
    "licenses": "licenses",
    "mail-type": "mail_type",
    "mail-user": "mail_user",
    "mem": "memory",
    "no-requeue": "requeue",
    "nodelist": "nodelist",
    "nodes": "nodes",
    "ntasks": "nodes and tasks_per_node",
    "ntasks-per-node": "tasks_per_node",
    "partition": "partition",
    "qos": "qos",
    "requeue": "requeue",
    "reservation": "reservation",
    "signal": "signal_before_s",
    "time": "time_limit",
}
"""Options of sbatch that fields stand for."""
_OURS = {
    "chdir",
    "clusters",
    "error",
    "help",
    "hold",
    "input",
    "job-name",
    "open-mode",
    "output",
    "parsable",
    "test-only",
    "usage",
    "version",
    "wait",
    "wrap",
}
"""Options by which a job is found again, or that would keep sbatch from submitting it."""
_LETTERS = {
    "A": "account",
    "C": "constraint",
    "D": "chdir",
    "G": "gpus",
    "H": "hold",
    "J": "job-name",
    "L": "licenses",
    "M": "clusters",
    "N": "nodes",
    "V": "version",
    "W": "wait",
    "a": "array",
    "c": "cpus-per-task",
    "d": "dependency",
    "e": "error",
    "h": "help",
    "i": "input",
    "n": "ntasks",
    "o": "output",
    "p": "partition",
    "q": "qos",
    "t": "time",
    "w": "nodelist",
    "x": "exclude",
}


def option_fault(line: str) -> str:
    """Say what is wrong with a further option of sbatch.

    Args:
        line: What stands behind ``#SBATCH``.

    Returns:
        What was found and what to do; empty if nothing is wrong.
    """
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return f"{line!r} has a quote that does not end; add it"
    if not words or not words[0].startswith("-"):
        return f"{line!r} is no option of sbatch; write one such as --nice=100"
    for word in words:
        option = _option(word)
        if option == "gres" and "gpu" not in line:  # a local disk, a network
            continue
        if option in _FIELDS:
            return f"{word} is set by a field of its own; use {_FIELDS[option]}"
        if option in _OURS:
            return f"--{option} is set by Watershed; remove it"
    return secret_fault(line)


def _option(word: str) -> str:
    """Long name of an option that we know; sbatch takes any beginning of a name for the whole."""
    if not word.startswith("--"):
        return _LETTERS.get(word[1:2], "") if word.startswith("-") else ""
    name = word[2:].partition("=")[0]
    known = [*_FIELDS, *sorted(_OURS)]
    return name if name in known else next((one for one in known if one.startswith(name)), "")
