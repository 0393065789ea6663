"""What the cost model says of a training: a record that lies beside its ``job.json``."""

from pydantic import Field

from configs.base import Record


class Prediction(Record):
    """A train step of one training on one machine, predicted.

    Times are seconds of one train step as rank 0 would see it; the parts add up to ``step_s``.
    """

    step_s: float = Field(description="Wall time of a train step, s.")
    split_s: dict[str, float] = Field(
        description="Its parts by cause, s: compute, recompute, quantize (what encoding, decoding "
        "and adding up take of the computing time), interference (what moving takes of it), "
        "'waiting, LEVEL', sync, refresh, optimizer. Hidden traffic is in none of them."
    )
    tokens_per_s: float = Field(description="Of all ranks together.")
    tflops: float = Field(description="Model TFLOPS of one device.")
    hardware_tflops: float = Field(description="With what is computed again.")
    mfu: float | None = Field(description="Model FLOPs over the peak, where the peak is known.")
    bytes_per_step: dict[str, int] = Field(
        description="What a rank receives in a train step, by level of the machine."
    )
    memory_bytes: dict[str, int] = Field(
        description="Of a device: weights, secondary, gradients, optimizer, errors, gathered, "
        "activations."
    )
    peak_bytes: int = Field(description="Their sum.")
    fits: bool | None = Field(
        description="Whether that is in the device's memory; None where that is not known."
    )
    energy_j: float | None = Field(
        description="Of all devices in a train step, where their power is known."
    )
