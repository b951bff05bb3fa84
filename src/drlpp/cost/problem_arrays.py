"""A planning problem, and assignments of it, as arrays: what the evaluator, planners and their compiled code read."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import NO_LINK
from drlpp.cost.links import links_inside, site_on_host
from drlpp.cost.op_amounts import OpAmounts, op_amounts
from drlpp.cost.op_times import OpTimeTable
from drlpp.cost.optimizer_state import late_gradient, optimizer_s_per_byte, state_bytes
from drlpp.cost.problem_times import problem_times
from drlpp.cost.shared_graphs import held_graphs
from drlpp.errors import ScheduleError
from drlpp.graph.blocks import block_numbers
from drlpp.graph.csr import grouped, numbered, offsets
from drlpp.graph.stages import check_partition
from drlpp.plan import Assignment, StageSettings
from drlpp.problem import PlanningProblem, per_problem

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


class ProblemArrays(NamedTuple):
    """A problem as arrays: N ops, E edges, V values (a tensor in a phase), T tensors, P parameters and buffers, D
    devices.

    Attributes:
        times: seconds of each op on each device type.
        besides_s: ``[num_device_types]`` what a forward or backward pass of a stage takes besides its ops.
        ops: what each op holds, and the values that it sends.
        block: ``[N]`` number of the repeated block of each op, or -1.
        edge_src, edge_dst, edge_value, edge_grad, edge_s: ``[E]``; seconds are -1 where the graph gives none.
        value_tensor, value_backward: ``[V]``.
        tensor_bytes, tensor_value, tensor_maker: ``[T]``; the value of the tensor in the forward pass, and the op that
            makes it, or -1.
        held_bytes: ``[num_device_types, T]`` what a device holds of each tensor.
        saver_off, saver: ``[T + 1]``, ops that keep each tensor.
        trained_bytes: ``[num_device_types, P]`` what a device holds of each trained parameter; 0 for the others.
        fixed_bytes: ``[num_device_types, P]`` what a device holds of each frozen parameter or buffer; 0 for the others.
        reader_off, reader: ``[P + 1]``, ops that read each.
        resident_factor: resident bytes per trained byte.
        gradient_factor: bytes of gradient per trained byte, 0 where it exists from the start.
        divided_states: bytes of state per trained byte that the devices divide which sum the gradient.
        zero1: 1 if they divide the optimizer step as well.
        device_type, device_host, device_site, memory_bytes, members, optimizer_s: ``[D]``; the last in seconds per
            trained byte, a site counted on its host.
        sites, link_off, link_bandwidth, link_latency_s, link_step_s: `cost.links.LinksInside` of all hosts.
        port_bandwidth, port_latency_s: ``[num_hosts]``.
    """

    num_microbatches: int
    times: OpTimeTable
    besides_s: _Floats
    ops: OpAmounts
    block: _Ints
    edge_src: _Ints
    edge_dst: _Ints
    edge_value: _Ints
    edge_grad: _Ints
    edge_s: _Floats
    value_tensor: _Ints
    value_backward: _Ints
    tensor_bytes: _Floats
    held_bytes: _Floats
    tensor_value: _Ints
    tensor_maker: _Ints
    saver_off: _Ints
    saver: _Ints
    trained_bytes: _Floats
    fixed_bytes: _Floats
    reader_off: _Ints
    reader: _Ints
    resident_factor: float
    gradient_factor: float
    divided_states: float
    zero1: int
    device_type: _Ints
    device_host: _Ints
    device_site: _Ints
    memory_bytes: _Floats
    members: _Ints
    optimizer_s: _Floats
    sites: _Ints
    link_off: _Ints
    link_bandwidth: _Floats
    link_latency_s: _Floats
    link_step_s: _Floats
    port_bandwidth: _Floats
    port_latency_s: _Floats

    @property
    def forward_s(self) -> _Floats:
        """``[num_device_types, N]``, as the next two."""
        return self.times.forward_s

    @property
    def input_grad_s(self) -> _Floats:
        return self.times.input_grad_s

    @property
    def weight_grad_s(self) -> _Floats:
        return self.times.weight_grad_s


@per_problem
def problem_arrays(problem: PlanningProblem) -> ProblemArrays:
    """The arrays of a problem."""
    graph, cluster = problem.graph, problem.cluster
    values, tensors, params = graph.values, graph.tensor_table, graph.param_table
    first, number = numbered(values.tensor * 2 + values.backward)  # here a value may have several producers
    value_tensor, value_backward = values.tensor[first], values.backward[first]
    tensor_value = np.full(len(tensors.bytes), -1, dtype=np.int64)
    tensor_value[value_tensor[~value_backward]] = np.flatnonzero(~value_backward)
    saver_off, saver = grouped(tensors.item, tensors.reader, len(tensors.bytes))
    reader_off, reader = grouped(params.item, params.reader, len(params.bytes))
    held = held_graphs(problem)
    state, trained = state_bytes(graph, problem.training), graph.param_is_trained
    param_bytes = np.array([h.param_table.bytes for h in held])
    inside = links_inside(cluster, range(len(cluster.hosts)))
    ports = [host.network or NO_LINK for host in cluster.hosts]
    return ProblemArrays(
        num_microbatches=problem.training.num_microbatches,
        times=problem_times(problem),
        besides_s=np.array([t.action_s for t in cluster.device_types], dtype=np.float64),
        ops=op_amounts(problem),
        block=block_numbers(graph),
        edge_src=np.ascontiguousarray(graph.edge_ends[:, 0]),
        edge_dst=np.ascontiguousarray(graph.edge_ends[:, 1]),
        edge_value=number[values.of_edge],
        edge_grad=graph.edge_gradients.astype(np.int64),
        edge_s=graph.edge_seconds,
        value_tensor=value_tensor,
        value_backward=value_backward.astype(np.int64),
        tensor_bytes=tensors.bytes,
        held_bytes=np.array([h.tensor_table.bytes for h in held]),
        tensor_value=tensor_value,
        tensor_maker=graph.tensor_maker,
        saver_off=saver_off,
        saver=saver,
        trained_bytes=np.where(trained, param_bytes, 0.0),
        fixed_bytes=np.where(trained, 0.0, param_bytes * state.parameter),
        reader_off=reader_off,
        reader=reader,
        resident_factor=state.total,
        gradient_factor=late_gradient(graph, problem.training),
        divided_states=state.divided,
        zero1=int(problem.training.zero1),
        device_type=cluster.type_index,
        device_host=cluster.host_index,
        device_site=site_on_host(cluster),
        memory_bytes=cluster.memory_bytes,
        members=cluster.members,
        optimizer_s=optimizer_s_per_byte(problem),
        sites=inside.sites,
        link_off=inside.link_off,
        link_bandwidth=inside.bandwidth,
        link_latency_s=inside.latency_s,
        link_step_s=inside.step_s,
        port_bandwidth=np.array([x.bandwidth for x in ports], dtype=np.float64),
        port_latency_s=np.array([x.latency_s for x in ports], dtype=np.float64),
    )


class PackedAssignments(NamedTuple):
    """B assignments as arrays; assignment b has stages ``stage_off[b] .. stage_off[b + 1]``, and slots likewise.

    Attributes:
        labels: ``[B, N]`` stage of each op.
        stage_off, slot_off: ``[B + 1]``.
        replicas, recompute: per stage.
        devices, shares: per slot; no shares if all are equal.
    """

    labels: _Ints
    stage_off: _Ints
    slot_off: _Ints
    replicas: _Ints
    recompute: _Ints
    devices: _Ints
    shares: _Ints


_NO_SHARES = np.zeros(0, dtype=np.int64)


def pack(problem: PlanningProblem, assignments: Sequence[Assignment]) -> PackedAssignments:
    """Packs assignments.

    Raises:
        PlanError: a partition has another length than the graph.
        ScheduleError: a device does not exist.
    """
    num_ops, cluster = problem.graph.num_ops, problem.cluster
    for assignment in assignments:
        if len(assignment.stage_of_op) != num_ops:
            check_partition(problem.graph, assignment.stage_of_op, assignment.num_stages)
    groups = [group for assignment in assignments for group in assignment.devices]
    replicas = np.fromiter(map(len, groups), dtype=np.int64)
    devices = np.fromiter(itertools.chain.from_iterable(groups), dtype=np.int64)
    if len(devices) and (devices.min() < 0 or devices.max() >= cluster.num_devices):
        raise ScheduleError(
            f"the placement uses devices {devices.min()}..{devices.max()}: cluster {cluster.name!r} has devices "
            f"0..{cluster.num_devices - 1}"
        )
    settings = [of_stage for assignment in assignments for of_stage in assignment.settings]
    stage_off = offsets([len(assignment.devices) for assignment in assignments])
    return PackedAssignments(
        labels=np.array([assignment.stage_of_op for assignment in assignments], dtype=np.int64).reshape(-1, num_ops),
        stage_off=stage_off,
        slot_off=offsets(replicas)[stage_off],
        replicas=replicas,
        recompute=np.fromiter((s.recompute for s in settings), dtype=np.int64),
        devices=devices,
        shares=_slot_shares(settings, groups),
    )


def _slot_shares(settings: Sequence[StageSettings], groups: Sequence[tuple[int, ...]]) -> _Ints:
    """The share of each slot, 1 where those of a stage are equal; nothing if all are."""
    if not any(of_stage.shares for of_stage in settings):
        return _NO_SHARES
    each = (of_stage.shares or (1,) * len(group) for of_stage, group in zip(settings, groups, strict=True))
    return np.fromiter(itertools.chain.from_iterable(each), dtype=np.int64)
