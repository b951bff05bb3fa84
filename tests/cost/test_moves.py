"""What moves between two plans: parameters whose device changes, with the states of the optimizer."""

from __future__ import annotations

import dataclasses

import pytest

from drlpp.cost.moves import move_s, moved_bytes, parameter_holders, source
from drlpp.graph.generate.synthetic import chain_graph
from plan_cases import local_cluster, make_plan

GRAPH = chain_graph(4, forward_s=1e-3, tensor_bytes=1e6, param_bytes=1e6)
OLD = make_plan(GRAPH, [0, 0, 1, 1], [(0,), (1,)], num_microbatches=2)


def test_only_what_changes_its_place() -> None:
    new = make_plan(GRAPH, [0, 1, 1, 1], [(0,), (1,)], num_microbatches=2)
    assert moved_bytes(OLD, OLD) == {}
    assert moved_bytes(OLD, new) == {(0, 1): 2e6}  # p1 and its momentum
    assert moved_bytes(new, OLD) == {(1, 0): 2e6}
    assert move_s(OLD.cluster, {(0, 1): 2e6}) == pytest.approx(2e6 / 10e9 + 5e-6)


def test_replicas_get_a_copy_from_a_device_of_their_host() -> None:
    new = make_plan(GRAPH, [0, 0, 0, 0], [(0, 1, 2, 3)], num_microbatches=4)
    both = make_plan(GRAPH, [0, 0, 0, 0], [(1, 2)], num_microbatches=4)
    assert parameter_holders(both)["p0"] == (1, 2)
    assert moved_bytes(both, new) == {(1, 0): 8e6, (2, 3): 8e6}
    assert source((1, 2), 0, local_cluster(4)) == 1
    assert source((1,), 3, local_cluster(4)) == 1


def test_ports_are_shared() -> None:
    cluster = local_cluster(4)
    alone = move_s(cluster, {(0, 2): 1e9})
    assert move_s(cluster, {(0, 2): 1e9, (1, 3): 1e9}) == pytest.approx(2 * alone)
    assert move_s(cluster, {(0, 2): 1e9, (3, 1): 1e9}) == pytest.approx(alone)
    assert move_s(cluster, {}) == 0.0


def test_frozen_parameters_move_alone_and_buffers_too() -> None:
    ops = tuple(dataclasses.replace(op, buffers=("mask",)) if op.name == "op1" else op for op in GRAPH.ops)
    graph = dataclasses.replace(GRAPH, ops=ops, buffer_bytes={"mask": 8.0}, frozen=frozenset({"p1"}))
    old = make_plan(graph, [0, 0, 1, 1], [(0,), (1,)], num_microbatches=2)
    new = make_plan(graph, [0, 1, 1, 1], [(0,), (1,)], num_microbatches=2)
    assert moved_bytes(old, new) == {(0, 1): 1e6 + 8}
