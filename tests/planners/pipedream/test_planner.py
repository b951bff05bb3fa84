import math

import numpy as np
import pytest

from drlpp.cost.problem_times import problem_times
from drlpp.plan import validate
from drlpp.planners.base import Budget
from drlpp.planners.pipedream.planner import (
    Level,
    PipeDream,
    cluster_levels,
    max_states,
    mean_seconds,
    optimal_pipeline,
    pipedream_cuts,
    plan_to_assignment,
)
from drlpp.problem import PlanningProblem
from planner_cases import chain_problem, levels_cluster, profile, small_problem

FAST, SLOW = 10e9, 1e9
# Seconds per mini-batch that the optimizer of the PipeDream repository returns, activation transfers charged:
# profile, machines, bandwidth, time, replicas per stage (where the optimum is unique).
REFERENCE = [
    ("alexnet", 4, SLOW, 0.03421714133333333, "3-1"),
    ("alexnet", 4, FAST, 0.022186000000000004, "2-1-1"),
    ("alexnet", 8, SLOW, 0.018874368, ""),
    ("alexnet", 16, FAST, 0.005712661616326531, "14-1-1"),
    ("alexnet", [4, 2], [FAST, SLOW], 0.019817908800000002, ""),
    ("alexnet", [8, 2], [FAST, SLOW], 0.011105023744, ""),
    ("densenet121", 4, SLOW, 0.08997599999999975, "3-1"),
    ("densenet121", 16, SLOW, 0.024545866666666666, "5-6-3-1-1"),
    ("gnmt", 4, SLOW, 0.025868000000000002, "1-1-1-1"),
    ("gnmt", 8, FAST, 0.017125, "1-1-1-1-1-2-1"),
    ("gnmt", [4, 4], [FAST, SLOW], 0.012582912, ""),
    ("gnmt", [8, 2], [FAST, SLOW], 0.012582912, ""),
    ("resnet18", 4, SLOW, 0.100004036, "4"),
    ("resnet18", 8, SLOW, 0.05078332703999999, "5-3"),
    ("resnet18", [4, 4], [FAST, SLOW], 0.025246633999999987, "12-4"),
    ("resnet50", 4, SLOW, 0.16288092399999998, "2-2"),
    ("resnet50", 16, SLOW, 0.04780134530612244, "7-6-3"),
    ("resnet50", [4, 2], [FAST, SLOW], 0.08130553199999996, "2-2-2-2"),
    ("vgg16", 8, SLOW, 0.10383317028571429, "7-1"),
    ("vgg16", 16, SLOW, 0.05652976738461538, "13-2-1"),
    ("vgg16", [4, 4], [FAST, SLOW], 0.06974994146666666, ""),
    ("vgg16", [8, 2], [FAST, SLOW], 0.08381599999999989, ""),
]


@pytest.mark.parametrize(("name", "machines", "bandwidth", "seconds", "replicas"), REFERENCE)
def test_equals_the_reference_optimizer(name, machines, bandwidth, seconds, replicas):
    problem = PlanningProblem.build(profile(name), levels_cluster(machines, bandwidth))
    levels = cluster_levels(problem.cluster)
    reduced, costs = pipedream_cuts(problem, levels)
    plan = optimal_pipeline(costs, levels)
    assert plan.time_s == pytest.approx(seconds, rel=1e-12)
    assignment = plan_to_assignment(problem, reduced, costs.states, plan, range(problem.cluster.num_devices))
    assert sorted(d for group in assignment.devices for d in group) == list(range(problem.cluster.num_devices))
    if replicas:
        assert "-".join(str(len(group)) for group in assignment.devices) == replicas


def test_number_of_states():
    for name, states in (("alexnet", 22), ("densenet121", 430)):
        problem = PlanningProblem.build(profile(name), levels_cluster(4, FAST))
        _, costs = pipedream_cuts(problem, cluster_levels(problem.cluster))
        assert costs.states.num_states == states + 1  # and the empty one


def test_chain_of_equal_ops_is_cut_evenly():
    problem = chain_problem(8, [["mid"] * 4])
    result = PipeDream().solve(problem, Budget(10), 0)
    assert result.plan is not None
    assert result.plan.prediction.bottleneck_s == pytest.approx(2 * 3e-3)
    assert result.breakdown["pipedream_time_s"] == pytest.approx(2 * 3e-3)
    validate(result.plan)


def test_levels_follow_the_cluster():
    assert cluster_levels(levels_cluster([4, 2], [FAST, SLOW])) == (Level(4, FAST), Level(2, SLOW))
    assert cluster_levels(levels_cluster([1, 3], [FAST, SLOW])) == (Level(3, SLOW),)
    assert cluster_levels(levels_cluster(4, FAST)) == (Level(4, FAST),)


def test_hosts_of_unequal_size_are_taken_as_equal_groups():
    problem = small_problem(0, [["mid"] * 2, ["mid"] * 4], num_ops=10)
    assert [level.machines for level in cluster_levels(problem.cluster)] == [2, 3]
    result = PipeDream().solve(problem, Budget(10), 0)
    assert result.status == "ok"
    validate(result.plan)


def test_unequal_devices_are_believed_to_have_the_mean_speed():
    problem = small_problem(1, [["fast", "mid", "slow"]])
    reference = problem_times(problem).total_s[1]
    mean = (2.0 + 1.0 + 0.5) / 3
    assert mean_seconds(problem) == pytest.approx(reference / mean)


def test_large_branchy_graphs_are_coarsened_and_planned():
    problem = small_problem(2, [["mid"] * 4, ["mid"] * 4], num_ops=600)
    levels = cluster_levels(problem.cluster)
    assert max_states(levels, 1e8) < max_states(levels, 1e10) <= 2000
    result = PipeDream().solve(problem, Budget(60), 0)
    assert result.status == "ok"
    assert math.isfinite(result.breakdown["pipedream_time_s"])
    validate(result.plan)


def test_same_seed_same_plan():
    problem = small_problem(3, [["mid"] * 3], num_ops=20)
    plans = [PipeDream().solve(problem, Budget(30), 0).plan for _ in range(2)]
    assert np.array_equal(plans[0].stage_of_op, plans[1].stage_of_op)
