"""Progress where stderr is no terminal."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from drlpp.cli import terminal
from drlpp.cli.terminal import interrupt_ends
from drlpp.planners.base import Budget


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(terminal, "FIRST_LINE_S", 0.05)


def wait_for(capsys, what: str) -> str:
    """What was told, as soon as it has `what`."""
    told, end = "", time.monotonic() + 20
    while what not in told and time.monotonic() < end:
        time.sleep(0.02)
        told += capsys.readouterr().err
    return told


def test_a_planner_tells_what_it_found(capsys):
    with terminal.planner_progress("drl") as progress:
        assert "drl (0 s)" in wait_for(capsys, "drl (0 s)")
        progress("sampling", 0.4, 0.25)
        assert "drl: sampling, best 250 ms (" in wait_for(capsys, "sampling")


def test_a_counter_tells_how_far_it_is(capsys):
    with terminal.counter("profile") as progress:
        progress(3, 8, "conv")
        assert "profile: conv, 3 of 8 (" in wait_for(capsys, "conv")


def test_short_work_tells_nothing(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "FIRST_LINE_S", 30.0)
    with terminal.working("capturing"):
        pass
    assert capsys.readouterr().err == ""


def test_nobody_reads(monkeypatch):
    class Closed:
        def write(self, _text: str) -> int:
            raise BrokenPipeError

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stderr", Closed())
    with terminal.working("capturing"):
        time.sleep(0.2)


def test_the_first_interrupt_keeps_the_best_plan_and_the_second_one_stops(capsys):
    budget = Budget(1000.0)
    before = signal.getsignal(signal.SIGINT)
    with interrupt_ends(budget):
        os.kill(os.getpid(), signal.SIGINT)
        assert budget.spent
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert capsys.readouterr().err.count("keeping the best plan so far") == 1
