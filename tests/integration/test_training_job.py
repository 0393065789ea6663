"""A training on local ranks: to its end, stopped, struck, continued to the same bits."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from configs.study import Study
from tasks.runtime.job import EXIT_FAILED, EXIT_FINISHED, EXIT_INTERRUPTED
from tasks.runtime.journal import read_journal
from tasks.runtime.metrics import Metric
from tasks.runtime.records import JobFile, Result
from tasks.runtime.run_directory import RunDirectory

STEPS = 24
EXPERIMENT: dict[str, object] = {
    "kind": "training",
    "model": {"layers": 2, "hidden": 32, "heads": 2, "vocabulary": 256},
    "data": {"max_tokens": 20_000},
    "sequence": 16,
    "ranks": 4,
    "accumulation": 2,
    "steps": STEPS,
    "log_every": 3,
    "evaluate_every": 8,
    "evaluate_sequences": 8,
    "checkpoint_every": 4,
    "device": "cpu",
}
SAME = (
    Metric.TRAIN_LOSS,
    Metric.TRAIN_GRAD_NORM,
    Metric.TRAIN_LR,
    Metric.VALIDATION_LOSS,
    Metric.TOKENS_TOTAL,
    Metric.TRAIN_SKIPPED,
)
"""Metrics that are no times and no sizes."""


def prepare(path: Path, **fields: object) -> RunDirectory:
    """Make a run directory with its ``job.json``."""
    study = Study.model_validate({"name": "x", "experiment": EXPERIMENT | fields})
    (point,) = study.points()
    path.mkdir()
    directory = RunDirectory(path)
    job = JobFile(
        study="x", point=point.label, config_hash=point.config_hash, experiment=point.experiment
    )
    directory.job.write_text(job.model_dump_json())
    return directory


def be_the_job(job: str, cache: str) -> None:
    """Do in a process of its own what ``python -m tasks.zero.train_job`` does."""
    import torch  # noqa: PLC0415  in the forked process only

    from tasks.zero.train_job import main  # noqa: PLC0415

    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1", "WATERSHED_CACHE": cache}
    os._exit(main([job]))


def be_the_job_over_nccl(job: str, cache: str) -> None:
    """Do it where a process group is given back by all of its ranks together, as NCCL has it."""
    from torch import distributed as dist  # noqa: PLC0415

    def wait_for_the_others(group: object) -> None:
        del group
        time.sleep(100)

    vars(dist)["destroy_process_group"] = wait_for_the_others
    be_the_job(job, cache)


def start(
    directory: RunDirectory, work: Callable[[str, str], None] = be_the_job
) -> ForkServerProcess:
    """Start the job, from a process that has loaded torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tasks.zero.training"])
    cache = directory.path.parent / "cache"
    process = context.Process(target=work, args=(str(directory.job), str(cache)))
    process.start()
    return process


def finish(process: ForkServerProcess, limit_s: float = 180) -> int | None:
    """Wait for the job; return its exit code."""
    process.join(limit_s)
    return process.exitcode


def run(directory: RunDirectory) -> int | None:
    """Run the job to its end; return its exit code."""
    return finish(start(directory))


def children(process: ForkServerProcess) -> list[int]:
    """Return the process ids of the ranks, in their order."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(word) for word in path.read_text().split()]


def num_lines(directory: RunDirectory) -> int:
    """Count the lines of the journal."""
    return sum(1 for _ in read_journal(directory.journal))


def until(condition: Callable[[], object], limit_s: float = 120) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)


def result_of(directory: RunDirectory) -> Result:
    """Read the result, which is there."""
    result = directory.read_result()
    assert result is not None
    return result


def what_counts(directory: RunDirectory) -> tuple[bytes, list[object]]:
    """Everything that must not depend on interruptions: all but times and sizes."""
    lines: list[object] = []
    for line, _ in read_journal(directory.journal):
        metrics = {name: line.metrics[name] for name in SAME if name in line.metrics}
        lines.append((line.sequence, line.step, metrics))
    return directory.model.read_bytes(), lines


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run that came to its end at once."""
    directory = prepare(tmp_path_factory.mktemp("undisturbed") / "run")
    assert run(directory) == EXIT_FINISHED
    return directory


def test_a_training_leaves_its_journal_model_and_result(undisturbed: RunDirectory) -> None:
    """Lines at their steps with all their metrics; the weights of all ranks; a lower loss."""
    lines = [line for line, _ in read_journal(undisturbed.journal)]

    assert [line.step for line in lines] == [3, 6, 8, 9, 12, 15, 16, 18, 21, 24]
    first, last = lines[0].metrics, lines[-1].metrics
    assert last[Metric.TRAIN_LOSS] < first[Metric.TRAIN_LOSS]
    assert [line.step for line in lines if Metric.VALIDATION_LOSS in line.metrics] == [8, 16, 24]
    assert last[Metric.TOKENS_TOTAL] == STEPS * 4 * 2 * 16
    assert last[Metric.TOKENS_PER_S] > 0
    assert last[Metric.TFLOPS] == last[Metric.HARDWARE_TFLOPS] > 0  # nothing is recomputed
    assert Metric.MFU not in last  # nobody knows the peak of this CPU
    assert last[Metric.STEP_S] >= last[Metric.COMPUTE_S] > 0
    assert {"bytes/package", "bytes/node", "time/exposed_node_s"} <= set(last)
    assert last[Metric.PEAK_BYTES] > last[Metric.STATE_BYTES] > 0
    result = result_of(undisturbed)
    assert (result.status, result.steps) == ("finished", STEPS)
    assert result.metrics == last
    weights = load_file(undisturbed.model)
    assert sum(tensor.numel() for tensor in weights.values()) == 41_856


# DeepSpeed alone takes seconds to import.
@pytest.mark.parametrize("engine", [pytest.param("deepspeed", marks=pytest.mark.slow), "fsdp2"])
def test_a_job_of_another_engine_learns_the_same_and_counts_less(
    undisturbed: RunDirectory, tmp_path: Path, engine: str
) -> None:
    """Its losses are ours, on two ranks with as many sequences; bytes and waits only we count."""
    fields = {"engine": engine, "partition": "zero3", "ranks": 2, "accumulation": 4}
    directory = prepare(tmp_path / "run", **fields, checkpoint_every=STEPS)

    code = run(directory)

    *_, (last, _) = read_journal(directory.journal)
    ours = result_of(undisturbed).metrics
    assert code == EXIT_FINISHED
    for metric in (Metric.TRAIN_LOSS, Metric.VALIDATION_LOSS, Metric.TOKENS_TOTAL):
        assert last.metrics[metric] == pytest.approx(ours[metric], rel=1e-5)
    measured = last.metrics[Metric.COMPUTE_S] + last.metrics[Metric.OPTIMIZER_S]
    assert last.metrics[Metric.STEP_S] >= measured > 0
    missing = {name for name in ours if name not in last.metrics}
    assert missing == {name for name in ours if name.startswith(("bytes/", "time/exposed_"))}
    assert missing


def test_a_request_to_one_rank_stops_all_and_nothing_is_lost(
    undisturbed: RunDirectory, tmp_path: Path
) -> None:
    """They agree on a train step, save it, and go on from there to the same bits."""
    directory = prepare(tmp_path / "run")
    process = start(directory)
    until(lambda: num_lines(directory) >= 3)

    os.kill(children(process)[2], signal.SIGTERM)
    code = finish(process)
    (saved, *_) = sorted(directory.checkpoints.glob("step-*"), reverse=True)
    stopped = result_of(directory)
    again = run(directory)

    assert (code, stopped.status) == (EXIT_INTERRUPTED, "interrupted")
    assert int(saved.name.removeprefix("step-")) >= 8
    assert again == EXIT_FINISHED
    assert what_counts(directory) == what_counts(undisturbed)


@pytest.mark.parametrize("rank", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_a_killed_rank_ends_the_job_and_is_named(
    undisturbed: RunDirectory, tmp_path: Path, rank: int
) -> None:
    """Within seconds; those that lost their peer are not blamed, and the next start ends well."""
    directory = prepare(tmp_path / "run")
    process = start(directory)
    until(lambda: num_lines(directory) >= 4)
    pid = children(process)[rank]

    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    code = finish(process, 30)
    took_s = time.monotonic() - began
    struck = result_of(directory)
    again = run(directory)

    assert (code, struck.status, struck.reason) == (EXIT_FAILED, "failed", "rank_lost")
    assert struck.message.startswith(f"rank {rank} (process {pid} on ")
    assert "was killed by SIGKILL" in struck.message
    assert took_s < 30
    assert again == EXIT_FINISHED
    assert what_counts(directory) == what_counts(undisturbed)


def test_a_training_that_diverges_says_so(tmp_path: Path) -> None:
    """After ten skipped train steps in a row, with what to change; and not as a lost rank."""
    directory = prepare(
        tmp_path / "run", ranks=2, optimizer={"lr": 1e9, "min_lr_share": 1, "clip": 0}, log_every=1
    )

    code = run(directory)

    result = result_of(directory)
    assert (code, result.reason) == (EXIT_FAILED, "diverged")
    assert result.message.startswith("the losses or gradients of the last 10 train steps, up to ")
    assert "use a smaller optimizer.lr" in result.message
    *_, (last, _) = read_journal(directory.journal)
    assert last.metrics[Metric.TRAIN_SKIPPED] == 9  # it ends before the line of the tenth
    assert 10 < result.steps < STEPS


def test_a_rank_that_fails_alone_says_so_at_once(tmp_path: Path) -> None:
    """Also where the others would have to help it to give its process groups back."""
    directory = prepare(tmp_path / "run", ranks=2)
    directory.journal.mkdir()  # which rank 0 alone opens

    process = start(directory, be_the_job_over_nccl)
    began_s = time.monotonic()
    code = finish(process)
    took_s = time.monotonic() - began_s

    result = result_of(directory)
    assert code == EXIT_FAILED
    assert "metrics.jsonl" in result.message
    assert took_s < 90


def test_text_that_the_model_has_no_rows_for_is_refused(tmp_path: Path) -> None:
    """Before anything is computed, by the numbers of both; rank 0's word alone."""
    model = {"layers": 1, "hidden": 32, "heads": 2, "vocabulary": 100}
    directory = prepare(tmp_path / "run", ranks=2, model=model)

    code = run(directory)

    result = result_of(directory)
    assert (code, result.reason) == (EXIT_FAILED, "data")
    assert "set model.vocabulary to 256 or more" in result.message
