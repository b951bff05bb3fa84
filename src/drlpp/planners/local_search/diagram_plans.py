"""Steady-state plans from the sets of devices that the decision diagram finds (`decision_diagram`).

The diagram, with states dropped where they are too many, answers "can all loads be at most T?" with the devices of the
groups of ops along the heaviest path; T is bisected. Ops beside the row join a neighbour, and replicas exchange their
places where that helps. Then `load_annealing` moves ops between the stages. A device may take part in any number of
stages, with any partners in each: plans that the dynamic program over consecutive stages cannot make.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from drlpp.cost.problem_arrays import problem_arrays
from drlpp.graph import OpGraph
from drlpp.plan.assignment import Assignment
from drlpp.planners.bounds.group_row import SetRows
from drlpp.planners.local_search.load_annealing import POWER, anneal_exactly
from drlpp.planners.search import Search
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DiagramParams:
    """Settings of the search.

    Attributes:
        width: states of a layer of the diagram.
        rows: what is small and whether skips count (`SetRows.row`), of the rows of groups, which share the budget.
        steps: bisections of T.
        slacks: factors on the smallest T that is then tried again, while they can lead to a better plan.
        ways: plans for each T.
        exchanges: exchanges of two replicas of a stage that are tried for each plan.
        moves_per_op, max_moves: of the annealing that each plan gets.
        hot, cold: its temperatures.
    """

    width: int = 512
    rows: tuple[tuple[float, bool], ...] = ((0.02, False), (0.002, True))
    steps: int = 10
    slacks: tuple[float, ...] = (1.002, 1.005, 1.01, 1.015, 1.02, 1.03, 1.04, 1.05, 1.07, 1.1)
    ways: int = 6
    exchanges: int = 500
    moves_per_op: int = 400
    max_moves: int = 60_000
    hot: float = 0.003
    cold: float = 3e-5


Sets = list[tuple[int, ...]]
"""Devices of each op, in order; empty: not known."""


def offer_set_plans(search: Search, rng: np.random.Generator, params: DiagramParams | None = None) -> None:
    """Offers plans for ever smaller T, until none may exist or the budget is spent."""
    problem, params = search.problem, params or DiagramParams()
    if not problem.objective.of_one_microbatch:
        return
    rows = SetRows(problem, problem_arrays(problem))
    if rows.out_of_reach:
        return
    moves = min(params.max_moves, params.moves_per_op * problem.graph.num_ops)

    def offer(bound_s: float, small: float, skips: bool) -> bool:
        """Offers the plans of one T; False if there is none."""
        ways = (
            rows.find(bound_s, params.width, small, search.budget, skips=skips, most_ways=params.ways, relaxed=False)
            or []
        )
        for way in ways:
            if search.budget.spent:
                break
            sets: Sets = [()] * problem.graph.num_ops
            for ops, devices in way:
                for op in ops.tolist():
                    sets[op] = devices
            if not way:  # no group is worth a place in the row
                continue
            plan = reordered(problem, sets_to_assignment(problem.graph, _filled(problem.graph, sets)), params.exchanges)
            search.offer(plan)
            seed = int(rng.integers(2**31))
            search.offer(anneal_exactly(problem, plan, moves=moves, hot=params.hot, cold=params.cold, seed=seed))
        return bool(ways)

    whole = search.budget
    for k, (small, skips) in enumerate(params.rows):
        search.budget = whole.part(1 / (len(params.rows) - k))
        _bisect(search, rows.work_s, functools.partial(offer, small=small, skips=skips), params)
    search.budget = whole


def _bisect(search: Search, low: float, offer: Callable[[float], bool], params: DiagramParams) -> None:
    """Offers plans for T between `low` and the best value, and then for some above the smallest T that has any."""
    high = search.best_value
    if not math.isfinite(high):
        high = 2 * float(problem_arrays(search.problem).times.total_s.max(axis=0).sum())
    for _ in range(params.steps):
        if search.budget.spent:
            return
        middle = (low + high) / 2
        if offer(middle):
            high = middle
        else:
            low = middle
    for slack in params.slacks:
        if search.budget.spent or high * slack >= search.best_value:
            return
        offer(high * slack)


def sets_to_assignment(graph: OpGraph, sets: Sequence[tuple[int, ...]]) -> Assignment:
    """Stages with the given devices: an op joins the first stage with its devices that none of its inputs is behind."""
    devices: list[tuple[int, ...]] = []
    with_set: dict[tuple[int, ...], list[int]] = {}
    stage = np.zeros(graph.num_ops, dtype=np.int64)
    for i in range(graph.num_ops):
        earliest = max((int(stage[p]) for p in graph.predecessors[i]), default=0)
        known = with_set.setdefault(sets[i], [])
        chosen = next((s for s in known if s >= earliest), -1)
        if chosen < 0:
            chosen = len(devices)
            devices.append(sets[i])
            known.append(chosen)
        stage[i] = chosen
    return Assignment(stage, tuple(devices))


def _filled(graph: OpGraph, sets: Sets) -> Sets:
    """Ops without devices take those of the input that has some, else of the consumer; and replicas are ordered so
    that as few micro-batches as possible change their device."""
    out = list(sets)
    for i in range(graph.num_ops):
        if not out[i]:
            out[i] = next((out[p] for p in reversed(graph.predecessors[i]) if out[p]), ())
    for i in range(graph.num_ops - 1, -1, -1):
        if not out[i]:
            out[i] = next((out[s] for s in graph.successors[i] if out[s]), ())
    ordered: Sets = []
    for i in range(graph.num_ops):
        before = next((ordered[p] for p in reversed(graph.predecessors[i])), ())
        ordered.append(_aligned(before, out[i] or (0,)))
    return ordered


def reordered(problem: PlanningProblem, plan: Assignment, tries: int) -> Assignment:
    """The plan with its replicas in the order that exchanges of two of one stage lead to, as long as they make the
    loads smaller (the p-norm of `load_annealing`), after `tries` at most."""
    evaluator = Evaluator(problem)
    best = float(np.linalg.norm(evaluator.loads_s(plan), POWER))
    pairs = [
        (s, i, j) for s, devices in enumerate(plan.devices) for i, j in itertools.combinations(range(len(devices)), 2)
    ]
    failed = 0  # in a row
    for s, i, j in itertools.islice(itertools.cycle(pairs), tries):
        order = list(plan.devices[s])
        order[i], order[j] = order[j], order[i]
        other = dataclasses.replace(plan, devices=(*plan.devices[:s], tuple(order), *plan.devices[s + 1 :]))
        value = float(np.linalg.norm(evaluator.loads_s(other), POWER))
        failed += 1
        if value < best * (1 - 1e-9):
            best, plan, failed = value, other, 0
        elif failed == len(pairs):
            break
    return plan


def _aligned(before: tuple[int, ...], devices: tuple[int, ...]) -> tuple[int, ...]:
    """The devices in an order in which replicas i and j of both sets meet: i = j modulo the common divisor."""
    if set(before) == set(devices):
        return before
    places: list[int] = [-1] * len(devices)
    divisor = math.gcd(len(before), len(devices))
    left = []
    for d in devices:
        at = before.index(d) if d in before else -1
        fitting = [j for j in range(len(places)) if places[j] < 0 and at >= 0 and (j - at) % divisor == 0]
        if fitting:
            places[at if at in fitting else fitting[0]] = d
        else:
            left.append(d)
    rest = iter(left)
    return tuple(next(rest) if p < 0 else p for p in places)
