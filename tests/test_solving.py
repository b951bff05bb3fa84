from __future__ import annotations

import pytest

import drlpp
from drlpp.errors import InputError
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.solving import make_planner, planner_names, solve


def test_every_name_makes_its_planner():
    assert [make_planner(name).name for name in planner_names()] == planner_names()


def test_near_names_are_suggested_and_the_learned_planner_is_among_them():
    with pytest.raises(InputError, match=r"'drll' is not known: did you mean 'drl'\? use one of drl, data-parallel, "):
        make_planner("drll")


def test_the_package_has_the_function_whatever_was_imported_before():
    problem = drlpp.PlanningProblem.build(chain_graph(3), drlpp.load_cluster("local-2"))
    assert drlpp.solve is solve
    assert drlpp.solve(problem, "uniform", budget=0.2).status == "ok"
