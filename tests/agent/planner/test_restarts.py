"""Races of islands."""

import dataclasses
import time

import numpy as np
import pytest

from agent_problems import small_problem
from drlpp.agent.planner.restarts import Start, Starts, refine, signature
from drlpp.plan.assignment import Assignment
from drlpp.planners.base import Budget
from drlpp.planners.search import Search


def start(problem, devices, value=1.0, origin="policy"):
    labels = np.arange(problem.graph.num_ops) * len(devices) // problem.graph.num_ops
    return Start(value, Assignment(labels, devices), origin)


def test_like_devices_and_the_ops_do_not_matter_to_the_signature(problem):
    a = start(problem, ((0,), (2, 3))).assignment
    assert signature(problem, a) == signature(problem, start(problem, ((1,), (2, 4))).assignment)
    moved = dataclasses.replace(a, stage_of_op=np.maximum(a.stage_of_op, np.arange(problem.graph.num_ops) > 3))
    assert signature(problem, a) == signature(problem, moved)
    for other in (((0,), (3, 4)), ((2, 3), (0,)), ((0,), (2,), (3,))):
        assert signature(problem, a) != signature(problem, start(problem, other).assignment)


def test_the_better_of_two_like_starts_waits_and_none_comes_back(problem):
    calls = []
    starts = Starts(problem, lambda: calls.append(1) or [start(problem, ((1,), (2,)), 0.1)])
    starts.add([start(problem, ((0,), (2,)), 3.0), start(problem, ((1,), (2,)), 2.0), start(problem, ((0,),), 1.0)])
    taken = starts.take(4)
    assert [s.value_s for s in taken] == [1.0, 2.0]
    assert not calls
    assert starts.take(4) == []
    assert calls == [1]


def test_more_starts_are_made_when_they_run_out(problem):
    fresh = [start(problem, ((2,), (3,)), 5.0), start(problem, ((3,),), 4.0)]
    starts = Starts(problem, lambda: fresh)
    assert [s.value_s for s in starts.take(2)] == [4.0, 5.0]


def search_for(problem, seconds):
    search = Search("drl", problem, Budget(seconds, time.process_time), 0)
    search.offer(start(problem, ((0,), (1,))).assignment)
    return search


def test_races_use_the_budget_and_never_lose_what_was_there():
    problem = small_problem(1, num_ops=40)
    search = search_for(problem, 1.5)
    before = search.best_value
    starts = Starts(problem, list)
    starts.add([start(problem, ((0,), (2,)), 1.0, "policy"), start(problem, ((0, 1), (2,)), 2.0, "baselines")])
    found = refine(search, starts, 1e-4, 0.0, np.random.default_rng(0))
    assert set(found) == {"policy", "baselines"}
    assert search.best_value <= min(before, *found.values()) * (1 + 1e-12)
    assert search.best_value < before
    assert 1.4 < search.budget.elapsed_s < 1.9
    assert search.budget.seconds == 1.5


def test_nothing_is_refined_once_the_bound_is_reached(problem):
    search = search_for(problem, 5.0)
    assert refine(search, Starts(problem, list), 1e-4, search.best_value, np.random.default_rng(0)) == {}
    assert search.budget.elapsed_s < 1.0


@pytest.mark.parametrize("offer_s", [10.0, 1e-9])
def test_any_speed_of_evaluation(problem, offer_s):
    search = search_for(problem, 0.2)
    starts = Starts(problem, lambda: [start(problem, ((0,),)), start(problem, ((2,),)), start(problem, ((3,), (0,)))])
    refine(search, starts, offer_s, 0.0, np.random.default_rng(0))
    assert search.budget.elapsed_s < 1.0
