import dataclasses

import numpy as np
import pytest

from drlpp.cost.problem_arrays import problem_arrays
from drlpp.graph.readers import read_graph
from drlpp.plan import validate
from drlpp.plan.assignment import Assignment
from drlpp.planners.base import Budget
from drlpp.planners.baselines.random_plans import random_assignment
from drlpp.planners.consecutive.device_states import AllReduceTable
from drlpp.planners.consecutive.dynamic_program import DynamicProgram
from drlpp.planners.local_search.annealing import Annealing
from drlpp.planners.local_search.moves import (
    PLACEMENT_MOVES,
    change_replica,
    free_assignment,
    part_stage,
    shift_boundary,
    toggle_recompute,
)
from drlpp.planners.local_search.stage_annealing import Cooling, Rules, anneal_labels, make_slots
from drlpp.problem import PlanningProblem, SearchSpace
from drlpp.sim import Evaluator
from planner_cases import data_file, levels_cluster, profile, small_cluster, small_problem

UNEQUAL = [["fast", "mid"], ["slow", "mid"]]


@pytest.mark.parametrize("objective", ["iteration-time", "steady-state"])
def test_never_worse_than_the_dynamic_program(objective):
    for seed in range(3):
        problem = small_problem(seed, UNEQUAL, num_ops=30, objective=objective)
        start = DynamicProgram().solve(problem, Budget(30), 0)
        result = Annealing().solve(problem, Budget(1.5), 0)
        validate(result.plan)
        field = "iteration_time_s" if objective == "iteration-time" else "bottleneck_s"
        assert getattr(result.plan.prediction, field) <= getattr(start.plan.prediction, field) * (1 + 1e-9)


def test_non_contiguous_placement_beats_the_contiguous_optimum():
    graph = read_graph(data_file("dnn-partitioning", "bert_l-3_inference.json"))
    problem = PlanningProblem.build(graph, small_cluster([["mid"] * 3]), objective="steady-state")
    result = Annealing().solve(problem, Budget(3), 0)
    validate(result.plan)
    assert result.plan.prediction.bottleneck_s < 0.9 * 27.919e-3


@pytest.mark.parametrize("seed", range(5))
def test_the_searched_load_is_the_evaluators(seed):
    """Single devices, no latency, and no value with two consuming stages: no approximation is left."""
    problem = small_problem(seed, [["fast", "mid", "slow"]], num_ops=12, chain=True)
    arrays = problem_arrays(problem)
    devices = ((0,), (1,), (2,))
    slots = make_slots(problem, arrays, devices, AllReduceTable(problem.cluster))
    labels, load = anneal_labels(
        arrays.ops,
        slots,
        np.repeat([0, 1, 2], 4),
        Cooling(moves=2000, hot=0.1, cold=1e-3, seed=seed),
        Rules(free=False),
    )
    used = np.unique(labels)
    assignment = Assignment.compact(labels, dict(enumerate(devices)))
    real = Evaluator(problem).bottleneck_s(assignment)
    assert real <= load * (1 + 1e-9) <= real * len(used) ** (1 / 16) * (1 + 1e-6)  # p-norm and maximum


@pytest.mark.parametrize("seed", range(20))
def test_moves_keep_assignments_legal(seed):
    problem = small_problem(seed, UNEQUAL, num_ops=15)
    rng = np.random.default_rng(seed)
    current = random_assignment(problem, rng)
    evaluator = Evaluator(problem)
    changed = 0
    for move in (*PLACEMENT_MOVES, change_replica, part_stage, shift_boundary, toggle_recompute) * 4:
        proposed = move(problem, current, rng)
        if proposed is not None:
            evaluator.bottleneck_s(proposed)  # raises where it is not legal
            assert len(proposed.recompute) == proposed.num_stages
            current, changed = proposed, changed + 1
    assert changed > 5


def test_a_device_may_join_any_stage():
    problem = small_problem(0, UNEQUAL, num_ops=6)
    start = Assignment(np.array([0, 0, 0, 1, 1, 1]), ((0,), (1,)))
    rng = np.random.default_rng(0)
    found = {plan.devices for _ in range(200) if (plan := change_replica(problem, start, rng)) is not None}
    assert ((0,), (1, 0)) in found  # joins, though it runs the other stage
    assert ((1,), (1,)) in found  # takes the place of another
    alone = dataclasses.replace(problem, space=SearchSpace(parallelism=frozenset({"pp"})))
    for _ in range(50):
        assert {len(group) for group in change_replica(alone, start, rng).devices} == {1}


def test_any_map_from_ops_to_devices_is_a_plan():
    problem = small_problem(1, UNEQUAL, num_ops=20)
    rng = np.random.default_rng(1)
    slot_of_op = rng.integers(0, 4, 20)
    assignment = free_assignment(problem, slot_of_op, [0, 1, 2, 3])
    Evaluator(problem).bottleneck_s(assignment)
    for i, s in enumerate(assignment.stage_of_op):
        assert assignment.devices[s] == (slot_of_op[i],)


def test_keeps_to_its_budget():
    problem = PlanningProblem.build(profile("resnet50"), levels_cluster(8, 1e9))
    Annealing().solve(problem, Budget(1), 0)
    result = Annealing().solve(problem, Budget(2), 0)
    assert result.planning_time_s < 2 * 1.5
