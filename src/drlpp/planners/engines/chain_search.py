"""Chains of stages within the rules of an engine: simple ones, what they are worth, and better neighbours.

A chain is judged on the whole problem with all devices (`sim.Evaluator`), so gradient exchange counts, under the
schedules that the engine knows.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drlpp._version import __version__
from drlpp.cost.problem_times import problem_times
from drlpp.plan import Assignment, Provenance
from drlpp.plan.settings import PLAIN, StageSettings
from drlpp.planners.base import Budget, PlanResult
from drlpp.planners.engines.cut_points import problem_of_blocks
from drlpp.planners.engines.engine import Engine
from drlpp.planners.engines.rank_groups import Ranks
from drlpp.planners.misses import not_found, proof_that_none_fits
from drlpp.planners.space.chain_loads import CHAIN_SETTINGS, chain_assignment, chain_loads
from drlpp.planners.space.chain_split import split_chain
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluation, Evaluator

_SAME_ORDER_ON_COPIES = ("1f1b", "gpipe")
"""Schedules whose order does not depend on times, so that unequal copies run in one order."""
_WORTHWHILE = 1e-3
"""Ranks are exchanged for this relative gain at least: an order that people can read is worth as much."""
_STEPS = (1, -1, 3, -3, 8, -8)


@dataclasses.dataclass(frozen=True, slots=True)
class Chain:
    """A chain of stages.

    Attributes:
        starts: the first block of each stage.
        ranks: the rank of each stage.
        settings: of all its stages.
        spare: ranks without a stage, which may take the place of another.
    """

    starts: tuple[int, ...]
    ranks: Ranks
    settings: StageSettings = PLAIN
    spare: Ranks = ()

    @property
    def num_stages(self) -> int:
        return len(self.starts)

    @property
    def with_all_settings(self) -> tuple[Chain, ...]:
        """The chain with each of `CHAIN_SETTINGS`, in turn."""
        return tuple(dataclasses.replace(self, settings=settings) for settings in CHAIN_SETTINGS)

    @property
    def loops(self) -> bool:
        """Ranks have several stages: stage i is on rank i modulo their number."""
        return len(set(self.ranks)) < len(self.ranks)


class ChainSearch:
    """The best chain so far.

    Args:
        problem: what is planned.
        engine: whose rules count.
        block: ``[num_ops]`` the block of each op; blocks stay whole.
        budget: of the whole search.
        num_stages: how many stages; None for as many as are best.

    Attributes:
        blocks: the problem whose ops are the blocks.
    """

    def __init__(
        self,
        problem: PlanningProblem,
        engine: Engine,
        block: NDArray[np.int64],
        budget: Budget,
        num_stages: int | None = None,
    ) -> None:
        self.problem = problem
        self.engine = engine
        self.budget = budget
        self._num_stages = num_stages
        self.blocks = problem_of_blocks(problem, block)
        self._block = block
        self.evaluator = Evaluator(problem)
        self.best: Chain | None = None
        self.best_value = math.inf
        self._seconds = problem_times(self.blocks).total_s
        self._block_s = self._seconds.mean(axis=0)
        self._nearest: Evaluation | None = None
        self._history: list[tuple[float, float]] = []

    @property
    def num_blocks(self) -> int:
        return self.blocks.graph.num_ops

    def offer(self, chain: Chain) -> float:
        """Keeps the chain if it fits and is better than the best so far. Returns its `value`."""
        evaluation = self._evaluate(chain)
        value = evaluation.score(self.problem.objective)
        if not evaluation.feasible:
            if self._nearest is None or evaluation.over_memory_bytes < self._nearest.over_memory_bytes:
                self._nearest = evaluation
        elif value < self.best_value:
            self.best, self.best_value = chain, value
            self._history.append((self.budget.elapsed_s, value))
        return value

    def value(self, chain: Chain) -> float:
        """The objective, and many times that for a chain that does not fit the memory."""
        return self._evaluate(chain).score(self.problem.objective)

    def seconds(self, begin: int, end: int) -> float:
        """Of the blocks from `begin` to before `end`, on the mean of the device types."""
        return float(self._block_s[begin:end].sum())

    def simple(self, ranks: Ranks, num_stages: int | None) -> Iterator[Chain]:
        """Balanced chains: equal shares of the time, and the smallest largest load that fits; with recomputation too.

        Args:
            num_stages: how many stages; None for one on each rank.
        """
        count = min(len(ranks), self.num_blocks) if num_stages is None else num_stages
        places, spare = looped(ranks, count)
        loads = (chain_loads(self.blocks, places, settings) for settings in CHAIN_SETTINGS)
        starts = {self._equal_shares(places), *(split_chain(x).starts for x in loads)}
        for settings in CHAIN_SETTINGS:
            for s in sorted(starts):
                yield Chain(s, places, settings, spare)

    def _equal_shares(self, places: Ranks) -> tuple[int, ...]:
        """Stages with parts of the time in proportion to the speed of their ranks, each with a block at least."""
        types = self.problem.cluster.type_index
        speed = [1 / max(self._seconds[types[list(devices)]].sum(axis=1).max(), 1e-12) for devices in places]
        ends = np.cumsum(speed) / np.sum(speed) * self._block_s.sum()
        starts = np.searchsorted(np.cumsum(self._block_s) - self._block_s / 2, ends[:-1])
        n, count = self.num_blocks, len(places)
        starts = np.maximum.accumulate(np.maximum(starts - np.arange(count - 1), 1)) + np.arange(count - 1)
        return (0, *np.minimum(starts, n - np.arange(count - 1, 0, -1)).tolist())

    def polished(self, chain: Chain, budget: Budget, *, cuts_stay: bool = False) -> Chain:
        """The chain after moves of cuts and changes of ranks, as long as these help and the budget lasts."""
        value, improved = self.value(chain), True
        while improved:
            improved = False
            for neighbour in self._neighbours(chain, cuts_stay):
                if budget.spent:
                    return chain
                found = self.value(neighbour)
                if found < value * (1 - _WORTHWHILE * (neighbour.ranks != chain.ranks)):
                    chain, value, improved = neighbour, found, True
                    break
        return chain

    def _neighbours(self, chain: Chain, cuts_stay: bool) -> Iterator[Chain]:
        for first, last, step in () if cuts_stay else _cut_moves(chain.num_stages):
            moved = [start + step if first <= s <= last else start for s, start in enumerate(chain.starts)]
            if all(a < b for a, b in itertools.pairwise((*moved, self.num_blocks))):
                yield dataclasses.replace(chain, starts=tuple(moved))
        used = tuple(dict.fromkeys(chain.ranks))
        for a, b in itertools.combinations(used, 2):
            yield _exchanged(chain, a, b)
        for a, b in itertools.product(used, chain.spare):
            yield _exchanged(chain, a, b)
        if not (cuts_stay or chain.loops) and chain.spare and self._num_stages is None:
            yield from self._divided(chain)

    def _divided(self, chain: Chain) -> Iterator[Chain]:
        """The chain with a stage in two, about in the middle of its time, the second part on a spare rank."""
        ends = (*chain.starts[1:], self.num_blocks)
        for s, (begin, end) in enumerate(zip(chain.starts, ends, strict=True)):
            inside = self._block_s[begin:end]
            middle = begin + int(np.searchsorted(np.cumsum(inside), inside.sum() / 2))
            for cut in range(max(begin + 1, middle), min(end, middle + 2)):
                for spare in chain.spare:
                    starts = (*chain.starts[: s + 1], cut, *chain.starts[s + 1 :])
                    ranks = (*chain.ranks[: s + 1], spare, *chain.ranks[s + 1 :])
                    rest = tuple(r for r in chain.spare if r != spare)
                    yield dataclasses.replace(chain, starts=starts, ranks=ranks, spare=rest)

    def with_stages(self, chain: Chain, count: int) -> Chain | None:
        """The chain with its lightest neighbours joined, or its heaviest stages halved on spare ranks.

        None if there are not enough blocks or ranks.
        """
        starts, ranks, spare = list(chain.starts), list(chain.ranks), list(chain.spare)
        while len(starts) != count:
            ends = [*starts[1:], self.num_blocks]
            seconds = [self.seconds(a, b) for a, b in zip(starts, ends, strict=True)]
            if len(starts) > count:
                s = min(range(len(starts) - 1), key=lambda s: seconds[s] + seconds[s + 1])
                gone = s if seconds[s] < seconds[s + 1] else s + 1  # the heavier stage keeps its rank
                del starts[s + 1]
                spare.append(ranks.pop(gone))
                continue
            wide = [s for s, (a, b) in enumerate(zip(starts, ends, strict=True)) if b - a > 1]
            if not wide or not spare:
                return None
            s = max(wide, key=lambda s: seconds[s])
            inside = self._block_s[starts[s] : ends[s]]
            middle = int(np.searchsorted(np.cumsum(inside), inside.sum() / 2)) + 1
            starts.insert(s + 1, starts[s] + min(middle, len(inside) - 1))
            ranks.insert(s + 1, spare.pop(0))
        return Chain(tuple(starts), tuple(ranks), chain.settings, tuple(spare))

    def result(self, planner: str, seed: int, notes: dict[str, str], parameters: dict[str, Any]) -> PlanResult:
        """The plan of the best chain, or why there is none."""
        if self.best is None:
            reason = proof_that_none_fits(self.problem) or not_found(
                self.problem, f"{planner} for {self.engine.title}", self._nearest, self.budget
            )
            return PlanResult(
                planner=planner,
                status="infeasible",
                plan=None,
                planning_time_s=self.budget.elapsed_s,
                reason=reason,
            )
        provenance = Provenance(
            planner=planner,
            seed=seed,
            budget_s=self.budget.seconds if math.isfinite(self.budget.seconds) else None,
            version=__version__,
            parameters=parameters,
            notes=notes,
        )
        plan = self.evaluator.make_plan(self._assignment(self.best), provenance, self._schedules(self.best))
        return PlanResult(
            planner=planner,
            status="ok",
            plan=plan,
            planning_time_s=self.budget.elapsed_s,
            history=tuple(self._history),
        )

    def _evaluate(self, chain: Chain) -> Evaluation:
        return self.evaluator.evaluate(self._assignment(chain), self._schedules(chain))

    def _schedules(self, chain: Chain) -> tuple[str, ...] | None:
        if self.engine.schedules:
            return self.engine.looped_schedules if chain.loops else self.engine.schedules
        return _SAME_ORDER_ON_COPIES if len(chain.ranks[0]) > 1 else None

    def _assignment(self, chain: Chain) -> Assignment:
        of_blocks = chain_assignment(chain.starts, chain.ranks, self.num_blocks, chain.settings)
        return dataclasses.replace(of_blocks, stage_of_op=of_blocks.stage_of_op[self._block])


def looped(ranks: Ranks, num_stages: int) -> tuple[Ranks, Ranks]:
    """The rank of each stage, and the ranks that are left: equally many stages on each of the first ranks, in turn."""
    rounds = next(k for k in range(1, num_stages + 1) if num_stages % k == 0 and num_stages // k <= len(ranks))
    used = num_stages // rounds
    return ranks[:used] * rounds, ranks[used:]


def _cut_moves(num_stages: int) -> Iterator[tuple[int, int, int]]:
    """First and last stage whose beginnings move, and by how many blocks: one stage gives blocks to another."""
    for s in range(1, num_stages):
        for step in _STEPS:
            yield s, s, step
    for width in range(1, num_stages - 1):
        for first in range(1, num_stages - width):
            yield first, first + width, 1
            yield first, first + width, -1


def _exchanged(chain: Chain, a: tuple[int, ...], b: tuple[int, ...]) -> Chain:
    """The chain with two ranks in each other's places."""
    other = {a: b, b: a}
    ranks, spare = (tuple(other.get(r, r) for r in part) for part in (chain.ranks, chain.spare))
    return dataclasses.replace(chain, ranks=ranks, spare=spare)
