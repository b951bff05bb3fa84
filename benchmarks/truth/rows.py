"""What every set of measurements becomes: predictions beside measurements, and rows that cannot be expressed."""

from __future__ import annotations

import csv
import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, TypeVar

from drlpp.cluster.devices import preset_of_gpu
from drlpp.errors import DrlppError

T = TypeVar("T")
What = Literal["time", "memory", "out of memory"]
_NOTHING = ("", "nan", "none", "null", "n/a", "-")
"""Cells that state nothing."""
_MOST = 10**9
"""Counts above are taken as errors of the table."""


class UnreadableError(Exception):
    """A row cannot be expressed; the text is the reason, which tables count."""


class Row(dict[str, str]):
    """Cells of a row by column."""

    def __missing__(self, column: str) -> str:
        raise UnreadableError(f"no column {column}")


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """One predicted and one measured quantity.

    Attributes:
        set: name of the set of measurements, and of the part of it that a table shows.
        what: ``time`` in seconds, ``memory`` in bytes, ``out of memory`` as 0 or 1.
        group: what the plans of one job share; empty where rows are no alternatives of each other.
        ref: where the row is.
    """

    set: str
    what: What
    predicted: float
    measured: float
    group: str = ""
    ref: str = ""


class Findings:
    """Collects pairs, counts rows that cannot be expressed by set and reason, and knows which tables were read."""

    def __init__(self) -> None:
        self.pairs: list[Pair] = []
        self.left_out: Counter[tuple[str, str]] = Counter()
        self.tables: set[Path] = set()

    def add(self, pair: Pair) -> None:
        """Adds a pair; one whose measurement is no positive number is left out."""
        if pair.what != "out of memory" and not (math.isfinite(pair.measured) and pair.measured > 0):
            self.leave_out(pair.set, f"the {pair.what} measured is no positive number")
        else:
            self.pairs.append(pair)

    def leave_out(self, name: str, reason: str, rows: int = 1) -> None:
        if rows:
            self.left_out[name, reason] += rows

    def express(self, name: str, read: Callable[[], T]) -> T | None:
        """What `read` returns; None, and one row of the set left out, if it cannot be expressed."""
        try:
            return read()
        except (UnreadableError, DrlppError) as error:
            self.leave_out(name, str(error))
        except (ArithmeticError, LookupError, ValueError) as error:
            self.leave_out(name, f"its values contradict each other ({type(error).__name__}: {error})")
        return None

    def each(self, path: Path, name: str, read: Callable[[int, Row], T]) -> list[T]:
        """What `read` makes of every line of a table; rows that it cannot express are left out under `name`."""
        found = (self.express(name, functools.partial(read, line, row)) for line, row in self.rows(path))
        return [x for x in found if x is not None]

    def rows(self, path: Path) -> Iterator[tuple[int, Row]]:
        """Line numbers and rows of a table; nothing if there is no such file."""
        self.tables.add(path.resolve())
        return read_rows(path)

    def name_the_rest(self, data: Path) -> None:
        """Counts the rows of the tables that nobody read."""
        for path in sorted(data.rglob("*.csv")):
            if path.resolve() not in self.tables:
                rows = sum(1 for _ in read_rows(path))
                self.leave_out(str(path.relative_to(data)), "no reader for this table", rows)


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Line numbers and rows of a table; nothing if there is no such file."""
    if path.is_file():
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            for line, cells in enumerate(csv.DictReader(file, restval=""), start=2):
                yield line, Row({k: v.strip() for k, v in cells.items() if isinstance(k, str)})


def number(row: Mapping[str, str], column: str, default: float = 0.0) -> float:
    """A number of a row, or the default where the table has none."""
    text = row.get(column, "")
    if text.lower() in _NOTHING:
        return default
    try:
        value = float(text)
    except ValueError:
        raise UnreadableError(f"{column} is {text!r}, no number") from None
    if not math.isfinite(value):
        raise UnreadableError(f"{column} is {text!r}, not finite")
    return value


def whole(row: Mapping[str, str], column: str, default: int = 0) -> int:
    """The same for whole numbers of things that can be counted."""
    value = number(row, column, default)
    if value != int(value) or not 0 <= value < _MOST:
        raise UnreadableError(f"{column} is {value:g}, no count")
    return int(value)


def columns_of(row: Row, ending: str) -> list[str]:
    """What stands before the ending in the names of the columns that have it: the GPUs of a table with one each."""
    return [column.removesuffix(ending) for column in row if column.endswith(ending)]


def device_named(text: str, names: Mapping[str, str]) -> str:
    """The row of the device database that a table means: by the names of the table, else as a GPU reports itself."""
    found = names.get(text) or preset_of_gpu(text.replace("_", " "))
    if not found:
        raise UnreadableError(f"GPU {text} is not in the database" if text else "GPU not stated")
    return found
