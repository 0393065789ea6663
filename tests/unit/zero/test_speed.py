"""Rates and means of a journal's line."""

import json
from typing import Any

import pytest

from configs.training import TrainingExperiment
from tasks.runtime.metrics import Metric
from tasks.zero.interface import StepReport
from tasks.zero.progress import Progress
from tasks.zero.speed import Sums, rates

GPT_20B: dict[str, Any] = {
    "kind": "training",
    "model": "gpt-20b",
    "sequence": 2048,
    "ranks": 16,
    "micro_batch": 4,
    "accumulation": 2,
    "dtype": "bfloat16",
    "topology": "frontier",
}


def experiment(**fields: Any) -> TrainingExperiment:
    """Return a training of 20 B parameters on two nodes of Frontier; fields replace its own."""
    return TrainingExperiment.model_validate(GPT_20B | fields)


def test_rates_are_those_of_a_hand_calculation() -> None:
    """Tokens of all ranks, FLOPs of one device: 24 h^2 + 4 s h a layer and token, three passes."""
    found = rates(experiment(), 10.0)

    h, s, layers, vocabulary, tokens = 6144, 2048, 44, 50_432, 4 * 2 * 2048
    needed = 3 * tokens * (layers * (24 * h * h + 4 * s * h) + 2 * h * vocabulary)
    assert found[Metric.TOKENS_PER_S] == pytest.approx(16 * tokens / 10)
    assert found[Metric.TFLOPS] == pytest.approx(needed / 10 / 1e12)
    assert found[Metric.HARDWARE_TFLOPS] == found[Metric.TFLOPS]
    assert found[Metric.MFU] == pytest.approx(found[Metric.TFLOPS] / 191.5)


def test_recomputation_is_work_of_the_hardware_alone() -> None:
    """A fourth forward pass of the blocks is done, not needed: MFU stays, hardware FLOPs rise."""
    plain, again = rates(experiment(), 1.0), rates(experiment(recompute=True), 1.0)

    assert again[Metric.TFLOPS] == plain[Metric.TFLOPS]
    assert again[Metric.MFU] == plain[Metric.MFU]
    h, s = 6144, 2048
    blocks = 4 * 2 * s * 44 * (24 * h * h + 4 * s * h)
    more = again[Metric.HARDWARE_TFLOPS] - plain[Metric.HARDWARE_TFLOPS]
    assert more == pytest.approx(blocks / 1e12)


def test_without_a_known_peak_there_is_no_mfu() -> None:
    """The topology does not tell float32's, and nothing is guessed."""
    assert Metric.MFU not in rates(experiment(dtype="float32"), 1.0)


def test_a_skipped_step_does_not_hide_the_others() -> None:
    """Means are of what is finite; of what no train step had, there is none."""
    sums, none = Sums(), Sums()
    bad = StepReport(float("nan"), float("inf"), is_skipped=True)
    for report in (StepReport(2.0, 5.0), bad, StepReport(4.0, 7.0)):
        sums.add(report, 1.0)
    none.add(bad, 1.0)

    assert sums.means()[Metric.TRAIN_LOSS] == 3.0
    assert sums.means()[Metric.TRAIN_GRAD_NORM] == 6.0
    assert sums.means()[Metric.STEP_S] == 1.0
    assert not {Metric.TRAIN_LOSS, Metric.TRAIN_GRAD_NORM} & none.means().keys()


def test_no_time_gives_no_rates() -> None:
    """Where no train step was done there is nothing to divide by."""
    assert rates(experiment(), 0.0) == {}
    assert Sums().means() == {}


def test_a_line_holds_means_over_its_train_steps() -> None:
    """Times, losses and bytes by level, of two steps; a level that only one of them used, too."""
    sums = Sums()

    sums.add(StepReport(2.0, 1.0, exposed_s={"node": 0.5}, received_bytes={"node": 10}), 3.0)
    sums.add(StepReport(1.0, 3.0, compute_s=1.0, received_bytes={"node": 20, "cluster": 8}), 5.0)

    means = sums.means()
    assert means[Metric.TRAIN_LOSS] == 1.5
    assert means[Metric.TRAIN_GRAD_NORM] == 2.0
    assert means[Metric.STEP_S] == 4.0
    assert means[Metric.COMPUTE_S] == 0.5
    assert means["time/exposed_node_s"] == 0.25
    assert (means["bytes/node"], means["bytes/cluster"]) == (15.0, 4.0)


def test_counts_go_through_a_checkpoint_bit_for_bit() -> None:
    """Also in the middle of a line, as JSON; floats without a short decimal form included."""
    progress = Progress()
    progress.add(StepReport(0.1, 1 / 3), 0.7)
    progress.end_line({Metric.TRAIN_LOSS: 0.1, Metric.VALIDATION_LOSS: float("nan")})
    progress.add(StepReport(2 / 7, 0.2, is_skipped=True, received_bytes={"node": 3}), 0.1)

    facts = json.loads(json.dumps(progress.facts()))

    assert Progress.of_facts(2, facts) == progress
    assert progress.last_line == {"train/loss": 0.1}
    assert (progress.skipped, progress.skipped_in_a_row, progress.lines) == (1, 1, 1)


def test_only_skips_in_a_row_count_as_such() -> None:
    """A step that went well begins a new row; the total stays."""
    progress = Progress()

    for is_skipped in (True, True, False, True):
        progress.add(StepReport(1.0, 1.0, is_skipped=is_skipped), 1.0)

    assert (progress.skipped, progress.skipped_in_a_row) == (3, 1)
