"""Which jobs are submitted together, and what a batch writes."""

import itertools
import json
import stat
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from configs.launchers import SlurmLauncherConfig, SlurmResources
from tasks.slurm.batches import divide, write_batch
from tasks.slurm.plan import Batch, JobPlan
from tasks.slurm.script import render

SMALL, LARGE = SlurmResources(memory="1G"), SlurmResources(memory="2G")


def _plans(
    num_jobs: int,
    resources_of: Callable[[int], SlurmResources] = lambda _: SMALL,
    root: Path = Path("/points"),
) -> list[JobPlan]:
    return [
        JobPlan(
            name=f"point {number}",
            module="tasks.engine",
            run_dir=root / str(number),
            resources=resources_of(number),
            python="/bin/true",
        )
        for number in range(num_jobs)
    ]


def _divided(
    plans: Sequence[JobPlan], config: SlurmLauncherConfig, max_array_size: int = 1001
) -> list[Batch]:
    return divide(plans, config, batches_dir=Path("/study/batches"), max_array_size=max_array_size)


def _points(batches: list[Batch]) -> list[list[int]]:
    return [[int(job.run_dir.name) for job in batch.jobs] for batch in batches]


def test_points_of_a_grid_are_an_array() -> None:
    """All jobs that share everything are tasks of one array, in their order."""
    batches = _divided(_plans(5), SlurmLauncherConfig(max_running=2))

    (batch,) = batches
    assert (batch.mode, batch.max_running) == ("array", 2)
    assert _points(batches) == [[0, 1, 2, 3, 4]]
    assert batch.directory == Path("/study/batches") / batch.key


def test_arrays_are_cut_at_the_largest_that_the_cluster_takes() -> None:
    """Ids of tasks are below MaxArraySize; one job that is left over is no array."""
    batches = _divided(_plans(7), SlurmLauncherConfig(), max_array_size=3)

    assert _points(batches) == [[0, 1, 2], [3, 4, 5], [6]]
    assert [batch.mode for batch in batches] == ["array", "array", "single"]
    assert batches[2].directory == Path("/points/6")


def test_a_cluster_without_arrays_gets_single_jobs() -> None:
    """MaxArraySize may be 0 or 1, which means no arrays at all."""
    assert [b.mode for b in _divided(_plans(2), SlurmLauncherConfig(), 0)] == ["single"] * 2


def test_jobs_that_ask_for_other_resources_are_divided() -> None:
    """A script has one set of resources, so jobs that differ in them are in other batches."""
    plans = _plans(5, lambda number: LARGE if number % 2 else SMALL)

    assert _points(_divided(plans, SlurmLauncherConfig())) == [[0, 2, 4], [1, 3]]


@pytest.mark.parametrize(
    "change",
    [
        {"module": "tasks.other"},
        {"environment": {"A": "1"}},
        {"code_dir": Path("/code")},
        {"python": "/bin/python"},
    ],
)
def test_jobs_that_differ_in_what_the_script_says_are_divided(change: dict[str, object]) -> None:
    """Jobs share a script only if each would have the same one."""
    plans = _plans(2)
    plans.append(plans[0].model_copy(update={"run_dir": Path("/points/2"), **change}))

    assert _points(_divided(plans, SlurmLauncherConfig())) == [[0, 1], [2]]


def test_allocations_hold_as_many_points_as_asked() -> None:
    """Points of a study share jobs; also a point alone stays in one, as its tasks are not ranks."""
    batches = _divided(_plans(5), SlurmLauncherConfig(pack="allocation", points_per_job=2))

    assert _points(batches) == [[0, 1], [2, 3], [4]]
    assert {batch.mode for batch in batches} == {"allocation"}


def test_single_jobs_lie_in_their_run_directories() -> None:
    """With ``pack: single`` each point has a job, a script, and a key of its own."""
    plans = _plans(2)

    batches = _divided(plans, SlurmLauncherConfig(pack="single"))

    assert [batch.directory for batch in batches] == [plan.run_dir for plan in plans]
    assert [batch.key for batch in batches] == [plan.key for plan in plans]


@given(
    large=st.lists(st.booleans(), max_size=40),
    size=st.integers(0, 9),
    limit=st.none() | st.integers(1, 50),
)
@example(large=[False] * 12 + [True] * 2, size=5, limit=4)
def test_every_job_is_in_one_batch(large: list[bool], size: int, limit: int | None) -> None:
    """No job is lost or doubled; limits of arrays add up to what is asked, or to one each."""
    plans = _plans(len(large), lambda number: LARGE if large[number] else SMALL)

    batches = _divided(plans, SlurmLauncherConfig(max_running=limit), size)

    assert sorted(itertools.chain(*_points(batches))) == list(range(len(plans)))
    assert len({batch.key for batch in batches}) == len(batches)
    arrays = [batch for batch in batches if batch.mode == "array"]
    assert all(len(batch.jobs) <= size for batch in arrays)
    assert all(job.resources == b.jobs[0].resources for b in batches for job in b.jobs)
    total = sum(min(b.max_running or 1, len(b.jobs)) for b in arrays)
    if limit is not None:
        assert all(batch.max_running for batch in arrays)
        assert total <= max(limit, len(arrays))


def _written(tmp_path: Path, config: SlurmLauncherConfig, submission: int = 1) -> Path:
    plans = _plans(3, root=tmp_path)
    for plan in plans:
        plan.run_dir.mkdir(exist_ok=True)
    (batch,) = divide(plans, config, batches_dir=tmp_path / "batches", max_array_size=1001)
    return write_batch(batch, submission)


@pytest.mark.parametrize("pack", ["array", "allocation"])
def test_a_batch_writes_its_script_and_its_runs(tmp_path: Path, pack: str) -> None:
    """The script names a list of the run directories, in the order of the tasks."""
    script = _written(tmp_path, SlurmLauncherConfig.model_validate({"pack": pack}))

    runs = script.with_name("runs.json")
    assert json.loads(runs.read_text()) == [str(tmp_path / str(number)) for number in range(3)]
    assert f"--runs {runs} " in script.read_text()
    assert script.parent.parent == tmp_path / "batches"


def test_a_single_job_writes_the_script_alone(tmp_path: Path) -> None:
    """``job.sh`` lies in the run directory, and is what ``render`` gives."""
    (plan,) = _plans(1, root=tmp_path)
    (batch,) = _divided([plan], SlurmLauncherConfig())

    script = write_batch(batch, 3)

    assert script == tmp_path / "0" / "job.sh"
    assert script.read_text() == render(batch, 3)
    assert [path.name for path in script.parent.iterdir()] == ["job.sh"]


def test_another_submission_replaces_the_script(tmp_path: Path) -> None:
    """Submitted again, the batch has the same place and another name."""
    first = _written(tmp_path, SlurmLauncherConfig())
    before = first.read_text()

    second = _written(tmp_path, SlurmLauncherConfig(), submission=2)

    assert second == first
    assert before.replace("-1\n", "-2\n", 1).split("\n\n")[1] in second.read_text()


def test_directories_are_closed_to_others(tmp_path: Path) -> None:
    """Scripts and runs are readable by their owner alone, whatever the umask is."""
    script = _written(tmp_path, SlurmLauncherConfig())

    modes = {
        stat.S_IMODE(path.stat().st_mode)
        for path in (script.parent, *(tmp_path / str(number) for number in range(3)))
    }
    assert modes == {0o700}


def test_scripts_are_valid_shell(tmp_path: Path) -> None:
    """Bash can read what was written."""
    script = _written(tmp_path, SlurmLauncherConfig())

    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
