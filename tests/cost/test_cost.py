"""Op times, transfers, all-reduces and stage costs, against arithmetic by hand."""

import dataclasses

import numpy as np
import pytest

from drlpp.cluster import Cluster, DeviceType, Host, Link, device_preset, load_cluster
from drlpp.cost import all_reduce_s, op_times, roofline_times, transfer_s
from drlpp.cost.op_times import (
    COMPUTE_EFFICIENCY,
    CONVOLUTION_EFFICIENCY,
    FAST_CONVOLUTION_EFFICIENCY,
    LAUNCH_OVERHEAD_S,
    MEMORY_EFFICIENCY,
    TENSOR_CORE_EFFICIENCY,
)
from drlpp.graph import REFERENCE, Op, OpGraph, OpTimes, Work
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.problem import PlanningProblem

V100 = device_preset("v100-sxm2-16gb")


def cluster_of(*types: DeviceType) -> Cluster:
    names = tuple(t.name for t in types)
    return Cluster("c", types, (Host(name="h", devices=names, link=Link(bandwidth=1e9)),))


def one_op(**values) -> OpGraph:
    return OpGraph(name="g", ops=(Op(name="a", kind="k", **values),), edges=(), tensor_bytes={})


def test_roofline_adds_compute_and_memory():
    op = Op(name="a", kind="aten.linear", forward=Work(flop=15.7e12, bytes=900e9))
    seconds = roofline_times(op, V100, "float32")
    assert seconds[0] == pytest.approx(1 / COMPUTE_EFFICIENCY + 1 / MEMORY_EFFICIENCY + LAUNCH_OVERHEAD_S)
    assert seconds[1:] == (0, 0)  # no work, no time


@pytest.mark.parametrize(
    ("kind", "dtype", "device", "flops"),
    [
        ("aten.conv2d", "float32", "v100-sxm2-16gb", 15.7e12 * CONVOLUTION_EFFICIENCY),
        ("aten.conv2d.3x3", "float32", "v100-sxm2-16gb", 15.7e12 * FAST_CONVOLUTION_EFFICIENCY),
        ("aten.conv2d.3x3", "float32", "a100-sxm4-80gb", 156e12 * TENSOR_CORE_EFFICIENCY),  # TF32
        ("aten.linear", "float32", "a100-sxm4-80gb", 19.5e12 * COMPUTE_EFFICIENCY),  # no TF32 unless told to
        ("aten.linear", "bfloat16", "a100-sxm4-80gb", 312e12 * TENSOR_CORE_EFFICIENCY),
        ("aten.linear", "bfloat16", "gtx1080ti-11gb", 11.3e12 * COMPUTE_EFFICIENCY),  # which lacks it
    ],
)
def test_rate_by_kind_and_precision(kind, dtype, device, flops):
    op = Op(name="a", kind=kind, forward=Work(flop=1e15))
    assert roofline_times(op, device_preset(device), dtype)[0] == pytest.approx(1e15 / flops, rel=1e-4)


def test_measured_times_scale_with_the_given_speed():
    g = one_op(times={REFERENCE: OpTimes(1.0, 2.0, 3.0)})
    table = op_times(g, cluster_of(DeviceType(name="half", memory_bytes=1, speed=0.5, speed_is_given=True)))
    assert table.forward_s.tolist() == [[2.0]]
    assert table.total_s.tolist() == [[12.0]]


def test_measured_times_of_unknown_origin_are_those_of_a_v100():
    g = one_op(times={REFERENCE: OpTimes(1.0, 0.0)})
    table = op_times(g, cluster_of(V100, device_preset("a100-sxm4-80gb")))
    assert table.forward_s[0, 0] == 1.0
    assert table.forward_s[1, 0] == pytest.approx(15.7 / 19.5)


def test_measured_times_of_a_known_device_scale_by_roofline_where_the_work_is_known():
    work = Work(flop=1.0, bytes=1e9)  # bound by memory: 900 GB/s against 320 GB/s
    g = dataclasses.replace(one_op(forward=work, times={REFERENCE: OpTimes(1.0, 0.0)}), measured_on="v100-sxm2-16gb")
    table = op_times(g, cluster_of(V100, device_preset("t4-16gb")))
    assert table.forward_s[0, 0] == 1.0
    assert table.forward_s[1, 0] == pytest.approx(900 / 320, rel=0.02)


def test_times_for_a_named_device_type_are_taken_as_they_are():
    g = one_op(times={"mine": OpTimes(1.0, 0.0), "t4-16gb": OpTimes(5.0, 0.0)})
    mine = DeviceType(name="mine", memory_bytes=1, speed=9.0, speed_is_given=True)
    renamed = dataclasses.replace(device_preset("t4-16gb"), name="other")
    assert op_times(g, cluster_of(mine, renamed)).forward_s.tolist() == [[1.0], [5.0]]


def test_speed_scales_the_roofline():
    g = one_op(forward=Work(flop=1e12))
    double = dataclasses.replace(V100, name="double", speed=2.0, speed_is_given=True)
    only_speed = DeviceType(name="only", memory_bytes=1, speed=2.0)
    a, b, c = op_times(g, cluster_of(V100, double, only_speed)).forward_s[:, 0]
    assert a / 2 == pytest.approx(b) == pytest.approx(c)


def test_transfer():
    c = load_cluster("paper-4x4-10gbe")
    assert transfer_s(c.path(0, 0), 1e9) < 1e-20
    assert transfer_s(c.path(0, 1), 12e9) == pytest.approx(1 + 10e-6)
    assert transfer_s(c.path(0, 4), 1.25e9) == pytest.approx(1 + 60e-6)


def test_all_reduce():
    c = load_cluster("paper-4x4-10gbe")
    assert all_reduce_s(c, [0], 1e9) == 0
    assert all_reduce_s(c, [0, 1], 0) == 0
    assert all_reduce_s(c, [0, 1, 2, 3], 12e9) == pytest.approx(2 * 3 / 4 + 6 * 10e-6)
    assert all_reduce_s(c, [0, 4], 1.25e9) == pytest.approx(2 / 2 + 2 * 60e-6)
    inside, between = 2 / 2 * 1.25e9 / 12e9 + 2 * 10e-6, 2 / 2 + 2 * 60e-6
    assert all_reduce_s(c, [0, 1, 4, 5], 1.25e9) == pytest.approx(inside + between)


def test_stage_costs_sum_ops_by_stage_and_device():
    fast = DeviceType(name="fast", memory_bytes=1, speed=2.0, speed_is_given=True, memory_bandwidth=50.0)
    slow = DeviceType(name="slow", memory_bytes=1, speed=1.0, speed_is_given=True)
    problem = PlanningProblem.build(chain_graph(4, forward_s=1.0, param_bytes=10.0), cluster_of(fast, slow))
    costs = problem.stage_costs(np.array([0, 0, 0, 1]), 2)
    assert costs.forward_s.tolist() == [[1.5, 3.0], [0.5, 1.0]]
    assert costs.backward_s.tolist() == [[3.0, 6.0], [1.0, 2.0]]
    assert costs.resident_bytes.tolist() == [90.0, 30.0]  # parameter, gradient, momentum
    assert costs.optimizer_s.tolist() == [[3.0, 0.0], [1.0, 0.0]]  # five passes over 30 bytes at 50 bytes/s
