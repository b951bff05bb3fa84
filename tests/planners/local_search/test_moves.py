"""Moves of the local search: what they give is legal."""

import dataclasses

import numpy as np
import pytest

from drlpp.plan.assignment import Assignment
from drlpp.planners.baselines.random_plans import random_assignment
from drlpp.planners.local_search.moves import (
    PLACEMENT_MOVES,
    change_replica,
    free_assignment,
    part_stage,
    shift_boundary,
    toggle_recompute,
)
from drlpp.problem import SearchSpace
from drlpp.sim import Evaluator
from planner_cases import small_problem

UNEQUAL = [["fast", "mid"], ["slow", "mid"]]


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
            assert len(proposed.settings) == proposed.num_stages
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
