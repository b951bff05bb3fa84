from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

import drlpp
from drlpp.cluster import load_cluster
from drlpp.errors import InputError
from drlpp.graph.generate.synthetic import chain_graph, random_graph
from drlpp.problem import PlanningProblem
from drlpp.solving import make_planner, parallelism_of, planner_names, replan, solve
from random_groups import with_splits


def test_every_name_makes_its_planner():
    assert [make_planner(name).name for name in planner_names()] == planner_names()


def test_near_names_are_suggested_and_the_learned_planner_is_among_them():
    with pytest.raises(InputError, match=r"'drll' is not known: did you mean 'drl'\? use one of drl, data-parallel, "):
        make_planner("drll")


def test_the_package_has_the_function_whatever_was_imported_before():
    problem = drlpp.PlanningProblem.build(chain_graph(3), drlpp.load_cluster("local-2"))
    assert drlpp.solve is solve
    assert drlpp.solve(problem, "uniform", budget=0.2).status == "ok"


def test_what_groups_need_is_loaded_for_problems_that_may_have_them():
    program = """
import sys, drlpp, drlpp.solving
from drlpp.graph.generate.synthetic import chain_graph
problem = drlpp.PlanningProblem.build(chain_graph(3), drlpp.load_cluster("local-2"))
for parallelism in (("pp", "dp"), ("pp", "dp", "tp")):
    drlpp.solving.load_for(problem.with_parallelism(parallelism))
    print("scipy.optimize" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_what_a_plan_uses_may_be_used_after_a_loss():
    rng = np.random.default_rng(3)
    graph = with_splits(rng, random_graph(rng, 6, measured=True))
    problem = PlanningProblem.build(graph, load_cluster("local-4"), num_microbatches=4)
    alone = solve(problem, "uniform", budget=1.0).plan
    assert parallelism_of(alone) == {"pp", "dp"}
    wanted = problem.with_parallelism(("pp", "dp", "tp", "sp", "zero1"))
    wanted = dataclasses.replace(wanted, space=dataclasses.replace(wanted.space, tensor=2))
    divided = solve(wanted, "uniform", budget=1.0).plan
    assert parallelism_of(divided) == {"pp", "dp", "tp", "sp", "zero1"}
    new = replan(divided, divided.cluster.subset([0, 1, 3]), budget=0.5)
    assert new.training.zero1
    assert new.cluster.num_devices == 3
