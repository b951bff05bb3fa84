"""Planning for unequal clusters by enumeration, in the manner of Metis and Sailor: data-parallel degree, order of the
device groups, group sizes, then a split that fits them.

Sources: Um et al., "Metis: Fast Automatic Distributed Training on Heterogeneous GPUs" (USENIX ATC 2024), which
enumerates orders of the node types and group sizes that are powers of two and balances the layers over the groups;
Strati et al., "Sailor" (SOSP 2025), which enumerates degrees and prunes.

What differs: tensor parallelism is left out; the split of the model over given groups is optimal (`split_dp`) where
Metis balances greedily; micro-batches are shared equally among the replicas of a stage, so a stage prefers equal
devices; every configuration is ranked by the evaluator, and the enumeration ends with the budget.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from drlpp.cost.problem_arrays import ProblemArrays, problem_arrays
from drlpp.planners.base import Budget, PlanResult, Progress, no_progress
from drlpp.planners.baselines.uniform import USUAL_STAGES
from drlpp.planners.consecutive.device_states import DeviceStates, in_order
from drlpp.planners.consecutive.dynamic_program import DynamicProgramParams, offer_split, split_models
from drlpp.planners.search import Search
from drlpp.planners.space.device_orders import device_orders, fold_depths, folded
from drlpp.problem import PlanningProblem


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MetisParams:
    """Settings of the planner.

    Attributes:
        max_device_orders: orders of the groups of devices.
        program: of the program that splits the ops.
    """

    max_device_orders: int = 24
    program: DynamicProgramParams = dataclasses.field(default_factory=DynamicProgramParams)


class Metis:
    """Enumeration of degrees, orders and group sizes."""

    name = "metis"
    summary = "enumeration of data-parallel degree, device group order and sizes (Metis, ATC 2024)"

    def __init__(self, params: MetisParams | None = None) -> None:
        self.params = params or MetisParams()

    def solve(
        self, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
    ) -> PlanResult:
        search = Search(self.name, problem, budget, seed, progress, parameters=self.params)
        rng = np.random.default_rng(seed)
        arrays = problem_arrays(problem)
        configurations = 0
        for model in split_models(problem, arrays, rng, self.params.program):
            for states in group_choices(problem, arrays, rng, self.params.max_device_orders):
                configurations += 1
                offer_split(search, model, states, params=self.params.program)
                if budget.spent:
                    return search.result({"configurations": float(configurations)})
        return search.result({"configurations": float(configurations)})


def group_choices(
    problem: PlanningProblem, arrays: ProblemArrays, rng: np.random.Generator, max_device_orders: int
) -> Iterator[DeviceStates]:
    """Orders of the device groups, data-parallel degrees and group sizes (powers of two)."""
    cluster = problem.cluster
    for order in device_orders(cluster, arrays.times.total_s.sum(axis=1), max_device_orders, rng):
        depths = [1, *fold_depths(cluster, order)] if problem.may_replicate else [1]
        for depth in depths:
            places = folded(order, depth)
            most = len(places) if problem.may_replicate else 1
            sizes = [1 << i for i in range(most.bit_length()) if 1 << i <= most]
            sizes.sort(key=lambda size: abs(math.log2(len(places) / size / USUAL_STAGES)))
            for size in sizes:
                yield in_order(problem, arrays, places, (size,))
                if 2 * size <= most:
                    yield in_order(problem, arrays, places, (size, 2 * size))
