"""The problem as arrays."""

import numpy as np
import pytest

from agent_problems import small_problem, unequal_cluster
from drlpp.agent.view.device_classes import build_tables
from drlpp.cluster import load_cluster
from drlpp.cost.problem_times import problem_times
from drlpp.graph import Edge, Op, OpGraph
from drlpp.graph.generate.large_models import decoder
from drlpp.graph.stages import stage_graph
from drlpp.planners.variants import variants_of
from drlpp.problem import PlanningProblem


def test_devices_of_one_type_on_one_host_are_a_class(problem):
    t = build_tables(problem)
    assert t.class_devices == ((0, 1), (2,), (3, 4))
    assert t.size.tolist() == [2, 1, 2]
    assert t.speed[0] == pytest.approx(t.speed[1] / 0.4)
    assert t.bandwidth[0, 1] == 1e10
    assert t.bandwidth[0, 2] == 1e9


def test_the_ideal_is_the_work_shared_by_speed(problem):
    total = problem_times(problem).total_s.sum(axis=1)
    assert build_tables(problem).ideal_s == pytest.approx(1.0 / (2 / total[0] + 3 / total[1]))


@pytest.mark.parametrize("seed", range(5))
def test_live_bytes_are_the_messages_of_a_cut_in_two(seed):
    problem = small_problem(seed)
    t = build_tables(problem)
    live = t.live_bytes(np.arange(t.num_ops))
    for i in range(1, t.num_ops):
        labels = (np.arange(t.num_ops) >= i).astype(np.int64)
        expected = sum(m.bytes for m in stage_graph(problem.graph, labels, 2).messages)
        assert live[i] == pytest.approx(expected)
    assert live[0] == 0
    assert live[t.num_ops] == pytest.approx(0, abs=1)


def test_given_transfer_times_become_bytes_that_take_as_long():
    ops = (Op(name="a", kind="x"), Op(name="b", kind="x"))
    edge = Edge(src="a", dst="b", tensor="t", transfer_s=0.25)
    graph = OpGraph(name="timed", ops=ops, edges=(edge,), tensor_bytes={"t": 7.0})
    t = build_tables(PlanningProblem.build(graph, unequal_cluster()))
    assert t.tensor_bytes[0] / t.bandwidth[0, 2] + t.latency_s[0, 2] == pytest.approx(0.25)
    assert t.tensor_bytes[0] / t.bandwidth[0, 1] == pytest.approx(0.25)
    assert not t.may_replicate


def test_groups_hold_what_all_members_hold():
    graph = decoder(layers=2, hidden=256, heads=4, kv_heads=4, ffn=512, vocab=512, seq_len=64)
    cluster = load_cluster("generated:dgx-h100?devices=8")
    problem = PlanningProblem.build(graph, cluster, num_microbatches=8, optimizer="adamw").with_parallelism(
        frozenset({"pp", "dp", "tp", "zero1"})
    )
    variants = variants_of(problem)
    alone, divided = (build_tables(variants.problem(0, g)) for g in (0, 1))
    assert divided.num_classes == 1
    assert divided.size.tolist() == [1]
    assert divided.held_saved.sum() > alone.held_saved.sum() == pytest.approx(alone.saved.sum())
    assert divided.held_resident.sum() >= alone.held_resident.sum()
    assert alone.divided_states == 2.0
    assert (alone.update_s > 0).all()
    assert (alone.divided_update_s == alone.update_s).all()
