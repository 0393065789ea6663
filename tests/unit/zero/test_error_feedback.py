"""What quantization takes from a gradient comes with the next ones."""

import pytest
import torch

from tasks.zero.error_feedback import ErrorFeedback
from tasks.zero.quantize import dequantize, quantize
from tasks.zero.wires import Coder

CODER = Coder("int4", torch.float32, length=64, block_size=32)


def sent(errors: ErrorFeedback, gradient: torch.Tensor, num_steps: int) -> torch.Tensor:
    """Return the sum of what arrives of one gradient, sent again and again."""
    total, arriving = torch.zeros_like(gradient), torch.empty_like(gradient)
    for step in range(num_steps):
        errors.begin_step(step)
        CODER.decode(errors.encode("block", CODER, gradient), arriving)
        total += arriving
    return total


def test_errors_do_not_add_up() -> None:
    """Of 50 equal gradients no more is lost than of one; without feedback, 50 times as much."""
    gradient = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    arriving = torch.empty_like(gradient)
    CODER.decode(CODER.encode(gradient), arriving)
    once = (gradient - arriving).abs().max()

    error = (50 * gradient - sent(errors := _feedback(1000), gradient, 50)).abs().max()

    # With beta = 1 the sum telescopes: what is missing is the last error, besides the rounding of
    # the 50 errors kept in 8 bits, each at most 1/254 of an error.
    assert error < 2 * once * (1 + 50 / 254)
    assert error < 50 * once / 5
    assert errors.state_bytes == 3 * (64 + 2 * 4)


def _feedback(reset_steps: int) -> ErrorFeedback:
    return ErrorFeedback(block_size=32, beta=1.0, reset_steps=reset_steps)


def test_errors_are_forgotten_in_time() -> None:
    """Reset every step, it is as if there were no feedback; and gradients stay as they are."""
    gradient = torch.randn(2, 64, generator=torch.Generator().manual_seed(1))
    before, arriving = gradient.clone(), torch.empty_like(gradient)
    CODER.decode(CODER.encode(gradient), arriving)

    total = sent(_feedback(1), gradient, 3)

    assert torch.equal(total, arriving + arriving + arriving)
    assert torch.equal(gradient, before)


def test_errors_are_forgotten_at_the_first_of_every_few_steps() -> None:
    """Of seven steps with a reset every three, 0, 3 and 6 begin without an error."""
    errors = _feedback(3)
    gradient = torch.randn(2, 64, generator=torch.Generator().manual_seed(7))
    plain = CODER.encode(gradient)

    is_plain = []
    for step in range(7):
        errors.begin_step(step)
        is_plain.append(torch.equal(errors.encode("block", CODER, gradient), plain))

    assert is_plain == [True, False, False, True, False, False, True]


def test_each_key_has_errors_of_its_own() -> None:
    """What another gradient lost is not added."""
    errors = _feedback(1000)
    first, second = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(2))

    errors.encode("first", CODER, first)

    assert torch.equal(errors.encode("second", CODER, second), CODER.encode(second))
    assert not torch.equal(errors.encode("first", CODER, first), CODER.encode(first))


def test_a_format_without_loss_has_no_errors() -> None:
    """Full and bfloat16 go as they are, and nothing is kept."""
    errors = _feedback(1000)
    coder = Coder("bfloat16", torch.float32, length=64, block_size=32)
    gradient = torch.randn(1, 64, generator=torch.Generator().manual_seed(3))

    payload = errors.encode("block", coder, gradient)

    assert torch.equal(payload, coder.encode(gradient))
    assert errors.state_bytes == 0


def test_errors_are_moving_averages_kept_in_eight_bits() -> None:
    """The error becomes Q8((1 - beta) e + beta (h - Q(h))), with h = g + e, in every step."""
    errors = ErrorFeedback(block_size=32, beta=0.8, reset_steps=1000)
    generator = torch.Generator().manual_seed(4)
    expected = torch.zeros(2, 64)
    for _ in range(5):
        gradient = torch.randn(2, 64, generator=generator)
        compensated = gradient + expected
        left = torch.empty_like(compensated)
        CODER.decode(CODER.encode(compensated), left)

        payload = errors.encode("block", CODER, gradient)

        assert torch.equal(payload, CODER.encode(compensated))
        lost = (compensated - left) * 0.8
        lost = lost.add(expected, alpha=1 - 0.8)
        packed = quantize(lost, bits=8, block_size=32)
        expected = dequantize(packed, length=64, bits=8, block_size=32)
        assert torch.equal(errors.compensated("block", torch.zeros(2, 64)), expected)


def test_a_gradient_that_is_not_finite_leaves_no_trace() -> None:
    """The receiver sees it; later gradients are finite, and errors of other blocks are kept."""
    errors = _feedback(1000)
    gradient = torch.randn(1, 64, generator=torch.Generator().manual_seed(5))
    bad = gradient.clone()
    bad[0, 3] = float("inf")
    arriving = torch.empty_like(gradient)

    CODER.decode(errors.encode("block", CODER, bad), arriving)
    error = errors.compensated("block", torch.zeros(1, 64))

    assert bool(arriving[:, :32].isnan().all())
    assert error[:, :32].tolist() == [[0.0] * 32]
    assert float(error[:, 32:].abs().max()) > 0


def test_state_continues_where_it_was_taken() -> None:
    """After a checkpoint, the next payload is that of the undisturbed run, and not without it."""
    gradient = torch.randn(3, 64, generator=torch.Generator().manual_seed(6))
    undisturbed, resumed = _feedback(1000), _feedback(1000)
    undisturbed.encode("block", CODER, gradient)

    resumed.load_state_dict(undisturbed.state_dict())

    expected = undisturbed.encode("block", CODER, gradient)
    assert torch.equal(resumed.encode("block", CODER, gradient), expected)
    assert not torch.equal(CODER.encode(gradient), expected)


def test_an_error_of_another_shape_is_refused() -> None:
    """The message says which, and what to do."""
    errors = _feedback(1000)
    errors.encode("block", CODER, torch.ones(3, 64))

    with pytest.raises(ValueError, match=r"error of 'block'.*give each shape a key of its own"):
        errors.encode("block", CODER, torch.ones(2, 64))
