"""How large a step may be before a run diverges: closed forms.

The model behind them is linear: every worker's return contracts towards its own optimum as
``s * (c - x)``, and the server moves by ``a = eta * eta_L`` times the returns that it has. With
returns of a constant delay d, averaged over a memory of G groups that take turns,

    x_{t+1} = x_t - (a s / G) * sum_{j < G} x_{t-d-j}

is stable up to ``a s = 2 G sin^2(w/2) / sin(G w/2)`` with ``w = pi / (2 d + G)``, where the first
root reaches the unit circle. G = 1 is P8 and d = 0 is P9 of the test battery.

CA2FL calibrates with the memory of before the update, and FedAsync and AREA average models of which
a share q = 1 - K eta_L s is left by the local steps, so that with eta the server's rate

    CA2FL     x_{t+1} = x_t - a s (x_{t-d} - x_{t-d-G} + (1/G) sum_{j=1..G} x_{t-d-j})
    FedAsync  x_{t+1} = x_t - eta (x_t - q x_{t-d})
    AREA      x_{t+1} = x_t - eta (x_t - (q/G) sum_{j < G} x_{t-d-j})

Each has the form x_{t+1} = x_t - eta R x, and is stable for small eta. Its limit is the smallest
eta at which z - 1 + eta R(z) has a root z = e^{iw} on the unit circle: where (1 - z) / R(z) is real
and above zero, which ``crossings`` finds along w.

Symbols: M workers, m returns a round, K local steps, h the curvature of a worker's loss.
"""

import cmath
import math
from collections.abc import Callable, Iterator

_LEAST_SCANNED, _LONGEST_SCANNED = 256, 10_000
_SCANNED_A_ROUND = 8
_NO_RESPONSE = 1e-9
_BISECTIONS = 50


def step_limit(delay: float, groups: float) -> float:
    """Return the largest stable ``a * s`` with a constant delay and a memory.

    Args:
        delay: d, age of every return at its arrival, in rounds, at least 0.
        groups: G = M / m, groups of workers in the memory that take turns; 1 without memory.
            Where m does not divide M, the limit is somewhat lower than the true one.

    Returns:
        The limit; at 2 or below for whole numbers of groups.
    """
    frequency = math.pi / (2 * delay + groups)
    return 2 * groups * math.sin(frequency / 2) ** 2 / math.sin(groups * frequency / 2)


def delay_step_limit(delay: float) -> float:
    """Return the largest stable ``a * s`` with a constant delay: P8, 2 sin(pi / (2 (2d + 1))).

    Args:
        delay: d, in rounds, at least 0.

    Returns:
        The limit, at most 2.
    """
    return step_limit(delay, 1)


def calibrated_step_limit(delay: float, groups: float) -> float:
    """Return the largest stable ``a * s`` of CA2FL.

    Args:
        delay: d, in rounds, at least 0.
        groups: G = M / m, groups of workers that take turns, at least 1.

    Returns:
        The limit; that of a constant delay where G is 1.
    """

    def response(z: complex) -> complex:
        remembered = _mean_of_turns(z, groups) / z
        return complex(z**-delay * (1 - z**-groups + remembered))

    # The first is the smallest here, and a long memory need not be scanned to its end.
    return next(crossings(response, delay + groups), math.inf)


def averaging_rate_limit(delay: float, groups: float, left: float) -> float:
    """Return the largest stable ``server_lr`` of FedAsync (G = 1) and AREA, that average models.

    Args:
        delay: d, in rounds, at least 0.
        groups: G = M / m of AREA, groups of workers that take turns; 1 for FedAsync.
        left: q, share of the distance from a worker's optimum that its local steps leave, below 1;
            below 0 where they go beyond.

    Returns:
        The limit; at least 1 for q between -1 and 1.
    """

    def response(z: complex) -> complex:
        return complex(1 - left * z**-delay * _mean_of_turns(z, groups))

    # A longer memory averages what it has to nothing, but at the lowest frequencies.
    memory = min(delay + groups, _LONGEST_SCANNED)
    return min(crossings(response, memory), default=math.inf)


def crossings(response: Callable[[complex], complex], memory: float) -> Iterator[float]:
    """Find where roots of z - 1 + eta R(z) lie on the unit circle.

    Args:
        response: R, real at z = 1 and above 0 there.
        memory: Rounds that R reaches back: how fast its phase turns along the circle.

    Yields:
        Each eta > 0, by the frequency of its root.
    """

    def ratio(frequency: float) -> complex:
        z = cmath.exp(1j * frequency)
        found = response(z)
        return (1 - z) / found if abs(found) > _NO_RESPONSE else complex(math.inf)

    steps = max(round(_SCANNED_A_ROUND * (memory + 1)), _LEAST_SCANNED)
    low, before = 0.0, 0j
    for step in range(1, steps):
        high = math.pi * step / steps
        found = ratio(high)
        if before.imag * found.imag < 0:
            at_root = ratio(_root(lambda frequency: ratio(frequency).imag, low, high))
            if 0 < at_root.real < 1 / _NO_RESPONSE:  # beyond it was a pole that changed the sign
                yield at_root.real
        low, before = high, found
    at_minus_one = ratio(math.pi)
    if 0 < at_minus_one.real < math.inf and abs(at_minus_one.imag) < _NO_RESPONSE:
        yield at_minus_one.real


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Bisect a change of sign."""
    is_below = function(low) < 0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if (function(middle) < 0) == is_below:
            low = middle
        else:
            high = middle
    return high


def _mean_of_turns(z: complex, groups: float) -> complex:
    """(1/G) sum_{j < G} z^-j, also for a G that is not whole."""
    return complex((1 - z**-groups) / (groups * (1 - 1 / z))) if z != 1 else complex(1)


def contraction(curvature: float, lr: float, steps: int) -> float:
    """Return s(K) = (1 - (1 - lr h)^K) / (lr K): by how much a normalised return contracts.

    Args:
        curvature: h, above 0.
        lr: eta_L, above 0.
        steps: K, at least 1.

    Returns:
        The contraction; tends to h as lr falls.
    """
    product = lr * curvature
    if product < 1:  # without cancellation, also for tiny rates
        return -math.expm1(steps * math.log1p(-product)) / (lr * steps)
    return (1 - (1 - product) ** steps) / (lr * steps)
