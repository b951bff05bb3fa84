"""Errors that DRL-PP raises on purpose.

::

    DrlppError
    |- InputError (also ValueError)      the user gave something that cannot be used  -> exit status 2
    |  |- GraphError      operator graphs and the files they come from
    |  |- ClusterError    cluster descriptions
    |  |- PlanError       plans and plan files
    |  |- ScheduleError   schedules that cannot run (deadlock, missing action)
    |  |- CaptureError    models that cannot be captured
    |- InfeasibleError                   no plan fits the problem (memory, devices)   -> exit status 3
    |- ExecutionError                    a run that started and failed                -> exit status 1
    |- StoppedError                      a run was asked to stop, and can go on later   -> exit status 143
    |- InstallationError                 drlpp itself is not built as it should be    -> exit status 1

Every message says what and where, the value that was found, the rule, and the fix, in one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DrlppError(Exception):
    """Base class of everything that DRL-PP raises on purpose."""


class InputError(DrlppError, ValueError):
    """Input that cannot be used as it is."""


class GraphError(InputError):
    """An operator graph, or the file that it is read from, is not usable."""


class ClusterError(InputError):
    """A cluster description is not usable."""


class PlanError(InputError):
    """A plan is not legal, or a plan file is not usable."""


class ScheduleError(InputError):
    """A schedule is incomplete or can never finish."""


class CaptureError(InputError):
    """A model cannot be turned into an operator graph."""


class InfeasibleError(DrlppError):
    """No plan satisfies the constraints of the problem."""


class ExecutionError(DrlppError):
    """A run that started did not finish as it should."""


class StoppedError(DrlppError):
    """A run ended early since it was asked to; it goes on from its checkpoint when it is started again."""


class InstallationError(DrlppError, ImportError):
    """The compiled part of drlpp is missing, or was built from other sources."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"did you mean 'x'? "`` for the nearest known name, empty if none is near: for messages about unknown names."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""
