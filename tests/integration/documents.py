"""What the documents show: their commands, files and edits, taken out of the Markdown.

A *command* stands in a fenced block without a language (or of a shell), in an indented block, in
the text as code or in a comment of YAML; behind ``$ `` it may be followed by its output. A *file*
is a fenced block below a paragraph that names it and ends with a colon, such as
"`models/mlp.py`, new:"; an *edit* a block of ``diff`` below "In `models/registry.py`:", or below
another edit of the same file.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])

PROGRAMS = frozenset({
    "watershed", "make", "prefect", "mlflow", "python", "python3", "pytest", "pip", "playwright",
    "sbatch", "srun", "squeue", "scancel", "sacct", "scontrol", "systemctl", "journalctl",
    "loginctl", "curl", "git", "ssh", "rsync", "hf", "export", "source", ".", "psql", "createdb",
    "unshare", "sqlite3", "pg_dump",
})  # fmt: skip
"""A line that begins with one of them is a command."""

_SHELLS = {"", "sh", "bash", "shell", "console"}
_FENCE = re.compile(r"^\s*```(\w*)")
_ASSIGNMENT = re.compile(r"[A-Z_]+=")
_IN_COMMENT = re.compile(r"#(?:.*[:;])? *((?:watershed|make|prefect|mlflow) .+)$")
_SEPARATORS = {";", "&&", "||", "|", "&"}
_NAMED = re.compile(r"`([\w./-]+\.(?:py|yaml|json))`")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: Number of its first line.
        language: What stands behind the fence.
        text: Its lines, without the indentation of the fence.
        above: The paragraph of text above it, as one line.
    """

    line: int
    language: str
    text: str
    above: str


@dataclass(frozen=True)
class Command:
    """A command that a document shows.

    Attributes:
        document: The document, from the repository's root.
        line: Where it stands.
        words: Its words, as a shell takes them; without variables set before it, and with
            ``watershed`` for ``.venv/bin/watershed``.
        variables: What is set before it, NAME=VALUE.
        output: What is shown below it.
        is_mention: Whether it stands in the text, not in a block.
    """

    document: str
    line: int
    words: tuple[str, ...]
    variables: tuple[str, ...] = ()
    output: str = ""
    is_mention: bool = False

    @property
    def text(self) -> str:
        """The command as a line."""
        return " ".join(self.words)

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.document}:{self.line}: {self.text}"


def name_of(path: Path) -> str:
    """Return a document's name, from the repository's root."""
    return str(path.relative_to(ROOT))


def blocks(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a document.

    Args:
        text: The whole document.

    Yields:
        Block after block.
    """
    lines = iter(enumerate(text.splitlines(), 1))
    above, is_new = "", True
    for number, line in lines:
        if fence := _FENCE.match(line):
            indent = len(line) - len(line.lstrip())
            inside = []
            for _, inner in lines:
                if _FENCE.match(inner):
                    break
                inside.append(inner[indent:] if not inner[:indent].strip() else inner)
            yield Block(number + 1, fence[1], "\n".join(inside) + "\n", above)
            is_new = True
        elif line.strip():
            above = line.strip() if is_new else f"{above} {line.strip()}"
            is_new = False
        else:
            is_new = True


def without_blocks(text: str) -> str:
    """Return a document with its fenced blocks blank; lines keep their numbers."""
    kept, is_inside = [], False
    for line in text.splitlines():
        is_fence = bool(_FENCE.match(line))
        kept.append("" if is_fence or is_inside else line)
        is_inside ^= is_fence
    return "\n".join(kept)


def commands(path: Path) -> list[Command]:
    """Return all commands of a document, in order."""
    text = path.read_text(encoding="utf-8")
    found = [
        command
        for block in blocks(text)
        if block.language in _SHELLS
        for command in _commands_of_block(name_of(path), block)
    ]
    for block in blocks(text):
        for number, line in enumerate(block.text.splitlines(), block.line):
            if block.language == "yaml" and (told := _IN_COMMENT.search(line)):
                found += commands_of_line(name_of(path), number, told[1], is_mention=True)
    prose = without_blocks(text)
    for number, line in enumerate(prose.splitlines(), 1):
        if line.startswith("    "):
            found += commands_of_line(name_of(path), number, line.strip())
    for span in re.finditer(r"`([^`]+)`", prose):
        number = prose.count("\n", 0, span.start()) + 1
        words = " ".join(span[1].split())
        if " " in words:
            found += commands_of_line(name_of(path), number, words, is_mention=True)
    return sorted(found, key=lambda command: command.line)


def _commands_of_block(document: str, block: Block) -> Iterator[Command]:
    lines = block.text.splitlines()
    has_prompts = any(line.startswith("$ ") for line in lines)
    number = 0
    while number < len(lines):
        first, line = block.line + number, lines[number]
        while line.endswith("\\") and number + 1 < len(lines):
            number += 1
            line = line[:-1] + lines[number].strip()
        number += 1
        if has_prompts and not line.startswith("$ "):
            continue
        output = []
        while has_prompts and number < len(lines) and not lines[number].startswith("$ "):
            output.append(lines[number])
            number += 1
        yield from commands_of_line(
            document, first, line.removeprefix("$ ").strip(), output="\n".join(output)
        )


def commands_of_line(
    document: str, number: int, line: str, *, output: str = "", is_mention: bool = False
) -> Iterator[Command]:
    """Yield the commands of a line of shell, and those of a line that it hands to another shell.

    Args:
        document: Where it stands.
        number: In which line.
        line: The line; what begins with no known program is no command.
        output: What is shown below it.
        is_mention: Whether it stands in the text.

    Yields:
        Command after command.
    """
    for words in _split(line):
        variables = []
        while words and _ASSIGNMENT.match(words[0]):
            variables.append(words.pop(0))
        if not words:
            continue
        words[0] = words[0].removeprefix(".venv/bin/")
        if words[0] in PROGRAMS and (words[0] != "." or words[-1].endswith("activate")):
            yield Command(
                document, number, tuple(words), tuple(variables), output, is_mention=is_mention
            )
            yield from commands_of_line(document, number, _inner(words), is_mention=is_mention)


def _inner(words: list[str]) -> str:
    """Return the line that a command hands to another shell: ``unshare -n sh -c '...'``."""
    return words[-1] if words[-3:-1] == ["sh", "-c"] else ""


def _split(line: str) -> Iterator[list[str]]:
    """Take a line apart as a shell does, at ``;``, ``&&`` and ``|``; comments are left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    words: list[str] = []
    try:
        for word in lexer:
            if word in _SEPARATORS:
                yield words
                words = []
            else:
                words.append(word)
    except ValueError:  # a quotation without an end: no command, but text
        return
    yield words


def files(path: Path) -> dict[str, str]:
    """Return the files that a document shows, by their names."""
    found = {}
    for block in blocks(path.read_text(encoding="utf-8")):
        named = _NAMED.findall(block.above) if block.above.endswith(":") else []
        if block.language in {"yaml", "python"} and named:
            found[named[-1]] = block.text
    return found


def edits(path: Path) -> list[tuple[str, str, str]]:
    """Return the edits that a document shows, in order.

    Args:
        path: The document.

    Returns:
        File, the lines that stand there, and those that are to stand there instead.
    """
    found = []
    target = ""
    text = path.read_text(encoding="utf-8")
    for block in blocks(text):
        if block.language != "diff":
            continue
        if named := re.findall(r"In `([\w./-]+)`", block.above):
            target = named[-1]
        lines = block.text.splitlines()
        before = "".join(line[1:] + "\n" for line in lines if not line.startswith("+"))
        after = "".join(line[1:] + "\n" for line in lines if not line.startswith("-"))
        found.append((target, before, after))
    return found


def anchors(path: Path) -> set[str]:
    """Return the names of a document's headings, as GitHub makes them for links."""
    prose = without_blocks(path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+)$", prose, re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings
    }
