"""What a plan does not know: links that nobody has measured, and its choice on a worse network."""

from collections.abc import Iterator, Sequence

from configs.topology import Link, Topology, shipped_topologies
from tasks.zero.planning.plans import Choice, Plan, Wish, fastest_when_worse
from tasks.zero.planning.worse_network import LATENCY_US, SHARE, crossed_levels


def cautions(wish: Wish, plan: Plan) -> list[str]:
    """Say what has to be known before a plan is relied on; empty where nothing has.

    Args:
        wish: What was planned.
        plan: What was found.

    Returns:
        Sentences: peaks instead of measured links, another prefetch than the machine's file was
        fitted with or than was asked for, and what becomes of the best one on a worse network.
    """
    return [*_peaks(wish), *_prefetch(wish, plan), *_on_worse_network(plan)]


def without_latency(wish: Wish) -> list[str]:
    """Name the levels that the job crosses without latency, from the innermost.

    Args:
        wish: What was planned.
    """
    return [name for name, link in _crossed(wish) if not link.latency_us]


def at_peak(wish: Wish) -> list[str]:
    """Name the levels that the job crosses at their peak, from the innermost.

    A bandwidth with a latency is taken for a measured one, as ``watershed calibrate`` writes it:
    without an efficiency.

    Args:
        wish: What was planned.
    """
    found = _crossed(wish)
    return [name for name, link in found if link.efficiency == 1 and not link.latency_us]


def _crossed(wish: Wish) -> list[tuple[str, Link]]:
    topology = wish.base.topology
    links = [(name, topology.link(name)) for name in crossed_levels(topology, wish.base.ranks)]
    return [(name, link) for name, link in links if link is not None]


def _peaks(wish: Wish) -> Iterator[str]:
    levels, peaks = without_latency(wish), at_peak(wish)
    if not levels:
        return
    topology = wish.base.topology
    of_peaks = ""
    if peaks:
        which = "for all" if peaks == levels else f"for {_and(peaks)}"
        of_peaks = f", and {which} the peak bandwidth"
    yield (
        f"Caution: the file of {topology.name} gives no latency for {_and(levels)}{of_peaks}. "
        "Splits over all devices look better here than they are. "
        f"{_better(topology)} before you rely on the order."
    )


def _better(topology: Topology) -> str:
    calibrated = f"{topology.name}-calibrated"
    other = f", or plan on {calibrated}," if calibrated in shipped_topologies() else ""
    return f"Measure the links with watershed calibrate{other}"


def _prefetch(wish: Wish, plan: Plan) -> Iterator[str]:
    topology, used = wish.base.topology, plan.best.experiment.prefetch
    fitted = topology.fitted_prefetch
    if used not in wish.prefetches:
        asked = _or([str(one) for one in wish.prefetches])
        yield f"With prefetch {asked} nothing fits: this is planned with {used}."
    if fitted is not None and used != fitted:
        yield (
            f"Caution: the links of {topology.name} were fitted to published speeds with prefetch "
            f"{fitted}, and the best one has {used}: its time promises nothing. --prefetch "
            f"{fitted} plans as it was fitted."
        )


def _on_worse_network(plan: Plan) -> Iterator[str]:
    if not plan.worse_levels:
        return
    best, first = plan.best, plan.best_when_worse()
    where = (
        f"On a worse network ({_and(plan.worse_levels)}: {SHARE:g} of the bandwidth, "
        f"{LATENCY_US:g} us more a message)"
    )
    rows = [row.choice for row in plan.rows]
    if first is best:
        told = f"{where} the best one stays first of what is shown, with {_seconds(best)} a step."
    else:
        told = f"{where} the order of what is shown changes: {_overtaken(plan, best, first)}"
    row = fastest_when_worse(rows[0], rows) if rows and first not in rows else first
    if row is not first and row is not rows[0]:
        told += f" Of the named rows {_overtaken(plan, rows[0], row)}"
    yield told


def _overtaken(plan: Plan, ahead: Choice, there: Choice) -> str:
    """Say by how much one is overtaken on the worse network by another that it is ahead of."""
    loss = ahead.at_worst_s / there.at_worst_s
    return (
        f"{named(plan, there)} is first there, with {_seconds(there)} a step; {named(plan, ahead)} "
        f"takes {_seconds(ahead)} there, {loss:.3g} times as long, and with the links of the file "
        f"is {there.step_s / ahead.step_s:.3g} times as fast."
    )


def named(plan: Plan, choice: Choice) -> str:
    """Return how a choice is called: as its row, or by its degrees.

    Args:
        plan: What was found.
        choice: One of it.
    """
    for row in plan.rows:
        if row.choice == choice:
            return f"{' = '.join(row.names)} ({row.transport})"
    return " | ".join(str(degree) for degree in choice.experiment.degrees.model_dump().values())


def _seconds(choice: Choice) -> str:
    return f"{choice.at_worst_s:.4g} s"


def _and(words: Sequence[str]) -> str:
    return _joined(words, "and")


def _or(words: Sequence[str]) -> str:
    return _joined(words, "or")


def _joined(words: Sequence[str], word: str) -> str:
    *most, last = words
    return f"{', '.join(most)} {word} {last}" if most else last
