"""What it costs a device to bring gradients and weights into their wire formats, and back.

Bytes that are read and written, over the rate of its quantizers, and a fixed time of each call;
copies and sums that are not quantized go at the rate of its memory. The calls are those of
``tasks.zero.wires``, ``quantize`` and ``error_feedback``, one by one:

- Smoothing (``hadamard``) is a pass of its own: values become float32, and are multiplied by a
  matrix. What is summed is turned back once, in a pass over the sum, and copied.
- With error feedback the error of last time is dequantized and added, what is left of the values is
  dequantized again to see what was lost, and the new error, averaged with the old one (which is
  dequantized once more), is quantized.
"""

from dataclasses import dataclass

from configs.topology import Device
from configs.transport import Transport

_GIGA = 1e9
_MICRO = 1e-6
_FLOAT_BYTES = 4
"""Quantizers compute in float32, and so does error feedback."""
REACHED_SHARE = 0.8
"""Of the bandwidth of memory, where a device does not say what its kernels reach."""


def memory_rate(device: Device) -> float | None:
    """Return the bytes a second that kernels read and write; None if nobody has said.

    Args:
        device: The device.
    """
    known = device.memory_gb_per_s
    return None if known is None else REACHED_SHARE * known * _GIGA


def quantize_rate(device: Device) -> float | None:
    """Return the bytes a second that quantizers read and write; None if nobody has said.

    Args:
        device: The device.
    """
    known = device.quantize_gb_per_s
    return memory_rate(device) if known is None else known * _GIGA


@dataclass(frozen=True)
class Values:
    """Values in a quantized format.

    Attributes:
        number: How many.
        packed_bytes: In the format, scales included.
        item: Bytes of one in plain form, before or after.
    """

    number: int
    packed_bytes: int
    item: int


@dataclass(frozen=True)
class CodingCosts:
    """Costs of formats on one device; all times are seconds.

    Attributes:
        device: The device.
        transport: Whether sums are smoothed, and errors fed back.
    """

    device: Device
    transport: Transport

    def quantize_s(self, values: Values) -> float:
        """Return the time to pack what is gathered.

        Args:
            values: Read as they are, written in the format.

        Raises:
            ValueError: The device has no rate of quantizers.
        """
        return self._call_s(values.number * values.item + values.packed_bytes)

    def dequantize_s(self, values: Values) -> float:
        """Return the time to unpack what was gathered.

        Args:
            values: Read in the format, written as they will be.

        Raises:
            ValueError: The device has no rate of quantizers.
        """
        return self._call_s(values.number * values.item + values.packed_bytes)

    def quantize_sums_s(self, values: Values, error_bytes: int) -> float:
        """Return the time to pack what is to be summed: smoothed, and with its error, if asked for.

        Args:
            values: Read as they are, written in the format.
            error_bytes: Of their errors, as they are kept between two train steps.

        Raises:
            ValueError: The device has no rate of quantizers.
        """
        if not self.transport.error_feedback:
            return self._smoothed_s(values) + self._packed_s(values)
        exact = Values(values.number, values.packed_bytes, _FLOAT_BYTES)
        errors = Values(values.number, error_bytes, _FLOAT_BYTES)
        # error += values; lost = sum - left; lost *= beta; lost += (1 - beta) error
        touched = (_FLOAT_BYTES * (2 + 3 + 2 + 3) + values.item) * values.number
        recalled = 2 * self.dequantize_s(errors) + self.quantize_s(errors)
        packed = self._smoothed_s(exact) + self._packed_s(exact) + self.dequantize_sums_s(exact)
        return recalled + packed + self.touching_s(touched)

    def dequantize_sums_s(self, values: Values) -> float:
        """Return the time to unpack what is summed, or the sum itself.

        Args:
            values: Read in the format, of all who send; written as one vector of so many.

        Raises:
            ValueError: The device has no rate of quantizers.
        """
        if not self.transport.hadamard:
            return self.dequantize_s(values)
        exact = Values(values.number, values.packed_bytes, _FLOAT_BYTES)
        copied = (_FLOAT_BYTES + values.item) * values.number
        return self.dequantize_s(exact) + self._smoothed_s(exact) + self.touching_s(copied)

    def touching_s(self, num_bytes: float) -> float:
        """Return the time of bytes in the device's memory; 0 where its bandwidth is not known.

        Args:
            num_bytes: Read and written.
        """
        rate = memory_rate(self.device)
        return 0.0 if rate is None else num_bytes / rate

    def _smoothed_s(self, values: Values) -> float:
        """Return the time of the pass that smooths; 0 without smoothing."""
        if not self.transport.hadamard:
            return 0.0
        return self._call_s((values.item + _FLOAT_BYTES) * values.number)

    def _packed_s(self, values: Values) -> float:
        """Return the time to pack what is smoothed, or as it is."""
        item = _FLOAT_BYTES if self.transport.hadamard else values.item
        return self._call_s(values.number * item + values.packed_bytes)

    def _call_s(self, num_bytes: float) -> float:
        rate = quantize_rate(self.device)
        if rate is None:
            raise ValueError("no rate of quantizers; cost_model.machine_faults says so")
        return _MICRO * self.device.quantize_us + num_bytes / rate
