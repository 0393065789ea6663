"""Flow runs that were handed over go on, unless a person, or their own past, speaks against it."""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.services.handover import continue_left, tell_left
from tasks.services.notes import Note, leave, notes_directory, read_notes, write_note
from tasks.services.pools import end_orphans
from tasks.services.web import Server, prefect_server
from tests.unit.services.site import Site, serving

_BEGAN = datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture
def site() -> Iterator[Site]:
    """A Prefect server with planted answers, which takes every state."""
    with serving() as server:
        server.answers["/flow_runs/a/set_state"] = (200, {"status": "ACCEPT"})
        yield server


def _plant(site: Site, *states: str, pool: str = "p", began: datetime = _BEGAN) -> Server:
    """Let the server know flow run ``a``, with its states, oldest first."""
    kept = [
        {"type": kind, "timestamp": (began + timedelta(seconds=number)).isoformat()}
        for number, kind in enumerate(states)
    ]
    run = {
        "id": "a",
        "name": "calm-lynx",
        "work_pool_name": pool,
        "state_type": states[-1],
        "state": kept[-1],
    }
    site.answers["/flow_runs/filter"] = (200, [run])
    site.answers["/flow_run_states/?flow_run_id=a"] = (200, kept[::-1])
    return prefect_server(site.url, {})


def _set(site: Site) -> list[dict[str, Any]]:
    """The states that were set."""
    return [body["state"] for _, path, body, _ in site.asked if path.endswith("/set_state")]


def test_a_flow_run_that_was_handed_over_goes_on(site: Site, tmp_path: Path) -> None:
    """As Retry does it, once; it is told in one line, and noted when that was."""
    directory = notes_directory(tmp_path)
    leave(directory, "a")
    server = _plant(site, "PENDING", "RUNNING", "CRASHED")

    told = continue_left(server, "p", directory)
    again = continue_left(server, "p", directory)

    assert [(one["type"], one["name"]) for one in _set(site)] == [("SCHEDULED", "AwaitingRetry")]
    assert told == [
        "flow run calm-lynx goes on where the `watershed up` before this one has left it"
    ]
    assert again == []
    (note,) = read_notes(directory).values()
    assert note.left_at == 0
    assert time.time() - note.continued[0] < 60


@pytest.mark.parametrize(
    "states",
    [
        ("RUNNING", "CANCELLING", "CANCELLED"),
        ("RUNNING", "CANCELLING", "CRASHED"),  # its process was ended before it could say so
        ("RUNNING", "PAUSED"),
        ("RUNNING", "COMPLETED"),
        ("RUNNING", "CRASHED", "SCHEDULED"),  # a person was faster
    ],
)
def test_what_a_person_has_done_since_counts(
    site: Site, tmp_path: Path, states: Sequence[str]
) -> None:
    """A flow run that was cancelled does not come back, neither now nor later."""
    directory = notes_directory(tmp_path)
    leave(directory, "a")

    told = continue_left(_plant(site, *states), "p", directory)

    assert (told, _set(site)) == ([], [])
    assert read_notes(directory) == {"a": Note()}


def test_one_that_was_cancelled_and_retried_before_goes_on(site: Site, tmp_path: Path) -> None:
    """What counts has come after it ran last."""
    directory = notes_directory(tmp_path)
    leave(directory, "a")
    server = _plant(site, "RUNNING", "CANCELLING", "CANCELLED", "SCHEDULED", "RUNNING", "CRASHED")

    assert continue_left(server, "p", directory)


def test_other_pools_wait_for_theirs(site: Site, tmp_path: Path) -> None:
    """Nothing is set, and nothing forgotten."""
    directory = notes_directory(tmp_path)
    leave(directory, "a")

    told = continue_left(_plant(site, "RUNNING", "CRASHED", pool="other"), "p", directory)

    assert (told, _set(site)) == ([], [])
    assert read_notes(directory)["a"].left_at


def test_what_is_handed_over_again_and_again_is_left_to_a_person(
    site: Site, tmp_path: Path
) -> None:
    """Five times within an hour is no progress; older times do not count."""
    directory, now_s = notes_directory(tmp_path), time.time()
    server = _plant(site, "RUNNING", "CRASHED")
    write_note(directory, "a", Note(now_s, (now_s - 9000, *[now_s - 60] * 4)))
    fifth = continue_left(server, "p", directory)
    leave(directory, "a")

    sixth = continue_left(server, "p", directory)

    assert "goes on" in fifth[0]
    assert len(_set(site)) == 1
    assert "handed over 6 times within an hour" in sixth[0]
    assert "Retry" in sixth[0]
    assert not read_notes(directory)["a"].left_at


def test_one_that_still_ends_is_waited_for_and_one_that_was_killed_is_ended(
    site: Site, tmp_path: Path
) -> None:
    """A worker that dies is followed by another one at once; its flow runs need some time."""
    directory = notes_directory(tmp_path)
    leave(directory, "a")
    server = _plant(site, "PENDING", "RUNNING")
    site.answers["/flow_runs/a/set_state"] = (200, {"status": "ACCEPT"})

    continue_left(server, "p", directory)

    assert [one["type"] for one in _set(site)] == ["CRASHED"]  # no process here has its id
    assert read_notes(directory)["a"].left_at


def test_one_that_runs_again_is_not_ended(site: Site, tmp_path: Path) -> None:
    """Somebody has retried it, after it was handed over; it may have no process yet."""
    directory = notes_directory(tmp_path)
    leave(directory, "a")
    later = datetime.now(UTC) + timedelta(seconds=1)

    told = continue_left(_plant(site, "PENDING", began=later), "p", directory)

    assert (told, _set(site)) == ([], [])
    assert not read_notes(directory)["a"].left_at


def test_one_that_prefect_does_not_know_is_told(site: Site, tmp_path: Path) -> None:
    """Another server, or it was deleted there; it is not asked for again."""
    directory = notes_directory(tmp_path)
    leave(directory, "a")
    site.answers["/flow_runs/filter"] = (200, [])
    server = prefect_server(site.url, {})

    told = continue_left(server, "p", directory)

    assert told == [f"flow run a: {site.url} does not know it; it is not continued"]
    assert continue_left(server, "p", directory) == []


def test_a_refusal_is_told_with_its_reason(site: Site, tmp_path: Path) -> None:
    """It is not tried for ever."""
    directory = notes_directory(tmp_path)
    leave(directory, "a")
    server = _plant(site, "RUNNING", "CRASHED")
    answer = {"status": "ABORT", "details": {"reason": "Cannot reschedule a run."}}
    site.answers["/flow_runs/a/set_state"] = (200, answer)

    told = continue_left(server, "p", directory)

    assert told == ["flow run calm-lynx: cannot be continued: Cannot reschedule a run."]
    assert not read_notes(directory)["a"].left_at


def test_at_the_end_prefect_is_told_what_goes_on_later(site: Site, tmp_path: Path) -> None:
    """Else its page says that the flow run has crashed, and no more."""
    directory = notes_directory(tmp_path)
    leave(directory, "a")

    names = tell_left(_plant(site, "RUNNING", "CRASHED"), "p", directory)
    cancelled = tell_left(_plant(site, "RUNNING", "CANCELLED"), "p", directory)

    assert (names, cancelled) == (["calm-lynx"], [])
    (state,) = _set(site)
    assert "the next one with the same data goes on with this flow run" in state["message"]


def test_at_a_sites_server_only_flow_runs_of_ours_are_ended(site: Site) -> None:
    """Others' processes are on other machines, where nobody sees them from here."""
    server = _plant(site, "RUNNING")

    none = end_orphans(server, "p", ())
    ended = end_orphans(server, "p", {"a"})

    assert (none, ended) == ([], ["calm-lynx"])
    asked = [body for _, path, body, _ in site.asked if path == "/flow_runs/filter"]
    assert [one["flow_runs"]["id"] for one in asked] == [{"any_": ["a"]}]
