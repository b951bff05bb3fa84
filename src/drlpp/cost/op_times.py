"""Seconds of every op on every device type: measured where the graph has a time, else an analytic roofline.

Roofline (after Williams et al., CACM 2009), with what kernels of each class reach on each device (`device_rates`):

``launches + ((flop / compute)^q + (bytes / memory)^q)^(1/q) + streamed bytes / memory``

A single product overlaps its loads with its sums, so the larger of the two decides (q about 3). Kernels that compute no
product run before or after it and are added. A product of few outputs leaves a part of the device idle, and one with
short sums spends its time around them: both stretch the time of compute. So do clocks that fall under load on cards of
limited power (L4, T4, A6000): long products take up to (1 + `Rates.sag`) times as long.

An eager program asks for one kernel after another, and its host needs `DeviceType.host_op_s` for each. The device waits
where the host falls behind: ops that are small in a row take the host's time. Times are the differences of the moments
at which the ops end, with the host at most `RUN_AHEAD` kernels ahead. A host time of 0 stands for CUDA graphs and
compiled code.

Measured times are taken as they are for the device type (or the preset) they name. Times on the graph's reference
device are scaled: by `speed` where the cluster gives one, else by the roofline of the two devices where both and the
op's work are known, else by the ratio of their `speed`. A device type that has only a `speed` is taken as a V100 of
that speed for ops without measured times.

Left out: caches beyond the operands of one product, and ops that run at the same time on one device.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import Cluster, DeviceType, device_presets
from drlpp.cluster.devices import CPU_PRESET, REFERENCE_PRESET, device_preset
from drlpp.cost.device_rates import OpClass, Rates, op_class, rates
from drlpp.graph import REFERENCE, Op, OpGraph, OpTimes

RUN_AHEAD = 64
"""Kernels that a host asks for before their turn. More are possible, but not across the border of a stage."""
SPLIT_DEPTH = 8192.0
"""Kernels cut longer sums of products into parts of about this length, which run at the same time."""
CACHE_EDGE = 16.0
"""How sharply operands that do not fit are missed."""
SAG_S = 1e-2
"""Seconds of computing after which half of the fall of clocks has come."""
_PRODUCT_INTENSITY = 4.0
"""FLOP per byte from which an op of unknown kind is taken as a product."""


@dataclasses.dataclass(frozen=True)
class OpTimeTable:
    """Seconds per micro-batch, by device type and op.

    Attributes:
        forward_s, input_grad_s, weight_grad_s: ``[num_device_types, num_ops]``.
    """

    forward_s: NDArray[np.float64]
    input_grad_s: NDArray[np.float64]
    weight_grad_s: NDArray[np.float64]

    @functools.cached_property
    def total_s(self) -> NDArray[np.float64]:
        """``[num_device_types, num_ops]`` forward and backward together."""
        return self.forward_s + self.input_grad_s + self.weight_grad_s

    def by_type(self, cluster: Cluster) -> dict[str, NDArray[np.float64]]:
        """Device type -> ``[3, num_ops]`` seconds of forward, input gradient and weight gradient."""
        parts = (self.forward_s, self.input_grad_s, self.weight_grad_s)
        return {t.name: np.stack([part[k] for part in parts]) for k, t in enumerate(cluster.device_types)}


def op_times(graph: OpGraph, cluster: Cluster) -> OpTimeTable:
    """Times of all ops on all device types of the cluster, where all devices of a host compute at once."""
    table = np.array([busy_factor(graph, cluster, t) * device_times(graph, t) for t in cluster.device_types])
    return OpTimeTable(*(np.ascontiguousarray(table[:, :, i]) for i in range(3)))


def busy_factor(graph: OpGraph, cluster: Cluster, device: DeviceType) -> float:
    """Factor of the seconds on a CPU where all devices of its host compute at once, by the curve of the graph.

    Of the largest host, if a type is on hosts of several sizes. GPUs share nothing: 1.
    """
    if not graph.slowdown or device.preset not in ("", CPU_PRESET):
        return 1.0
    most = max((len(h.devices) for h in cluster.hosts if device.name in h.devices), default=1)
    return graph.slowdown[min(most, len(graph.slowdown)) - 1]


def roofline_times(op: Op, device: DeviceType, dtype: str) -> tuple[float, float, float]:
    """Analytic seconds of the kernels of one op: forward, input gradient, weight gradient; without the host's."""
    forward, input_grad, weight_grad = roofline_seconds([op], device, dtype)[0].tolist()
    return forward, input_grad, weight_grad


def device_times(graph: OpGraph, device: DeviceType) -> NDArray[np.float64]:
    """``[num_ops, 3]`` seconds of the parts of every op of a graph on one device type."""
    seconds, host = kernels_and_host(graph.ops, graph, device)
    if host.any():
        seconds[:, 0] = _paced(seconds[:, 0], host[:, 0], device.host_op_s)
        back = np.ascontiguousarray(seconds[::-1, 1:]).ravel()  # the last op first, its inputs before its parameters
        paced = _paced(back, np.ascontiguousarray(host[::-1, 1:]).ravel(), device.host_op_s)
        seconds[:, 1:] = paced.reshape(-1, 2)[::-1]
    return seconds


def kernels_and_host(
    ops: Sequence[Op], graph: OpGraph, device: DeviceType
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``[len(ops), 3]`` seconds of the parts of ops of a graph, measured or analytic, and those that the host needs."""
    seconds = roofline_seconds(ops, device, graph.compute_dtype)
    amounts = _amounts(ops)
    host = np.where(amounts[:, :, :2].any(axis=2), amounts[:, :, 2], 0.0) * device.host_op_s
    for i, op in enumerate(ops):
        measured = _measured(op, graph, device, seconds[i])
        if measured is not None:
            seconds[i], host[i] = measured, 0.0
    return seconds, host


def _measured(
    op: Op, graph: OpGraph, device: DeviceType, analytic: NDArray[np.float64]
) -> tuple[float, float, float] | None:
    for key in (device.name, device.preset):
        if key in op.times:
            return _as_tuple(op.times[key], 1.0)
    if REFERENCE in op.times:
        return _as_tuple(op.times[REFERENCE], _scale(op, graph, device, float(analytic.sum())))
    return None


def _as_tuple(t: OpTimes, scale: float) -> tuple[float, float, float]:
    return t.forward_s * scale, t.input_grad_s * scale, t.weight_grad_s * scale


def _scale(op: Op, graph: OpGraph, device: DeviceType, analytic_s: float) -> float:
    """Factor from a time on the graph's reference device to one on `device`."""
    if device.speed_is_given or not device.peak_flops:
        return 1.0 / device.speed
    if device.preset and device.preset == graph.measured_on:
        return 1.0
    reference = device_presets().get(graph.measured_on) or device_preset(REFERENCE_PRESET)
    if op.forward.flop or op.forward.bytes:
        return analytic_s / sum(roofline_times(op, reference, graph.compute_dtype))
    return reference.speed / device.speed


def _amounts(ops: Sequence[Op]) -> NDArray[np.float64]:
    """``[num_ops, 3, 5]`` flop, bytes, kernels, outputs and streamed bytes of the parts of every op."""
    return np.array([[w.amounts for w in (op.forward, op.input_grad, op.weight_grad)] for op in ops])


def class_of(op: Op) -> OpClass:
    """The class that decides an op's rates: by its kind, else by what it does."""
    named = op_class(op.kind)
    if named is not None:
        return named
    work = op.forward
    return "product" if work.outputs or work.flop > _PRODUCT_INTENSITY * work.bytes else "memory"


def op_classes(graph: OpGraph) -> list[OpClass]:
    """The class of every op."""
    return [class_of(op) for op in graph.ops]


def roofline_seconds(ops: Sequence[Op], device: DeviceType, dtype: str) -> NDArray[np.float64]:
    """``[num_ops, 3]`` analytic seconds of the kernels of the parts of every op; without the host's."""
    base, speed = device, 1.0
    if not device.peak_flops:
        base, speed = device_preset(REFERENCE_PRESET), device.speed
    elif device.speed_is_given:
        speed = device.speed
    amounts, classes = _amounts(ops), [(class_of(op), "conv" in op.kind.lower()) for op in ops]
    seconds = np.zeros(amounts.shape[:2])
    for kind, convolves in dict.fromkeys(classes):
        chosen = np.array([c == (kind, convolves) for c in classes])
        element = "tf32" if convolves and _runs_in_tf32(base, dtype) else dtype
        rate = rates(base.preset, kind, element)
        seconds[chosen] = kernel_seconds(amounts[chosen], base.memory_bandwidth, rate, base.peak(element))
    return seconds / speed


def _runs_in_tf32(device: DeviceType, dtype: str) -> bool:
    """PyTorch runs convolutions of float32 in TF32 where the device has it, and other ops only when it is told to."""
    return dtype == "float32" and "tf32" in dict(device.peak_flops)


def kernel_seconds(
    amounts: NDArray[np.float64], memory_bandwidth: float, rate: Rates, peak: float
) -> NDArray[np.float64]:
    """Seconds of kernels of one class.

    Args:
        amounts: ``[..., 5]`` `Work.amounts`.
        memory_bandwidth: nominal, bytes per second.
        rate: what kernels of the class reach.
        peak: nominal FLOP per second.

    Returns:
        ``[...]`` seconds.
    """
    flop, moved, kernels, outputs, streamed = np.moveaxis(amounts, -1, 0)
    memory = memory_bandwidth * rate.memory  # bytes per second
    compute = flop / (peak * rate.compute)
    known = outputs > 0
    depth = np.divide(flop, 2 * outputs, out=np.full_like(flop, np.inf), where=known)
    sums = outputs * np.maximum(1.0, np.where(known, depth, 1.0) / SPLIT_DEPTH)  # that can run at the same time
    idle = np.divide(rate.fill_outputs, sums, out=np.zeros_like(flop), where=known)
    compute *= (1 + idle) * (1 + rate.depth / np.maximum(depth, 1.0))
    compute *= 1 + rate.sag * compute / (compute + SAG_S)
    own = np.maximum(moved - streamed, 0.0)
    if rate.cache_bytes:
        own = own * (1 - rate.cache_gain / (1 + (own / rate.cache_bytes) ** CACHE_EDGE))
    blended = (compute**rate.blend + (own / memory) ** rate.blend) ** (1 / rate.blend)
    alone = (streamed > 0) & (moved <= streamed)
    seconds = np.where(alone, 0.0, blended) + streamed / memory + kernels * rate.launch_s
    return np.where((flop > 0) | (moved > 0), seconds, 0.0)


def _paced(seconds: NDArray[np.float64], host_s: NDArray[np.float64], per_kernel_s: float) -> NDArray[np.float64]:
    """``[n]`` seconds from the end of one op to the end of the next, where the host asks for them in this order."""
    most, ahead, out = RUN_AHEAD * per_kernel_s, 0.0, []
    for device, host in zip(seconds.tolist(), host_s.tolist(), strict=True):
        waits = max(host - ahead, 0.0)
        ahead = min(max(ahead - host, 0.0) + device, most)
        out.append(device + waits)
    return np.array(out)
