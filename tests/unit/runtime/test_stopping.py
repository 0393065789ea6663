"""Signals: at once where nothing is to be saved, else after the work in hand."""

import os
import signal
import time

import pytest

from tasks.runtime.stopping import Interrupted, stop_asked, stoppable

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def send(signum: signal.Signals) -> None:
    """Send this process a signal; its handler has run when this returns."""
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_interrupts_at_once(signum: signal.Signals) -> None:
    """Whatever runs is left in the middle."""
    with pytest.raises(Interrupted), stoppable():
        send(signum)


def test_signals_behind_the_first_do_not_disturb_the_cleaning_up() -> None:
    """Slurm and the wrapper both signal; the second one comes while files are written."""
    cleaned_up = []

    def work() -> None:
        try:
            send(signal.SIGTERM)
        finally:
            send(signal.SIGTERM)
            send(signal.SIGINT)
            cleaned_up.append(True)

    with pytest.raises(Interrupted), stoppable():
        work()
    send(signal.SIGTERM)

    assert cleaned_up == [True]


@pytest.mark.parametrize("signum", SIGNALS)
def test_where_it_is_noted_the_work_goes_on(signum: signal.Signals) -> None:
    """The block sees that it was asked, once or twice within a moment, and ends as it likes."""
    with stoppable(), stop_asked() as stop:
        before = stop.is_made
        send(signum)
        send(signum)
        after = stop.is_made

    assert (before, after) == (False, True)


def test_a_later_signal_interrupts_what_does_not_stop() -> None:
    """Asked again after a moment, the block is left in the middle."""

    def work() -> None:
        send(signal.SIGTERM)
        time.sleep(1.1)
        send(signal.SIGTERM)

    with pytest.raises(Interrupted), stoppable(), stop_asked():
        work()


def test_a_grace_that_has_passed_interrupts() -> None:
    """Work that takes longer than the grace is left in the middle, soon after it."""
    began = time.monotonic()

    def work() -> None:
        send(signal.SIGTERM)
        time.sleep(30)

    with pytest.raises(Interrupted), stoppable(), stop_asked(0.2):
        work()

    assert 0.2 <= time.monotonic() - began < 10


def test_a_grace_that_was_not_needed_does_nothing() -> None:
    """Work that stops in time, or was not asked to, is not interrupted later."""
    with stoppable():
        with stop_asked(0.1):
            pass
        with stop_asked(0.1) as stop:
            send(signal.SIGTERM)
        time.sleep(0.3)

    assert stop.is_made


def test_after_work_that_was_asked_signals_are_ignored() -> None:
    """What is left is to write files; an echo of the signal does not tear them."""
    with stoppable():
        with stop_asked():
            send(signal.SIGTERM)
        send(signal.SIGTERM)


def test_after_work_that_was_not_asked_signals_interrupt_again() -> None:
    """Outside of the block there is nothing to save."""

    def work() -> None:
        with stop_asked():
            pass
        send(signal.SIGTERM)

    with pytest.raises(Interrupted), stoppable():
        work()
