"""Groups as devices of an ordinary problem: both ways to place stages agree, and plans go there and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drlpp.agent.view.coarse import coarse_problem
from drlpp.cluster.grouping import single_devices
from drlpp.cost.groups import for_groups, grouped, lifted
from drlpp.plan import Assignment, Provenance, validate
from drlpp.sim import Evaluator
from placed import assert_equal
from random_groups import random_grouped_problem
from random_problems import random_problem, with_frozen


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_compiled_placement_of_groups_is_the_readable_one(seed):
    _, _, problem, assignment = random_grouped_problem(seed)
    assert_equal(problem, assignment)


@pytest.mark.parametrize("seed", range(40))
def test_plans_go_there_and_back(seed):
    problem, grouping, made, assignment = random_grouped_problem(seed)
    plan = Evaluator(made).make_plan(assignment, Provenance(planner="by hand"))
    real = lifted(plan, problem.cluster, grouping)
    validate(real)
    again = lifted(for_groups(real), problem.cluster, real.grouping)
    assert again.stages == real.stages
    assert again.schedule == real.schedule
    for g, group in enumerate(grouping.groups):
        together = sum(real.prediction.peak_memory_bytes[d] for d in group)
        assert together == pytest.approx(plan.prediction.peak_memory_bytes[g])


def test_replicas_that_hold_other_parts_never_fit():
    """One stage on all groups, which differ in size or in the type of their devices."""
    seen = 0
    for seed in range(40):
        _, _, problem, assignment = random_grouped_problem(seed)
        kinds, sizes = set(problem.cluster.type_index.tolist()), problem.cluster.members
        one = Assignment(np.zeros_like(assignment.stage_of_op), (tuple(range(problem.cluster.num_devices)),))
        alike, unlike = Evaluator(problem).evaluate_many((assignment, one))
        assert alike.over_memory_bytes == Evaluator(problem).evaluate(assignment).over_memory_bytes
        if len(kinds) > 1 and sizes.max() > 1:
            seen += 1
            assert not unlike.feasible
    assert seen > 5


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_a_contracted_graph_costs_what_the_graph_costs(seed, fixed):
    """On groups, too: the policy plans on few groups of ops. With frozen parameters and buffers, and without."""
    whole, grouping, problem, assignment = random_grouped_problem(seed)
    if fixed:
        problem = grouped(with_frozen(whole), grouping, sequence=True)
    coarse = coarse_problem(problem, 4)
    number = coarse.problem.graph.num_ops
    one_each = Assignment(np.arange(number), (assignment.devices[0],) * number)
    fine = Evaluator(problem).evaluate(coarse.expand(one_each))
    found = Evaluator(coarse.problem).evaluate(one_each)
    assert found.iteration_time_s == pytest.approx(fine.iteration_time_s, rel=1e-9)
    assert found.peak_memory_bytes == pytest.approx(fine.peak_memory_bytes, rel=1e-9)


def test_single_devices_are_the_problem_itself():
    problem, _ = random_problem(1)
    assert grouped(problem, single_devices(problem.cluster), sequence=True) is problem
