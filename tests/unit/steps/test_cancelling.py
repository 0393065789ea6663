"""What a person does to a flow run in Prefect, as the flow understands it."""

from typing import Any

from prefect import State
from prefect.states import Cancelled, Cancelling, Paused, Running, Suspended

from tasks.steps.cancelling import Wish


def test_cancel_and_pause_stop_the_jobs_and_nothing_else_does() -> None:
    """Pause of the interface is Suspended; a blocking pause wants the process to stay."""
    wishes = {}
    states: list[State[Any] | None] = [Running(), Cancelling(), Cancelled(), Suspended(), Paused()]
    for state in [*states, None]:
        wish = Wish()
        stops = wish.note(state)
        wishes[state.name if state else "silence"] = (stops, wish.is_cancel, wish.is_pause)

    assert wishes == {
        "Running": (False, False, False),
        "Cancelling": (True, True, False),
        "Cancelled": (True, True, False),
        "Suspended": (True, False, True),
        "Paused": (False, False, False),
        "silence": (False, False, False),
    }
