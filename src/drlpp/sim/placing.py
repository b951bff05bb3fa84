"""From an assignment straight to placed stages, compiled: what `problem.stage_costs` and `place_stages` do together.

An evaluation needs the costs and messages of the stages before it can simulate anything, and in Python finding these
takes far longer than the simulation. This module does it on arrays, and adds in the same order, so that every number is
the same to the last bit (`place_stages` stays the readable definition, and the oracle of the tests).
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import Link
from drlpp.cost.stage_costs import OPTIMIZER_PASSES
from drlpp.errors import ScheduleError
from drlpp.graph.stages import check_partition
from drlpp.plan import Assignment
from drlpp.problem import PlanningProblem
from drlpp.schedules import PlacedStages
from drlpp.sim.bits import lists_before, merge_sort, same_bits

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


class ProblemArrays(NamedTuple):
    """A problem as arrays: N ops, E edges, V values (a tensor in a phase), T tensors, P parameters, D devices.

    Attributes:
        action_s: ``[3, num_device_types, N]`` seconds of forward, input gradient and weight gradient.
        edge_src, edge_dst, edge_value, edge_grad, edge_s: ``[E]``; seconds are -1 where the graph gives none.
        value_tensor, value_backward: ``[V]``.
        tensor_bytes, tensor_value: ``[T]``; the value of the tensor in the forward pass, or -1.
        saver_off, saver: ``[T + 1]``, ops that keep each tensor.
        param_bytes, reader_off, reader: ``[P]``, ``[P + 1]``, ops that read each parameter.
        resident_factor: resident bytes per parameter byte.
        device_type, device_host, memory_bytes, optimizer_s: ``[D]``; the last in seconds per parameter byte.
        link_bandwidth, link_latency_s, port_bandwidth, port_latency_s: ``[num_hosts]``.
    """

    num_microbatches: int
    action_s: _Floats
    edge_src: _Ints
    edge_dst: _Ints
    edge_value: _Ints
    edge_grad: _Ints
    edge_s: _Floats
    value_tensor: _Ints
    value_backward: _Ints
    tensor_bytes: _Floats
    tensor_value: _Ints
    saver_off: _Ints
    saver: _Ints
    param_bytes: _Floats
    reader_off: _Ints
    reader: _Ints
    resident_factor: float
    device_type: _Ints
    device_host: _Ints
    memory_bytes: _Floats
    optimizer_s: _Floats
    link_bandwidth: _Floats
    link_latency_s: _Floats
    port_bandwidth: _Floats
    port_latency_s: _Floats


def problem_arrays(problem: PlanningProblem) -> ProblemArrays:
    """The arrays of a problem."""
    graph, cluster, times = problem.graph, problem.cluster, problem.times
    index = graph.index
    values: dict[tuple[str, str], int] = {}
    edge_value = [values.setdefault((e.tensor, e.phase), len(values)) for e in graph.edges]
    names = list(graph.tensor_bytes)
    rank = {name: i for i, name in enumerate(names)}
    savers: list[list[int]] = [[] for _ in names]
    readers: dict[str, list[int]] = {p: [] for p in graph.param_bytes}
    for i, op in enumerate(graph.ops):
        for t in op.saved:
            savers[rank[t]].append(i)
        for p in op.params:
            readers[p].append(i)
    passes = OPTIMIZER_PASSES[problem.training.optimizer]
    bandwidth = [d.type.memory_bandwidth for d in cluster.devices]
    links = [host.link or Link(bandwidth=1e30) for host in cluster.hosts]
    ports = [host.network or Link(bandwidth=1e30) for host in cluster.hosts]
    saver_off, saver = _rows(savers)
    reader_off, reader = _rows(list(readers.values()))
    return ProblemArrays(
        num_microbatches=problem.training.num_microbatches,
        action_s=np.stack([times.forward_s, times.input_grad_s, times.weight_grad_s]),
        edge_src=np.array([index[e.src] for e in graph.edges], dtype=np.int64),
        edge_dst=np.array([index[e.dst] for e in graph.edges], dtype=np.int64),
        edge_value=np.array(edge_value, dtype=np.int64),
        edge_grad=np.array([e.requires_grad for e in graph.edges], dtype=np.int64),
        edge_s=np.array([-1.0 if e.transfer_s is None else e.transfer_s for e in graph.edges], dtype=np.float64),
        value_tensor=np.array([rank[t] for t, _ in values], dtype=np.int64),
        value_backward=np.array([phase == "backward" for _, phase in values], dtype=np.int64),
        tensor_bytes=np.array([graph.tensor_bytes[t] for t in names], dtype=np.float64),
        tensor_value=np.array([values.get((t, "forward"), -1) for t in names], dtype=np.int64),
        saver_off=saver_off,
        saver=saver,
        param_bytes=np.array([graph.param_bytes[p] for p in readers], dtype=np.float64),
        reader_off=reader_off,
        reader=reader,
        resident_factor=float(problem.training.bytes_per_param_byte),
        device_type=cluster.type_index,
        device_host=cluster.host_index,
        memory_bytes=cluster.memory_bytes,
        optimizer_s=np.array([passes / b if b else 0.0 for b in bandwidth]),
        link_bandwidth=np.array([x.bandwidth for x in links], dtype=np.float64),
        link_latency_s=np.array([x.latency_s for x in links], dtype=np.float64),
        port_bandwidth=np.array([x.bandwidth for x in ports], dtype=np.float64),
        port_latency_s=np.array([x.latency_s for x in ports], dtype=np.float64),
    )


def place_assignment(problem: PlanningProblem, arrays: ProblemArrays, assignment: Assignment) -> PlacedStages:
    """Puts an assignment's stages on its devices.

    Raises:
        PlanError: the partition is not legal.
        ScheduleError: a device does not exist.
    """
    labels = np.ascontiguousarray(assignment.stage_of_op, dtype=np.int64)
    num_stages, cluster = assignment.num_stages, problem.cluster
    slot_off = np.zeros(num_stages + 1, dtype=np.int64)
    slot_off[1:] = np.cumsum([len(d) for d in assignment.devices])
    slot_device = np.array([d for devices in assignment.devices for d in devices], dtype=np.int64)
    if slot_device.min() < 0 or slot_device.max() >= cluster.num_devices:
        raise ScheduleError(
            f"the placement uses devices {slot_device.min()}..{slot_device.max()}: cluster {cluster.name!r} has "
            f"devices 0..{cluster.num_devices - 1}"
        )
    if len(labels) != problem.graph.num_ops or not _is_legal(arrays, labels, num_stages):
        check_partition(problem.graph, labels, num_stages)
    placed: PlacedStages = _place(arrays, labels, slot_off, slot_device, np.array(assignment.recompute))
    return placed


def _rows(rows: list[list[int]]) -> tuple[_Ints, _Ints]:
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    offsets[1:] = np.cumsum([len(row) for row in rows])
    return offsets, np.array([x for row in rows for x in row], dtype=np.int64)


@numba.njit(cache=True)
def _is_legal(a, labels, num_stages):  # type: ignore[no-untyped-def]
    used = np.zeros(num_stages, dtype=np.bool_)
    for s in labels:
        if s < 0 or s >= num_stages:
            return False
        used[s] = True
    for e in range(len(a.edge_src)):
        before, after = labels[a.edge_src[e]], labels[a.edge_dst[e]]
        if a.value_backward[a.edge_value[e]]:
            before, after = after, before
        if before > after:
            return False
    return bool(used.all())


@numba.njit(cache=True)
def _offsets(counts):  # type: ignore[no-untyped-def]
    out = np.zeros(len(counts) + 1, dtype=np.int64)
    for i in range(len(counts)):
        out[i + 1] = out[i] + counts[i]
    return out


@numba.njit(cache=True)
def _sent_values(a, labels, num_stages):  # type: ignore[no-untyped-def]
    """The values that leave their stage, in order of their first edge that does.

    Returns, per sent value: stage, value, 1 if a gradient returns, seconds or -1, and ``[n, words]`` the bits of the
    receiving stages; and how many there are.
    """
    most = len(a.edge_src)
    words = (num_stages + 63) // 64
    first = np.full(len(a.value_tensor), -1, dtype=np.int64)  # sent value by value; more by `following`
    following = np.full(most, -1, dtype=np.int64)
    stage = np.empty(most, dtype=np.int64)
    value = np.empty(most, dtype=np.int64)
    grad = np.zeros(most, dtype=np.int64)
    seconds = np.empty(most)
    bits = np.zeros((most, words), dtype=np.uint64)
    n = 0
    for e in range(most):
        s, t = labels[a.edge_src[e]], labels[a.edge_dst[e]]
        if s == t:
            continue
        v = a.edge_value[e]
        k = first[v]
        while k >= 0 and stage[k] != s:
            k = following[k]
        if k < 0:
            k = n
            n += 1
            stage[k], value[k] = s, v
            following[k] = first[v]
            first[v] = k
        grad[k] |= a.edge_grad[e]
        seconds[k] = a.edge_s[e]
        bits[k, t >> 6] |= np.uint64(1) << np.uint64(t & 63)
    return stage, value, grad, seconds, bits, first, following, n


@numba.njit(cache=True)
def _message_order(a, stage, value, grad, seconds, bits, n):  # type: ignore[no-untyped-def]
    """Sorts sent values by (stage, receiving stages, backward phase first, gradient, timed), as `stage_graph` does."""

    order = np.arange(n)
    flags = np.empty(n, dtype=np.int64)
    for k in range(n):
        forward = 1 - a.value_backward[value[k]]
        flags[k] = 4 * forward + 2 * grad[k] + (1 if seconds[k] >= 0.0 else 0)
    merge_sort(order, stage, bits, flags)
    return order, flags


@numba.njit(cache=True)
def _has(bits, row, s):  # type: ignore[no-untyped-def]
    """Whether stage s is in a set."""
    return (bits[row, s >> 6] >> np.uint64(s & 63)) & np.uint64(1) != np.uint64(0)


@numba.njit(cache=True)
def _messages(a, labels, num_stages):  # type: ignore[no-untyped-def]
    """Fields of `PlacedStages` about messages; and the sent values for `_activations`."""
    stage, value, grad, seconds, bits, first, following, n = _sent_values(a, labels, num_stages)
    order, flags = _message_order(a, stage, value, grad, seconds, bits, n)
    message_off = np.zeros(num_stages + 1, dtype=np.int64)
    message_src = np.empty(n, dtype=np.int64)
    message_backward = np.empty(n, dtype=np.int64)
    message_grad = np.empty(n, dtype=np.int64)
    message_bytes = np.zeros(n)
    message_s = np.full(n, -1.0)
    dst_off = np.zeros(n + 1, dtype=np.int64)
    num_dst = 0
    for i in range(n):
        for w in range(bits.shape[1]):
            x = bits[i, w]
            while x:
                num_dst += 1
                x &= x - np.uint64(1)
    dst = np.empty(num_dst, dtype=np.int64)
    returned = np.zeros(num_stages, dtype=np.int64)
    forward_inputs = np.zeros(num_stages, dtype=np.int64)
    backward_inputs = np.zeros(num_stages, dtype=np.int64)
    timed = False
    links_used = False
    num_messages, filled = 0, 0
    for i in range(n):
        k = order[i]
        j = order[i - 1]
        if i == 0 or stage[k] != stage[j] or flags[k] != flags[j] or not same_bits(bits, k, j):
            message_src[num_messages] = stage[k]
            message_off[stage[k] + 1] += 1
            message_backward[num_messages] = a.value_backward[value[k]]
            message_grad[num_messages] = grad[k] * (1 - a.value_backward[value[k]])
            if seconds[k] >= 0.0:
                message_s[num_messages] = 0.0
                timed = True
            else:
                links_used = True
            for t in range(num_stages):
                if _has(bits, k, t):
                    dst[filled] = t
                    filled += 1
                    if message_grad[num_messages]:
                        returned[t] += 1
                    if message_backward[num_messages]:
                        backward_inputs[t] += 1
                    else:
                        forward_inputs[t] += 1
            num_messages += 1
            dst_off[num_messages] = filled
        message_bytes[num_messages - 1] += a.tensor_bytes[a.value_tensor[value[k]]]
        if seconds[k] >= 0.0:
            message_s[num_messages - 1] += seconds[k]
    for s in range(num_stages):
        message_off[s + 1] += message_off[s]
    returns_off = _offsets(returned)
    returns = np.empty(returns_off[-1], dtype=np.int64)
    fill = returns_off[:-1].copy()
    for k in range(num_messages):
        if message_grad[k]:
            for j in range(dst_off[k], dst_off[k + 1]):
                returns[fill[dst[j]]] = k
                fill[dst[j]] += 1
    return (
        message_off,
        message_backward[:num_messages].copy(),
        message_grad[:num_messages].copy(),
        message_bytes[:num_messages].copy(),
        message_s[:num_messages].copy(),
        message_src[:num_messages].copy(),
        dst_off[: num_messages + 1].copy(),
        dst[:filled].copy(),
        returns_off,
        returns,
        forward_inputs,
        backward_inputs,
        timed,
        links_used,
        stage,
        bits,
        first,
        following,
    )


@numba.njit(cache=True)
def _activations(a, labels, num_stages, stage, bits, first, following):  # type: ignore[no-untyped-def]
    """``[S]`` bytes kept and received: every tensor once per stage that has it, in the graph's order."""
    activation = np.zeros(num_stages)
    boundary = np.zeros(num_stages)
    holder = np.full(num_stages, -1, dtype=np.int64)
    receiver = np.full(num_stages, -1, dtype=np.int64)
    for t in range(len(a.tensor_bytes)):
        size = a.tensor_bytes[t]
        for r in range(a.saver_off[t], a.saver_off[t + 1]):
            s = labels[a.saver[r]]
            if holder[s] != t:
                holder[s] = t
                activation[s] += size
        v = a.tensor_value[t]
        k = first[v] if v >= 0 else -1
        while k >= 0:
            s = stage[k]
            if holder[s] != t:
                holder[s] = t
                activation[s] += size
            for s in range(num_stages):
                if _has(bits, k, s):
                    if holder[s] != t:
                        holder[s] = t
                        activation[s] += size
                    if receiver[s] != t:
                        receiver[s] = t
                        boundary[s] += size
            k = following[k]
    return activation, boundary


@numba.njit(cache=True)
def _parameters(a, labels, num_stages):  # type: ignore[no-untyped-def]
    """``[S]`` parameter bytes; sets of stages that share some, their bytes, and their order."""
    words = (num_stages + 63) // 64
    params = np.zeros(num_stages)
    tied_bits = np.zeros((len(a.param_bytes), words), dtype=np.uint64)
    tied_bytes = np.zeros(len(a.param_bytes))
    num_tied = 0
    holder = np.full(num_stages, -1, dtype=np.int64)
    for p in range(len(a.param_bytes)):
        row = tied_bits[num_tied]
        row[:] = np.uint64(0)
        count = 0
        for r in range(a.reader_off[p], a.reader_off[p + 1]):
            s = labels[a.reader[r]]
            if holder[s] != p:
                holder[s] = p
                params[s] += a.param_bytes[p]
                row[s >> 6] |= np.uint64(1) << np.uint64(s & 63)
                count += 1
        if count > 1:
            at = 0
            while not same_bits(tied_bits, at, num_tied):
                at += 1
            tied_bytes[at] += a.param_bytes[p]
            if at == num_tied:
                num_tied += 1
    tied_order = np.arange(num_tied)
    for i in range(1, num_tied):
        j = i
        while j > 0 and lists_before(tied_bits, tied_order[j], tied_order[j - 1]):
            tied_order[j], tied_order[j - 1] = tied_order[j - 1], tied_order[j]
            j -= 1
    return params, tied_bits, tied_bytes, tied_order


@numba.njit(cache=True)
def _devices(a, devices, timed):  # type: ignore[no-untyped-def]
    """Fields of `PlacedStages` about devices, hosts and channels."""
    num_slots = len(devices)
    number = np.full(len(a.device_type), -1, dtype=np.int64)
    for d in devices:
        number[d] = 0
    num_used = 0
    for d in range(len(number)):
        if number[d] == 0:
            number[d] = num_used
            num_used += 1
    used = np.empty(num_used, dtype=np.int64)
    for d in range(len(number)):
        if number[d] >= 0:
            used[number[d]] = d
    slot_device = np.empty(num_slots, dtype=np.int64)
    for i in range(num_slots):
        slot_device[i] = number[devices[i]]
    host_number = np.full(len(a.link_bandwidth), -1, dtype=np.int64)
    num_hosts = 0
    host = np.empty(num_used, dtype=np.int64)
    local = np.empty(num_used, dtype=np.int64)
    on_host = np.zeros(len(a.link_bandwidth), dtype=np.int64)
    for u in range(num_used):  # devices are listed host by host, so hosts come in ascending order
        h = a.device_host[used[u]]
        if host_number[h] < 0:
            host_number[h] = num_hosts
            num_hosts += 1
        host[u] = host_number[h]
        local[u] = u if timed else on_host[h]
        on_host[h] += 1
    channel_width = num_used if timed else on_host.max()
    link_bandwidth = np.empty(num_hosts)
    link_latency_s = np.empty(num_hosts)
    port_bandwidth = np.empty(num_hosts)
    port_latency_s = np.empty(num_hosts)
    for h in range(len(host_number)):
        if host_number[h] >= 0:
            link_bandwidth[host_number[h]] = a.link_bandwidth[h]
            link_latency_s[host_number[h]] = a.link_latency_s[h]
            port_bandwidth[host_number[h]] = a.port_bandwidth[h]
            port_latency_s[host_number[h]] = a.port_latency_s[h]
    return (
        used,
        slot_device,
        host,
        local,
        channel_width,
        link_bandwidth,
        link_latency_s,
        port_bandwidth,
        port_latency_s,
    )


@numba.njit(cache=True)
def _times(a, labels, slot_off, devices, recompute):  # type: ignore[no-untyped-def]
    """``[4, L]`` seconds of the actions in each slot."""
    num_stages, num_slots = len(slot_off) - 1, len(devices)
    by_type = np.zeros((3, a.action_s.shape[1], num_stages))
    for i in range(3):
        for k in range(a.action_s.shape[1]):
            for o in range(len(labels)):
                by_type[i, k, labels[o]] += a.action_s[i, k, o]
    action_s = np.empty((4, num_slots))
    for s in range(num_stages):
        for i in range(slot_off[s], slot_off[s + 1]):
            k = a.device_type[devices[i]]
            again = by_type[0, k, s] if recompute[s] else 0.0
            action_s[0, i] = by_type[0, k, s]
            action_s[1, i] = again + (by_type[1, k, s] + by_type[2, k, s])
            action_s[2, i] = again + by_type[1, k, s]
            action_s[3, i] = by_type[2, k, s]
    return action_s


@numba.njit(cache=True)
def _resident(a, slot_off, devices, slot_device, num_used, params, tied_bits, tied_bytes, tied_order):  # type: ignore[no-untyped-def]
    """``[U]`` resident bytes and seconds of the optimizer; copies of a parameter on one device are one."""
    num_stages = len(slot_off) - 1
    resident = np.zeros(num_used)
    optimizer = np.zeros(num_used)
    read = np.zeros(num_used)
    for s in range(num_stages):
        for i in range(slot_off[s], slot_off[s + 1]):
            u = slot_device[i]
            resident[u] += params[s] * a.resident_factor
            optimizer[u] += params[s] * a.optimizer_s[devices[i]]
            read[u] += params[s]
    copies = np.zeros(num_used)
    count_on = np.zeros(num_used, dtype=np.int64)
    for g in tied_order:
        count_on[:] = 0
        for s in range(num_stages):
            if _has(tied_bits, g, s):
                for r in range(slot_off[s], slot_off[s + 1]):
                    count_on[slot_device[r]] += 1
        for u in range(num_used):
            if count_on[u] > 1:
                copies[u] += (count_on[u] - 1) * tied_bytes[g]
    for u in range(num_used):
        if copies[u] > 0.0:
            kept = 1.0 - copies[u] / read[u]
            resident[u] *= kept
            optimizer[u] *= kept
    return resident, optimizer


@numba.njit(cache=True)
def _groups(  # type: ignore[no-untyped-def]
    num_mb,
    slot_off,
    slot_device,
    host,
    link_bandwidth,
    link_latency_s,
    port_bandwidth,
    port_latency_s,
    params,
    tied_bits,
    tied_bytes,
    tied_order,
):
    """Fields of `PlacedStages` about all-reduces: of replicated stages, then of tied parameters."""
    num_stages, num_used, num_hosts = len(slot_off) - 1, len(host), len(link_bandwidth)
    num_tied, words = len(tied_order), tied_bits.shape[1]
    own = params.copy()
    for g in tied_order:
        for s in range(num_stages):
            if _has(tied_bits, g, s):
                own[s] -= tied_bytes[g]
    count_on = np.zeros(num_used, dtype=np.int64)
    most = num_stages + num_tied
    group_s = np.empty(most)
    group_pending = np.empty(most, dtype=np.int64)
    group_spans = np.empty(most, dtype=np.int64)
    group_off = np.zeros(most + 1, dtype=np.int64)
    group_host_off = np.zeros(most + 1, dtype=np.int64)
    group_device = np.empty(len(slot_device) + num_tied * num_used, dtype=np.int64)
    group_host = np.empty(len(slot_device) + num_tied * num_used, dtype=np.int64)
    group_bits = np.zeros((most, words), dtype=np.uint64)
    groups_of = np.zeros(num_stages, dtype=np.int64)
    devices_on = np.zeros(num_hosts, dtype=np.int64)
    num_groups = 0
    for i in range(most):
        if i < num_stages:
            size = 0.0 if own[i] < 1e-9 * params[i] else own[i]
            row = group_bits[num_groups]
            row[:] = np.uint64(0)
            row[i >> 6] |= np.uint64(1) << np.uint64(i & 63)
            if slot_off[i + 1] - slot_off[i] < 2:
                continue
        else:
            size = tied_bytes[tied_order[i - num_stages]]
            group_bits[num_groups] = tied_bits[tied_order[i - num_stages]]
        if size <= 0.0:
            continue
        count_on[:] = 0
        pending = 0
        for s in range(num_stages):
            if _has(group_bits, num_groups, s):
                pending += min(slot_off[s + 1] - slot_off[s], num_mb)
                for r in range(slot_off[s], slot_off[s + 1]):
                    count_on[slot_device[r]] = 1
        if count_on.sum() < 2:
            continue
        devices_on[:] = 0
        at = group_off[num_groups]
        for u in range(num_used):
            if count_on[u]:
                group_device[at] = u
                at += 1
                devices_on[host[u]] += 1
        group_off[num_groups + 1] = at
        at = group_host_off[num_groups]
        for h in range(num_hosts):
            if devices_on[h]:
                group_host[at] = h
                at += 1
        group_host_off[num_groups + 1] = at
        group_spans[num_groups] = 1 if at - group_host_off[num_groups] > 1 else 0
        group_pending[num_groups] = pending
        group_s[num_groups] = _all_reduce_s(
            devices_on, link_bandwidth, link_latency_s, port_bandwidth, port_latency_s, size
        )
        for s in range(num_stages):
            if _has(group_bits, num_groups, s):
                groups_of[s] += 1
        num_groups += 1
    stage_group_off = _offsets(groups_of)
    stage_group = np.empty(stage_group_off[-1], dtype=np.int64)
    fill = stage_group_off[:-1].copy()
    for g in range(num_groups):
        for s in range(num_stages):
            if _has(group_bits, g, s):
                stage_group[fill[s]] = g
                fill[s] += 1
    return (
        group_s[:num_groups].copy(),
        group_pending[:num_groups].copy(),
        group_spans[:num_groups].copy(),
        group_off[: num_groups + 1].copy(),
        group_device[: group_off[num_groups]].copy(),
        group_host_off[: num_groups + 1].copy(),
        group_host[: group_host_off[num_groups]].copy(),
        stage_group_off,
        stage_group,
    )


@numba.njit(cache=True)
def _place(a, labels, slot_off, devices, recompute):  # type: ignore[no-untyped-def]
    num_stages = len(slot_off) - 1
    messages = _messages(a, labels, num_stages)
    timed, links_used = messages[12], messages[13]
    activation, boundary = _activations(a, labels, num_stages, *messages[14:])
    params, tied_bits, tied_bytes, tied_order = _parameters(a, labels, num_stages)
    on_devices = _devices(a, devices, timed)
    used, slot_device, host = on_devices[0], on_devices[1], on_devices[2]
    resident, optimizer = _resident(
        a, slot_off, devices, slot_device, len(used), params, tied_bits, tied_bytes, tied_order
    )
    groups = _groups(
        a.num_microbatches,
        slot_off,
        slot_device,
        host,
        on_devices[5],
        on_devices[6],
        on_devices[7],
        on_devices[8],
        params,
        tied_bits,
        tied_bytes,
        tied_order,
    )
    held = np.where(recompute, boundary, activation)
    ports_shared = 1 if len(on_devices[5]) > 1 and links_used else 0
    before = (a.num_microbatches, used, slot_off, slot_device, _times(a, labels, slot_off, devices, recompute))
    memory = (held, activation - held, resident, a.memory_bytes[used], optimizer)
    fields = before + memory + messages[:12] + on_devices[2:] + (ports_shared,) + groups
    return PlacedStages(*fields)


@numba.njit(cache=True)
def _all_reduce_s(devices_on, link_bandwidth, link_latency_s, port_bandwidth, port_latency_s, size):  # type: ignore[no-untyped-def]
    """`cost.all_reduce_s` for ``devices_on[h]`` devices of each host."""
    inside, hosts, bandwidth, latency = 0.0, 0, np.inf, 0.0
    for h in range(len(devices_on)):
        n = devices_on[h]
        if n:
            hosts += 1
            bandwidth = min(bandwidth, port_bandwidth[h])
            latency = max(latency, port_latency_s[h])
        if n > 1:
            inside = max(inside, 2 * (n - 1) / n * size / link_bandwidth[h] + 2 * (n - 1) * link_latency_s[h])
    if hosts == 1:
        return inside
    return inside + 2 * (hosts - 1) / hosts * size / bandwidth + 2 * (hosts - 1) * (2 * latency)
