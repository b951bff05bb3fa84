"""Seconds of every op on every device type: measured where the graph has a time, else an analytic roofline.

Roofline (after Williams et al., CACM 2009): a part of an op takes FLOP / (peak x efficiency) plus bytes / (memory
bandwidth x efficiency) plus a fixed launch overhead. The sum, not the larger of the two: an op may stand for several
operators, a convolution and the activation behind it, which run one after another. The efficiencies come from
PipeDream's published V100 profiles (`benchmarks/roofline_calibration.py`); where nothing was measured, they are marked.

Measured times are taken as they are for the device type (or the preset) they name. Times on the graph's reference
device are scaled: by `speed` where the cluster gives one, else by the roofline of the two devices where both and the
op's work are known, else by the ratio of their `speed`. A device type that has only a `speed` is taken as a V100 of
that speed for ops without measured times.

Left out: the effect of shapes on the efficiency of kernels, caches, and ops that run at the same time on one device.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import Cluster, DeviceType, device_presets
from drlpp.cluster.devices import REFERENCE_PRESET, device_preset
from drlpp.graph import REFERENCE, Op, OpGraph, OpTimes, Work

COMPUTE_EFFICIENCY = 0.7
"""Reached part of the float32 peak in matrix products, attention and recurrent layers."""
CONVOLUTION_EFFICIENCY = 0.75
"""The same in convolutions."""
FAST_CONVOLUTION_EFFICIENCY = 1.6
"""The same in those that Winograd's algorithm serves (kind ``aten.conv2d.3x3``): it needs fewer FLOP than counted."""
TENSOR_CORE_EFFICIENCY = 0.5
"""Reached part of the peak of a lower precision (not measured here; 0.4 to 0.6 are usual in training)."""
MEMORY_EFFICIENCY = 0.57
"""Reached part of the memory bandwidth."""
FAST_CONVOLUTIONS = (".3x3", ".5x5")
"""Ends of the kinds of dense convolutions of stride 1 that have fast algorithms."""
LAUNCH_OVERHEAD_S = 4e-6
"""Seconds per operator that even an empty kernel takes."""


@dataclasses.dataclass(frozen=True)
class OpTimeTable:
    """Seconds per micro-batch, by device type and op.

    Attributes:
        forward_s, input_grad_s, weight_grad_s: ``[num_device_types, num_ops]``.
    """

    forward_s: NDArray[np.float64]
    input_grad_s: NDArray[np.float64]
    weight_grad_s: NDArray[np.float64]

    @property
    def total_s(self) -> NDArray[np.float64]:
        """``[num_device_types, num_ops]`` forward and backward together."""
        return self.forward_s + self.input_grad_s + self.weight_grad_s

    def by_type(self, cluster: Cluster) -> dict[str, NDArray[np.float64]]:
        """Device type -> ``[3, num_ops]`` seconds of forward, input gradient and weight gradient."""
        parts = (self.forward_s, self.input_grad_s, self.weight_grad_s)
        return {t.name: np.stack([part[k] for part in parts]) for k, t in enumerate(cluster.device_types)}


def op_times(graph: OpGraph, cluster: Cluster) -> OpTimeTable:
    """Times of all ops on all device types of the cluster."""
    table = np.array([[_times(op, graph, t) for op in graph.ops] for t in cluster.device_types])
    return OpTimeTable(*(np.ascontiguousarray(table[:, :, i]) for i in range(3)))


def _times(op: Op, graph: OpGraph, device: DeviceType) -> tuple[float, float, float]:
    for key in (device.name, device.preset):
        if key in op.times:
            return _as_tuple(op.times[key], 1.0)
    if REFERENCE in op.times:
        return _as_tuple(op.times[REFERENCE], _scale(op, graph, device))
    return roofline_times(op, device, graph.dtype)


def _as_tuple(t: OpTimes, scale: float) -> tuple[float, float, float]:
    return t.forward_s * scale, t.input_grad_s * scale, t.weight_grad_s * scale


def _scale(op: Op, graph: OpGraph, device: DeviceType) -> float:
    """Factor from a time on the graph's reference device to one on `device`."""
    if device.speed_is_given or not device.peak_flops:
        return 1.0 / device.speed
    if device.preset and device.preset == graph.measured_on:
        return 1.0
    reference = device_presets().get(graph.measured_on) or device_preset(REFERENCE_PRESET)
    if op.forward.flop or op.forward.bytes:
        return sum(roofline_times(op, device, graph.dtype)) / sum(roofline_times(op, reference, graph.dtype))
    return reference.speed / device.speed


def roofline_times(op: Op, device: DeviceType, dtype: str) -> tuple[float, float, float]:
    """Analytic seconds of one op: forward, input gradient, weight gradient."""
    base, speed = device, 1.0
    if not device.peak_flops:
        base, speed = device_preset(REFERENCE_PRESET), device.speed
    elif device.speed_is_given:
        speed = device.speed
    flops, bandwidth = _flop_per_second(op.kind, base, dtype), base.memory_bandwidth * MEMORY_EFFICIENCY

    def seconds(work: Work) -> float:
        if not (work.flop or work.bytes):
            return 0.0
        return (work.flop / flops + work.bytes / bandwidth + LAUNCH_OVERHEAD_S) / speed

    return seconds(op.forward), seconds(op.input_grad), seconds(op.weight_grad)


def _flop_per_second(kind: str, device: DeviceType, dtype: str) -> float:
    """PyTorch runs convolutions of float32 in TF32 where the device has it, and other ops only when it is told to."""
    peaks = dict(device.peak_flops)
    if dtype != "float32" and dtype in peaks:
        return peaks[dtype] * TENSOR_CORE_EFFICIENCY
    if "conv" not in kind:
        return device.peak(dtype) * COMPUTE_EFFICIENCY
    efficiency = FAST_CONVOLUTION_EFFICIENCY if kind.endswith(FAST_CONVOLUTIONS) else CONVOLUTION_EFFICIENCY
    return max(device.peak(dtype) * efficiency, peaks.get("tf32", 0.0) * TENSOR_CORE_EFFICIENCY)
