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
    """Loss of the global model, mean over the workers' training data; of a training on ranks, mean
    over the tokens of the train steps since the previous line, each before its update."""
    TRAIN_GRAD_NORM = "train/grad_norm"
    """2-norm of the full gradient of the training loss at the global model; of a training on ranks,
    of the mean gradient before clipping, mean over the train steps since the previous line."""
    TRAIN_GRAD_SQ_NORM = "train/grad_sq_norm"
    """Its square, which the convergence theorems bound."""
    TRAIN_LR = "train/lr"
    """Learning rate of the line's train step."""
    TRAIN_SKIPPED = "train/skipped"
    """Train steps left out because their gradient was not finite; cumulative."""
    VALIDATION_LOSS = "validation/loss"
    """Mean loss over the tokens that are only validated on; on the lines where it was measured."""
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
    MEMORY_AGE_MEAN = "memory/age_mean"
    """Age of the returns that the server remembers, one a worker, in the update that made the
    model: rounds since the version that each was computed from; mean over all workers. One that has
    not returned counts from round 0. Of algorithms with a memory."""
    MEMORY_AGE_MAX = "memory/age_max"
    """The largest of these ages."""
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
    TOKENS_PER_S = "speed/tokens_per_s"
    """Tokens that all ranks together trained on in a second of train steps."""
    TFLOPS = "speed/tflops"
    """Model FLOPs of one device, in 10^12 a second: what the training needs, without what is
    computed again (``Gpt.model_flops``)."""
    HARDWARE_TFLOPS = "speed/hardware_tflops"
    """FLOPs that one device did, in 10^12 a second: with what is computed again."""
    MFU = "speed/mfu"
    """Model FLOPs over the device's peak for the dtype, in [0, 1]; where the topology tells it."""
    STEP_S = "time/step_s"
    """Wall time of a train step, mean since the previous line, without validation and saving."""
    COMPUTE_S = "time/compute_s"
    """Forward and backward passes of a train step on rank 0, without waiting for others; mean. Of
    DeepSpeed and FSDP2, which do not tell their waits, with them."""
    OPTIMIZER_S = "time/optimizer_s"
    """Update of the weights on rank 0, without waiting for others; mean over the train steps. Of
    DeepSpeed and FSDP2 with waiting."""
    STATE_BYTES = "memory/state_bytes"
    """Weights, gradients and optimizer states of a rank; the largest of all ranks."""
    PEAK_BYTES = "memory/peak_bytes"
    """Peak of a rank's memory, of its GPU or its process; the largest of all ranks."""
    TOKENS_TOTAL = "tokens/total"
    """Tokens of all train steps, skipped ones included; cumulative."""
    SAMPLES_TOTAL = "samples/total"
    """Samples of all stochastic gradients in the returns that came in time; cumulative."""


PARTITION_PREFIX = "partition/"
"""Prefix of a partition: returns taken from its workers; cumulative."""
REFUSED_PREFIX = "refused/"
"""Prefix of a reason: returns of real workers refused for it; cumulative."""
BYTES_PREFIX = "bytes/"
"""Prefix of a level of the machine: bytes that rank 0 got from others there in a train step, mean
since the previous line. Watershed's engine alone counts them."""
TEST_PREFIX = "test/"
"""Prefix of whatever a model measures on the test data."""


def exposed_metric(level: str) -> str:
    """Return the name of the time that rank 0 waited for collectives, per train step.

    Watershed's engine alone tells it.

    Args:
        level: The level of the machine that they were on.
    """
    return f"time/exposed_{level}_s"
