"""Features: relative, finite, and blind to names."""

import dataclasses

import numpy as np
import pytest
import torch

from agent_problems import small_problem, unequal_cluster
from drlpp.agent.training.corpus import draw_problem
from drlpp.agent.view.features import problem_view
from drlpp.graph import OpTimes
from drlpp.graph.op_graph import REFERENCE
from drlpp.problem import PlanningProblem

FIELDS = ("op_features", "edge_features", "device_features", "problem_features")


def test_slower_ops_and_slower_links_together_change_nothing():
    problem = small_problem()
    graph = problem.graph
    times = [op.times[REFERENCE] for op in graph.ops]
    slower = tuple(
        dataclasses.replace(op, times={REFERENCE: OpTimes(8 * t.forward_s, 8 * t.input_grad_s, 8 * t.weight_grad_s)})
        for op, t in zip(graph.ops, times, strict=True)
    )
    cluster = unequal_cluster()
    hosts = tuple(
        dataclasses.replace(
            h,
            link=dataclasses.replace(h.link, bandwidth=h.link.bandwidth / 8),
            network=dataclasses.replace(h.network, bandwidth=h.network.bandwidth / 8),
        )
        for h in cluster.hosts
    )
    scaled = PlanningProblem.build(
        dataclasses.replace(graph, ops=slower), dataclasses.replace(cluster, hosts=hosts), num_microbatches=8
    )
    a, b = problem_view(problem), problem_view(scaled)
    for field in FIELDS:
        torch.testing.assert_close(getattr(a, field), getattr(b, field), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_features_are_finite_and_of_moderate_size(seed):
    view = problem_view(draw_problem(np.random.default_rng(seed), "train"))
    for field in FIELDS:
        values = getattr(view, field)
        assert torch.isfinite(values).all()
        assert values.abs().max() < 20


def test_names_are_not_features(problem):
    graph = problem.graph
    name = {op.name: f"renamed-{i}" for i, op in enumerate(graph.ops)}
    ops = tuple(dataclasses.replace(op, name=name[op.name], members=()) for op in graph.ops)
    edges = tuple(dataclasses.replace(e, src=name[e.src], dst=name[e.dst]) for e in graph.edges)
    renamed = dataclasses.replace(problem, graph=dataclasses.replace(graph, ops=ops, edges=edges))
    a, b = problem_view(problem), problem_view(renamed)
    for field in FIELDS:
        assert torch.equal(getattr(a, field), getattr(b, field))


def test_the_profile_places_work_in_the_graph(view):
    p = view.profile
    assert p.work[0] == 0
    assert p.work[-1] == pytest.approx(1)
    assert p.at(p.params, np.array([0.0, 1.0])) == pytest.approx([0.0, view.tables.params.sum()])
    assert (p.narrow <= p.live + 1e-9).all()
