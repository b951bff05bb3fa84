"""Optimal split in consecutive stages by dynamic programming, for unequal devices and with replication.

The program (`split_dp`) is exact over all splits of one topological order, or over all downsets of the graph where
these are few (`max_downsets`): then no partition whose stages follow one another in a chain is better. Source: the
"linearise and DP" and the dynamic program over ideals of Tarnawski et al., "Efficient Algorithms for Device Placement
of DNN Graph Operators" (NeurIPS 2020).

What differs: devices may be unequal, and their order along the pipeline is searched: exactly by type, where the
counts of types allow (`max_type_states`), and over the orders of the groups of like devices on a host; stages may be
replicated as in PipeDream, with the gradient exchange of a step spread over its micro-batches; several topological
orders are tried.

For the objective iteration-time the program's optimum is not the simulator's. So it makes candidates (optimal
bottleneck with and without replication, with equal replication, and shortest fill at bottlenecks a little above the
optimum), and the simulation picks the best. For the steady state, PipeDream's plans, whose cuts come from another
linearisation, are among the candidates.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator

import numpy as np

from drlpp.cost.problem_arrays import ProblemArrays, problem_arrays
from drlpp.plan.assignment import Assignment
from drlpp.planners.base import Budget, PlanResult, Progress, no_progress
from drlpp.planners.baselines.data_parallel import data_parallel_assignment
from drlpp.planners.consecutive.device_states import MANY_DEVICES, DeviceStates, by_class, in_order, replica_choices
from drlpp.planners.consecutive.downsets import all_downsets, grouped_downsets
from drlpp.planners.consecutive.split_program import Split, solve_split, to_assignment
from drlpp.planners.consecutive.split_states import SplitModel, along_order, over_downsets
from drlpp.planners.pipedream.planner import offer_pipelines
from drlpp.planners.search import Search
from drlpp.planners.space.device_orders import device_orders, fold_depths, folded
from drlpp.planners.space.op_orders import op_orders
from drlpp.planners.space.shares import ways_to_count
from drlpp.problem import PlanningProblem, per_problem


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DynamicProgramParams:
    """Settings of the program.

    Attributes:
        max_downsets: all downsets are the states of a graph that has no more.
        max_type_states: states by numbers of devices of each type are tried where there are no more.
        max_op_orders, max_device_orders: orders of ops, and of groups of devices.
        max_folds: depths at which the devices are folded into equal pipelines.
        max_positions_many_devices: splits along one order on more than 128 devices.
        pipedream_share: part of the time that is left for PipeDream's program, for the steady state.
        fill_slacks: factors on the smallest bottleneck at which the shortest fill is looked for.
        filled_states: device states, best first, on which the fill is shortened.
        kept_states: device states, best first, that are tried with every topological order.
        memory_shares: the program's memory is an estimate: where the evaluator disagrees, it tries again with less.
    """

    max_downsets: int = 2000
    max_type_states: int = 512
    max_op_orders: int = 4
    max_device_orders: int = 6
    max_folds: int = 4
    max_positions_many_devices: int = 512
    pipedream_share: float = 0.3
    fill_slacks: tuple[float, ...] = (1.0, 1.04, 1.15, 1.4, 2.0)
    filled_states: int = 3
    kept_states: int = 4
    memory_shares: tuple[float, ...] = (1.0, 0.85, 0.7, 0.5)


DEFAULTS = DynamicProgramParams()


def split_models(
    problem: PlanningProblem, arrays: ProblemArrays, rng: np.random.Generator, params: DynamicProgramParams = DEFAULTS
) -> Iterator[SplitModel]:
    """All downsets where they are few, else one model per topological order.

    For the steady state, before these, all downsets that keep side inputs and outputs with their ops, where these are
    few: a bottleneck of dear transfers shows every order's mistake.
    """
    graph = problem.graph
    masks = all_downsets(graph.predecessors, params.max_downsets)
    if masks is not None:
        yield over_downsets(arrays, masks)
        return
    if problem.objective.of_one_microbatch:
        grouped = grouped_downsets(graph.predecessors, params.max_downsets)
        if grouped is not None:
            yield over_downsets(arrays, grouped)
    many = problem.cluster.num_devices > 128
    for number, order in enumerate(op_orders(graph, rng)):
        if number == params.max_op_orders:
            return
        yield along_order(arrays, order, params.max_positions_many_devices) if many else along_order(arrays, order)


def device_choices(
    problem: PlanningProblem,
    arrays: ProblemArrays,
    rng: np.random.Generator,
    params: DynamicProgramParams = DEFAULTS,
    *,
    by_speed: bool = False,
) -> Iterator[DeviceStates]:
    """Device states to plan with: orders of the groups of devices, equal pipelines side by side, types in any order.

    Args:
        by_speed: stages on unequal devices have shares by speed.
    """
    cluster = problem.cluster
    far = not arrays.ops.timed and len(cluster.hosts) > 1
    orders = device_orders(cluster, arrays.times.total_s.sum(axis=1), params.max_device_orders, rng)
    for replicas in replica_sets(problem):
        for number, order in enumerate(orders):
            yield in_order(problem, arrays, folded(order, 1), replicas, by_speed=by_speed)
            if far and len(replicas) > 1:
                yield in_order(problem, arrays, folded(order, 1), replicas, reach=len(order), by_speed=by_speed)
            if number == 0 and len(replicas) > 1:
                for depth in fold_depths(cluster, order)[: params.max_folds]:
                    places = folded(order, depth)
                    choices = replica_choices(problem, len(places))
                    yield in_order(problem, arrays, places, choices, by_speed=by_speed)
        if cluster.is_unequal:
            states = by_class(problem, arrays, replicas, params.max_type_states)
            if states is not None:
                yield states


class DynamicProgram:
    """Optimal consecutive stages, over orders of ops and devices."""

    name = "dp"
    summary = "optimal split in consecutive stages, with replication, for unequal devices"

    def __init__(self, params: DynamicProgramParams = DEFAULTS) -> None:
        self.params = params

    def solve(
        self, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
    ) -> PlanResult:
        search = Search(self.name, problem, budget, seed, progress, parameters=self.params)
        if problem.may_replicate:
            search.offer(data_parallel_assignment(problem))
        run_dynamic_program(search, np.random.default_rng(seed), self.params)
        return search.result()


def run_dynamic_program(search: Search, rng: np.random.Generator, params: DynamicProgramParams = DEFAULTS) -> None:
    """Offers the program's solutions to a search until all are made or the budget is spent."""
    arrays = problem_arrays(search.problem)
    for by_speed, draws in zip(ways_to_count(search.problem), (rng, *rng.spawn(1)), strict=False):
        states: Iterable[DeviceStates] = device_choices(search.problem, arrays, draws, params, by_speed=by_speed)
        for model in split_models(search.problem, arrays, draws, params):
            states = offer_splits(search, model, states, params)
            if search.budget.spent:
                return
    if search.problem.objective.of_one_microbatch:
        whole = search.budget
        search.budget = whole.part(params.pipedream_share)
        offer_pipelines(search)
        search.budget = whole


def offer_first_splits(
    search: Search, rng: np.random.Generator, number: int, params: DynamicProgramParams = DEFAULTS
) -> None:
    """Offers the program's solutions for its first device states alone, and its first model: a quick look. The problem
    remembers the best."""
    problem = search.problem
    arrays, by_speed = problem_arrays(problem), ways_to_count(problem)[-1]
    states = device_choices(problem, arrays, rng, params, by_speed=by_speed)
    model = next(split_models(problem, arrays, rng, params))
    offer_splits(search, model, itertools.islice(states, number), params)
    if search.best is not None:
        first_splits(problem).append(search.best)


@per_problem
def first_splits(problem: PlanningProblem) -> list[Assignment]:
    """The best of each time that `offer_first_splits` looked at a problem, such as when its variants were ranked."""
    return []


def offer_splits(
    search: Search, model: SplitModel, choices: Iterable[DeviceStates], params: DynamicProgramParams = DEFAULTS
) -> list[DeviceStates]:
    """Offers the best splits of one model on some device states.

    Returns:
        The states with the best plans, at most `kept_states`: what is worth trying with the next model.
    """
    steady = search.problem.objective.of_one_microbatch
    ranked: list[tuple[float, int, DeviceStates, Split]] = []
    for number, states in enumerate(choices):
        split, value = offer_split(search, model, states, search.best_value if steady else math.inf, params)
        if split is not None:
            ranked.append((value, number, states, split))
        if search.budget.spent:
            break
    ranked.sort(key=lambda x: x[:2])
    if not search.problem.objective.of_one_microbatch:
        for _, _, states, split in ranked[: params.filled_states]:
            _offer_short_fills(search, model, states, split, params)
    return [states for _, _, states, _ in ranked[: params.kept_states]]


def replica_sets(problem: PlanningProblem) -> list[tuple[int, ...]]:
    """Sets of numbers of replicas that the stages of a plan may have, best first: any, none, the same in all stages."""
    total = problem.cluster.num_devices
    free = replica_choices(problem, total)
    if problem.objective.of_one_microbatch or free == (1,):
        return [free]
    equal = [r for r in free if 1 < r < total and total % r == 0]
    if total > MANY_DEVICES:  # few stages first: plans with hundreds of stages are rarely good and slow to simulate
        by_stages = sorted(equal, key=lambda r: abs(math.log2(total / r / 8)))
        return [*((r,) for r in by_stages[:5]), free]
    return [free, (1,), *((r,) for r in equal[:3])]


def offer_split(
    search: Search,
    model: SplitModel,
    states: DeviceStates,
    limit_s: float = math.inf,
    params: DynamicProgramParams = DEFAULTS,
) -> tuple[Split | None, float]:
    """Offers the split with the smallest bottleneck, with ever less memory per device until its plan fits.

    Args:
        limit_s: bottlenecks from here on are of no interest.

    Returns:
        The last split (None if there is none) and the objective of its plan.
    """
    split, value = None, math.inf
    for share in params.memory_shares:
        found = solve_split(
            model,
            states,
            limit_s=limit_s,
            memory_share=share,
            budget=search.budget,
        )
        if found is None:
            break
        split, value = found, search.offer(to_assignment(model, states, found))
        if search.last_feasible or search.budget.spent:
            break
    return split, value


def _offer_short_fills(
    search: Search, model: SplitModel, states: DeviceStates, base: Split, params: DynamicProgramParams
) -> None:
    """Offers the shortest fill at bottlenecks that are not much worse than the optimal one."""
    limit = search.best_value / search.problem.training.num_microbatches  # a larger load alone takes longer
    for slack in params.fill_slacks:
        if search.budget.spent or base.value_s * slack > limit:
            return
        split = solve_split(
            model,
            states,
            value="fill",
            limit_s=base.value_s * slack * (1 + 1e-9),
            budget=search.budget,
        )
        if split is not None:
            search.offer(to_assignment(model, states, split))
