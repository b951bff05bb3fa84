from __future__ import annotations

import pytest

from drlpp.errors import InputError
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.solve import make_planner, planner_names


def test_every_name_makes_its_planner():
    assert [make_planner(name).name for name in planner_names()] == planner_names()


def test_near_names_are_suggested_and_the_learned_planner_is_among_them():
    with pytest.raises(InputError, match=r"'drll' is not known: did you mean 'drl'\? use one of drl, data-parallel, "):
        make_planner("drll")


def test_the_package_solves_whatever_was_imported_before():
    import drlpp
    import drlpp.solve as module

    problem = drlpp.PlanningProblem.build(chain_graph(3), drlpp.load_cluster("local-2"))
    assert drlpp.solve is module
    assert drlpp.solve(problem, "uniform", budget=0.2).status == "ok"
