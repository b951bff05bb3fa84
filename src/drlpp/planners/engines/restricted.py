"""Any planner, held to what an engine can express, or to a number of stages: `Restricted` is a planner itself.

The problem is rewritten so that the planner cannot leave the space, and its answer is mapped back:
1. ops become blocks between the positions where the engine can cut (`engines.cut_points`);
2. equal replicas become data-parallel copies: for each number of copies R that divides the micro-batches, devices are
   grouped by R, alike devices together (`engines.rank_groups`);
3. for every grouping, simple chains of stages are made and improved: balanced ones, and those that fit the memory
   (`engines.chain_search`). So no planner returns less than a simple split;
4. the planner plans one copy on the slowest device of each group, with 1/R of the micro-batches and without
   replication, for the groupings under which simple chains are fastest first, while the budget lasts;
5. a device that the planner gave several stages keeps one, stages are joined or halved where a number of them is asked
   for, and cuts and ranks are improved as before.

Left out, unless more stages than ranks are asked for: loops over the ranks (several stages per device).
"""

from __future__ import annotations

import dataclasses

from drlpp.cost.shared_graphs import contracted
from drlpp.errors import InputError
from drlpp.planners.base import Budget, Planner, PlanResult, Progress, no_progress
from drlpp.planners.baselines.data_parallel import DataParallel
from drlpp.planners.engines.chain_search import Chain, ChainSearch, looped
from drlpp.planners.engines.cut_points import block_of_op
from drlpp.planners.engines.engine import RUN, Engine
from drlpp.planners.engines.rank_groups import Ranks, rank_groups, slowest
from drlpp.planners.parameters import recorded
from drlpp.problem import PlanningProblem, SearchSpace


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RestrictedParams:
    """Settings of the search within an engine's rules.

    Attributes:
        simple_share: part of the budget for simple chains.
        starts: simple chains of a grouping that are improved.
        polish_share: part of the planner's budget for moving cuts.
        groupings: the planner is asked for so many groupings.
    """

    simple_share: float = 0.4
    starts: int = 3
    polish_share: float = 0.25
    groupings: int = 4


PARAMS = RestrictedParams()


class Restricted:
    """A planner that searches only among the plans that an engine can express.

    Args:
        planner: does the search.
        engine: whose rules count.
        num_stages: how many stages; None for as many as are best.

    Raises:
        InputError: several stages are asked for from a planner that makes one.
    """

    def __init__(self, planner: Planner, engine: Engine = RUN, num_stages: int | None = None) -> None:
        if num_stages is not None and num_stages > 1 and planner.name == DataParallel.name:
            raise InputError(f"--num-stages {num_stages}: planner {planner.name} makes one stage: use another planner")
        self.planner = planner
        self.engine = engine
        self.num_stages = num_stages
        self.name = planner.name
        self.summary = f"{planner.summary}; only plans for {engine.title}"

    def solve(
        self, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
    ) -> PlanResult:
        """The best plan within the rules.

        Raises:
            PlanError: the graph has nothing that the engine could cut at.
            InputError: the number of stages cannot be had.
        """
        block = block_of_op(problem.graph, self.engine)
        search = ChainSearch(problem, self.engine, block, budget, self.num_stages)
        groupings = usable_groupings(problem, self.engine, self.num_stages, search.num_blocks)
        best_simple = _simple_chains(search, groupings, self.num_stages, budget.part(PARAMS.simple_share))
        promising = sorted(best_simple, key=lambda ranks: best_simple[ranks])[: PARAMS.groupings]
        for k, ranks in enumerate(promising):
            if budget.spent or len(ranks) < (self.num_stages or 0):
                break
            part = budget.part(1 / (len(promising) - k))
            result = self.planner.solve(
                _one_copy(search.blocks, ranks), part.part(1 - PARAMS.polish_share), seed, progress
            )
            if result.status == "not-applicable":
                return dataclasses.replace(result, planner=self.name)
            if result.plan is not None:
                devices = [s.devices[0] for s in result.plan.stages]
                self._offer(search, _chain(search, result.plan.stage_of_op.tolist(), devices, ranks), part)
        notes = {"restricted_to": self.engine.name} | ({"num_stages": str(self.num_stages)} if self.num_stages else {})
        parameters = {"restricted": recorded(PARAMS)}
        if params := getattr(self.planner, "params", None):
            parameters["planner"] = recorded(params)
        return search.result(self.name, seed, notes, parameters)

    def _offer(self, search: ChainSearch, chain: Chain, budget: Budget) -> None:
        if self.num_stages is not None:
            adjusted = search.with_stages(chain, self.num_stages)
            if adjusted is None:
                return
            chain = adjusted
        for variant in chain.with_all_settings:
            search.offer(search.polished(variant, budget))


def usable_groupings(problem: PlanningProblem, engine: Engine, num_stages: int | None, num_blocks: int) -> list[Ranks]:
    """The ways to form ranks on which so many stages can be. Raises InputError if there is none."""
    every = list(rank_groups(problem, engine))
    if num_stages is None:
        return every
    if num_stages > num_blocks:
        raise InputError(
            f"--num-stages {num_stages}: {engine.title} can cut {problem.graph.name!r} in at most {num_blocks} stages: "
            "ask for fewer"
        )
    fitting = [ranks for ranks in every if len(ranks) >= num_stages]
    if not fitting and engine.loops:
        fitting = [ranks for ranks in every if _can_loop(problem, ranks, num_stages)]
    if not fitting:
        rule = "several only in whole rounds, with micro-batches in whole rounds too" if engine.loops else "no more"
        raise InputError(
            f"--num-stages {num_stages}: {engine.title} has one stage on each of the {problem.cluster.num_devices} "
            f"devices, {rule}: ask for another number"
        )
    return fitting


def _can_loop(problem: PlanningProblem, ranks: Ranks, num_stages: int) -> bool:
    """The stages are equally many on two ranks or more, and so are the micro-batches of a copy."""
    used = len(set(looped(ranks, num_stages)[0]))
    return used > 1 and problem.training.num_microbatches // len(ranks[0]) % used == 0


def _simple_chains(
    search: ChainSearch, groupings: list[Ranks], num_stages: int | None, budget: Budget
) -> dict[Ranks, float]:
    """Offers simple chains on all groupings, then improved ones. Returns the best value of each grouping looked at."""
    found: dict[Ranks, list[tuple[float, Chain]]] = {}
    for ranks in groupings:
        if budget.spent and found:
            break
        chains = [(search.offer(chain), chain) for chain in search.simple(ranks, num_stages)]
        found[ranks] = sorted(chains, key=lambda pair: pair[0])
    values: dict[Ranks, float] = {}
    for k, (ranks, chains) in enumerate(sorted(found.items(), key=lambda item: item[1][0][0])):
        part = budget.part(1 / (len(found) - k))
        polished = [search.offer(search.polished(chain, part)) for _, chain in chains[: PARAMS.starts]]
        values[ranks] = min(chains[0][0], *polished)
    return values


def _chain(search: ChainSearch, stage_of_block: list[int], devices: list[int], ranks: Ranks) -> Chain:
    """The chain of a plan of one copy, with one stage per rank: the lightest stages of a device are given up.

    Args:
        devices: of each stage, its device: a position in `ranks`.
    """
    runs: list[tuple[int, int]] = []  # first block, rank
    for b, stage in enumerate(stage_of_block):
        if not runs or devices[stage] != runs[-1][1]:
            runs.append((b, devices[stage]))
    while len({rank for _, rank in runs}) < len(runs):
        ends = [*(b for b, _ in runs[1:]), search.num_blocks]
        seconds = [search.seconds(b, end) for (b, _), end in zip(runs, ends, strict=True)]
        used = [rank for _, rank in runs]
        lightest = min((k for k, r in enumerate(used) if used.count(r) > 1), key=lambda k: seconds[k])
        begin = runs[lightest][0]
        del runs[lightest]
        if lightest == 0:  # the next stage takes its blocks
            runs[0] = (begin, runs[0][1])
        runs = [run for k, run in enumerate(runs) if k == 0 or run[1] != runs[k - 1][1]]
    taken = {rank for _, rank in runs}
    spare = tuple(devices for r, devices in enumerate(ranks) if r not in taken)
    return Chain(tuple(b for b, _ in runs), tuple(ranks[r] for _, r in runs), spare=spare)


def _one_copy(problem: PlanningProblem, ranks: Ranks) -> PlanningProblem:
    """The problem of one data-parallel copy: a device for each rank, its share of the micro-batches."""
    number = problem.training.num_microbatches // len(ranks[0])
    training = dataclasses.replace(problem.training, num_microbatches=number)
    cluster = problem.cluster.subset([slowest(problem, group) for group in ranks])
    space = SearchSpace(parallelism=frozenset({"pp"}))
    return contracted(problem, problem.graph, cluster=cluster, training=training, space=space)
