"""What the documents show is true: commands are run, outputs appear, links lead somewhere.

What becomes of which command stands in ``document_tables``, openly.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from flows.command_line import main
from tests.cluster.prefect_server import PrefectServer
from tests.fakes.served import FakeCluster
from tests.integration.document_syntax import fault
from tests.integration.document_tables import (
    AFTER_A_STUDY,
    AT_A_SERVER,
    CHECKED,
    FILES,
    HERE,
    MENTIONS,
    NOT_RUN,
    RUN_ELSEWHERE,
    SEQUENCES,
    SHORTER,
    STUDY,
)
from tests.integration.documents import (
    DOCUMENTS,
    ROOT,
    Command,
    anchors,
    commands,
    edits,
    files,
    name_of,
    without_blocks,
)

ALL = [command for path in DOCUMENTS for command in commands(path)]
_WITH_COMMANDS = sorted({command.document for command in ALL})
_DATED = re.compile(r"([\w-]+)-\d{8}-\d{6}")
_PLACEHOLDER = re.compile(r"<\w+>|\b[A-Z]{2,}\b")


def _shorter(command: Command) -> Command:
    """Return what is run instead of a command, or the command itself."""
    instead = SHORTER.get(command.document, {}).get(command.text)
    if instead is None:
        return command
    return Command(command.document, command.line, tuple(shlex.split(instead)))


def _row(table: dict[str, str], text: str) -> str | None:
    """Return the row of a table that is for a command: itself, or a beginning with a star."""
    if text in table:
        return text
    starred = (row for row in table if row.endswith("*") and text.startswith(row[:-1]))
    return next(starred, None)


def _is_form(command: Command) -> bool:
    """Say whether words in capitals stand for what a user puts there."""
    return command.is_mention and _PLACEHOLDER.search(command.text) is not None


def _is_run_here(command: Command) -> bool:
    is_ours = command.words[0] == "watershed" and len(command.words) > 1
    is_mine = not command.is_mention and not _row(RUN_ELSEWHERE, command.text)
    return is_ours and is_mine and command.words[1] in HERE


def _is_placed(command: Command) -> bool:
    """Say whether a command is run, somewhere, or is openly said not to be."""
    return (
        _is_run_here(command)
        or (command.is_mention and command.words[0] in MENTIONS)
        or command.text in SEQUENCES.get(command.document, ())
        or any(_row(table, command.text) for table in (CHECKED, RUN_ELSEWHERE, NOT_RUN))
    )


def test_there_are_commands() -> None:
    """The search finds what stands in the README: if it found nothing, all would pass."""
    texts = {command.text for command in ALL if command.document == "README.md"}

    assert {"make run", "make test", "make up", "watershed check my-study.yaml"} <= texts
    assert len(ALL) > 100


def test_every_command_has_a_place() -> None:
    """It is run here, by the slow tests or by another test; or the table says why it is not."""
    assert [command.place for command in ALL if not _is_placed(command)] == []


def test_the_tables_hold_nothing_else() -> None:
    """A row whose command is shown nowhere any more is removed."""
    texts = {command.text for command in ALL}
    rows = [*CHECKED, *RUN_ELSEWHERE, *NOT_RUN]
    rows += [text for shown in SEQUENCES.values() for text in shown]
    rows += [text for shown in SHORTER.values() for text in shown]

    unused = [
        row
        for row in rows
        if not any(text.startswith(row[:-1]) if row[-1] == "*" else text == row for text in texts)
    ]

    assert unused == []


@pytest.mark.parametrize("test", sorted(set(RUN_ELSEWHERE.values())))
def test_the_test_that_runs_it_exists(test: str) -> None:
    """Its file is there, and has a test of that name."""
    file, _, name = test.partition("::")

    assert (ROOT / file).is_file()
    assert not name or f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("program", sorted({command.words[0] for command in ALL}))
def test_every_command_is_understood(program: str, pytestconfig: pytest.Config) -> None:
    """The command line of its program takes its words, options and values."""
    seen = [_shorter(command) for command in ALL if command.words[0] == program]

    faults = [
        f"{command.place}: {told}"
        for command in seen
        if not _is_form(command)
        if (told := fault(command, pytestconfig))
    ]

    assert faults == []


def _workplace(document: str, directory: Path) -> None:
    """Put the checkout's studies and the document's files into a directory."""
    (directory / "configs").symlink_to(ROOT / "configs")
    shown = files(ROOT / document)
    for name, text in {**FILES.get(document, {}), **shown}.items():
        if "/" not in name:
            (directory / name).write_text(text, encoding="utf-8")


def _as_check(command: Command) -> list[str]:
    """Return the ``watershed check`` of the file and settings of a ``run`` or ``nightly``."""
    words = list(command.words[2:])
    settings = [
        part for at, word in enumerate(words) if word == "--set" for part in words[at : at + 2]
    ]
    given = next(word for word in words if word.endswith(".yaml"))
    return ["check", given, *settings]


@pytest.mark.parametrize(
    "document",
    [name for name in _WITH_COMMANDS if any(c.document == name and _is_run_here(c) for c in ALL)],
)
def test_what_starts_nothing_is_run_as_it_stands(
    document: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It ends well, or with the faults that the document shows; each line shown is printed."""
    _workplace(document, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("WATERSHED_DATA", "WATERSHED_RUNS_DIR", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)

    for command in [_shorter(one) for one in ALL if one.document == document]:
        if _is_run_here(command) and not _is_repeated(command):
            _run_here(command, capsys)


def _is_repeated(command: Command) -> bool:
    """Say whether another document has the same plan, which takes seconds, and no files."""
    is_plan = command.words[1] == "plan-training"
    first = next((one for one in ALL if one.words == command.words), command)
    return is_plan and first is not command


def _run_here(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """Run a command of ``watershed`` in this process; what the document shows of it is printed."""
    code = main(list(command.words[1:]))
    printed = capsys.readouterr()
    assert code == 0 or (code == 2 and command.output), command.place + printed.err
    assert _missing(command.output, printed.out + printed.err) == [], command.place


def _missing(shown: str, printed: str) -> list[str]:
    """Return the lines shown that are not printed; dots stand for anything."""
    lines = [line.rstrip() for line in shown.splitlines()]
    return [
        line
        for line in lines
        if not re.search(re.escape(line).replace(re.escape("..."), ".*"), printed)
    ]


@pytest.mark.parametrize(
    "command",
    [command for command in ALL if _row(CHECKED, command.text) and not _is_form(command)],
    ids=lambda command: f"{command.document}:{command.line}",
)
def test_what_is_dear_has_a_good_file_and_good_settings(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``watershed check`` takes what ``watershed run`` would be given."""
    _workplace(command.document, tmp_path)
    monkeypatch.chdir(tmp_path)

    code = main(_as_check(command))

    assert code == 0, command.place + capsys.readouterr().err


@pytest.mark.parametrize("document", [name_of(path) for path in DOCUMENTS])
def test_links_lead_somewhere(document: str) -> None:
    """Files that are linked are there, with the headings that are named."""
    path = ROOT / document
    prose = without_blocks(path.read_text(encoding="utf-8"))
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        linked = path.parent / file if file else path
        is_there = linked.exists() and (not anchor or anchor in anchors(linked))
        broken += [] if is_there else [target]

    assert broken == []


@pytest.mark.parametrize("document", [name_of(path) for path in DOCUMENTS])
def test_files_that_are_named_exist(document: str) -> None:
    """A path of the repository that stands in the text as code is one."""
    prose = without_blocks((ROOT / document).read_text(encoding="utf-8"))
    named = re.findall(r"`((?:configs|docs|flows|models|tasks|tests)/[\w./-]+)`", prose)
    named = [name for name in named if not name.endswith(".safetensors")]  # of a run directory

    shown = files(ROOT / document)
    assert [name for name in named if not (ROOT / name).exists() and name not in shown] == []


def test_the_index_has_all_documents() -> None:
    """Each document is linked from docs/README.md."""
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    linked = {os.path.normpath(ROOT / "docs" / link) for link in re.findall(r"\]\(([^)#]+)", index)}

    others = [
        path for path in DOCUMENTS if path not in {ROOT / "README.md", ROOT / "docs/README.md"}
    ]
    assert [name_of(path) for path in others if str(path) not in linked] == []


def _environment(home: Path, **own: str) -> dict[str, str]:
    """The environment of a user who has never used Prefect or MLflow."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "MLFLOW_", "WATERSHED_", "COV_"))
    }
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return inherited | {"HOME": str(home), "OMP_NUM_THREADS": "1", "PATH": path} | own


def _run(words: list[str], cwd: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    ended = subprocess.run(
        words, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=600, check=False,
    )  # fmt: skip
    return ended.returncode, ended.stdout


_ANSWER = """
from pathlib import Path
from mlflow import pyfunc
from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.served_models import served_model
(point,) = Path("runs").glob("mlp-*/points/000-*")
run = RunDirectory(point.absolute())
with served_model(run, run.read_job()) as model:
    loaded = pyfunc.load_model(str(model))
    print(loaded.predict(loaded.input_example).shape)
"""
_ONE_POINT = [sys.executable, "-P", str(ROOT / "tests" / "integration" / "one_point.py")]


def test_what_the_how_tos_add_works(tmp_path: Path) -> None:
    """Files and edits of both how-tos are made in a copy; the first points of their studies run.

    The model of the second answers as MLflow serves it.
    """
    for package in ("configs", "flows", "models", "tasks"):
        shutil.copytree(ROOT / package, tmp_path / package)
    for name in ("your-algorithm", "your-model"):
        _apply(ROOT / "docs" / "how-to" / f"{name}.md", tmp_path)

    environment = _environment(tmp_path, PYTHONPATH=str(tmp_path))
    code, printed = _run([*_ONE_POINT, "median.yaml", "mlp.yaml"], tmp_path, environment)

    assert code == 0, printed
    assert "median.yaml: ok, 2 runs\nmlp.yaml: ok, 2 runs" in printed
    for study in ("median", "mlp"):
        (journal,) = tmp_path.glob(f"runs/{study}-*/points/000-*/metrics.jsonl")
        assert '"step": 10' in journal.read_text()
    code, printed = _run([sys.executable, "-P", "-c", _ANSWER], tmp_path, environment)
    assert (code, printed.splitlines()[-1]) == (0, "(2, 10)"), printed


def _apply(document: Path, directory: Path) -> None:
    """Write the files that a how-to shows, studies with few rounds, and make its edits."""
    for name, text in files(document).items():
        (directory / name).write_text(re.sub(r"rounds: \d+", "rounds: 10", text))
    for name, before, after in edits(document):
        text = (directory / name).read_text()
        assert text.count(before) == 1, f"{document} edits what {name} has not once:\n{before}"
        (directory / name).write_text(text.replace(before, after))


def test_own_data_need_no_code_and_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data made as the how-to says are accepted, and trained on with the network switched off.

    Where no network namespace can be made (not root), with the network.
    """
    document = "docs/how-to/your-data.md"
    _workplace(document, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WATERSHED_DATA", raising=False)
    environment = _environment(tmp_path, PYTHONPATH=str(ROOT), HF_HUB_OFFLINE="1")
    for command in [one for one in ALL if one.document == document]:
        if command.words[0] == "python":
            code, printed = _run(list(command.words), tmp_path, environment)
            assert code == 0, printed
        elif command.words[:2] == ("watershed", "check"):
            _run_here(command, capsys)
    isolated = ["unshare", "-n"]
    if subprocess.run([*isolated, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        isolated = []
    one_point = shlex.join([*_ONE_POINT, "my-images.yaml"])

    code, printed = _run(
        [*isolated, "sh", "-c", f"ip link set lo up; {one_point}"], tmp_path, environment
    )

    assert code == 0, printed
    assert list(tmp_path.glob("runs/*/points/*/model.safetensors"))


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    """A fake Slurm, in a directory with a short path for its socket."""
    directory = Path(tempfile.mkdtemp(prefix="documents-"))
    with FakeCluster(directory) as running:
        yield running
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, used_home: Path) -> Iterator[PrefectServer]:
    """A Prefect server that is up."""
    running = PrefectServer(tmp_path_factory.mktemp("prefect"), used_home)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of runs, with a study that has finished."""
    directory = tmp_path_factory.mktemp("finished")
    (directory / "digits.yaml").write_text(STUDY)
    code, printed = _run(["watershed", "run", "digits.yaml"], directory, _environment(directory))
    assert code == 0, printed
    return directory / "runs"


@pytest.mark.slow
@pytest.mark.parametrize("document", SEQUENCES)
def test_a_document_is_followed(
    document: str, tmp_path: Path, cluster: FakeCluster, request: pytest.FixtureRequest
) -> None:
    """Its commands, one after the other in one directory, end well and without a traceback."""
    _workplace(document, tmp_path)
    environment = _environment(tmp_path, **cluster.environment)
    if document in AT_A_SERVER:
        environment["PREFECT_API_URL"] = request.getfixturevalue("server").api
    if document in AFTER_A_STUDY:
        runs: Path = request.getfixturevalue("finished")
        (tmp_path / "runs").symlink_to(runs)
        environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{runs}/mlflow.db"
    shown = {command.text: command for command in ALL if command.document == document}

    for text in SEQUENCES[document]:
        words = [word.replace("$PWD", str(tmp_path)) for word in _shorter(shown[text]).words]
        code, printed = _run(
            [_with_dates(word, document, tmp_path) for word in words], tmp_path, environment
        )
        assert code == 0, f"{document}: {text}\n{printed}"
        assert "Traceback" not in printed
        if words[-1] == "-d":
            _wait_for_jobs(tmp_path, environment)


def _with_dates(word: str, document: str, directory: Path) -> str:
    """Put the name of a run that is there for one that a document shows: the second for its second.

    Args:
        word: A word of a command.
        document: The document.
        directory: Where the runs are.

    Returns:
        The word, with the name of a run in ``directory`` if it has one.
    """
    shown = _DATED.search(word)
    if not shown:
        return word
    texts = [command.text for command in ALL if command.document == document]
    names = {one[0] for text in texts for one in _DATED.finditer(text) if one[1] == shown[1]}
    number = sorted(names).index(shown[0])
    return word.replace(shown[0], sorted(directory.glob(f"runs/{shown[1]}-*-*"))[number].name)


def _wait_for_jobs(directory: Path, environment: Mapping[str, str]) -> None:
    deadline = time.monotonic() + 240
    while not list(directory.glob("runs/*/points/003*/metrics.jsonl")):
        assert time.monotonic() < deadline, _run(["watershed", "jobs"], directory, environment)[1]
        time.sleep(1)
