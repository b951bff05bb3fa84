"""From an assignment straight to placed stages, compiled: what `stage_costs` and `place_stages` do together.

`place_stages` is the readable definition; src/native/cost/placement.h adds in the same order, so that every number is
the same to the last bit.
"""

from __future__ import annotations

from drlpp.cost.placed_stages import PlacedStages
from drlpp.cost.problem_arrays import ProblemArrays, pack
from drlpp.graph.stages import check_partition
from drlpp.native import library
from drlpp.plan import Assignment
from drlpp.problem import PlanningProblem


def place_assignment(problem: PlanningProblem, arrays: ProblemArrays, assignment: Assignment) -> PlacedStages:
    """Puts an assignment's stages on its devices.

    Raises:
        PlanError: the partition is not legal.
        ScheduleError: a device does not exist.
    """
    packed = pack(problem, (assignment,))
    try:
        return PlacedStages(**library.place_assignment(arrays, packed))
    except ValueError:
        check_partition(problem.graph, packed.labels[0], assignment.num_stages)
        raise
