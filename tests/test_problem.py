"""The planning problem."""

import pytest

from drlpp.cluster import load_cluster
from drlpp.errors import InputError
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.problem import PlanningProblem, default_num_microbatches


def test_defaults():
    p = PlanningProblem.build(chain_graph(3), load_cluster("paper-4x4-10gbe"))
    assert p.training.num_microbatches == 32
    assert default_num_microbatches(2) == 8


def test_an_unknown_objective_is_refused():
    with pytest.raises(InputError, match="'speed' is not known"):
        PlanningProblem.build(chain_graph(3), load_cluster("local-2"), objective="speed")
