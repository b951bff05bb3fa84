"""What every search keeps: the best assignment so far, its history, and how it becomes a result."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable

from drlpp._version import __version__
from drlpp.graph.blocks import block_numbers
from drlpp.plan import Provenance
from drlpp.plan.assignment import Assignment
from drlpp.planners.base import Budget, PlanResult, Progress, no_progress
from drlpp.planners.misses import miss
from drlpp.planners.parameters import recorded
from drlpp.planners.space.chain_loads import fitting_splits
from drlpp.planners.space.shares import ways_to_share
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluation, Evaluator

QUICK_SCHEDULES = ("1f1b", "gpipe")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SearchParams:
    """Settings of every search.

    Attributes:
        pool_size: best offers that are kept to go on from.
        long_schedule: stages times micro-batches above which only `QUICK_SCHEDULES` are tried.
        hopeless: a hasty offer that takes this many times the best so far under 1F1B is not tried under other
            schedules.
    """

    pool_size: int = 12
    long_schedule: int = 100_000
    hopeless: float = 1.25


SEARCH = SearchParams()


def is_long(problem: PlanningProblem, assignment: Assignment) -> bool:
    """A step has so many actions that only `QUICK_SCHEDULES` are tried."""
    return assignment.num_stages * problem.training.num_microbatches > SEARCH.long_schedule


class Search:
    """One run of a planner: offers are evaluated, the best feasible one is kept, and a pool of the best to go on from.

    Args:
        planner: name of the planner.
        problem: what is to be planned.
        budget: the planner's own budget.
        seed: for the provenance.
        progress: called at each improvement.
        evaluator: to share one between planners; else one is made.
        parameters: settings of the planner (a dataclass), for the provenance; None if it has none.
    """

    def __init__(
        self,
        planner: str,
        problem: PlanningProblem,
        budget: Budget,
        seed: int,
        progress: Progress = no_progress,
        evaluator: Evaluator | None = None,
        parameters: object = None,
    ) -> None:
        self.planner = planner
        self.problem = problem
        self.budget = budget
        self.seed = seed
        self.progress = progress
        self.parameters = parameters
        self.evaluator = evaluator if evaluator is not None else Evaluator(problem)
        self.best: Assignment | None = None
        self.best_value = math.inf
        self.history: list[tuple[float, float]] = []
        self.num_offers = 0
        self.last_feasible = False
        self.pool: list[tuple[float, Assignment]] = []
        alone = int(problem.cluster.members.max()) == 1  # the runtime does not compute blocks of a group again
        self._may_compute_blocks = alone and bool((block_numbers(problem.graph) >= 0).any())
        self._nearest: Evaluation | None = None
        self._seen: dict[Hashable, tuple[float, bool, bool]] = {}  # value, feasible, under all schedules

    def offer(self, assignment: Assignment, *, hasty: bool = False) -> float:
        """Evaluates an assignment and keeps it if it is the best that fits.

        Where replicas of a stage are on unequal devices and have no shares yet, they get some (`space.shares`). Where
        whole stages compute again, their repeated blocks are tried in place of them, too: that takes no longer, and
        needs the activations of one block at a time.

        Args:
            hasty: do not try other schedules if it is hopeless under 1F1B, nor equal shares beside those by speed; for
                searches that offer very many.

        Returns:
            Its objective in seconds, or many times that if it exceeds the memory of a device (`last_feasible` is then
            False).
        """
        ways = ways_to_share(self.problem, assignment)[: 1 if hasty else None]
        if self._may_compute_blocks:
            ways += tuple(again for way in ways if (again := way.with_blocks_again()) is not way)
        judged = [(self._judge(way, hasty), self.last_feasible) for way in ways]
        value, self.last_feasible = min(judged, key=lambda x: x[0])
        return value

    def _judge(self, assignment: Assignment, hasty: bool) -> float:
        """`offer` of an assignment with the shares and the recomputation that it has."""
        key = assignment.key
        if key in self._seen:
            value, self.last_feasible, thorough = self._seen[key]
            if thorough or hasty:
                return value
        self.num_offers += 1
        steady = self.problem.objective.of_one_microbatch  # which does not depend on the schedule
        give_up_s = 0.0 if steady else SEARCH.hopeless * self.best_value if hasty else math.inf
        evaluation = self._evaluate(assignment, give_up_s)
        value = evaluation.score(self.problem.objective)
        self.last_feasible = evaluation.feasible
        self._seen[key] = value, evaluation.feasible, steady or value <= give_up_s
        self.pool.append((value, assignment))
        if len(self.pool) > 2 * SEARCH.pool_size:
            self.pool = sorted(self.pool, key=lambda x: x[0])[: SEARCH.pool_size]
        if evaluation.feasible and value < self.best_value:
            self.best, self.best_value = assignment, value
            self.history.append((self.budget.elapsed_s, value))
            self.progress(self.planner, self.fraction, value)
        elif not evaluation.feasible and (
            self._nearest is None or evaluation.over_memory_bytes < self._nearest.over_memory_bytes
        ):
            self._nearest = evaluation
        return value

    def _evaluate(self, assignment: Assignment, give_up_s: float) -> Evaluation:
        """Under all schedules; or only 1F1B where that takes longer than `give_up_s`, or trying all would take long."""
        schedules = QUICK_SCHEDULES[:1] if is_long(self.problem, assignment) else None
        return self.evaluator.evaluate(assignment, schedules, give_up_s)

    @property
    def fraction(self) -> float:
        """Part of the budget that is used, 0 to 1."""
        return self.budget.fraction

    def result(self, breakdown: dict[str, float] | None = None, notes: dict[str, str] | None = None) -> PlanResult:
        """The best plan found, with its prediction; status ``infeasible`` with the nearest miss if there is none."""
        if self.best is None:
            return PlanResult(
                planner=self.planner,
                status="infeasible",
                plan=None,
                planning_time_s=self.budget.elapsed_s,
                reason=miss(self.problem, self.planner, self._nearest, self.budget),
                breakdown=breakdown or {},
            )
        provenance = Provenance(
            planner=self.planner,
            seed=self.seed,
            budget_s=self.budget.seconds if math.isfinite(self.budget.seconds) else None,
            version=__version__,
            parameters={"search": recorded(SEARCH)} | (recorded(self.parameters) if self.parameters else {}),
            notes=notes or {},
        )
        schedules = QUICK_SCHEDULES if is_long(self.problem, self.best) else None
        plan = self.evaluator.make_plan(self.best, provenance, schedules)
        return PlanResult(
            planner=self.planner,
            status="ok",
            plan=plan,
            planning_time_s=self.budget.elapsed_s,
            history=tuple(self.history),
            breakdown=breakdown or {},
        )


def offer_fitting_splits(search: Search) -> tuple[Assignment, ...]:
    """Offers `fitting_splits`, and returns them."""
    found = fitting_splits(search.problem)
    for assignment in found:
        search.offer(assignment)
    return found
