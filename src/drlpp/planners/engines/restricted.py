"""Any planner, held to what an engine can express: `Restricted(planner, engine)` is a planner itself.

The problem is rewritten so that the planner cannot leave the engine's space, and its answer is mapped back:
1. ops become blocks between the positions where the engine can cut (`planners.cuts`);
2. equal replicas become data-parallel copies: for each number of copies R that divides the micro-batches, devices are
   grouped by R (alike devices together), and the planner plans one copy on the slowest device of each group, with
   1/R of the micro-batches and without replication. The grouping under which a simple split is fastest comes first,
   and once the budget is spent the rest are left out;
3. a device that the planner gave several stages keeps one: stages are merged with their neighbours;
4. cuts are then moved and ranks swapped while that improves the objective under the engine's schedules.

Every candidate is judged on the original problem with all devices (`sim.Evaluator`), so gradient exchange counts.
Left out: loops over the ranks (several stages per device), which some engines have.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from drlpp._version import __version__
from drlpp.cluster import Cluster
from drlpp.graph import OpGraph
from drlpp.plan import Assignment, Provenance
from drlpp.planners.base import Budget, Planner, PlanResult, Progress, no_progress
from drlpp.planners.engines.cut_points import block_graph, block_of_op
from drlpp.planners.engines.engine import Engine
from drlpp.problem import PlanningProblem, SearchSpace
from drlpp.sim import Evaluation, Evaluator
from drlpp.training import TrainingSetup

_SAME_ORDER_ON_COPIES = ("1f1b", "gpipe")
"""Schedules whose order does not depend on times, so that unequal copies run in one order."""
_POLISH = 0.25
"""Part of the budget for moving cuts."""
_STEPS = (1, -1, 3, -3, 8, -8)

Ranks = tuple[tuple[int, ...], ...]
"""Per pipeline rank, its devices: one of each copy."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Chain:
    """A chain of stages: the first block of each, the rank of each, and whether it recomputes."""

    starts: tuple[int, ...]
    ranks: Ranks
    recompute: bool


class Restricted:
    """A planner that searches only among the plans that an engine can express.

    Args:
        planner: does the search.
        engine: whose rules count.
    """

    def __init__(self, planner: Planner, engine: Engine) -> None:
        self.planner = planner
        self.engine = engine
        self.name = planner.name
        self.summary = f"{planner.summary}; only plans for {engine.title}"

    def solve(
        self, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
    ) -> PlanResult:
        """The best plan within the engine's rules. Raises PlanError if the graph has nothing that it could cut at."""
        search = _Search(problem, self.engine, block_of_op(problem.graph, self.engine))
        blocks = block_graph(problem, search.block)
        variants = sorted(_rank_groups(problem, self.engine), key=search.promise)
        reasons = []
        for k, ranks in enumerate(variants):
            if budget.spent and search.best is not None:
                break
            part = budget.part(1 / (len(variants) - k))
            copy = _one_copy(problem, blocks, ranks)
            result = self.planner.solve(copy, part.part(1 - _POLISH), seed, progress)
            if result.plan is None:
                reasons.append(result.reason)
                continue
            chain = search.chain(result.plan.stage_of_op.tolist(), [s.devices[0] for s in result.plan.stages], ranks)
            search.offer(search.polished(chain, part))
            search.offer(search.polished(dataclasses.replace(chain, recompute=True), part))
        return search.result(self.name, budget, seed, reasons)


class _Search:
    """The best chain so far, judged on the whole problem."""

    def __init__(self, problem: PlanningProblem, engine: Engine, block: NDArray[np.int64]) -> None:
        self.problem = problem
        self.engine = engine
        self.block = block
        self.num_blocks = int(block.max()) + 1
        self.evaluator = Evaluator(problem)
        self.block_s = np.bincount(block, weights=problem.times.total_s.mean(axis=0))
        self.best: _Chain | None = None
        self.value = math.inf

    def offer(self, chain: _Chain) -> None:
        """Keeps the chain if it is better than the best so far."""
        value = self._value(chain)
        if value < self.value:
            self.best, self.value = chain, value

    def promise(self, ranks: Ranks) -> float:
        """The objective of the simple split: ranks in order, each with blocks in proportion to its speed."""
        speed = np.array([1 / max(_seconds(self.problem, _slowest(self.problem, group)), 1e-12) for group in ranks])
        bounds = np.cumsum(speed) / speed.sum() * self.block_s.sum()
        rank_of_block = np.searchsorted(bounds, np.cumsum(self.block_s) - self.block_s / 2)
        used, starts = np.unique(rank_of_block.clip(max=len(ranks) - 1), return_index=True)
        return self._value(_Chain(tuple(starts.tolist()), tuple(ranks[r] for r in used), False))

    def polished(self, chain: _Chain, budget: Budget) -> _Chain:
        """The chain after moves of cuts and swaps of ranks, as long as these help and the budget lasts."""
        value, improved = self._value(chain), True
        while improved:
            improved = False
            for neighbour in self._neighbours(chain):
                if budget.spent:
                    return chain
                found = self._value(neighbour)
                if found < value:
                    chain, value, improved = neighbour, found, True
                    break
        return chain

    def _neighbours(self, chain: _Chain) -> Iterator[_Chain]:
        for s in range(1, len(chain.starts)):
            for step in _STEPS:
                starts = (*chain.starts[:s], chain.starts[s] + step, *chain.starts[s + 1 :])
                if all(a < b for a, b in itertools.pairwise((*starts, self.num_blocks))):
                    yield dataclasses.replace(chain, starts=starts)
        for a, b in itertools.combinations(range(len(chain.ranks)), 2):
            ranks = list(chain.ranks)
            ranks[a], ranks[b] = ranks[b], ranks[a]
            yield dataclasses.replace(chain, ranks=tuple(ranks))

    def result(self, planner: str, budget: Budget, seed: int, reasons: list[str]) -> PlanResult:
        if self.best is None or not self._evaluate(self.best).feasible:
            reason = reasons[0] if reasons else "the memory of the devices does not suffice"
            return PlanResult(
                planner=planner,
                status="infeasible",
                plan=None,
                planning_time_s=budget.elapsed_s,
                reason=f"no plan that {self.engine.title} can express was found: {reason}",
            )
        provenance = Provenance(
            planner=planner,
            seed=seed,
            budget_s=budget.seconds if math.isfinite(budget.seconds) else None,
            version=__version__,
            notes={"restricted_to": self.engine.name},
        )
        plan = self.evaluator.make_plan(self._assignment(self.best), provenance, self._schedules(self.best))
        return PlanResult(planner=planner, status="ok", plan=plan, planning_time_s=budget.elapsed_s)

    def _value(self, chain: _Chain) -> float:
        return self._evaluate(chain).score(self.problem.objective)

    def _evaluate(self, chain: _Chain) -> Evaluation:
        return self.evaluator.evaluate(self._assignment(chain), self._schedules(chain))

    def _schedules(self, chain: _Chain) -> tuple[str, ...] | None:
        if self.engine.schedules:
            return self.engine.schedules
        return _SAME_ORDER_ON_COPIES if len(chain.ranks[0]) > 1 else None

    def _assignment(self, chain: _Chain) -> Assignment:
        stage_of_block = np.searchsorted(np.array(chain.starts), np.arange(self.num_blocks), side="right") - 1
        recompute = (chain.recompute,) * len(chain.starts)
        return Assignment(stage_of_block[self.block].astype(np.int64), chain.ranks, recompute)

    def chain(self, stage_of_block: list[int], devices: list[int], ranks: Ranks) -> _Chain:
        """The chain of a plan of one copy, with one stage per rank: the lightest stages of a device are given up."""
        runs: list[tuple[int, int]] = []  # first block, rank
        for b, stage in enumerate(stage_of_block):
            if not runs or devices[stage] != runs[-1][1]:
                runs.append((b, devices[stage]))
        while len({rank for _, rank in runs}) < len(runs):
            seconds = [
                self.block_s[b : runs[k + 1][0] if k + 1 < len(runs) else None].sum() for k, (b, _) in enumerate(runs)
            ]
            used = [rank for _, rank in runs]
            lightest = min((k for k, r in enumerate(used) if used.count(r) > 1), key=lambda k: seconds[k])
            begin = runs[lightest][0]
            del runs[lightest]
            if lightest == 0:  # the next stage takes its blocks
                runs[0] = (begin, runs[0][1])
            runs = [run for k, run in enumerate(runs) if k == 0 or run[1] != runs[k - 1][1]]
        return _Chain(tuple(b for b, _ in runs), tuple(ranks[r] for _, r in runs), False)


def _one_copy(problem: PlanningProblem, blocks: OpGraph, ranks: Ranks) -> PlanningProblem:
    """The problem of one data-parallel copy: blocks, a device for each rank, its share of the micro-batches."""
    training = TrainingSetup(
        num_microbatches=problem.training.num_microbatches // len(ranks[0]), optimizer=problem.training.optimizer
    )
    cluster = problem.cluster.subset([_slowest(problem, group) for group in ranks])
    return PlanningProblem(blocks, cluster, training, problem.objective, SearchSpace(replication=False))


def _rank_groups(problem: PlanningProblem, engine: Engine) -> Iterator[Ranks]:
    """Ways to form pipeline ranks, each in the order of its slowest devices (as `Cluster.subset` numbers them)."""
    cluster, seen = problem.cluster, set()
    hosts = [[d.id for d in cluster.devices if d.host == h] for h in range(len(cluster.hosts))]
    pools = [h for h in hosts if h] if engine.one_host else [[d.id for d in cluster.devices]]
    for pool in pools:
        for copies in _copy_counts(problem, engine, len(pool)):
            for order in _orders(problem, pool):
                groups = [tuple(sorted(order[k : k + copies])) for k in range(0, len(pool) - copies + 1, copies)]
                ranks = tuple(sorted(groups, key=lambda group: _slowest(problem, group)))
                if ranks not in seen:
                    seen.add(ranks)
                    yield ranks


def _copy_counts(problem: PlanningProblem, engine: Engine, num_devices: int) -> list[int]:
    if not engine.replicates or not problem.may_replicate:
        return [1]
    return [r for r in range(1, num_devices + 1) if problem.training.num_microbatches % r == 0]


def _orders(problem: PlanningProblem, pool: list[int]) -> Iterator[list[int]]:
    """Fast devices first, like ones together: neighbours on one host (short gradient exchange), or on several."""
    cluster: Cluster = problem.cluster
    place = {d.id: sum(e.host == d.host for e in cluster.devices[: d.id]) for d in cluster.devices}

    def key(d: int) -> tuple[float, str]:
        return _seconds(problem, d), cluster.devices[d].type.name

    yield sorted(pool, key=lambda d: (key(d), cluster.devices[d].host, d))
    yield sorted(pool, key=lambda d: (key(d), place[d], d))


def _seconds(problem: PlanningProblem, device: int) -> float:
    return float(problem.times.total_s[problem.cluster.type_index[device]].sum())


def _slowest(problem: PlanningProblem, group: tuple[int, ...]) -> int:
    return max(group, key=lambda d: (_seconds(problem, d), d))
