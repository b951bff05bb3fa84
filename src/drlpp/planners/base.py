"""What every planner is: `Planner.solve(problem, budget, seed) -> PlanResult`."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from drlpp.plan import Plan
from drlpp.problem import PlanningProblem

Status = Literal["ok", "infeasible", "failed", "not-applicable"]


class Budget:
    """A wall-clock budget that starts when it is made.

    Args:
        seconds: how long a planner may search; it returns the best plan so far when the time is up.
        clock: for tests.
        parent: a budget that this one is part of; it is spent when the parent is.
    """

    def __init__(
        self, seconds: float, clock: Callable[[], float] = time.perf_counter, parent: Budget | None = None
    ) -> None:
        self.seconds = seconds
        self._clock = clock
        self._start = clock()
        self._parent = parent
        self._cancelled = False

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._start

    @property
    def left_s(self) -> float:
        if self._cancelled:
            return 0.0
        own = self.seconds - self.elapsed_s
        return own if self._parent is None else min(own, self._parent.left_s)

    @property
    def spent(self) -> bool:
        return self.left_s <= 0

    @property
    def fraction(self) -> float:
        """Part of it that is used, 0 to 1."""
        return min(1.0, self.elapsed_s / self.seconds) if self.seconds > 0 else 1.0

    def cancel(self) -> None:
        """Ends the budget now (an interrupt): the planner stops soon and returns its best plan so far."""
        self._cancelled = True

    def part(self, fraction: float) -> Budget:
        """A budget of a fraction of what is left, starting now."""
        return Budget(max(0.0, self.left_s) * fraction, self._clock, parent=self)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanResult:
    """What a planner found.

    Attributes:
        planner: its name.
        status: ``ok``; ``infeasible`` (no plan found that fits the memory); ``not-applicable`` (the planner needs what
            the problem does not have); ``failed``; see `reason`.
        plan: the best plan with its prediction; None unless ``ok``.
        planning_time_s: wall-clock seconds.
        reason: for people, unless ``ok``.
        history: (seconds since the start, objective value) of each improvement.
        curve: learning curve, for planners that learn: one mapping per iteration.
        breakdown: what the parts of the planner found or took, for example ``policy_s`` and ``refined_s``.
    """

    planner: str
    status: Status
    plan: Plan | None
    planning_time_s: float
    reason: str = ""
    history: tuple[tuple[float, float], ...] = ()
    curve: tuple[Mapping[str, float], ...] = ()
    breakdown: Mapping[str, float] = dataclasses.field(default_factory=dict)


Progress = Callable[[str, float, float | None], None]
"""Called now and then with (what is going on, part of the budget used 0..1, best objective value so far)."""


def no_progress(message: str, fraction: float, best: float | None) -> None:
    """A `Progress` that shows nothing."""


class Planner(Protocol):
    """A planner. It never returns an illegal plan and keeps to the budget within a small margin."""

    name: str
    """Name on the command line."""
    summary: str
    """One line for people."""

    def solve(
        self, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
    ) -> PlanResult: ...


def gap_to(value_s: float, bound_s: float) -> float:
    """How far a value is above a lower bound, relative to the bound; inf for a bound of 0."""
    return (value_s - bound_s) / bound_s if bound_s > 0 else math.inf
