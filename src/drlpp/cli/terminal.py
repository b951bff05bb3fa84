"""What a person sees: messages and progress on stderr, results on stdout."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from drlpp.cli.stdout import stdout_failure
from drlpp.json_text import json_text
from drlpp.signals import caught
from drlpp.units import format_time

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from drlpp.planners.base import Budget
    from drlpp.planners.base import Progress as PlannerProgress

FIRST_LINE_S = 2.0
"""Work that takes longer is told on stderr."""


def out() -> Console:
    """The console for results (stdout). It raises ExecutionError where the reader is gone."""
    from drlpp.cli.results_console import ResultsConsole

    return ResultsConsole(highlight=False)


def err() -> Console:
    """The console for everything else (stderr)."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def complain(message: str) -> None:
    """One line of error on stderr, whatever the message's own line breaks."""
    say("drlpp: error: " + " ".join(message.split()))


def print_json(data: Mapping[str, Any]) -> None:
    """One JSON object on stdout. Raises ExecutionError if it cannot be written."""
    try:
        sys.stdout.write(json_text(data) + "\n")
        sys.stdout.flush()
    except OSError as error:
        raise stdout_failure(error.strerror or "no reason given") from error


@contextmanager
def planner_progress(label: str) -> Iterator[PlannerProgress]:
    """A progress bar for a planner, on stderr; plain lines when stderr is not a terminal."""
    if not err().is_terminal:
        now = [label]

        def note(message: str, _fraction: float, best: float | None) -> None:
            now[0] = _found(label, message, best)

        with _plain_lines(lambda: now[0]):
            yield note
        return
    with _bar() as bar:
        task = bar.add_task(label, total=1.0)

        def update(message: str, fraction: float, best: float | None) -> None:
            bar.update(task, completed=min(1.0, fraction), description=_found(label, message, best))

        yield update


@contextmanager
def counter(label: str) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar for (done, total, what) on stderr; plain lines when stderr is not a terminal."""
    if not err().is_terminal:
        now = [label]
        with _plain_lines(lambda: now[0]):
            yield lambda done, total, what: now.__setitem__(0, f"{label}: {what}, {done} of {total}")
        return
    with _bar() as bar:
        task = bar.add_task(label)
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=f"{label}: {what}")


@contextmanager
def working(label: str) -> Iterator[None]:
    """A spinner on stderr while something runs; plain lines when stderr is not a terminal."""
    console = err()
    with console.status(label) if console.is_terminal else _plain_lines(lambda: label):
        yield


@contextmanager
def _plain_lines(text: Callable[[], str]) -> Iterator[None]:
    """Within it a line on stderr after 2 s, then after twice the time, at most every 30 s."""
    ended, begin = threading.Event(), time.monotonic()

    def tell() -> None:
        pause_s = FIRST_LINE_S
        while not ended.wait(pause_s):
            try:
                say(f"{text()} ({time.monotonic() - begin:.0f} s)")
            except OSError:  # nobody reads stderr any more
                return
            pause_s = min(2 * pause_s, 30.0)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _found(label: str, message: str, best: float | None) -> str:
    return f"{label}: {message}" + (f", best {format_time(best)}" if best is not None else "")


def _bar() -> Progress:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = err()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def interrupt_ends(budget: Budget) -> Iterator[None]:
    """Within it the first Ctrl-C ends the budget, so the best plan so far is kept; a second one interrupts."""

    interrupted = False

    def take(_number: signal.Signals) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        say("interrupted: keeping the best plan so far (Ctrl-C again to stop at once)")
        budget.cancel()

    with caught(take, signals=(signal.SIGINT,)):
        yield
