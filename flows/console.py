"""What a running study looks like on a terminal, and in a log file."""

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tasks.steps.plain_console import PlainConsole
from tasks.steps.progress import PointProgress, Snapshot, share_done
from tasks.tracking.history import GOOD

STYLES = {
    "waiting": "dim",
    "running": "cyan",
    "finished": "green",
    "failed": "bold red",
    "interrupted": "yellow",
    "predicted": "magenta",
    "damaged": "red",
}
"""State of a run -> how it is shown."""

_SHORTEST_BAR, _LONGEST_BAR = 10, 24
_SHORTEST_LABEL = 12
_LEAST_TELLING = ("tflops", "tokens_per_s", "accuracy")
"""Measures that a narrow terminal does without, the first first."""
_LINES_AROUND = 5
"""Lines of a terminal that the points cannot have: the title, the rest, the prompt."""
_QUIET_S = 15.0
"""Longest silence in a log file."""


def make_console(file_width: int = 120) -> Console:
    """Return the console of this process's output; wide and without colours in a file.

    Args:
        file_width: Columns where the output is no terminal.
    """
    console = PlainConsole(highlight=False)
    if console.is_terminal:
        return console
    return PlainConsole(highlight=False, width=file_width, color_system=None, force_terminal=False)


def duration(seconds: float) -> str:
    """Write a duration as ``0:42`` or ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def and_more(labels: Sequence[str]) -> str:
    """Name the first of several points, and count the others: ``seed=0 and 15 more``.

    Args:
        labels: At least one.
    """
    return f"{labels[0]} and {len(labels) - 1} more" if len(labels) > 1 else labels[0]


def render(title: str, snapshot: Snapshot, *, width: int, height: int) -> RenderableType:
    """Draw a study: one line a point, as far as the terminal has lines.

    Args:
        title: Name of the run.
        snapshot: The study as it stands.
        width: Columns of the terminal.
        height: Its lines.

    Returns:
        What rich can show.
    """
    points = snapshot.points
    left = "" if snapshot.left_s is None else f", about {duration(snapshot.left_s)} left"
    head = Text.assemble(
        (title, "bold"), f"  {snapshot.phase}  {duration(snapshot.elapsed_s)}{left}"
    )
    shown = _most_telling(points, max(1, height - _LINES_AROUND))
    longest = max(len(point.label) for point in shown)
    columns = _columns(shown)
    for name in _LEAST_TELLING:
        if _room(columns, width) < _SHORTEST_BAR + min(longest, _SHORTEST_LABEL):
            columns.pop(name, None)
    room = _room(columns, width)
    bar_width = min(_LONGEST_BAR, max(_SHORTEST_BAR, room - longest))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(1, room - bar_width))
    table.add_column(no_wrap=True)
    for name in columns:
        table.add_column(justify="left" if name == "state" else "right", no_wrap=True)
    for point, (*measured, state) in zip(shown, zip(*columns.values(), strict=True), strict=True):
        style = STYLES[point.state]
        table.add_row(point.label, _bar(point, bar_width), *measured, Text(state, style))
    rest = Text(_counts(points), "dim") if len(shown) < len(points) else Text("")
    return Group(head, table, rest)


def _bar(point: PointProgress, width: int) -> ProgressBar:
    return ProgressBar(
        total=point.num_steps,
        completed=point.num_steps if point.state in GOOD else point.step,
        width=width,
        complete_style=STYLES[point.state],
        finished_style=STYLES[point.state],
    )


def _columns(points: Sequence[PointProgress]) -> dict[str, list[str]]:
    """Return what stands behind the bars, column by column; without those that are empty."""
    measures = [point.measures for point in points]
    columns = {name: [one[name] for one in measures] for name in measures[0]}
    return {
        "steps": [f"{point.step}/{point.num_steps}" for point in points],
        **{name: texts for name, texts in columns.items() if any(texts)},
        "state": [point.state for point in points],
    }


def _room(columns: Mapping[str, Sequence[str]], width: int) -> int:
    """Columns of the terminal that are left for the labels and bars."""
    return width - sum(max(map(len, texts)) + 2 for texts in columns.values()) - 4


def _most_telling(points: Sequence[PointProgress], room: int) -> list[PointProgress]:
    """Choose what to show: all, or what failed, runs, comes next and ended last, in this order."""
    if len(points) <= room:
        return list(points)
    order = {"failed": 0, "damaged": 0, "running": 1, "waiting": 2, "interrupted": 3, "finished": 4}
    order["predicted"] = 5
    ranked = sorted(range(len(points)), key=lambda index: (order[points[index].state], index))
    return [points[index] for index in sorted(ranked[:room])]


def _counts(points: Sequence[PointProgress]) -> str:
    states = [point.state for point in points]
    told = [f"{states.count(state)} {state}" for state in STYLES if state in states]
    return f"{len(points)} point{'s' if len(points) > 1 else ''}: {', '.join(told)}"


def show_live(console: Console, title: str, snapshots: Iterable[Snapshot]) -> None:
    """Draw a study on a terminal until it ends; the drawing is then gone.

    Args:
        console: The terminal.
        title: Name of the run.
        snapshots: The study as it stands, several times a second.
    """
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for snapshot in snapshots:
            live.update(
                render(title, snapshot, width=console.width, height=console.height), refresh=True
            )


def show_lines(console: Console, snapshots: Iterable[Snapshot]) -> None:
    """Write a line when a point changes its state, and now and then how far all are.

    Args:
        console: Where to write.
        snapshots: The study as it stands.
    """
    states: dict[str, str] = {}
    phase = ""
    told_at_s = 0.0
    num_predicted = num_told = 0
    for snapshot in snapshots:
        now = duration(snapshot.elapsed_s)
        if snapshot.phase != phase:
            phase = snapshot.phase
            _write(console, f"{now}  {phase}")
        predicted = sum(point.state == "predicted" for point in snapshot.points)
        if num_told < predicted == num_predicted:  # they have stopped growing
            num_told = predicted
            what = "points, which have" if predicted > 1 else "point, which has"
            _write(console, f"{now}  predicted    {predicted} {what} no job")
        num_predicted = predicted
        for point in snapshot.points:
            before = states.setdefault(point.label, "waiting")
            if point.state not in {before, "predicted"}:
                states[point.label] = point.state
                told_at_s = snapshot.elapsed_s
                _write(console, f"{now}  {point.state:<11}  {point.label}{_measured(point)}")
        if snapshot.elapsed_s - told_at_s >= _QUIET_S:
            told_at_s = snapshot.elapsed_s
            left = "" if snapshot.left_s is None else f", about {duration(snapshot.left_s)} left"
            share = share_done(snapshot.points)
            points = snapshot.points
            is_one = len(points) == 1 and points[0].state == "running"
            told = points[0].told if is_one else _counts(points)
            _write(console, f"{now}  {100 * share:.0f} % done; {told}{left}")


def _measured(point: PointProgress) -> str:
    """What a point that has ended came to."""
    if not point.is_over:
        return ""
    if point.state == "damaged":
        return f": {point.message}"
    told = [f"{point.unit} {point.step}", *point.measures.values(), point.message]
    return f": {', '.join(filter(None, told))}"


def _write(console: Console, line: str) -> None:
    """Write one line, however long, as it is."""
    console.print(Text(line), soft_wrap=True)
