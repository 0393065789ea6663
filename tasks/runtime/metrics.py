"""Names of the metrics in ``metrics.jsonl``; engines write them, tracking reads them.

They are MLflow's names too: its charts are grouped by the part before the slash. What a model
measures on the test data, other than loss and accuracy, is named ``test/<name>``.
"""

from enum import StrEnum


class Metric(StrEnum):
    """A metric of one journal line.

    "Since the previous line" excludes what that line has counted; cumulative counts begin with
    the run and survive its restarts.
    """

    TRAIN_LOSS = "train/loss"
    """Loss of the global model, mean over the workers' training data."""
    TRAIN_GRAD_NORM = "train/grad_norm"
    """2-norm of the full gradient of the training loss at the global model."""
    TRAIN_GRAD_SQ_NORM = "train/grad_sq_norm"
    """Its square, which the convergence theorems bound."""
    TEST_LOSS = "test/loss"
    """Loss of the global model on the test data."""
    TEST_ACCURACY = "test/accuracy"
    """Share of the test samples that are right, in [0, 1]."""
    DELAY_MEAN = "delay/mean"
    """Mean delay of the returns used since the previous line, in rounds."""
    DELAY_MAX = "delay/max"
    """Largest delay of the returns used since the previous line, in rounds."""
    LOCAL_STEPS_MEAN = "local_steps/mean"
    """Mean number of local steps of the returns used since the previous line."""
    RETURNS_REFUSED = "returns/refused"
    """Returns refused because they were not finite, or, of real workers, unusable; cumulative."""
    RETURNS_DROPPED = "returns/dropped"
    """Returns dropped because they were older than the largest delay allowed; cumulative."""
    RETURNS_DUPLICATE = "returns/duplicate"
    """Returns of real workers that had been taken already, or after a later one; cumulative."""
    VIRTUAL_S = "time/virtual_s"
    """The simulator's clock, in virtual seconds; with real workers, seconds since the beginning."""
    WALL_S = "time/wall_s"
    """Wall time since the beginning of the run, in seconds."""
    SAMPLES_TOTAL = "samples/total"
    """Samples of all stochastic gradients in the returns that came in time; cumulative."""


PARTITION_PREFIX = "partition/"
"""Prefix of a partition: returns taken from its workers; cumulative."""
REFUSED_PREFIX = "refused/"
"""Prefix of a reason: returns of real workers refused for it; cumulative."""
TEST_PREFIX = "test/"
"""Prefix of whatever a model measures on the test data."""
