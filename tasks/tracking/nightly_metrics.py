"""What nights can be compared by, and which way is better."""

from collections.abc import Sequence

from configs.base import Fault
from configs.faults import nearest
from configs.study import Study

HIGHER_IS_BETTER = frozenset({"tokens_per_s", "tflops", "hardware_tflops", "mfu", "test_accuracy"})
"""Of the measures in MLflow's ``result/``; of all others a smaller value is the better one."""
_KNOWN = {
    "training": (
        *("tokens_per_s", "tflops", "hardware_tflops", "mfu", "step_s", "wall_s", "exposed_share"),
        *("train_loss", "validation_loss", "grad_norm", "state_bytes", "peak_bytes"),
    ),
    "federated": (
        *("wall_s", "train_loss", "test_accuracy", "grad_norm", "mean_delay", "max_delay"),
        "virtual_s",
    ),
}
_DEFAULTS = {"training": ("tokens_per_s", "train_loss"), "federated": ("wall_s", "train_loss")}

_EARLIER_NAMES = {"loss": "train_loss"}
"""Of checkouts before the first release, in which the loss of a training had a name of its own."""


def present_name(name: str) -> str:
    """Return the name that a measure has today.

    Args:
        name: That of today, or of an earlier version.
    """
    return _EARLIER_NAMES.get(name, name)


def metrics_for(study: Study, asked: Sequence[str]) -> tuple[str, ...]:
    """Return what the nights of a study are compared by.

    Args:
        study: The study.
        asked: Names that the user gave; empty for the defaults of the kind.

    Returns:
        Names without ``result/``, each once.
    """
    return tuple(dict.fromkeys(map(present_name, asked))) or _DEFAULTS[study.experiment.kind]


def metric_faults(study: Study, asked: Sequence[str]) -> list[Fault]:
    """Find names that a study does not measure.

    Args:
        study: The study.
        asked: Names that the user gave.

    Returns:
        The faults; ``bytes_LEVEL`` is known for every level of a training's machine.
    """
    known = list(_KNOWN[study.experiment.kind])
    if study.experiment.kind == "training":
        known += [f"bytes_{level}" for level in study.experiment.topology.level_names()]
    return [
        Fault(
            path="metrics",
            message=f"{name!r} is unknown{nearest(name, known)}; known: {', '.join(known)}",
        )
        for name in asked
        if present_name(name) not in known
    ]
