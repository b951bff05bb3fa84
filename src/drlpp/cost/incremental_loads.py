"""The steady-state objective, incrementally: what moving one op to another stage does to the most loaded device.

The numbers are those of `cost.device_loads`; compiled (src/native/cost/incremental_loads.h has the formula).

Left out: memory. The placement and the recomputation flags are fixed; a stage may become empty.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.problem_arrays import ProblemArrays, pack, problem_arrays
from drlpp.errors import InputError
from drlpp.graph.stages import check_partition
from drlpp.native import library
from drlpp.plan import Assignment
from drlpp.problem import PlanningProblem


class IncrementalBottleneck:
    """The bottleneck of an assignment under moves of single ops.

    Attributes:
        state: the compiled loads, for compiled searches.

    Raises:
        InputError: a tensor has several producers, or its edges take different times.
        PlanError, ScheduleError: as `Evaluator.evaluate`.
    """

    def __init__(self, problem: PlanningProblem, assignment: Assignment) -> None:
        self._problem, self._num_stages = problem, assignment.num_stages
        packed, arrays = pack(problem, (assignment,)), problem_arrays(problem)
        check_partition(problem.graph, packed.labels[0], assignment.num_stages)
        _check_values(problem, arrays)
        self.state = library.IncrementalLoads(arrays, packed)

    @property
    def bottleneck_s(self) -> float:
        return self.state.bottleneck_s

    def cost_of_move(self, op: int, stage: int) -> float:
        """The bottleneck if `op` were in `stage`; whether that is legal is not checked (`legal_range`)."""
        return self.state.cost_of_move(op, stage)

    def move(self, op: int, stage: int) -> float:
        """Moves an op; returns the bottleneck. Loads are summed anew now and then, so rounding errors do not grow."""
        self.state.move(op, stage)
        return self.bottleneck_s

    def legal_range(self, op: int) -> tuple[int, int]:
        """The lowest and the highest stage that the op may be in while the others stay."""
        labels, graph = self.labels, self._problem.graph
        low = max((int(labels[i]) for i in graph.predecessors[op]), default=0)
        high = min((int(labels[i]) for i in graph.successors[op]), default=self._num_stages - 1)
        return low, high

    @property
    def labels(self) -> NDArray[np.int64]:
        """``[N]`` the stages as they are now; one may be empty (`Assignment.compact`)."""
        return self.state.labels


def _check_values(problem: PlanningProblem, arrays: ProblemArrays) -> None:
    """Checks that every value has one producer and one transfer time."""
    first: dict[int, tuple[int, float]] = {}
    made = zip(arrays.edge_value.tolist(), arrays.edge_src.tolist(), arrays.edge_s.tolist(), strict=True)
    for e, (value, source, seconds) in enumerate(made):
        if first.setdefault(value, (source, seconds)) != (source, seconds):
            raise InputError(
                f"tensor {problem.graph.edges[e].tensor!r} of graph {problem.graph.name!r} has several producers or "
                "transfer times: moves need one of each"
            )
