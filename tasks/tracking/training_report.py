"""What the report of a study of trainings says beside what every report says."""

from collections.abc import Callable, Sequence

from tasks.tracking.rows import Row
from tasks.tracking.tables import Column, number, percent, scaled
from tasks.tracking.training_rows import TrainingMeasures

TRAINING_NOTE = (
    "Speeds, waiting and bytes are medians over the lines of the journal. TFLOPS are of one device "
    "and count what the training needs; hardware TFLOPS count what is computed again, too. Waiting "
    "is the share of a train step in which rank 0 waited for collectives; bytes are what a rank "
    "got from others in a train step, by the level of the machine that they came over."
)


def training_columns(rows: Sequence[Row], axes: Sequence[str]) -> list[Column]:
    """Return the columns of what only a training on ranks measures.

    Args:
        rows: The points.
        axes: Axes of the grid that have their own columns.

    Returns:
        Column heads, each with the text of a row; empty where a row has no value.
    """
    measured = [row.training for row in rows if row.training]
    levels = dict.fromkeys(level for one in measured for level in one.bytes_per_step)
    columns: list[tuple[str, Callable[[TrainingMeasures], str]]] = [
        ("partition", lambda one: "" if "partition" in axes else one.partition),
        ("ranks", lambda one: "" if "ranks" in axes else str(one.ranks)),
        ("validation loss", lambda one: number(one.validation_loss, 4)),
        ("tokens/s", lambda one: scaled(one.tokens_per_s)),
        ("TFLOPS", lambda one: number(one.tflops, 3)),
        ("hardware TFLOPS", lambda one: number(one.hardware_tflops, 3)),
        ("MFU", lambda one: percent(one.mfu)),
        ("waiting", lambda one: percent(one.exposed_share)),
        *((f"B/step, {level}", _bytes_over(level)) for level in levels),
        ("peak memory", lambda one: scaled(one.peak_bytes, "B")),
    ]
    return [(name, _of_training(text)) for name, text in columns]


def _of_training(text: Callable[[TrainingMeasures], str]) -> Callable[[Row], str]:
    return lambda row: text(row.training) if row.training else ""


def _bytes_over(level: str) -> Callable[[TrainingMeasures], str]:
    return lambda one: scaled(one.bytes_per_step.get(level))
