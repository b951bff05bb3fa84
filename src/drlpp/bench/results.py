"""The results file of a benchmark: one JSON object per line, one line per finished cell, appended whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drlpp.errors import InputError
from drlpp.files import read_text

Row = Mapping[str, Any]
"""What is known of a cell: see `drlpp.bench.runner.run_cell`."""


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, in order; none if there is no file. A last line that was cut off does not count.

    Raises:
        InputError: a line is not a row of a benchmark.
    """
    if not path.exists():
        return []
    rows: list[Row] = []
    lines = read_text(path, "results").split("\n")[:-1]
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if not isinstance(row, dict) or not {"case", "planner", "seed", "settings"} <= row.keys():
            raise InputError(
                f"{path} line {number} is not a row of a benchmark: give -o another file, or remove that line"
            )
        rows.append(row)
    return rows


def append_row(path: Path, row: Row) -> None:
    """Adds a row with one write, after removing what an interrupted write left behind.

    Raises:
        InputError: the file cannot be written.
    """
    line = (json.dumps(row) + "\n").encode()
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}: give -o a path in a writable folder") from error
    try:
        content_ends = _end_of_last_line(handle)
        os.ftruncate(handle, content_ends)
        os.write(handle, line)
        os.fsync(handle)
    finally:
        os.close(handle)


def _end_of_last_line(handle: int) -> int:
    size = os.fstat(handle).st_size
    block = 1 << 16
    while size:
        start = max(0, size - block)
        at = os.pread(handle, size - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        size = start
    return 0
