"""Artifacts are shown as well as Prefect answers."""

import httpx
import pytest

from tasks.steps.artifacts import Shown


def test_a_server_that_is_away_costs_artifacts_and_not_the_study(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is said, and for a minute nothing is tried: a try may take half a minute."""
    now = [0.0]
    tries: list[float] = []
    shown = Shown(clock=lambda: now[0])

    def refused() -> str:
        tries.append(now[0])
        raise httpx.ConnectError("All connection attempts failed")

    first = shown.send(refused)
    now[0] = 59.0
    second = shown.send(refused)
    now[0] = 61.0
    third = shown.send(lambda: "sent")

    assert (first, second, third) == (None, None, "sent")
    assert tries == [0.0]
    assert "All connection attempts failed; the jobs go on" in caplog.text


def test_a_fault_of_ours_is_not_hidden() -> None:
    """Only what Prefect does is expected."""
    with pytest.raises(TypeError, match="ours"):
        Shown().send(lambda: (_ for _ in ()).throw(TypeError("ours")))
