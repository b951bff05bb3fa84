"""One stage on all devices."""

from drlpp.graph.readers import read_graph
from drlpp.planners.base import Budget
from drlpp.planners.baselines.data_parallel import DataParallel
from drlpp.problem import PlanningProblem
from planner_cases import data_file, small_problem

UNEQUAL = [["fast", "mid"], ["slow", "mid"]]


def test_data_parallel_is_one_stage_on_all_devices():
    result = DataParallel().solve(small_problem(0, UNEQUAL), Budget(1), 0)
    assert [s.devices for s in result.plan.stages] == [(0, 1, 2, 3)]


def test_data_parallel_needs_parameter_sizes():
    graph = read_graph(data_file("dnn-partitioning", "bert24_training.json"))
    problem = PlanningProblem.build(graph, small_problem(0, UNEQUAL).cluster)
    result = DataParallel().solve(problem, Budget(1), 0)
    assert result.status == "failed"
    assert "transfer times" in result.reason
