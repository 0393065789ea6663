"""What the journal of a training on ranks says: losses, speed, and where the time goes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from configs.training import TrainingExperiment
from tasks.runtime.metrics import BYTES_PREFIX, Metric, exposed_metric
from tasks.tracking.history import RunHistory


@dataclass(frozen=True)
class TrainingMeasures:
    """One training. A value that was not measured is None.

    Speeds, times and bytes are medians over the lines of the journal: the first train steps, which
    warm up, and a disturbed one do not count for more than any other.

    Attributes:
        partition: The partition in a word.
        ranks: N.
        validation_loss: The last one.
        tokens: Tokens trained on.
        tokens_per_s: Of all ranks together.
        tflops: Model TFLOPS of one device.
        hardware_tflops: With what is computed again.
        mfu: Model FLOPs over the device's peak, in [0, 1].
        step_s: Wall time of a train step.
        compute_s: Of it, forward and backward passes; of DeepSpeed and FSDP2, which do not tell
            their waits, with them.
        optimizer_s: Of it, the update.
        exposed_s: Level of the machine -> of it, waiting for collectives there.
        bytes_per_step: Level of the machine -> bytes that a rank got from others in a train step.
        state_bytes: Weights, gradients and optimizer states of a rank.
        peak_bytes: Largest peak of a rank's memory.
    """

    partition: str
    ranks: int
    validation_loss: float | None
    tokens: float | None
    tokens_per_s: float | None
    tflops: float | None
    hardware_tflops: float | None
    mfu: float | None
    step_s: float | None
    compute_s: float | None
    optimizer_s: float | None
    exposed_s: Mapping[str, float]
    bytes_per_step: Mapping[str, float]
    state_bytes: float | None
    peak_bytes: float | None

    @property
    def exposed_share(self) -> float | None:
        """Share of a train step in which rank 0 waited for collectives, in [0, 1]."""
        if not self.step_s or not self.exposed_s:
            return None
        return min(1.0, sum(self.exposed_s.values()) / self.step_s)

    def time_split(self) -> dict[str, float]:
        """Split a train step into its parts: seconds by name; what no part explains is ``other``.

        Returns:
            The parts, in the order of a train step; empty without a measurement.
        """
        if self.step_s is None:
            return {}
        exposed = {f"waiting, {level}": time_s for level, time_s in self.exposed_s.items()}
        parts = {"compute": self.compute_s or 0.0, **exposed, "optimizer": self.optimizer_s or 0.0}
        return {**parts, "other": max(0.0, self.step_s - sum(parts.values()))}

    def metrics(self) -> dict[str, float | None]:
        """Return the measures by name, for MLflow."""
        return {
            "validation_loss": self.validation_loss,
            "tokens": self.tokens,
            "tokens_per_s": self.tokens_per_s,
            "tflops": self.tflops,
            "hardware_tflops": self.hardware_tflops,
            "mfu": self.mfu,
            "step_s": self.step_s,
            "exposed_share": self.exposed_share,
            "state_bytes": self.state_bytes,
            "peak_bytes": self.peak_bytes,
            **{f"bytes_{level}": count for level, count in self.bytes_per_step.items()},
        }


def training_measures(history: RunHistory) -> TrainingMeasures | None:
    """Summarise a training.

    Args:
        history: The run.

    Returns:
        Its measures; None if it is no training on ranks.
    """
    experiment = history.job.experiment
    if not isinstance(experiment, TrainingExperiment):
        return None
    levels = experiment.topology.level_names()
    return TrainingMeasures(
        partition=experiment.partition_name,
        ranks=experiment.ranks,
        validation_loss=history.series(Metric.VALIDATION_LOSS).last,
        tokens=history.series(Metric.TOKENS_TOTAL).last,
        tokens_per_s=_typical(history, Metric.TOKENS_PER_S),
        tflops=_typical(history, Metric.TFLOPS),
        hardware_tflops=_typical(history, Metric.HARDWARE_TFLOPS),
        mfu=_typical(history, Metric.MFU),
        step_s=_typical(history, Metric.STEP_S),
        compute_s=_typical(history, Metric.COMPUTE_S),
        optimizer_s=_typical(history, Metric.OPTIMIZER_S),
        exposed_s=_by_level(history, {level: exposed_metric(level) for level in levels}),
        bytes_per_step=_by_level(history, {level: f"{BYTES_PREFIX}{level}" for level in levels}),
        state_bytes=history.series(Metric.STATE_BYTES).last,
        peak_bytes=history.series(Metric.PEAK_BYTES).last,
    )


def _typical(history: RunHistory, metric: str) -> float | None:
    series = history.series(metric)
    return float(np.median(series.values)) if len(series) else None


def _by_level(history: RunHistory, metrics: Mapping[str, str]) -> dict[str, float]:
    """Typical values of those levels that the run has measured, from the innermost outwards."""
    found = {level: _typical(history, metric) for level, metric in metrics.items()}
    return {level: value for level, value in found.items() if value is not None}
