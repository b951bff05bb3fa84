"""Seconds of ops against closed forms."""

import dataclasses

import numpy as np
import pytest

from drlpp.cluster import Cluster, DeviceType, Host, Link, cluster_from_dict, device_preset
from drlpp.cost import op_times, roofline_times
from drlpp.cost.device_rates import Rates, rates
from drlpp.cost.op_times import SAG_S, SPLIT_DEPTH, kernel_seconds
from drlpp.cost.problem_times import problem_times
from drlpp.errors import GraphError
from drlpp.graph import REFERENCE, Op, OpGraph, OpTimes, Work
from drlpp.problem import PlanningProblem

V100 = device_preset("v100-sxm2-16gb")


def cluster_of(*types: DeviceType) -> Cluster:
    names = tuple(t.name for t in types)
    return Cluster("c", types, (Host(name="h", devices=names, link=Link(bandwidth=1e9)),))


def one_op(**values) -> OpGraph:
    return OpGraph(name="g", ops=(Op(name="a", kind="k", **values),), edges=(), tensor_bytes={})


def under_load(compute_s, rate):
    """Seconds of computing as clocks fall."""
    return compute_s * (1 + rate.sag * compute_s / (compute_s + SAG_S))


def test_a_single_product_takes_the_larger_of_compute_and_memory():
    rate = rates("v100-sxm2-16gb", "product", "float32")
    compute_s, memory_s = under_load(1 / rate.compute, rate), 1 / rate.memory  # of a second's work at the nominal rates
    only_compute = Op(name="a", kind="aten.linear", forward=Work(flop=15.7e12, bytes=1.0))
    both = Op(name="a", kind="aten.linear", forward=Work(flop=15.7e12, bytes=900e9))
    seconds = roofline_times(both, V100, "float32")
    assert roofline_times(only_compute, V100, "float32")[0] == pytest.approx(compute_s, rel=1e-4)
    assert max(compute_s, memory_s) < seconds[0] < compute_s + memory_s
    assert seconds[1:] == (0, 0)  # no work, no time


def test_kernels_without_products_run_before_or_after_them():
    rate = rates("v100-sxm2-16gb", "product", "float32")
    alone = Op(name="a", kind="aten.linear", forward=Work(flop=15.7e12, bytes=900e9))
    group = Op(name="a", kind="aten.linear", forward=Work.of(15.7e12, 2 * 900e9, 2, 0.0, 900e9))
    extra_s = roofline_times(group, V100, "float32")[0] - roofline_times(alone, V100, "float32")[0]
    assert extra_s == pytest.approx(1 / rate.memory + rate.launch_s)


def test_products_of_few_outputs_or_short_sums_are_slower_than_their_flop_say():
    rate = Rates(compute=1.0, memory=1.0, launch_s=0.0, fill_outputs=1e4, depth=64.0)
    works = [Work.of(2e9, 1.0, 1, 1e6), Work.of(2e9, 1.0, 1, 1e5), Work.of(2e9, 1.0, 1, 2e9 / 2 / 64)]
    long_sums = Work.of(2e9, 1.0, 1, 2e9 / 2 / SPLIT_DEPTH / 100)  # cut into a hundred that run at the same time
    many, few, short, cut = kernel_seconds(np.array([w.amounts for w in (*works, long_sums)]), 1e12, rate, 2e9)
    assert many == pytest.approx((1 + 1e4 / 1e6) * (1 + 64 / 1e3))
    assert few == pytest.approx((1 + 1e4 / 1e5 / (1e4 / SPLIT_DEPTH)) * (1 + 64 / 1e4))
    assert short == pytest.approx((1 + 1e4 / 15_625_000) * 2)
    assert cut == pytest.approx((1 + 1e4 / (1e9 / SPLIT_DEPTH)) * (1 + 64 / SPLIT_DEPTH / 100))


@pytest.mark.parametrize(
    ("kind", "dtype", "device", "peak", "op_class", "element"),
    [
        ("aten.conv2d", "float32", "v100-sxm2-16gb", 15.7e12, "convolution", "float32"),
        ("aten.conv2d.3x3", "float32", "v100-sxm2-16gb", 15.7e12, "fast-convolution", "float32"),
        ("aten.conv2d.3x3", "float32", "a100-sxm4-80gb", 156e12, "fast-convolution", "tf32"),
        ("aten.conv2d.channels_last", "float32", "a100-sxm4-80gb", 156e12, "product", "tf32"),
        ("aten.linear", "float32", "a100-sxm4-80gb", 19.5e12, "product", "float32"),  # no TF32 unless told to
        ("aten.linear", "bfloat16", "a100-sxm4-80gb", 312e12, "product", "bfloat16"),
        ("aten.linear", "bfloat16", "gtx1080ti-11gb", 11.3e12, "product", "bfloat16"),  # which lacks it
        ("Sequential", "float32", "v100-sxm2-16gb", 15.7e12, "product", "float32"),  # by what it does
    ],
)
def test_rate_by_kind_and_precision(kind, dtype, device, peak, op_class, element):
    op = Op(name="a", kind=kind, forward=Work(flop=1e15))
    rate = rates(device, op_class, element)
    expected = under_load(1e15 / (peak * rate.compute), rate)
    assert roofline_times(op, device_preset(device), dtype)[0] == pytest.approx(expected, rel=1e-4)


def small_ops(number: int, device: DeviceType) -> np.ndarray:
    """Forward seconds of a chain of ops that the device does in next to no time."""
    ops = tuple(Op(name=str(i), kind="aten.add", forward=Work(bytes=4.0, streamed_bytes=4.0)) for i in range(number))
    graph = OpGraph(name="g", ops=ops, edges=(), tensor_bytes={})
    return op_times(graph, cluster_of(device)).forward_s[0]


def test_small_ops_take_the_time_of_the_host_unless_it_has_none():
    compiled = dataclasses.replace(V100, host_op_s=0.0)
    kernel_s = small_ops(1, compiled)[0]
    assert small_ops(10, compiled).sum() == pytest.approx(10 * kernel_s)
    assert small_ops(10, V100).sum() == pytest.approx(10 * V100.host_op_s + kernel_s)


def test_the_host_runs_ahead_while_a_large_op_computes():
    large = Op(name="large", kind="aten.linear", forward=Work(flop=15.7e9, bytes=1.0))  # more than a millisecond
    small = tuple(Op(name=str(i), kind="aten.add", forward=Work(bytes=4.0, streamed_bytes=4.0)) for i in range(10))
    graph = OpGraph(name="g", ops=(large, *small), edges=(), tensor_bytes={})
    with_host = op_times(graph, cluster_of(V100)).forward_s[0]
    without = op_times(graph, cluster_of(dataclasses.replace(V100, host_op_s=0.0))).forward_s[0]
    assert with_host[0] == pytest.approx(without[0] + V100.host_op_s)  # the first has to be asked for
    assert with_host[1:] == pytest.approx(without[1:])


def test_the_host_is_a_bounded_number_of_kernels_ahead():
    many = small_ops(1, V100)
    large = Op(name="large", kind="aten.linear", forward=Work(flop=15.7e12, bytes=1.0))  # more than a second
    small = tuple(Op(name=str(i), kind="aten.add", forward=Work(bytes=4.0, streamed_bytes=4.0)) for i in range(1000))
    graph = OpGraph(name="g", ops=(large, *small), edges=(), tensor_bytes={})
    after = op_times(graph, cluster_of(V100)).forward_s[0, 1:]
    assert after[0] < V100.host_op_s / 2
    assert after[-1] == pytest.approx(many[0], rel=0.2)


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
    reached = [rates(d, "memory", "float32").memory for d in ("v100-sxm2-16gb", "t4-16gb")]
    assert table.forward_s[1, 0] == pytest.approx(900 / 320 * reached[0] / reached[1], rel=0.02)


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
    host_s = V100.host_op_s  # `only` stands for a device of which nothing else is known
    assert (a - host_s) / 2 == pytest.approx(b - host_s) == pytest.approx(c)


def test_measured_times_grow_with_the_devices_of_a_host():
    """On CPUs, by the curve of the graph; the largest host of a type counts, and its last factor beyond the curve."""
    op = Op(name="a", kind="k", times={REFERENCE: OpTimes(1.0, 2.0, 3.0)})
    g = OpGraph(name="g", ops=(op,), edges=(), tensor_bytes={}, slowdown=(1.0, 1.2, 1.5), measured_on="cpu-core")

    def forward_s(*hosts: int) -> float:
        data = {
            "schema_version": 1,
            "name": "c",
            "device_types": {"mine": {"preset": "cpu-core"}},
            "hosts": [
                {
                    "name": f"h{i}",
                    "devices": ["mine"] * n,
                    "link": {"bandwidth": 1e9, "latency": 0.0},
                    "network": {"bandwidth": 1e9, "latency": 0.0},
                }
                for i, n in enumerate(hosts)
            ],
        }
        cluster = cluster_from_dict(data)
        priced = PlanningProblem.build(g, cluster, num_microbatches=1)
        table = op_times(g, cluster)
        assert problem_times(priced).total_s.tolist() == table.total_s.tolist()
        return float(table.forward_s[0, 0])

    assert [forward_s(1), forward_s(2), forward_s(1, 3), forward_s(8)] == pytest.approx([1.0, 1.2, 1.5, 1.5])
    assert op_times(g, cluster_of(V100)).forward_s[0, 0] < 1.0
    with pytest.raises(GraphError, match=r"slowdown is \[0.0\]: factors must be positive"):
        dataclasses.replace(g, slowdown=(0.0,))
