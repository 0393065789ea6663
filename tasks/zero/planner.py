"""Which partition, formats and passes train a model fastest on a machine, without torch.

The search is over every partition that nests with the machine, times the formats that can be
best, times the ways through the batch (micro-batch, recomputation, prefetch). What fits in memory
may be millions of candidates; a bound of the step time (``planning.bounds``) orders them, and
thousands are timed on a shallow model, until nothing better is possible. The best of them are timed
on the whole model, and what is told of the best and of the named rows is the cost model's own
prediction.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from configs.base import Fault
from configs.sharding import ROWS, Partition, named_partition
from configs.training_memory import least_ranks, predicted_memory
from configs.transport import TRANSPORTS, Transport, named_transport
from tasks.zero.cost_model import machine_faults, predict
from tasks.zero.planning.candidates import Candidates, skyline
from tasks.zero.planning.plans import Choice, NamedChoice, Plan, PlanError, Wish
from tasks.zero.planning.search import Found, Search
from tasks.zero.planning.space import (
    MOST_ACCUMULATION,
    TIE,
    Ints,
    all_passes,
    expressible,
    num_rounded,
    passing,
    searched_transports,
)
from tasks.zero.planning.worse_network import worse_levels, worse_steps

_ROUNDING = 1e-9
_STEP_OF_FRONT = 0.9
"""Share of the memory below which a point of the front is another one."""
_MOST_FRONT = 10
_LEANEST = {"partition": "zero3", "micro_batch": 1, "recompute": True, "prefetch": 0}
"""What needs least memory: everything split over all devices."""


def plan(wish: Wish) -> Plan:
    """Find the fastest training that fits.

    Args:
        wish: What is to be planned.

    Returns:
        The plan.

    Raises:
        PlanError: The machine's file lacks numbers, nothing fits, or the batch is too small.
    """
    if faults := list(_faults(wish)):
        raise PlanError(faults)
    search = _search(wish, wish.prefetches)
    if not search.num_fitting:
        search = _search(wish, (0,))
    if not search.num_fitting:
        raise PlanError([_memory_fault(wish)])
    rows = _rows(wish)
    found = search.run(list(rows.values()))
    return _on_worse_network(_plan(wish, search, rows, found))


def _search(wish: Wish, prefetches: Sequence[int]) -> Search:
    return Search(
        wish.base,
        all_passes(wish.sequences, prefetches),
        searched_transports(wish.base, is_exact=wish.is_exact),
        list(_named(wish).values()),
        wish.memory_bytes,
    )


def _plan(
    wish: Wish, search: Search, rows: Mapping[tuple[str, ...], Partition], found: Found
) -> Plan:
    named = _named_choices(wish, search, rows, found.timed)
    best = _best(search, found.timed, [one.choice.step_s for one in named])
    prediction = predict(best.experiment)
    best = replace(best, step_s=prediction.step_s)
    if faster := [one for one in named if one.prediction.step_s < prediction.step_s]:
        first = min(faster, key=lambda one: one.prediction.step_s)  # by rounding alone
        best, prediction = first.choice, first.prediction
    fitting = {names for one in named for names in one.names}
    num_formats = len(search.searched)
    return Plan(
        best=best,
        prediction=prediction,
        listed=_choices(search, found.timed.first_of(found.timed.partition, 1), wish.num_best),
        rows=named,
        too_large=[name for names in rows for name in names if name not in fitting],
        front=_front(search, found.timed, best),
        num_partitions=search.num_partitions,
        num_candidates=search.num_partitions * search.num_passes * num_formats,
        num_fitting=search.num_fitting * num_formats,
        num_timed=len(found.timed),
        possible_gain=max(0.0, best.step_s / found.least_s - 1),
    )


def _on_worse_network(found: Plan) -> Plan:
    """Time on a worse network what a plan shows."""
    base = found.best.experiment
    levels = worse_levels(base.topology, base.ranks)
    if not levels:
        return found
    shown = [found.best, *found.listed, *(row.choice for row in found.rows)]
    steps = iter(worse_steps([one.experiment for one in shown]))

    def timed(choice: Choice) -> Choice:
        return replace(choice, worse_s=next(steps))

    return replace(  # in the order of ``shown``
        found,
        best=timed(found.best),
        listed=[timed(one) for one in found.listed],
        rows=[replace(row, choice=timed(row.choice)) for row in found.rows],
        worse_levels=levels,
    )


def _front(search: Search, timed: Candidates, best: Choice) -> list[Choice]:
    """Return the best one, and what needs less memory and is beaten in neither respect.

    The best one may be beaten by what is faster by less than a tie, and rounds more.
    """
    front = timed.take(skyline(timed.step_s, search.memory_of(timed)))
    leaner = front.take(search.memory_of(front) < best.memory_bytes)
    spread = _spread(search.memory_of(leaner), best.memory_bytes)
    return [best, *_choices(search, leaner.take(spread), _MOST_FRONT - 1)]


def _spread(memory: Ints, most: int) -> Ints:
    """Leave out of a front what has nearly the memory of the one before it; keep its end.

    Args:
        memory: Of its points, descending, shape (n,).
        most: Memory of what stands before them.

    Returns:
        Numbers of what is kept, ascending.
    """
    if not len(memory):
        return np.empty(0, dtype=np.int64)
    step = min(_STEP_OF_FRONT, (memory[-1] / most) ** (1 / (_MOST_FRONT - 1)))
    kept: list[int] = []
    for number, needed in enumerate(memory):
        if needed < step * (memory[kept[-1]] if kept else most):
            kept.append(number)
    last = len(memory) - 1
    return np.array(kept if kept and kept[-1] == last else [*kept, last], dtype=np.int64)


def _faults(wish: Wish) -> Iterator[Fault]:
    base = wish.base
    least = base.ranks * base.sequence
    if wish.batch_tokens < least:
        message = f"{wish.batch_tokens:,} tokens are less than a sequence of {base.sequence:,} "
        message += f"tokens for each of {base.ranks:,} devices; use {least:,} or more, or fewer "
        yield Fault(path="batch_tokens", message=f"{message}devices")
    if wish.sequences > MOST_ACCUMULATION:
        most = MOST_ACCUMULATION * least
        message = f"{wish.batch_tokens:,} tokens are {wish.sequences:,} sequences for each device; "
        yield Fault(path="batch_tokens", message=f"{message}use {most:,} tokens at most")
        return
    lean = base.model_copy(update=_LEANEST)
    if predicted_memory(lean).total > wish.memory_bytes:
        yield _memory_fault(wish)
    found: dict[Fault, None] = {}
    for row in ("zero3", "zero_topo") if base.engine == "ours" else ("zero3",):
        transport = Transport() if wish.is_exact else named_transport("zeropp")
        asked = base.model_copy(update={"partition": row, "transport": transport})
        found |= dict.fromkeys(
            one.model_copy(update={"related": ()}) for one in machine_faults(asked)
        )
    yield from found


def _memory_fault(wish: Wish) -> Fault:
    """Say how many devices would do, with everything split over all of them."""
    base, has = wish.base, wish.memory_bytes
    least = least_ranks(base.model_copy(update=_LEANEST), has)
    message = f"{base.model.num_parameters:,} parameters do not fit on {base.ranks:,} devices of "
    message += f"{has / 1e9:.3g} GB, however they are split; "
    if least is None:
        message += "no number of devices would do, for one block with its activations is too "
        message += "large; use a smaller model, a shorter sequence, or devices with more memory"
    elif least <= base.ranks:
        message += f"engine {base.engine} cannot split them further; use engine ours"
    else:
        message += f"{least:,} devices are the fewest that would do"
    return Fault(path="devices", message=message)


def _named(wish: Wish) -> dict[str, Transport]:
    """Return the named formats that the engine has, and that the wish allows."""
    named = {name: named_transport(name) for name in TRANSPORTS}
    if wish.is_exact:
        named = {"full": named["full"]}
    zero3 = {"partition": "zero3"}
    return {
        name: one
        for name, one in named.items()
        if expressible(wish.base.model_copy(update=zero3 | {"transport": one}))
    }


def _rows(wish: Wish) -> dict[tuple[str, ...], Partition]:
    """Return the named rows; what is the same on this machine stands together."""
    names: dict[Partition, list[str]] = {}
    for row in ROWS:
        partition = named_partition(row, wish.base.topology, wish.base.ranks)
        if not list(partition.faults(wish.base.ranks, "")):
            names.setdefault(partition, []).append(row)
    return {tuple(same): partition for partition, same in names.items()}


def _named_choices(
    wish: Wish, search: Search, rows: Mapping[tuple[str, ...], Partition], whole: Candidates
) -> list[NamedChoice]:
    named = list(_named(wish))
    of_rows = whole.take(whole.transport >= len(search.searched))
    best = of_rows.first_of(of_rows.partition, 1)
    chosen = []
    for number, choice in enumerate(_choices(search, best, len(best))):
        same = next(names for names, one in rows.items() if one == choice.experiment.partition)
        name = named[best.transport[number] - len(search.searched)]
        prediction = predict(choice.experiment)
        told = replace(choice, step_s=prediction.step_s)
        chosen.append(NamedChoice(same, name, told, prediction))
    return sorted(chosen, key=lambda one: one.choice.step_s)


def _best(search: Search, whole: Candidates, rows_s: Sequence[float]) -> Choice:
    """Choose the simplest of those that are as good as the fastest."""
    limit = min([(1 + TIE) * whole.step_s[0], *((1 + _ROUNDING) * one for one in rows_s)])
    equal = whole.take(whole.step_s <= max(limit, whole.step_s[0]))
    memory = search.memory_of(equal)

    def cost(number: int) -> tuple[int, int, float]:
        transport = search.transports[equal.transport[number]]
        return num_rounded(transport), int(memory[number]), float(equal.step_s[number])

    return _choice(search, equal, min(range(len(equal)), key=cost))


def _choices(search: Search, some: Candidates, most: int) -> list[Choice]:
    return [_choice(search, some, number) for number in range(min(most, len(some)))]


def _choice(search: Search, some: Candidates, number: int) -> Choice:
    update = {
        "partition": search.parts.partition(int(some.partition[number])),
        "transport": search.transports[some.transport[number]],
    }
    experiment = passing(search.base, search.passes[some.passes[number]])
    return Choice(
        experiment=experiment.model_copy(update=update),
        step_s=float(some.step_s[number]),
        memory_bytes=int(search.memory_of(some.take(slice(number, number + 1)))[0]),
    )
