import pytest

from drlpp.graph.readers import read_graph
from drlpp.plan import validate
from drlpp.planners.base import Budget
from drlpp.planners.consecutive.dynamic_program import DynamicProgram
from drlpp.planners.local_search.annealing import Annealing
from drlpp.problem import PlanningProblem
from planner_cases import data_file, levels_cluster, profile, small_cluster, small_problem

UNEQUAL = [["fast", "mid"], ["slow", "mid"]]


@pytest.mark.slow
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


def test_keeps_to_its_budget():
    problem = PlanningProblem.build(profile("resnet50"), levels_cluster(8, 1e9))
    Annealing().solve(problem, Budget(1), 0)
    result = Annealing().solve(problem, Budget(2), 0)
    assert result.planning_time_s < 2 * 1.5
