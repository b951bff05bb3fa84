"""PipeDream on graphs that are no chains, the way dnn-partitioning compares with it: branches contracted to a path.

Source: the PipeDream baseline of Tarnawski et al., "Efficient Algorithms for Device Placement of DNN Graph Operators"
(NeurIPS 2020): the graph may be cut only after an op that is comparable with all others, and the best split of the
path that is left is found by dynamic programming on the load of a stage (time plus transfers).

What differs: as in `dp`, devices may be unequal and stages replicated.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from drlpp.cost.problem_arrays import problem_arrays
from drlpp.planners.base import Budget, PlanResult, Progress, no_progress
from drlpp.planners.consecutive.downsets import masks_to_rows
from drlpp.planners.consecutive.dynamic_program import DynamicProgramParams, device_choices, offer_splits
from drlpp.planners.consecutive.split_states import over_downsets
from drlpp.planners.pipedream.antichains import path_states
from drlpp.planners.search import Search
from drlpp.problem import PlanningProblem


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ContractedParams:
    """Settings of the planner.

    Attributes:
        max_states: states of the path; of more, the ends and evenly spaced ones are kept.
        program: of the program that splits the path.
    """

    max_states: int = 2000
    program: DynamicProgramParams = dataclasses.field(default_factory=DynamicProgramParams)


class PipeDreamContracted:
    """Optimal split of the path that is left when all branches are contracted."""

    name = "pipedream-contracted"
    summary = "PipeDream as dnn-partitioning runs it: branches contracted to a path"

    def __init__(self, params: ContractedParams | None = None) -> None:
        self.params = params or ContractedParams()

    def solve(
        self, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
    ) -> PlanResult:
        search = Search(self.name, problem, budget, seed, progress, parameters=self.params)
        arrays, params = problem_arrays(problem), self.params
        states = path_states(problem.graph.predecessors)
        masks = states.masks
        if len(masks) > params.max_states:  # keep the ends and evenly spaced cuts
            masks = tuple(
                masks[int(i)] for i in np.unique(np.linspace(0, len(masks) - 1, params.max_states).astype(int))
            )
        model = over_downsets(arrays, masks_to_rows(masks, problem.graph.num_ops))
        rng = np.random.default_rng(seed)
        offer_splits(search, model, device_choices(problem, arrays, rng, params.program), params.program)
        return search.result({"cut_states": float(len(masks))})
