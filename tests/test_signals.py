"""Signals that are caught while something runs."""

import os
import signal
import threading

import pytest

from drlpp.signals import caught


def test_signals_have_their_usual_effect_again_afterwards():
    before, got = signal.getsignal(signal.SIGTERM), []
    with caught(got.append, signals=(signal.SIGUSR1, signal.SIGTERM)):
        os.kill(os.getpid(), signal.SIGUSR1)
    with caught(got.append, signals=(signal.SIGTERM,), when=False):
        assert signal.getsignal(signal.SIGTERM) is before
    assert signal.getsignal(signal.SIGTERM) is before
    assert got == [signal.SIGUSR1]


def test_other_threads_change_nothing():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with caught(seen.append, signals=(signal.SIGTERM,)):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_an_interrupt_is_noted_and_raises_nothing():
    interrupts = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # these tests may run in the background, too
    try:
        with caught(interrupts.append, signals=(signal.SIGINT,)):
            assert not interrupts
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupts == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_runs_in_the_background_is_interrupted_too():
    """Shells have jobs in the background ignore SIGINT; somebody who sends it to one means it."""
    interrupts = []
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with caught(interrupts.append, signals=(signal.SIGINT,)):
            signal.raise_signal(signal.SIGINT)
        assert interrupts == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
