"""What holds the four packages together: import contracts, unambiguous names, entry points."""

import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("flows", "tasks", "models", "configs")
ENTRY_POINTS = (
    "flows.federated.federated_study",
    "flows.training.training_run",
    "flows.scaling.scaling_study",
    "flows.nightly.nightly",
    "flows.planning.plan_training_flow",
)
"""Every flow that can be deployed, by module path."""


def _python(code: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_imports_run_one_way() -> None:
    """The import contracts of pyproject.toml hold."""
    lint_imports = Path(sys.executable).with_name("lint-imports")

    ended = subprocess.run([lint_imports], cwd=ROOT, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stdout


def test_no_other_distribution_has_our_names() -> None:
    """No installed distribution ships a top-level package of ours, which would hide it."""
    intruders = {
        f"{distribution.metadata['Name']}: {path}"
        for distribution in distributions()
        for path in distribution.files or ()
        if path.parts[0].removesuffix(".py") in PACKAGES
        and distribution.metadata["Name"] != "watershed"
    }

    assert intruders == set()


def test_our_packages_are_those_of_this_directory() -> None:
    """Imports find this working copy, wherever Python is started."""
    found = _python(f"import {', '.join(PACKAGES)}; print({'.__file__, '.join(PACKAGES)}.__file__)")

    assert found.split() == [str(ROOT / name / "__init__.py") for name in PACKAGES]


def test_flows_load_by_module_path() -> None:
    """A deployment finds its flow: with all that it imports, no placeholder in its place."""
    names = _python(
        "from prefect.flows import load_flow_from_entrypoint as load\n"
        f"print(*(load(one, use_placeholder_flow=False).name for one in {list(ENTRY_POINTS)}))"
    )

    assert names == "federated-study training-run scaling-study nightly plan-training"


def test_the_command_line_starts_without_heavy_libraries() -> None:
    """Help, checks and completion answer at once: what takes seconds to import is not imported."""
    loaded = _python(
        "import sys, flows.command_line\n"
        "print([n for n in ('prefect', 'mlflow', 'torch', 'pandas', 'matplotlib', 'scipy',"
        " 'sklearn') if n in sys.modules])"
    )

    assert loaded == "[]"


def test_no_class_is_defined_in_flows() -> None:
    """A class of a flow's file could not be unpickled elsewhere, so there is none."""
    defining = [
        path.name
        for path in (ROOT / "flows").glob("*.py")
        if any(line.startswith("class ") for line in path.read_text().splitlines())
    ]

    assert defining == []
