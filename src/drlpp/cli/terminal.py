"""What a person sees: messages and progress on stderr, results on stdout."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drlpp.cli.stdout import stdout_failure
from drlpp.errors import InputError
from drlpp.json_text import json_text
from drlpp.units import format_time

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from drlpp.planners.base import Budget
    from drlpp.planners.base import Progress as PlannerProgress


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
    """A progress bar for a planner, on stderr; silent when stderr is not a terminal."""
    with _bar() as bar:
        task = bar.add_task(label, total=1.0)

        def update(message: str, fraction: float, best: float | None) -> None:
            found = f", best {format_time(best)}" if best is not None else ""
            bar.update(task, completed=min(1.0, fraction), description=f"{label}: {message}{found}")

        yield update


@contextmanager
def counter(label: str) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar for (done, total, what) on stderr; silent when stderr is not a terminal."""
    with _bar() as bar:
        task = bar.add_task(label)
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=f"{label}: {what}")


def _bar() -> Progress:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = err()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def interrupt_ends(budget: Budget) -> Iterator[None]:
    """Within it the first Ctrl-C ends the budget, so the best plan so far is kept; a second one interrupts."""

    def handle(_signal: int, _frame: object) -> None:
        say("interrupted: keeping the best plan so far (Ctrl-C again to stop at once)")
        budget.cancel()
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def check_writable(path: Path | None) -> None:
    """Fails early, before long work, if a file could not be written. Raises InputError."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise InputError(f"cannot write {path}: give the path of a file in an existing folder")
