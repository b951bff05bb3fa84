"""Planning over what a planner itself does not choose: the micro-batch size, and in what groups devices divide ops.

A *variant* is the same step with one choice of both. Closed forms (`variant_estimates`) put all of them in order, and
quick planners rank as many of the first as there is time for. The best share the budget, most for the first; a planner
that ends early is asked about more of them. One that is much worse there is left out, and one whose lower bound is not
below the best plan so far. Groups shall not make a plan worse: devices alone are the second at least if a quick plan of
them fits, the first if it is near the best, and a planner that ends early is asked about all their sizes that it would
be asked about if there were no groups. Where devices differ three variants are planned at least.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping

import numpy as np

from drlpp.cluster.usual_groupings import UsualGroupings
from drlpp.cost.groups import grouped, lifted
from drlpp.cost.problem_times import problem_times
from drlpp.planners.base import Budget, Planner, PlanResult, Progress, no_progress
from drlpp.planners.baselines.uniform import offer_grids
from drlpp.planners.bounds.lower_bound import Bound, lower_bound
from drlpp.planners.consecutive.dynamic_program import DynamicProgramParams, offer_first_splits
from drlpp.planners.search import Search, offer_fitting_splits
from drlpp.planners.variant_estimates import variant_table
from drlpp.problem import PlanningProblem, per_problem

RANKING_SHARE = 0.15
"""Part of the budget in which all variants are ranked, as many as can be."""
LONG_RANKING = 0.25
"""Part of the budget for the first of them: devices alone, the best estimate, and the best of equal groups."""
LONGEST_RANKING = 0.5
"""Part of the budget for it while no variant has a plan."""
GRIDS_S = 0.05
"""Seconds for uniform splits of one variant in a budget of a second; in others they grow with its root."""
QUICK_STATES = 4
"""States of devices for which the dynamic program is asked as a quick planner."""
QUICK_PROGRAM = DynamicProgramParams(
    max_type_states=0, max_device_orders=2, max_folds=1, fill_slacks=(1.0,), filled_states=1
)
"""Its settings."""
HOPELESS = 1.5
"""Devices alone whose estimate is so many times the best are not the first that quick planners are asked about."""
SET_UP = 0.5
"""Part of the longest time of the quick planners in a variant below which no other variant is begun."""
BOUND_SHARE = 0.02
"""Part of what is left for the bound that may leave out a candidate."""
CANDIDATES = 3
"""Variants among which the budget is divided."""
MOST_CANDIDATES = 12
"""Variants that a planner is asked about which ends early, if the first has a plan; and devices alone in all sizes."""
EARLY = 0.5
"""A planner that leaves this part of the budget is asked about variants, too, in which no quick plan fits."""
PROMISING = 1.3
"""A variant in which the quick planner takes this many times what it takes in the best is left out."""
NEAR = 1.1
"""Devices alone that take at most this many times the best in the ranking are planned first, with the largest share."""
FIRST_SHARE = 0.6
"""Part of what is left for each candidate but the last."""
LAST_SHARE = 0.95
"""Part of it for the last; the rest is for the schedule of its plan."""
BOUND_S = 10.0
"""Seconds in which the bounds of all variants must be known; else there is no bound over them."""
BOUND_PROBE_S = 1.0
"""After these it is told from the bounds made so far whether there is time for all of them."""
NO_BOUND = Bound(0.0, "none")


class Variants:
    """The variants of a problem, made when they are asked for.

    Attributes:
        sizes: every micro-batch size that is left open; that of the problem if none is.
        groupings: groups of the devices; every device alone first.
    """

    def __init__(self, problem: PlanningProblem) -> None:
        self._problem, space = problem, problem.space
        self.sizes = space.micro_batch_sizes or (problem.graph.samples_per_microbatch,)
        may = "tp" in space.parallelism
        divides = functools.cache(lambda degree: may and problem.graph.can_be_divided(degree))
        self.groupings = UsualGroupings(
            problem.cluster, divides, one_degree=space.one_degree, size=space.tensor if may else 0
        )
        self._of_size: dict[int, PlanningProblem] = {}
        self._made: dict[tuple[int, int], PlanningProblem] = {}

    def problem(self, size: int, grouping: int) -> PlanningProblem:
        """The problem of a variant: one device for each group."""
        key, problem = (size, grouping), self._problem
        if size not in self._of_size:
            self._of_size[size] = problem.with_micro_batch_size(self.sizes[size]) if len(self.sizes) > 1 else problem
        if key not in self._made:
            sequence = "sp" in problem.space.parallelism
            self._made[key] = grouped(self._of_size[size], self.groupings[grouping], sequence=sequence)
        return self._made[key]

    @functools.cached_property
    def estimates(self) -> dict[tuple[int, int], float]:
        """(size, grouping) -> estimate of its value in seconds, the best first."""
        table = variant_table(self._problem, self.sizes, self.groupings)
        return {table.keys[i]: float(table.estimate_s[i]) for i in np.argsort(table.estimate_s, kind="stable")}

    @property
    def unequal(self) -> bool:
        """Devices differ: equal stages, which the quick planners begin with, say little about a variant."""
        return self._problem.cluster.is_unequal

    def lifted(self, result: PlanResult, grouping: int) -> PlanResult:
        """The result with a plan for the devices themselves."""
        if result.plan is None:
            return result
        cluster = self._problem.cluster
        return dataclasses.replace(result, plan=lifted(result.plan, cluster, self.groupings[grouping]))


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
    values = _Values(variants, budget, seed, progress)
    likely, unlikely = _ranked(variants, values)
    for k, (size, grouping) in enumerate((*likely, *unlikely)):
        if k and budget.spent:
            break
        if best is not None and k >= MOST_CANDIDATES and grouping:
            continue
        if best is not None and k >= len(likely) and budget.left_s < EARLY * budget.seconds:
            break
        variant = variants.problem(size, grouping)
        if best is not None and _bound_s(variant, budget) >= _value_s(best, problem):
            continue
        if best is not None and budget.left_s < SET_UP * values.longest_s:
            break
        start_s = budget.elapsed_s
        last = k >= min(CANDIDATES, len(likely or unlikely)) - 1
        last = last or (1 - FIRST_SHARE) * budget.left_s < values.longest_s
        part = budget.part(LAST_SHARE if last else FIRST_SHARE)
        result = planner.solve(variant, part, seed, progress)
        if result.plan is None:
            misses.append(result)
        elif best is None or _value_s(result, problem) < _value_s(best, problem):
            history = tuple((start_s + when, value) for when, value in result.history)
            known_s = values.known.get((size, grouping))
            if history and history[0][1] == known_s:  # it went on from what the quick planners found
                history = ((values.found[size, grouping], history[0][1]), *history[1:])
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


def _bound_s(problem: PlanningProblem, budget: Budget) -> float:
    return lower_bound(problem, budget.part(BOUND_SHARE)).value_s


def _ranked(variants: Variants, values: _Values) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Variants (size, grouping), the most promising first, and those for planners that end early: devices alone, and
    those where nothing fits. Some may be left out."""
    estimates, order = variants.estimates, list(variants.estimates)
    apart = [key for key in order if key[1] == 0]
    equal = [key for key in order if 0 < key[1] < variants.groupings.equal]
    hopeless = estimates[apart[0]] > HOPELESS * estimates[order[0]]
    start = equal[0] if hopeless and equal else apart[0]
    first = (order[0], *equal[:1])  # where memory is short, most is known of equal groups
    values.ask((start,))
    values.ask(first if values.known[start] < math.inf else first[::-1], long=True)
    values.ask(dict.fromkeys((*apart[:CANDIDATES], *order)))
    known = values.known
    ranked = sorted(known, key=lambda key: (known[key], math.isinf(known[key]) and key[1] == 0, key))
    likely = [key for key in ranked if known[key] < math.inf]
    at_least = CANDIDATES if variants.unequal else 1
    alone = _promising([key for key in likely if key[1] == 0], known, at_least)
    near = alone and known[alone[0]] <= NEAR * known[likely[0]]
    ahead = (*alone[:1], *likely[:1]) if near else (*likely[:1], *alone[:1])
    likely = list(dict.fromkeys((*ahead, *_promising(likely, known, at_least), *alone)))
    likely += [key for key in order if key not in known][: max(0, at_least - len(likely))]
    return likely, [
        key for key in dict.fromkeys((*apart, *ranked)) if key not in likely and (key[1] == 0 or math.isinf(known[key]))
    ]


class _Values:
    """What quick planners take in each variant, as far as there is time to ask them.

    The uniform split, and where devices differ the dynamic program, since equal stages say little there. Their plans
    are known to the planners that are asked later.

    Attributes:
        known: (size, grouping) -> value; inf where nothing fits.
        found: (size, grouping) -> seconds since the start when that was known, where some plan fits.
        longest_s: most seconds that one variant took.
    """

    def __init__(self, variants: Variants, whole: Budget, seed: int, progress: Progress = no_progress) -> None:
        self._variants, self._seed, self._whole, self._progress = variants, seed, whole, progress
        self._short, self._long, self._longest = map(whole.part, (RANKING_SHARE, LONG_RANKING, LONGEST_RANKING))
        root = math.sqrt(whole.seconds)
        self._share = min(1.0, GRIDS_S / root) if 0.0 < root < math.inf else 1.0
        self.known: dict[tuple[int, int], float] = {}
        self.found: dict[tuple[int, int], float] = {}
        self.longest_s = 0.0

    def ask(self, keys: Iterable[tuple[int, int]], *, long: bool = False) -> None:
        """Asks about variants that are not known, one at least, while there is time.

        Args:
            long: for `LONG_RANKING`.
        """
        for key in keys:
            best_s = min(self.known.values(), default=math.inf)
            budget = self._longest if best_s == math.inf else self._long if long else self._short
            if self.known and budget.spent:
                return
            if key in self.known:
                continue
            start_s = self._whole.elapsed_s
            search = self._quick(self._variants.problem(*key), budget)
            self.longest_s = max(self.longest_s, self._whole.elapsed_s - start_s)
            self.known[key] = search.best_value
            if search.best is not None:
                self.found[key] = self._whole.elapsed_s
            if search.best_value < best_s:
                self._progress("ranking", self._whole.fraction, search.best_value)

    def _quick(self, problem: PlanningProblem, budget: Budget) -> Search:
        """What the quick planners find."""
        unequal = problem.cluster.is_unequal  # groups of two sizes are, too
        problem_times(problem)
        search = Search("quick", problem, self._whole.part(self._share), self._seed)
        offer_grids(search)
        if search.best is None:
            offer_fitting_splits(search)
        search.budget = budget
        if unequal and not search.budget.spent:
            offer_first_splits(search, np.random.default_rng(self._seed), QUICK_STATES, QUICK_PROGRAM)
        return search


def _promising(
    ranked: list[tuple[int, int]], values: Mapping[tuple[int, int], float], at_least: int
) -> list[tuple[int, int]]:
    """Those not much worse than the first, and so many at least."""
    return [key for k, key in enumerate(ranked) if k < at_least or values[key] <= PROMISING * values[ranked[0]]]


def _value_s(result: PlanResult, problem: PlanningProblem) -> float:
    """The objective of a result, which is for the same samples in every variant; inf without a plan."""
    if result.plan is None or result.plan.prediction is None:
        return math.inf
    return problem.objective.value_s(result.plan.prediction)
