"""Piper's plan space on our problem: data parallelism and recomputation chosen per stage under the memory of the
devices.

Source: Tarnawski, Narayanan and Phanishayee, "Piper: Multidimensional Planner for DNN Parallelization" (NeurIPS
2021): a dynamic program over downsets that minimises the largest time per sample of a stage, where each stage has its
own data-parallel degree and may recompute its activations, and a stage keeps more micro-batches the more devices come
behind it.

What differs: tensor parallelism is left out, since an op is never split here; devices may be unequal (as in `dp`,
whose device orders and split models are used); where there are too many downsets the splits are those of topological
orders. The objective iteration-time uses the same program, whose best plans over the orders are ranked by the
simulation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from drlpp.cost.problem_arrays import ProblemArrays, problem_arrays
from drlpp.planners.base import Budget, PlanResult, Progress, no_progress
from drlpp.planners.consecutive.device_states import DeviceStates, in_order
from drlpp.planners.consecutive.dynamic_program import DynamicProgramParams, offer_splits, replica_sets, split_models
from drlpp.planners.search import Search
from drlpp.planners.space.device_orders import device_orders, folded
from drlpp.planners.space.shares import ways_to_count
from drlpp.problem import PlanningProblem


class Piper:
    """Split with replication and recomputation per stage."""

    name = "piper"
    summary = "dynamic program with replication and recomputation per stage (Piper, NeurIPS 2021)"

    def __init__(self, params: DynamicProgramParams | None = None) -> None:
        self.params = params or DynamicProgramParams()

    def solve(
        self, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
    ) -> PlanResult:
        search = Search(self.name, problem, budget, seed, progress, parameters=self.params)
        rng = np.random.default_rng(seed)
        arrays = problem_arrays(problem)
        for by_speed, draws in zip(ways_to_count(problem), (rng, *rng.spawn(1)), strict=False):
            choices: Iterable[DeviceStates] = _device_choices(problem, arrays, draws, self.params, by_speed)
            for model in split_models(problem, arrays, draws, self.params):
                choices = offer_splits(search, model, choices, self.params)
                if budget.spent:
                    return search.result()
        return search.result()


def _device_choices(
    problem: PlanningProblem,
    arrays: ProblemArrays,
    rng: np.random.Generator,
    params: DynamicProgramParams,
    by_speed: bool,
) -> Iterator[DeviceStates]:
    """Orders of the devices, with recomputation and any number of replicas per stage; the same number first on many."""
    orders = device_orders(problem.cluster, arrays.times.total_s.sum(axis=1), params.max_device_orders, rng)
    for replicas in replica_sets(problem):
        for order in orders:
            yield in_order(problem, arrays, folded(order, 1), replicas, recompute=True, by_speed=by_speed)
