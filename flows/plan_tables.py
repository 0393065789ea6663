"""What ``watershed plan-training`` prints: tables, reasons, and the same for machines."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from configs.transport import Transport
from flows.plan_cautions import cautions
from tasks.runtime.prediction import Prediction
from tasks.zero.planning.plans import Choice, NamedChoice, Plan, Wish
from tasks.zero.planning.space import num_rounded

_WIRES = {"full": "-", "bfloat16": "16", "int8": "8", "int4": "4"}
LEGEND = (
    "Over how many ranks forward weights, backward weights, gradients and optimizer are split; "
    "bits on the wire of weights, gradients in a node, sums across nodes and refreshed weights, - "
    "as they are; micro-batch x accumulation; reuse: later micro-batches gather from the backward "
    "copy; worse: a step on a worse network."
)
ROUNDS = (
    "It rounds on the wire, which the training has to bear (docs/convergence.md); --exact plans "
    "without."
)
FRONT = (
    "Less memory, less speed: nothing that was timed beats these in both (0.1 % of speed is a tie)"
)
_COLUMNS = ("f | b | g | o", "w|g|s|r", "batch", "besides")
_WORSE = "worse, s"
_NUMBERS = ("tokens/s", "step, s", _WORSE, "TFLOPS", "GB")
_MOST_REASONS = 3
_NOTABLE_SHARE = 1e-3
"""Of the step time: what is less is no reason."""
_EQUAL_SHARE = 1e-3
_ALWAYS_COMPARED = ("zero3", "zeropp", "zero_topo")


def print_training_plan(console: Console, wish: Wish, plan: Plan) -> None:
    """Print a plan.

    Args:
        console: Where to.
        wish: What was planned.
        plan: What was found.
    """

    def line(text: str = "", style: str = "", indent: int = 0) -> None:
        shown = Text(text, style)
        console.print(Padding(shown, (0, 0, 0, indent), expand=False) if text else "")

    for text in headlines(wish, plan):
        line(text)
    for text in cautions(wish, plan):
        line()
        line(text, "bold")
    line()
    line("The fastest, best of each partition", "bold")
    line(LEGEND)
    console.print(_ranking(ranked(plan)))
    line("Named rows on the same batch, each with its best named formats and passes", "bold")
    console.print(_named_rows(plan))
    if plan.too_large:
        line(f"Do not fit: {', '.join(plan.too_large)}.")
        line()
    line(FRONT, "bold")
    console.print(_ranking(plan.front, has_worse=False))
    line("Why", "bold")
    for text in reasons(plan):
        line(text.lstrip(), indent=4 if text.startswith(" ") else 2)
    if num_rounded(plan.best.experiment.transport):
        line()
        line(ROUNDS)


def reasons(plan: Plan) -> list[str]:
    """Say by what the best one is faster than named rows.

    Args:
        plan: What was found.

    Returns:
        Sentences: times of a step, what of them is saved, and bytes a device by level.
    """
    compared = [
        row
        for number, row in enumerate(plan.rows)
        if number == 0 or set(row.names) & set(_ALWAYS_COMPARED)
    ]
    told: list[str] = []
    for row in compared:
        told += _against(plan, row)
    return told or ["No named row fits, so there is none to compare with."]


def headlines(wish: Wish, plan: Plan) -> list[str]:
    """Say what was planned, and what was searched for it; ``cautions`` belong to it.

    Args:
        wish: What was planned.
        plan: What was found.
    """
    return [*_head(wish, plan), _searched(plan)]


def ranked(plan: Plan) -> list[Choice]:
    """List the best of each partition, the fastest first.

    Args:
        plan: What was found.
    """
    return [plan.best, *_others(plan)]


def as_cells(choice: Choice) -> dict[str, str]:
    """Return a choice as a row of a table: column -> text.

    Args:
        choice: One way to train.
    """
    texts = zip(_COLUMNS, _how(choice), strict=True)
    return dict(texts) | dict(zip(_NUMBERS, _measures(choice), strict=True))


def _head(wish: Wish, plan: Plan) -> Iterator[str]:
    base, best = wish.base, plan.best.experiment
    size = base.model.num_parameters / 1e9
    yield (
        f"{base.model.preset} ({size:.3g} billion parameters) on {base.ranks:,} devices of "
        f"{base.topology.name}, {wish.memory_bytes / 1e9:.3g} GB each"
    )
    tokens = best.tokens_per_step
    asked = "" if tokens == wish.batch_tokens else f" ({wish.batch_tokens:,} were asked for)"
    each = best.micro_batch * best.accumulation
    yield (
        f"Batch: {tokens:,} tokens{asked}: {each} sequence{'s' if each > 1 else ''} of "
        f"{base.sequence:,} a device, {base.dtype}"
    )


def _searched(plan: Plan) -> str:
    gain = plan.possible_gain
    rest = f"faster by more than {100 * gain:.2g} %" if gain > _EQUAL_SHARE else "faster"
    return (
        f"{plan.num_partitions:,} partitions with all formats and passes are "
        f"{plan.num_candidates:,} candidates; {plan.num_fitting:,} fit, {plan.num_timed:,} were "
        f"timed, and none of the rest is {rest}. All numbers are predictions."
    )


def _others(plan: Plan) -> list[Choice]:
    """Leave the best one out of the list, where its partition stands for itself."""
    best = plan.best.experiment.degrees
    listed = [one for one in plan.listed if one.experiment.degrees != best]
    return listed[: max(0, len(plan.listed) - 1)]


def _ranking(choices: Sequence[Choice], *, has_worse: bool = True) -> Table:
    numbers = _NUMBERS if has_worse else [number for number in _NUMBERS if number != _WORSE]
    table = _table(_COLUMNS, numbers)
    for choice in choices:
        cells = as_cells(choice)
        table.add_row(*(cells[column] for column in (*_COLUMNS, *numbers)))
    return table


def _named_rows(plan: Plan) -> Table:
    table = _table(("row", "formats", "batch", "besides"), _NUMBERS)
    for row in plan.rows:
        _, _, batch, besides = _how(row.choice)
        table.add_row(" = ".join(row.names), row.transport, batch, besides, *_measures(row.choice))
    return table


def _table(texts: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for text in texts:
        table.add_column(text, overflow="fold")
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table


def _how(choice: Choice) -> tuple[str, str, str, str]:
    one = choice.experiment
    degrees = " | ".join(str(degree) for degree in one.degrees.model_dump().values())
    besides = [
        *(["recompute"] if one.recompute else []),
        *([f"prefetch {one.prefetch}"] if one.prefetch != 1 else []),
        *(["reuse"] if one.transport.reuse_secondary else []),
    ]
    batch = f"{one.micro_batch} x {one.accumulation}"
    return degrees, _wires(one.transport), batch, ", ".join(besides)


def _wires(transport: Transport) -> str:
    wires = (transport.weights, transport.gradients, transport.sync, transport.refresh)
    return "|".join(_WIRES[wire] for wire in wires)


def _measures(choice: Choice) -> tuple[str, str, str, str, str]:
    return (
        f"{choice.tokens_per_s:,.0f}",
        f"{choice.step_s:.4g}",
        "-" if choice.worse_s is None else f"{choice.worse_s:.4g}",
        f"{choice.tflops:.4g}",
        f"{choice.memory_bytes / 1e9:.1f}",
    )


def _against(plan: Plan, row: NamedChoice) -> Iterator[str]:
    best, other = plan.prediction, row.prediction
    times = other.step_s / best.step_s
    name = f"{' = '.join(row.names)} ({row.transport})"
    if times < 1 + _EQUAL_SHARE:
        yield f"{name} is as fast."
        return
    seconds = f"{best.step_s:.4g} s a step, not {other.step_s:.4g}"
    yield f"{times:.3f} times as fast as {name}: {seconds}."
    if saved := list(_saved(best, other)):
        yield f"  Less time: {'; '.join(saved)}."
    levels = plan.best.experiment.topology.level_names()
    yield f"  Bytes a device and step: {_bytes(best, other, levels)}."


def _saved(best: Prediction, other: Prediction) -> Iterator[str]:
    causes = dict.fromkeys([*other.split_s, *best.split_s])
    less = {cause: other.split_s.get(cause, 0.0) - best.split_s.get(cause, 0.0) for cause in causes}
    notable = {
        cause: seconds
        for cause, seconds in less.items()
        if abs(seconds) > _NOTABLE_SHARE * other.step_s
    }
    for cause in sorted(notable, key=lambda one: -abs(notable[one]))[:_MOST_REASONS]:
        seconds = notable[cause]
        yield f"{cause} {abs(seconds):.3g} s{'' if seconds > 0 else ' more'}"


def _bytes(best: Prediction, other: Prediction, levels: Sequence[str]) -> str:
    told = [
        f"{level} {_size(best.bytes_per_step.get(level, 0))}, not "
        f"{_size(other.bytes_per_step.get(level, 0))}"
        for level in levels
        if level in best.bytes_per_step or level in other.bytes_per_step
    ]
    return "; ".join(told) or "none"


def _size(num_bytes: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.3g} {name}"
    return f"{num_bytes} B"
