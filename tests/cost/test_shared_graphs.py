"""Amounts that depend on the device type: the compiled sums are those of the readable ones."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from drlpp.cost.shared_graphs import held_graphs
from drlpp.plan import Assignment
from drlpp.problem import PlanningProblem
from placed import assert_equal
from random_problems import random_problem


def test_devices_that_divide_nothing_hold_the_graph():
    problem, _ = random_problem(0)
    assert all(held is problem.graph for held in held_graphs(problem))


def with_amounts_by_type(problem: PlanningProblem) -> PlanningProblem:
    """The problem with k more eighths of every second parameter and tensor on devices of type k."""

    def more(sizes, k):
        return {name: size * (1 + k / 8 * (i % 2)) for i, (name, size) in enumerate(sizes.items())}

    graph = problem.graph
    held = [
        dataclasses.replace(graph, tensor_bytes=more(graph.tensor_bytes, k), param_bytes=more(graph.param_bytes, k))
        for k in range(len(problem.cluster.device_types))
    ]
    problem.derived[held_graphs] = tuple(held)
    return problem


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_stages_hold_what_their_devices_hold(seed):
    problem, assignment = random_problem(seed)
    kinds = problem.cluster.type_index
    alike = tuple(tuple(d for d in group if kinds[d] == kinds[group[0]]) for group in assignment.devices)
    assert_equal(
        with_amounts_by_type(problem),
        Assignment(assignment.stage_of_op, alike, tuple(s.elsewhere for s in assignment.settings)),
    )
