"""The problem as flat arrays: what the policy's features and its cut solver are computed from.

Devices of one type on one host are interchangeable and form a *class*; the policy speaks of classes and counts.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import NO_LINK
from drlpp.cost.optimizer_state import op_resident_bytes, optimizer_s_per_byte, state_bytes
from drlpp.cost.problem_times import problem_times
from drlpp.cost.shared_graphs import held_graphs
from drlpp.graph.csr import grouped, offset_rows
from drlpp.problem import PlanningProblem

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class Tables:
    """Arrays of a problem. ``n`` ops, ``C`` device classes, ``Q`` tensors that cross an edge.

    Attributes:
        class_devices: per class, its device ids in order.
        time_s: ``[C, n]`` forward and backward seconds per micro-batch.
        forward_s, weight_grad_s: ``[C, n]`` seconds of the forward pass, and of the gradients of the weights.
        resident: ``[n]`` bytes of parameters, gradients and optimizer state.
        params: ``[n]`` parameter bytes (what replicas all-reduce).
        saved: ``[n]`` bytes kept for the backward pass per micro-batch.
        held_resident, held_saved: ``[C, n]`` the same of what a device holds: of a group, what all its members hold.
        divided_states: bytes of optimizer state per trained byte that replicas divide (ZeRO-1).
        update_s, divided_update_s: ``[C]`` seconds of the optimizer's step per trained byte; and what replicas divide.
        besides_s: ``[C]`` seconds that the passes of a micro-batch through a stage take besides their ops.
        tensor_ptr, tensor_ops: ``[Q + 1]``, flat: ops that a tensor joins, the first one before the others.
        tensor_bytes: ``[Q]`` bytes (where the graph gives transfer times: such that `bandwidth` leads to them).
        op_tensor_ptr, op_tensors: ``[n + 1]``, flat: tensors that an op is joined to.
        succ_ptr, succ: ``[n + 1]``, flat: successors of each op.
        num_pred: ``[n]`` number of predecessors.
        speed: ``[C]`` micro-batches of the whole graph per second on one device.
        size: ``[C]`` devices.
        replica_kind: ``[C]`` classes of one kind may replicate a stage together: groups hold the same parts of it only
            if they are of one type; 0 for all devices that are no groups.
        host: ``[C]`` host index.
        first_class: ``[H]`` of each host; its classes follow one another.
        first_like: ``[H]`` the first host that is like each: same ports, same devices.
        twins_before: ``[H, H]`` for each host, the ones before it that are like it.
        memory: ``[C]`` bytes of one device.
        bandwidth, latency_s: ``[C, C]`` between devices of two classes (on the diagonal: two devices of the class).
        port_bandwidth: ``[C]`` bytes per second of the host's network port (that of `NO_LINK` if there is none).
        link_bandwidth: ``[C]`` bytes per second of the slowest link inside the host (`NO_LINK` if there is none).
        microbatches: per step.
        may_replicate: stages may run on several devices.
        may_share: these may run unequal numbers of micro-batches.
        ideal_s: seconds per micro-batch if all devices shared the work perfectly.
    """

    class_devices: tuple[tuple[int, ...], ...]
    time_s: Floats
    forward_s: Floats
    weight_grad_s: Floats
    resident: Floats
    params: Floats
    saved: Floats
    held_resident: Floats
    held_saved: Floats
    divided_states: float
    update_s: Floats
    divided_update_s: Floats
    besides_s: Floats
    tensor_ptr: Ints
    tensor_ops: Ints
    tensor_bytes: Floats
    op_tensor_ptr: Ints
    op_tensors: Ints
    succ_ptr: Ints
    succ: Ints
    num_pred: Ints
    speed: Floats
    size: Ints
    replica_kind: Ints
    host: Ints
    first_class: Ints
    first_like: Ints
    twins_before: NDArray[np.bool_]
    memory: Floats
    bandwidth: Floats
    latency_s: Floats
    port_bandwidth: Floats
    link_bandwidth: Floats
    microbatches: int
    may_replicate: bool
    may_share: bool
    ideal_s: float

    @property
    def num_ops(self) -> int:
        return len(self.params)

    @property
    def num_classes(self) -> int:
        return len(self.size)

    def live_bytes(self, order: Ints) -> Floats:
        """``[n + 1]`` bytes that cross a cut before position i of an order."""
        position = np.empty(self.num_ops, dtype=np.int64)
        position[order] = np.arange(self.num_ops)
        steps = np.zeros(self.num_ops + 2)
        if len(self.tensor_bytes):
            where = position[self.tensor_ops]
            first = np.minimum.reduceat(where, self.tensor_ptr[:-1])
            last = np.maximum.reduceat(where, self.tensor_ptr[:-1])
            np.add.at(steps, first + 1, self.tensor_bytes)
            np.add.at(steps, last + 1, -self.tensor_bytes)
        return np.maximum(np.cumsum(steps)[: self.num_ops + 1], 0.0)


def build_tables(problem: PlanningProblem) -> Tables:
    """Derives the arrays of a problem."""
    graph, cluster, times = problem.graph, problem.cluster, problem_times(problem)
    keys = list(zip(cluster.site_index.tolist(), cluster.type_index.tolist(), strict=True))
    classes = list(dict.fromkeys(keys))
    members = tuple(tuple(d for d, k in enumerate(keys) if k == c) for c in classes)
    first = np.array([m[0] for m in members])
    second = np.array([m[min(1, len(m) - 1)] for m in members])
    bandwidth, latency = cluster.bandwidth[np.ix_(first, first)], cluster.latency_s[np.ix_(first, first)]
    np.fill_diagonal(bandwidth, cluster.bandwidth[first, second])
    np.fill_diagonal(latency, cluster.latency_s[first, second])
    if graph.has_transfer_times:
        bandwidth[:], latency[:] = bandwidth.min(), 0.0
    types, held = cluster.type_index[first], held_graphs(problem)
    update_s = optimizer_s_per_byte(problem)[first]
    time_s = times.total_s[types]
    speed = 1.0 / np.maximum(time_s.sum(axis=1), TINY)
    size = np.array([len(m) for m in members])
    hosts = [cluster.hosts[h] for h in cluster.host_index[first]]
    looks = [(h.link, h.links, h.network, h.devices) for h in cluster.hosts]
    kinds = np.array([looks.index(look) for look in looks])

    values = graph.values
    each = np.arange(len(values.src))
    of_end = np.concatenate([each, np.repeat(each, np.diff(values.consumer_off))])
    end = np.concatenate([values.src, values.consumer])
    by_op = np.lexsort((end, of_end))
    tensor_ptr, tensor_ops = grouped(of_end[by_op], end[by_op], len(each))
    op_tensor_ptr, op_tensors = grouped(end[by_op], of_end[by_op], graph.num_ops)
    succ_ptr, succ = offset_rows(graph.successors)
    seconds = values.transfer_s
    return Tables(
        class_devices=members,
        time_s=np.ascontiguousarray(time_s),
        forward_s=np.ascontiguousarray(times.forward_s[types]),
        weight_grad_s=np.ascontiguousarray(times.weight_grad_s[types]),
        resident=op_resident_bytes(graph, problem.training),
        params=graph.op_trained_bytes,
        saved=graph.op_saved_bytes,
        held_resident=np.array([op_resident_bytes(h, problem.training) for h in held])[types],
        held_saved=np.array([h.op_saved_bytes for h in held])[types],
        divided_states=state_bytes(graph, problem.training).divided,
        update_s=update_s,
        divided_update_s=update_s * problem.training.zero1,
        besides_s=2.0 * np.array([cluster.device_types[k].action_s for k in types.tolist()]),
        tensor_ptr=tensor_ptr,
        tensor_ops=tensor_ops,
        tensor_bytes=np.where(seconds < 0, graph.tensor_table.bytes[values.tensor], seconds * bandwidth.min()),
        op_tensor_ptr=op_tensor_ptr,
        op_tensors=op_tensors,
        succ_ptr=succ_ptr,
        succ=succ,
        num_pred=np.array([len(p) for p in graph.predecessors]),
        speed=speed,
        size=size,
        replica_kind=np.where(cluster.members[first] > 1, types + 1, 0),
        host=cluster.host_index[first],
        first_class=np.searchsorted(cluster.host_index[first], np.arange(len(looks))),
        first_like=kinds,
        twins_before=np.tril(kinds[:, None] == kinds, k=-1),
        memory=cluster.memory_bytes[first],
        bandwidth=bandwidth,
        latency_s=latency,
        port_bandwidth=np.array([(h.network or NO_LINK).bandwidth for h in hosts]),
        link_bandwidth=np.array([(h.slowest_link or NO_LINK).bandwidth for h in hosts]),
        microbatches=problem.training.num_microbatches,
        may_replicate=problem.may_replicate,
        may_share=problem.may_share,
        ideal_s=float(1.0 / (speed * size).sum()),
    )
