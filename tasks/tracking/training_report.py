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


def setting_columns(axes: Sequence[str]) -> list[Column]:
    """Return the columns of how a training is laid out.

    Args:
        axes: Axes of the grid that have their own columns.

    Returns:
        Column heads, each with the text of a row; empty where a row has no value.
    """
    columns = [
        ("partition", _of_training(lambda one: one.partition)),
        ("ranks", _of_training(lambda one: str(one.ranks))),
    ]
    return [column for column in columns if column[0] not in axes]


def outcome_columns() -> list[Column]:
    """Return the columns of what trainings are compared by, beside their loss."""
    return [
        ("validation loss", _of_training(lambda one: number(one.validation_loss, 4))),
        ("tokens/s", _of_training(lambda one: scaled(one.tokens_per_s))),
        ("MFU", _of_training(lambda one: percent(one.mfu))),
    ]


def speed_columns() -> list[Column]:
    """Return the columns of what explains a training's speed."""
    return [
        ("TFLOPS", _of_training(lambda one: number(one.tflops, 3))),
        ("hardware TFLOPS", _of_training(_hardware_tflops)),
        ("waiting", _of_training(lambda one: percent(one.exposed_share))),
        ("peak memory", _of_training(lambda one: scaled(one.peak_bytes, "B"))),
    ]


def traffic_columns(rows: Sequence[Row]) -> list[Column]:
    """Return a column for each level of the machine: what came over it.

    Args:
        rows: The points.
    """
    measured = [row.training for row in rows if row.training]
    levels = dict.fromkeys(level for one in measured for level in one.bytes_per_step)
    return [(f"bytes over {level}", _of_training(_bytes_over(level))) for level in levels]


def _hardware_tflops(one: TrainingMeasures) -> str:
    """What is computed in all; the same, and no news, where nothing is computed again."""
    return "" if one.hardware_tflops == one.tflops else number(one.hardware_tflops, 3)


def _of_training(text: Callable[[TrainingMeasures], str]) -> Callable[[Row], str]:
    return lambda row: text(row.training) if row.training else ""


def _bytes_over(level: str) -> Callable[[TrainingMeasures], str]:
    return lambda one: scaled(one.bytes_per_step.get(level))
