"""What to do when the standard output cannot be written."""

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
