"""Planning over what a planner itself does not choose: the micro-batch size, and in what groups devices divide ops.

A *variant* is the same step with one choice of both; groups of equal size on hosts that are alike. A quick planner
ranks the variants: all groupings at one size, all sizes with the best grouping, and so on until nothing gets better.
The best of them share the budget, most for the first. One that is much worse there is left out, and one whose lower
bound is not below the best plan so far. Devices alone are always the second at least, and their other sizes take what
is left: the quick planner may be wrong about them, and groups shall not make a plan worse.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from drlpp.cluster.grouping import Grouping, usual_groupings
from drlpp.cost.groups import grouped, lifted
from drlpp.planners.base import Budget, Planner, PlanResult, Progress, no_progress
from drlpp.planners.baselines.uniform import Uniform
from drlpp.planners.bounds.lower_bound import Bound, lower_bound
from drlpp.problem import PlanningProblem, per_problem

RANKING_SHARE = 0.15
"""Part of the budget for ranking the variants."""
LONGEST_RANKING = 0.5
"""Part of the budget for it while no variant has a plan."""
BOUND_SHARE = 0.02
"""Part of what is left for the bound that may leave out a candidate."""
CANDIDATES = 3
"""Variants that the planner itself is asked about, if the first has a plan."""
PROMISING = 1.3
"""A variant in which the quick planner takes this many times what it takes in the best is left out."""
FIRST_SHARE = 0.5
"""Part of what is left for each candidate but the last."""
BOUND_S = 10.0
"""Seconds in which the bounds of all variants must be known; else there is no bound over them."""
BOUND_PROBE_S = 1.0
"""After these it is told from the bounds made so far whether there is time for all of them."""
NO_BOUND = Bound(0.0, "none")


class Variants:
    """The variants of a problem, made when they are asked for.

    Attributes:
        sizes: the problem at every micro-batch size that is left open.
        groupings: groups of the devices; every device alone first.
    """

    def __init__(self, problem: PlanningProblem) -> None:
        self._cluster, self._sequence = problem.cluster, "sp" in problem.space.parallelism
        self.sizes = problem.variants
        self.groupings = tuple(_groupings(problem))
        self._made: dict[tuple[int, int], PlanningProblem] = {}

    def problem(self, size: int, grouping: int) -> PlanningProblem:
        """The problem of a variant: one device for each group."""
        key = size, grouping
        if key not in self._made:
            self._made[key] = grouped(self.sizes[size], self.groupings[grouping], sequence=self._sequence)
        return self._made[key]

    def lifted(self, result: PlanResult, grouping: int) -> PlanResult:
        """The result with a plan for the devices themselves."""
        if result.plan is None:
            return result
        return dataclasses.replace(result, plan=lifted(result.plan, self._cluster, self.groupings[grouping]))


@per_problem
def variants_of(problem: PlanningProblem) -> Variants:
    """The variants of a problem, and what was found out about them."""
    return Variants(problem)


def solve_over_variants(
    planner: Planner, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
) -> PlanResult:
    """The best plan over all variants of a problem; its graph, training and stages tell which one it is."""
    best: PlanResult | None = None
    misses: list[PlanResult] = []
    variants = variants_of(problem)
    ranked = _ranked(variants, budget, seed)
    for k, (size, grouping) in enumerate(ranked):
        variant, enough = variants.problem(size, grouping), k >= CANDIDATES and grouping > 0 and best is not None
        if (
            enough
            or (k and budget.spent)
            or (best is not None and _bound_s(variant, budget) >= _value_s(best, problem))
        ):
            continue
        last = k == min(CANDIDATES, len(ranked)) - 1
        start_s = budget.elapsed_s
        part = budget.part(1.0 if last else FIRST_SHARE)
        result = planner.solve(variant, part, seed, progress)
        if result.plan is None:
            misses.append(result)
        elif best is None or _value_s(result, problem) < _value_s(best, problem):
            history = tuple((start_s + when, value) for when, value in result.history)
            best = dataclasses.replace(variants.lifted(result, grouping), history=history)
    return dataclasses.replace(best or misses[0], planning_time_s=budget.elapsed_s)


def lower_bound_over_variants(problem: PlanningProblem) -> Bound:
    """A bound that holds whatever variant is chosen: the least of the bounds of all; `NO_BOUND` if they take long."""
    variants, budget = variants_of(problem), Budget(BOUND_S)
    least, total = Bound(math.inf, "memory"), len(variants.sizes) * len(variants.groupings)
    for size in range(len(variants.sizes)):
        for grouping in range(len(variants.groupings)):
            part = (size * len(variants.groupings) + grouping) / total
            if budget.spent or (budget.elapsed_s > BOUND_PROBE_S and budget.elapsed_s > part * BOUND_S):
                return NO_BOUND
            least = min(least, lower_bound(variants.problem(size, grouping)), key=lambda bound: bound.value_s)
    return least


def _groupings(problem: PlanningProblem) -> list[Grouping]:
    """Groups of the sizes that the ops of the model can be divided by."""
    may = "tp" in problem.space.parallelism
    found = usual_groupings(problem.cluster, lambda degree: may and problem.graph.can_be_divided(degree))
    return [g for g in found if not problem.space.one_degree or len(set(map(len, g.groups))) == 1]


def _bound_s(problem: PlanningProblem, budget: Budget) -> float:
    return lower_bound(problem, budget.part(BOUND_SHARE)).value_s


def _ranked(variants: Variants, whole: Budget, seed: int) -> list[tuple[int, int]]:
    """Variants (size, grouping), the most promising first; where nothing fits, groups first. Some may be left out."""
    values: dict[tuple[int, int], float] = {}
    budget, longest = whole.part(RANKING_SHARE), whole.part(LONGEST_RANKING)
    most = len(variants.sizes) + len(variants.groupings)

    def value(key: tuple[int, int]) -> tuple[float, int]:
        if key not in values:
            if values and (budget if min(values.values()) < math.inf else longest).spent:
                return math.inf, -key[1]
            problem = variants.problem(*key)
            result = Uniform().solve(problem, budget.part(1 / max(1, most - len(values))), seed)
            values[key] = _value_s(result, problem)
        return values[key], -key[1]

    best = (0, 0)
    while True:
        here = min(((best[0], g) for g in range(len(variants.groupings))), key=value)
        here = min(((s, here[1]) for s in range(len(variants.sizes))), key=lambda key: (value(key)[0], key))
        if here == best or (values and budget.spent):
            break
        best = here
    for size in range(len(variants.sizes)):
        value((size, 0))
    ranked = sorted(values, key=lambda key: (values[key], math.isinf(values[key]) and key[1] == 0, key))
    alone = _promising([key for key in ranked if key[1] == 0], values)
    ranked = _promising(ranked, values)
    return list(dict.fromkeys((ranked[0], alone[0], *ranked[1:], *alone[1:])))


def _promising(ranked: list[tuple[int, int]], values: Mapping[tuple[int, int], float]) -> list[tuple[int, int]]:
    """Those not much worse than the first; all of them where nothing fits."""
    most = PROMISING * values[ranked[0]]
    return [key for key in ranked if values[key] <= most]


def _value_s(result: PlanResult, problem: PlanningProblem) -> float:
    """The objective of a result, which is for the same samples in every variant; inf without a plan."""
    if result.plan is None or result.plan.prediction is None:
        return math.inf
    return problem.objective.value_s(result.plan.prediction)
