"""Refinement from many starts: islands that anneal apart, in a race, so that one bad basin does not take the budget.

Annealing (`planners.annealing`) goes on from one pool, which soon holds relatives of one plan. Here every start, told
apart by the devices of its stages, has a pool of its own; islands run in turn, the worse half is dropped, and the time
per island doubles; what the islands found then meets in one pool, where annealing goes on. Such races follow one
another, each with starts that were not tried before, until the budget is spent or the lower bound is reached.

Source of the race: successive halving, Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and
Hyperparameter Optimization" (AISTATS 2016). Left out: exchange between islands before the end of a race.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from drlpp.plan.assignment import Assignment
from drlpp.planners.local_search.annealing import AnnealingParams, anneal
from drlpp.planners.search import Search
from drlpp.problem import PlanningProblem


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RestartParams:
    """Settings of the races.

    Attributes:
        max_islands: of a race.
        first_offers: an island's first turn is at least as long as so many evaluations take.
        kept: plans of an island, best first, that go into the common pool.
        annealing: of the islands.
    """

    max_islands: int = 16
    first_offers: int = 150
    kept: int = 3
    annealing: AnnealingParams = dataclasses.field(default_factory=AnnealingParams)


DEFAULTS = RestartParams()


@dataclasses.dataclass(frozen=True)
class Start:
    """A plan to refine: its objective value in seconds (a multiple where it does not fit), and who made it."""

    value_s: float
    assignment: Assignment
    origin: str


Signature = tuple[tuple[tuple[tuple[int, int], int], ...], ...]


def signature(problem: PlanningProblem, assignment: Assignment) -> Signature:
    """Per stage how many devices of each host and type: equal for plans that differ by like devices and by ops only."""
    host, kind = problem.cluster.host_index.tolist(), problem.cluster.type_index.tolist()
    stages = []
    for group in assignment.devices:
        count: dict[tuple[int, int], int] = {}
        for d in group:
            count[host[d], kind[d]] = count.get((host[d], kind[d]), 0) + 1
        stages.append(tuple(sorted(count.items())))
    return tuple(stages)


class Starts:
    """Plans that wait to be refined, best first, each signature once.

    Args:
        problem: what is planned.
        more: makes new ones when those that wait have been taken.
    """

    def __init__(self, problem: PlanningProblem, more: Callable[[], Iterable[Start]]) -> None:
        self._problem = problem
        self._more = more
        self._waiting: dict[Signature, Start] = {}
        self._taken: set[Signature] = set()

    def add(self, starts: Iterable[Start]) -> None:
        """Adds plans; of two with one signature the better one waits, and none that was taken comes back."""
        for start in starts:
            key = signature(self._problem, start.assignment)
            known = self._waiting.get(key)
            if key not in self._taken and (known is None or start.value_s < known.value_s):
                self._waiting[key] = start

    def take(self, number: int) -> list[Start]:
        """The best ones that wait, at most `number`; at least half of them if `more` can make as many."""
        if len(self._waiting) < number // 2:
            self.add(self._more())
        chosen = sorted(self._waiting, key=lambda key: self._waiting[key].value_s)[:number]
        self._taken.update(chosen)
        return [self._waiting.pop(key) for key in chosen]


class _Island:
    def __init__(self, common: Search, start: Start, rng: np.random.Generator, params: RestartParams) -> None:
        self._params = params
        self.origin = start.origin
        self._rng = rng
        self._search = Search(common.planner, common.problem, common.budget, common.seed, evaluator=common.evaluator)
        self._search.offer(start.assignment)

    @property
    def value_s(self) -> float:
        """The best so far, feasible or not."""
        return min(self._search.best_value, min(value for value, _ in self._search.pool))

    def run(self, common: Search, share: float) -> None:
        """Anneals for a part of the time that is left, and offers what is best to the common search."""
        self._search.budget = common.budget.part(share)
        anneal(self._search, self._rng, self._params.annealing)
        for assignment in self._best():
            common.offer(assignment)

    def _best(self) -> Iterator[Assignment]:
        if self._search.best is not None:
            yield self._search.best
        for _, assignment in sorted(self._search.pool, key=lambda x: x[0])[: self._params.kept]:
            yield assignment


def reaches(value_s: float, bound_s: float) -> bool:
    """Whether a plan is as good as the lower bound, so that none is better."""
    return value_s <= bound_s * (1.0 + 1e-9)


def refine(
    search: Search,
    starts: Starts,
    offer_s: float,
    bound_s: float,
    rng: np.random.Generator,
    params: RestartParams = DEFAULTS,
) -> dict[str, float]:
    """Races of islands until the budget of a search is spent or its best plan is proven optimal.

    Args:
        search: the common search; its pool holds plans already.
        offer_s: seconds that one evaluation takes.
        bound_s: no plan is better.

    Returns:
        The best objective value of the islands by the origin of their starts (before their plans met).
    """
    found: dict[str, float] = {}
    whole = search.budget
    while not (whole.spent or reaches(search.best_value, bound_s)):
        search.budget = whole.part(_race_share(whole.left_s, offer_s, params))
        for island in _race(search, starts, offer_s, rng, params):
            found[island.origin] = min(found.get(island.origin, math.inf), island.value_s)
        search.budget = whole
    return found


def _race_share(left_s: float, offer_s: float, params: RestartParams) -> float:
    """Half of the time that is left, or all of it where half were too short for a race of all islands."""
    return 0.5 if left_s / 2 > 2 * _race_s(params.max_islands, offer_s, params) else 1.0


def _race_s(islands: int, offer_s: float, params: RestartParams) -> float:
    return (math.log2(islands) + 1) * islands * params.first_offers * offer_s


def _race(
    search: Search, starts: Starts, offer_s: float, rng: np.random.Generator, params: RestartParams
) -> Sequence[_Island]:
    """One race; returns its islands."""
    number = params.max_islands
    while number > 1 and _race_s(number, offer_s, params) > search.budget.left_s:
        number //= 2
    islands = [_Island(search, s, rng.spawn(1)[0], params) for s in starts.take(number)] if number > 1 else []
    running = list(islands)
    while len(running) > 1 and not search.budget.spent:
        rounds = math.ceil(math.log2(len(running))) + 1
        for position, island in enumerate(running):
            turns = rounds * len(running) - position
            island.run(search, 1.0 / turns)
        running = sorted(running, key=lambda x: x.value_s)[: len(running) // 2]
    anneal(search, rng, params.annealing)
    return islands
