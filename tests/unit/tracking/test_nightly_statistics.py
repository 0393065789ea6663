"""Statistics of nights: what they promise, by hand calculations and by simulation."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.tracking.nightly_statistics import (
    Comparison,
    Rule,
    Sample,
    Verdict,
    compare,
    holm,
    student_outside,
    student_quantile,
)

_MARKS = {Verdict.WORSE, Verdict.BETTER}


def _one(tonight: Sequence[float], nights: Sequence[Sequence[float]], **rule: float) -> Comparison:
    (result,) = compare([Sample(tonight, nights, higher_is_better=True)], Rule(**rule))  # type: ignore[arg-type]
    return result


def _world(
    rng: np.random.Generator,
    *,
    num_nights: int,
    num_repeats: int,
    night: float,
    repeat: float,
    factor: float = 1.0,
    num_points: int = 1,
) -> list[Sample]:
    """Nights with effects of their own, half of them shared by all points; seeds with theirs."""
    shared = rng.standard_normal(num_nights + 1)
    samples = []
    for _ in range(num_points):
        own = rng.standard_normal(num_nights + 1)
        logs = 7.0 + night * (shared + own)[:, None] / math.sqrt(2)
        logs = logs + repeat * rng.standard_normal((num_nights + 1, num_repeats))
        values = np.exp(logs + 0.05 * np.arange(num_repeats))
        values[0] *= factor
        samples.append(Sample(values[0].tolist(), values[1:].tolist(), higher_is_better=True))
    return samples


# --- by hand --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("degrees", "outside", "quantile"),
    # Abramowitz and Stegun, table 26.10.
    [(1, 0.05, 12.706), (2, 0.05, 4.303), (4, 0.01, 4.604), (9, 0.05, 2.262), (30, 0.1, 1.697)],
)
def test_students_distribution(degrees: int, outside: float, quantile: float) -> None:
    """Quantiles are those of the tables, and their tails come back."""
    assert student_quantile(outside, degrees) == pytest.approx(quantile, abs=6e-4)
    assert student_outside(quantile, degrees) == pytest.approx(outside, rel=1e-3)


def test_holms_correction() -> None:
    """Sorted p-values times 3, 2, 1, never below one before, at most 1."""
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_ratio_is_that_of_the_median_night() -> None:
    """One night that was far off moves the reference as little as any other."""
    nights = [[100.0, 104.0], [101.0, 105.04], [99.0, 102.96], [150.0, 156.0], [100.0, 104.0]]

    assert _one([90.0, 93.6], nights).ratio == pytest.approx(0.9)


def test_no_earlier_night_and_one_cannot_tell() -> None:
    """However large the change: by how much nights differ is not known; the ratio is."""
    none, one = _one([1.0, 1.0], []), _one([50.0, 52.0], [[100.0, 104.0]])

    assert (none.verdict, none.ratio, none.reason) == ("cannot tell", None, "no earlier night")
    assert one.verdict == "cannot tell"
    assert one.ratio == pytest.approx(0.5)
    assert one.confidence is None
    assert "one earlier night" in one.reason


def test_two_nights_tell_little_and_say_so() -> None:
    """With one degree of freedom 8 % after nights 1 % apart is no regression; 60 % is."""
    nights = [[100.0], [101.0]]

    small, large = _one([92.0], nights), _one([40.0], nights)

    assert small.verdict == Verdict.CANNOT_TELL
    assert small.reason == "nights differ by as much"
    assert small.noticeable is not None
    assert small.noticeable > 0.1
    assert large.verdict == Verdict.WORSE


def test_single_repeats_are_compared_by_their_nights() -> None:
    """One run a night: the spread of nights is all that is needed."""
    nights = [[100.0], [101.0], [99.5], [100.5], [99.0]]

    assert _one([90.0], nights).verdict == Verdict.WORSE
    assert _one([110.0], nights).verdict == Verdict.BETTER
    assert _one([100.2], nights).verdict == Verdict.SAME


def test_repeats_that_agree_do_not_make_a_night_certain() -> None:
    """Tonight's repeats agree to 0.1 %, but nights differ by 5 %: 6 % is within the noise."""
    nights = [[x, 1.001 * x, 0.999 * x] for x in (100.0, 105.0, 95.0, 102.0, 97.0)]

    assert _one([94.0, 94.1, 93.9], nights).verdict == Verdict.CANNOT_TELL


def test_what_seeds_do_every_night_is_no_noise() -> None:
    """Seeds 10 % apart, nights equal to 0.1 %: 3 % is noticed."""
    nights = [[x, 1.1 * x, 0.9 * x] for x in (100.0, 100.1, 99.9, 100.05)]

    assert _one([97.0, 1.1 * 97.0, 0.9 * 97.0], nights).verdict == Verdict.WORSE


def test_values_equal_to_the_last_bit() -> None:
    """A deterministic loss is the same with certainty; a change beyond the least effect is one."""
    nights = [[2.5, 2.6]] * 3

    same, changed = _one([2.5, 2.6], nights), _one([2.6, 2.7], nights)

    assert (same.verdict, same.ratio) == (Verdict.SAME, 1.0)
    assert same.confidence == pytest.approx(1.0)
    assert changed.verdict == Verdict.BETTER


def test_a_small_change_is_none_however_certain() -> None:
    """1 % slower, known to 0.01 %: the same for a least effect of 2 %, not for one of 0.5 %."""
    nights = [[100.0, 100.01], [100.01, 100.0], [99.99, 100.0], [100.0, 99.99]]

    assert _one([99.0, 99.0], nights, least_effect=0.02).verdict == Verdict.SAME
    assert _one([99.0, 99.0], nights, least_effect=0.005).verdict == Verdict.WORSE


def test_nights_that_differ_wildly_are_not_the_same() -> None:
    """1 % off a median of nights that are half and twice as fast tells nothing about 2 %."""
    blind = _one([101.0], [[50.0], [200.0], [100.0]])

    assert blind.verdict == Verdict.CANNOT_TELL
    assert blind.reason == "nights differ by more than the least effect"
    assert blind.confidence is not None
    assert blind.confidence < 0.5


def test_better_is_lower_for_times_and_losses() -> None:
    """The same numbers, once of a speed and once of a time."""
    nights = [[100.0], [101.0], [99.5], [100.5]]
    rule = Rule()

    (speed,) = compare([Sample([80.0], nights, higher_is_better=True)], rule)
    (time,) = compare([Sample([80.0], nights, higher_is_better=False)], rule)

    assert (speed.verdict, time.verdict) == (Verdict.WORSE, Verdict.BETTER)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_what_is_no_ratio_cannot_be_told(value: float) -> None:
    """Values that are not above zero, or not finite, are said, not guessed at."""
    result = _one([value], [[1.0], [1.1], [0.9]])

    assert result.verdict == Verdict.CANNOT_TELL
    assert "not above zero" in result.reason


def test_uneven_repeats_are_refused() -> None:
    """The caller decides which repeats are compared."""
    with pytest.raises(ValueError, match="a value of each of tonight's repeats"):
        _one([1.0, 2.0], [[1.0]])


def test_many_points_need_more_certainty() -> None:
    """What is a regression alone is within the chances of a hundred points."""
    sample = Sample([95.2], [[100.0], [101.0], [99.5], [100.5], [99.0]], higher_is_better=True)
    still = Sample([100.0], sample.nights, higher_is_better=True)

    alone = compare([sample], Rule())[0]
    among = compare([sample, *[still] * 99], Rule())[0]

    assert (alone.verdict, among.verdict) == (Verdict.WORSE, Verdict.CANNOT_TELL)
    assert alone.noticeable is not None
    assert among.noticeable is not None
    assert among.noticeable > 2 * alone.noticeable


@pytest.mark.parametrize(
    ("tonight", "nights", "expected"),
    [
        # Nights 10 % apart, variance log(1.1)^2 / 2: tonight's own, and half of it for their mean.
        ([1.0], [[1.0], [1.1]], math.sqrt(1.5 / 2) * math.log(1.1)),
        # Equal nights. Repeats of the earlier ones are off by -+4 %, in turn, around what each seed
        # does: 4 deviations, one degree of freedom, variance 4 log(1.04)^2, of the mean of four of
        # them log(1.04)^2. Tonight's two are off by -+3 %: variance 2 log(1.03)^2, half for a mean.
        (
            [1.03, 2 / 1.03],
            [[1.04, 2 / 1.04], [1 / 1.04, 2 * 1.04]],
            math.hypot(math.log(1.04), math.log(1.03)),
        ),
    ],
)
def test_the_standard_error_equals_a_hand_calculation(
    tonight: list[float], nights: list[list[float]], expected: float
) -> None:
    """Of two nights, where the median is the mean; widened by 7 %, as nights that were worse go.

    The evidence for the 7 % are the simulated sequences of ``_WIDENED_BY``: to tell 6 % of marked
    nights from 5 % takes ten thousands of them, more than a test may.
    """
    one = _one(tonight, nights, num_resamples=50_000)

    assert one.low is not None
    assert one.high is not None
    # The interval's half is s times Student's quantile of one degree of freedom, 12.706. The error
    # of a standard deviation of 50,000 draws is 0.3 % at most.
    assert math.log(one.high / one.low) / 2 / 12.706 == pytest.approx(1.07 * expected, rel=0.015)


@pytest.mark.parametrize("least_effect", [0.0, 0.2])
@pytest.mark.parametrize("num_points", [1, 9])
def test_what_would_be_noticed_is_noticed(num_points: int, least_effect: float) -> None:
    """A change just above ``noticeable`` is marked, either way; one just below it is not.

    Also among nine comparisons, and where the least effect is above the noise.
    """
    nights = [[100.0], [101.0], [99.5], [100.5], [99.0]]
    still = [Sample([100.0], nights, higher_is_better=True)] * (num_points - 1)
    rule = Rule(least_effect=least_effect)

    def marked(factor: float) -> Comparison:
        return compare([Sample([100.0 * factor], nights, higher_is_better=True), *still], rule)[0]

    noticeable = marked(1.0).noticeable

    assert noticeable is not None
    above, below = 1 + 1.001 * noticeable, 1 + 0.999 * noticeable
    assert marked(above).verdict == Verdict.BETTER
    assert marked(1 / above).verdict == Verdict.WORSE
    assert {marked(below).verdict, marked(1 / below).verdict}.isdisjoint(_MARKS)


# --- properties -----------------------------------------------------------------------------------

_VALUE = st.floats(0.5, 2.0)
_SAMPLES = st.integers(1, 4).flatmap(
    lambda repeats: st.lists(
        st.lists(_VALUE, min_size=repeats, max_size=repeats), min_size=3, max_size=7
    )
)


def _close(first: Comparison, second: Comparison) -> bool:
    pairs = [(first.ratio, second.ratio), (first.low, second.low), (first.high, second.high)]
    return first.verdict == second.verdict and all(
        a is not None and b is not None and math.isclose(a, b, rel_tol=1e-6) for a, b in pairs
    )


@settings(max_examples=60)
@given(rows=_SAMPLES, factor=st.sampled_from([2.0**-20, 0.25, 8.0, 2.0**30]))
@example(rows=[[1.0, 2.0], [1.0, 0.5000000000000001], [2.0, 0.5]], factor=2.0**-20)
def test_units_do_not_matter(rows: list[list[float]], factor: float) -> None:
    """Tokens or millions of tokens: the same ratio, interval and mark."""
    scaled = [[factor * value for value in row] for row in rows]

    assert _close(_one(rows[0], rows[1:]), _one(scaled[0], scaled[1:]))


@settings(max_examples=60)
@given(rows=_SAMPLES, data=st.data())
def test_the_order_of_repeats_and_nights_does_not_matter(
    rows: list[list[float]], data: st.DataObject
) -> None:
    """Neither that of seeds, the same in all nights, nor that of nights."""
    columns = data.draw(st.permutations(range(len(rows[0]))))
    nights = data.draw(st.permutations(rows[1:]))
    mixed = [[row[column] for column in columns] for row in [rows[0], *nights]]

    assert _close(_one(rows[0], rows[1:]), _one(mixed[0], mixed[1:]))


@settings(max_examples=40)
@given(rows=_SAMPLES)
def test_a_speed_and_its_inverse_are_marked_alike(rows: list[list[float]]) -> None:
    """Tokens a second, higher is better, or seconds a token, lower is better."""
    inverse = [[1 / value for value in row] for row in rows]
    speed = _one(rows[0], rows[1:], least_effect=0.0)
    (time,) = compare(
        [Sample(inverse[0], inverse[1:], higher_is_better=False)], Rule(least_effect=0.0)
    )

    assert speed.ratio is not None
    assert time.ratio is not None
    assert speed.ratio * time.ratio == pytest.approx(1.0)
    # The bootstrap draws the inverse in another order, so a mark on the edge may be on one side
    # only; never is one of the two worse and the other better.
    assert len({speed.verdict, time.verdict} & _MARKS) < 2


@settings(max_examples=40)
@given(rows=_SAMPLES, seed=st.integers(0, 5))
def test_the_same_seed_gives_the_same_bits(rows: list[list[float]], seed: int) -> None:
    """A night that is judged twice has one verdict."""
    assert _one(rows[0], rows[1:], seed=seed) == _one(rows[0], rows[1:], seed=seed)


# --- simulations ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_nights", "num_repeats", "night", "repeat"),
    [(5, 3, 0.02, 0.01), (5, 3, 0.01, 0.02), (2, 1, 0.02, 0.0), (5, 1, 0.02, 0.01)],
)
def test_false_alarms_are_as_rare_as_stated(
    num_nights: int, num_repeats: int, night: float, repeat: float
) -> None:
    """Nothing has changed, nights have effects: in 5 % of nights at most any mark at four points.

    400 nights; 5 % and three standard errors are 8.3 %. No least effect helps.
    """
    rng = np.random.default_rng(17)
    rule = Rule(least_effect=0.0, num_resamples=300)

    marked = sum(
        any(
            one.verdict in _MARKS
            for one in compare(
                _world(
                    rng,
                    num_nights=num_nights,
                    num_repeats=num_repeats,
                    night=night,
                    repeat=repeat,
                    num_points=4,
                ),
                rule,
            )
        )
        for _ in range(400)
    )

    assert marked / 400 <= 0.083


def test_comparing_by_repeats_alone_would_not_keep_the_promise() -> None:
    """The same nights: a test that takes repeats for all noise raises an alarm in most of them."""
    rng = np.random.default_rng(17)
    alarms = 0
    for _ in range(200):
        (sample,) = _world(rng, num_nights=5, num_repeats=3, night=0.02, repeat=0.003)
        logs = np.log([sample.tonight, *sample.nights]) - 0.05 * np.arange(3)
        error = math.sqrt(logs[0].var(ddof=1) / 3 + logs[1:].var(axis=1, ddof=1).mean() / 15)
        alarms += abs(logs[0].mean() - logs[1:].mean()) > 2.45 * error

    assert alarms / 200 > 0.5


def test_a_slowdown_of_a_tenth_is_found() -> None:
    """Five nights, three repeats, four points, nights that vary by 1 %: 95 % of them at least."""
    rng = np.random.default_rng(4)
    found = total = 0
    for _ in range(100):
        samples = _world(
            rng, num_nights=5, num_repeats=3, night=0.01, repeat=0.01, factor=0.9, num_points=4
        )
        verdicts = [one.verdict for one in compare(samples, Rule(num_resamples=300))]
        found += verdicts.count(Verdict.WORSE)
        total += len(verdicts)

    assert found / total >= 0.95
