"""What every set of measurements becomes: predictions beside measurements, and rows that cannot be expressed."""

from __future__ import annotations

import csv
import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

Row = Mapping[str, str]
What = Literal["time", "memory", "out of memory"]


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
    """Collects pairs, and counts rows that cannot be expressed, by set and reason."""

    def __init__(self) -> None:
        self.pairs: list[Pair] = []
        self.left_out: Counter[tuple[str, str]] = Counter()

    def add(self, pair: Pair) -> None:
        self.pairs.append(pair)

    def leave_out(self, name: str, reason: str, rows: int = 1) -> None:
        self.left_out[name, reason] += rows


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Line numbers and rows of a table; nothing if there is no such file."""
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            yield from enumerate(csv.DictReader(file), start=2)


def number(row: Row, column: str, default: float = 0.0) -> float:
    """A number of a row, or the default where the table has none."""
    text = row.get(column) or ""
    return float(text) if text else default


def whole(row: Row, column: str, default: int = 0) -> int:
    """The same for whole numbers."""
    return int(number(row, column, default))
