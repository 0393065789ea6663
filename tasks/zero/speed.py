"""What a line of the journal says of the train steps since the previous one: means and rates."""

import math
from dataclasses import asdict, dataclass, field

from configs.training import TrainingExperiment
from tasks.runtime.metrics import BYTES_PREFIX, Metric, exposed_metric
from tasks.zero.interface import StepReport

_TERA = 1e12


@dataclass
class Sums:
    """Sums over the train steps since the previous line; part of a checkpoint.

    Attributes:
        steps: How many.
        losses: How many of them had a finite loss.
        norms: How many had a gradient of a finite norm.
        loss: Of the finite losses.
        grad_norm: Of the finite norms of gradients.
        step_s: Of their wall times.
        compute_s: Of the times of their passes.
        optimizer_s: Of the times of their updates.
        exposed_s: Of what they waited for, by level of the machine.
        received_bytes: Of what came from others, by level of the machine.
    """

    steps: int = 0
    losses: int = 0
    norms: int = 0
    loss: float = 0.0
    grad_norm: float = 0.0
    step_s: float = 0.0
    compute_s: float = 0.0
    optimizer_s: float = 0.0
    exposed_s: dict[str, float] = field(default_factory=dict)
    received_bytes: dict[str, int] = field(default_factory=dict)

    def add(self, report: StepReport, step_s: float) -> None:
        """Add a train step.

        Args:
            report: What the engine says of it.
            step_s: Its wall time.
        """
        self.steps += 1
        if math.isfinite(report.loss):
            self.losses += 1
            self.loss += report.loss
        if math.isfinite(report.grad_norm):
            self.norms += 1
            self.grad_norm += report.grad_norm
        self.step_s += step_s
        self.compute_s += report.compute_s
        self.optimizer_s += report.optimizer_s
        for level, seconds in report.exposed_s.items():
            self.exposed_s[level] = self.exposed_s.get(level, 0.0) + seconds
        for level, num_bytes in report.received_bytes.items():
            self.received_bytes[level] = self.received_bytes.get(level, 0) + num_bytes

    def means(self) -> dict[str, float]:
        """Return the means, by the metric's name; none of what no train step had."""
        if not self.steps:
            return {}
        found: dict[str, float] = {}
        if self.losses:
            found[Metric.TRAIN_LOSS] = self.loss / self.losses
        if self.norms:
            found[Metric.TRAIN_GRAD_NORM] = self.grad_norm / self.norms
        totals: dict[str, float] = {
            Metric.STEP_S: self.step_s,
            Metric.COMPUTE_S: self.compute_s,
            Metric.OPTIMIZER_S: self.optimizer_s,
        }
        totals |= {exposed_metric(level): value for level, value in self.exposed_s.items()}
        totals |= {BYTES_PREFIX + level: value for level, value in self.received_bytes.items()}
        found |= {name: value / self.steps for name, value in totals.items()}
        return {str(name): value for name, value in found.items()}

    def facts(self) -> dict[str, object]:
        """Return the sums as JSON values; floats survive that bit for bit."""
        return asdict(self)


def rates(experiment: TrainingExperiment, step_s: float) -> dict[str, float]:
    """Return tokens and FLOPs per second, by the metric's name.

    Args:
        experiment: What is trained.
        step_s: Wall time of a train step.

    Returns:
        The rates; those of FLOPs are of one device. None if no time has passed.
    """
    if step_s <= 0:
        return {}
    gpt, sequence = experiment.model, experiment.sequence
    # Each rank computes whole sequences: its share is exact.
    sequences = experiment.micro_batch * experiment.accumulation
    needed = sequences * gpt.model_flops(sequence)
    done = sequences * gpt.hardware_flops(sequence, recompute=experiment.recompute)
    found: dict[str, float] = {
        Metric.TOKENS_PER_S: experiment.tokens_per_step / step_s,
        Metric.TFLOPS: needed / step_s / _TERA,
        Metric.HARDWARE_TFLOPS: done / step_s / _TERA,
    }
    if peak := peak_tflops(experiment):
        found[Metric.MFU] = found[Metric.TFLOPS] / peak
    return {str(name): value for name, value in found.items()}


def peak_tflops(experiment: TrainingExperiment) -> float | None:
    """Return the peak of a device for the type that is computed in; None if nobody tells it.

    Args:
        experiment: What is trained.
    """
    return experiment.topology.device.peak_tflops.get(experiment.dtype)
