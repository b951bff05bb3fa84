"""What to do when the standard output cannot be written, or standard streams are not there."""

from __future__ import annotations

import os
import sys

from drlpp.errors import ExecutionError


def stdout_failure(reason: str) -> ExecutionError:
    """The error for results that cannot be written; what is left of them goes nowhere, so that leaving is silent."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return ExecutionError(f"cannot write to the standard output: {reason}: the answer is not complete")


def open_streams() -> None:
    """Gives a process its standard streams where it was started without them, as ``>&-`` does.

    Else the next file that is opened takes the number of the missing one. What is written to the standard output fails
    then as if its reader had left; messages go nowhere.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            _open(number)


def _open(number: int) -> None:
    if number == 1:
        read, write = os.pipe()
        os.close(read)
    else:
        write = os.open(os.devnull, os.O_RDWR)
    if write != number:
        os.dup2(write, number)
        os.close(write)
    stream = os.fdopen(number, "r" if number == 0 else "w", closefd=False)
    setattr(sys, ("stdin", "stdout", "stderr")[number], stream)
