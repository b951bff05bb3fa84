"""From an assignment straight to placed stages, compiled: what `problem.stage_costs` and `place_stages` do together.

An evaluation needs the costs and messages of the stages before it can simulate anything, and in Python finding these
takes far longer than the simulation. This module does it on arrays, and adds in the same order, so that every number is
the same to the last bit (`place_stages` stays the readable definition, and the oracle of the tests).
"""

from __future__ import annotations

from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from drlpp.graph.stages import check_partition
from drlpp.plan import Assignment
from drlpp.problem import PlanningProblem
from drlpp.schedules import PlacedStages
from drlpp.schedules.arena import Arena, entry, filled, kernel, take, with_arena
from drlpp.sim.bits import lists_before, merge_sort, same_bits
from drlpp.sim.problem_arrays import ProblemArrays, pack

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


def place_assignment(problem: PlanningProblem, arrays: ProblemArrays, assignment: Assignment) -> PlacedStages:
    """Puts an assignment's stages on its devices.

    Raises:
        PlanError: the partition is not legal.
        ScheduleError: a device does not exist.
    """
    packed = pack(problem, (assignment,))
    int_names = [name for name, kind in get_type_hints(PlacedStages).items() if kind == _Ints]
    real_names = [name for name, kind in get_type_hints(PlacedStages).items() if kind == _Floats]
    sizes = np.zeros((2, len(PlacedStages._fields)), dtype=np.int64)
    numbers = np.zeros(3, dtype=np.int64)

    def call(arena: Arena) -> tuple[_Ints, _Floats, bool]:
        ints, reals = np.empty(len(arena.ints.numbers), dtype=np.int64), np.empty(len(arena.reals.numbers))
        return ints, reals, _place_alone(arena, arrays, packed, ints, reals, sizes, numbers)

    (ints, reals, legal), _ = with_arena(call)
    if not legal:
        check_partition(problem.graph, packed.labels[0], assignment.num_stages)
    fields: dict[str, Any] = dict(zip(int_names, np.split(ints, np.cumsum(sizes[0, : len(int_names)])), strict=False))
    fields |= zip(real_names, np.split(reals, np.cumsum(sizes[1, : len(real_names)])), strict=False)
    fields = {name: array.copy() for name, array in fields.items()}
    fields["action_s"] = fields["action_s"].reshape(4, -1)
    fields |= zip(("num_microbatches", "channel_width", "ports_shared"), numbers.tolist(), strict=True)
    return PlacedStages(**fields)


@entry
def _place_alone(arena, a, packed, out_ints, out_reals, sizes, numbers):  # type: ignore[no-untyped-def]
    """Writes the fields of the first assignment's `PlacedStages`: arrays one after the other, their sizes, numbers."""
    p, legal = place(arena, a, packed, 0)
    if not legal:
        return False
    numbers[0], numbers[1], numbers[2] = p.num_microbatches, p.channel_width, p.ports_shared
    int_arrays = (
        p.used,
        p.slot_off,
        p.slot_device,
        p.message_off,
        p.message_backward,
        p.message_grad,
        p.message_src,
        p.dst_off,
        p.dst,
        p.returns_off,
        p.returns,
        p.forward_inputs,
        p.backward_inputs,
        p.host,
        p.local,
        p.group_pending,
        p.group_spans,
        p.group_off,
        p.group_device,
        p.group_host_off,
        p.group_host,
        p.stage_group_off,
        p.stage_group,
    )
    real_arrays = (
        p.action_s.reshape(p.action_s.size),
        p.held_bytes,
        p.again_bytes,
        p.resident_bytes,
        p.gradient_bytes,
        p.memory_bytes,
        p.optimizer_s,
        p.message_bytes,
        p.message_s,
        p.link_bandwidth,
        p.link_latency_s,
        p.port_bandwidth,
        p.port_latency_s,
        p.group_s,
    )
    _join(int_arrays, out_ints, sizes[0])
    _join(real_arrays, out_reals, sizes[1])
    return True


@kernel
def _join(arrays, out, sizes):  # type: ignore[no-untyped-def]
    """Writes arrays of one type one after the other, and their sizes."""
    at = 0
    for k in range(len(arrays)):
        sizes[k] = len(arrays[k])
        for x in arrays[k]:
            out[at] = x
            at += 1


@kernel
def _is_legal(arena, a, labels, num_stages):  # type: ignore[no-untyped-def]
    used = filled(arena.ints, num_stages, 0)[0]
    count = 0
    for s in labels:
        if s < 0 or s >= num_stages:
            return False
        count += 1 - used[s]
        used[s] = 1
    for e in range(len(a.edge_src)):
        before, after = labels[a.edge_src[e]], labels[a.edge_dst[e]]
        if a.value_backward[a.edge_value[e]]:
            before, after = after, before
        if before > after:
            return False
    return count == num_stages


@kernel
def _sent_values(arena, a, labels, num_stages, num_words):  # type: ignore[no-untyped-def]
    """The values that leave their stage, in order of their first edge that does.

    Returns, per sent value: stage, value, 1 if a gradient returns, seconds or -1, and ``[n * num_words]`` the bits of
    the receiving stages; the sent value by value, and more by `following`; and how many there are.
    """
    most = 0
    for e in range(len(a.edge_src)):
        if labels[a.edge_src[e]] != labels[a.edge_dst[e]]:
            most += 1
    first = filled(arena.ints, len(a.value_tensor), -1)[0]
    following = take(arena.ints, most)[0]
    stage = take(arena.ints, most)[0]
    value = take(arena.ints, most)[0]
    grad = filled(arena.ints, most, 0)[0]
    seconds = take(arena.reals, most)[0]
    bits = filled(arena.ints, most * num_words, 0)[0].view(np.uint64)
    n = 0
    for e in range(len(a.edge_src)):
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
        bits[k * num_words + (t >> 6)] |= np.uint64(1) << np.uint64(t & 63)
    return stage, value, grad, seconds, bits, first, following, n


@kernel
def _message_order(arena, a, stage, value, grad, seconds, bits, num_words, n):  # type: ignore[no-untyped-def]
    """Sorts sent values by (stage, receiving stages, backward phase first, gradient, timed), as `stage_graph` does."""
    order = take(arena.ints, n)[0]
    flags = take(arena.ints, n)[0]
    for k in range(n):
        order[k] = k
        forward = 1 - a.value_backward[value[k]]
        flags[k] = 4 * forward + 2 * grad[k] + (1 if seconds[k] >= 0.0 else 0)
    merge_sort(order, take(arena.ints, n)[0], stage, bits, num_words, flags)
    return order, flags


@kernel
def _messages(arena, a, labels, num_stages, num_words):  # type: ignore[no-untyped-def]
    """Fields of `PlacedStages` about messages; and the sent values for `_activations`."""
    stage, value, grad, seconds, bits, first, following, n = _sent_values(arena, a, labels, num_stages, num_words)
    order, flags = _message_order(arena, a, stage, value, grad, seconds, bits, num_words, n)
    num_messages, num_dst = 0, 0
    for i in range(n):
        k = order[i]
        j = order[max(0, i - 1)]
        if i == 0 or stage[k] != stage[j] or flags[k] != flags[j] or not same_bits(bits, num_words, k, j):
            num_messages += 1
            for w in range(num_words):
                x = bits[k * num_words + w]
                while x:
                    num_dst += 1
                    x &= x - np.uint64(1)
    message_off = filled(arena.ints, num_stages + 1, 0)[0]
    message_src = take(arena.ints, num_messages)[0]
    message_backward = take(arena.ints, num_messages)[0]
    message_grad = take(arena.ints, num_messages)[0]
    message_bytes = filled(arena.reals, num_messages, 0.0)[0]
    message_s = filled(arena.reals, num_messages, -1.0)[0]
    dst_off = filled(arena.ints, num_messages + 1, 0)[0]
    dst = take(arena.ints, num_dst)[0]
    returns_off = filled(arena.ints, num_stages + 1, 0)[0]
    forward_inputs = filled(arena.ints, num_stages, 0)[0]
    backward_inputs = filled(arena.ints, num_stages, 0)[0]
    timed = False
    links_used = False
    last, at = -1, 0
    for i in range(n):
        k = order[i]
        j = order[max(0, i - 1)]
        if i == 0 or stage[k] != stage[j] or flags[k] != flags[j] or not same_bits(bits, num_words, k, j):
            last += 1
            message_src[last] = stage[k]
            message_off[stage[k] + 1] += 1
            message_backward[last] = a.value_backward[value[k]]
            message_grad[last] = grad[k] * (1 - a.value_backward[value[k]])
            if seconds[k] >= 0.0:
                message_s[last] = 0.0
                timed = True
            else:
                links_used = True
            for t in range(num_stages):
                if _has(bits, num_words, k, t):
                    dst[at] = t
                    at += 1
                    if message_grad[last]:
                        returns_off[t + 1] += 1
                    if message_backward[last]:
                        backward_inputs[t] += 1
                    else:
                        forward_inputs[t] += 1
            dst_off[last + 1] = at
        message_bytes[last] += a.tensor_bytes[a.value_tensor[value[k]]]
        if seconds[k] >= 0.0:
            message_s[last] += seconds[k]
    fill = take(arena.ints, num_stages)[0]
    for s in range(num_stages):
        message_off[s + 1] += message_off[s]
        returns_off[s + 1] += returns_off[s]
        fill[s] = returns_off[s]
    returns = take(arena.ints, returns_off[num_stages])[0]
    for k in range(num_messages):
        if message_grad[k]:
            for j in range(dst_off[k], dst_off[k + 1]):
                returns[fill[dst[j]]] = k
                fill[dst[j]] += 1
    return (
        message_off,
        message_backward,
        message_grad,
        message_bytes,
        message_s,
        message_src,
        dst_off,
        dst,
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


@kernel
def _has(bits, num_words, row, s):  # type: ignore[no-untyped-def]
    """Whether stage s is in a set."""
    return (bits[row * num_words + (s >> 6)] >> np.uint64(s & 63)) & np.uint64(1) != np.uint64(0)


@kernel
def _activations(arena, a, labels, num_stages, num_words, stage, bits, first, following):  # type: ignore[no-untyped-def]
    """``[S]`` bytes kept and received: every tensor once per stage that has it, in the graph's order."""
    activation = filled(arena.reals, num_stages, 0.0)[0]
    boundary = filled(arena.reals, num_stages, 0.0)[0]
    holder = filled(arena.ints, num_stages, -1)[0]
    receiver = filled(arena.ints, num_stages, -1)[0]
    for t in range(len(a.tensor_bytes)):
        size, maker = a.tensor_bytes[t], a.tensor_maker[t]
        for r in range(a.saver_off[t], a.saver_off[t + 1]):
            s = labels[a.saver[r]]
            if holder[s] != t and (maker < 0 or labels[maker] == s):
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
                if _has(bits, num_words, k, s):
                    if holder[s] != t:
                        holder[s] = t
                        activation[s] += size
                    if receiver[s] != t:
                        receiver[s] = t
                        boundary[s] += size
            k = following[k]
    return activation, boundary


@kernel
def _parameters(arena, a, labels, num_stages, num_words):  # type: ignore[no-untyped-def]
    """``[S]`` parameter bytes; sets of stages that share some, their bytes, their order, and how many there are."""
    most = 1  # the last row is for the parameter in hand
    for p in range(len(a.param_bytes)):
        most += a.reader_off[p + 1] - a.reader_off[p] > 1
    params = filled(arena.reals, num_stages, 0.0)[0]
    tied_bits = take(arena.ints, most * num_words)[0].view(np.uint64)
    tied_bytes = filled(arena.reals, most, 0.0)[0]
    num_tied = 0
    holder = filled(arena.ints, num_stages, -1)[0]
    for p in range(len(a.param_bytes)):
        row = num_tied * num_words
        for w in range(num_words):
            tied_bits[row + w] = np.uint64(0)
        count = 0
        for r in range(a.reader_off[p], a.reader_off[p + 1]):
            s = labels[a.reader[r]]
            if holder[s] != p:
                holder[s] = p
                params[s] += a.param_bytes[p]
                tied_bits[row + (s >> 6)] |= np.uint64(1) << np.uint64(s & 63)
                count += 1
        if count > 1:
            at = 0
            while not same_bits(tied_bits, num_words, at, num_tied):
                at += 1
            tied_bytes[at] += a.param_bytes[p]
            if at == num_tied:
                num_tied += 1
    tied_order = take(arena.ints, num_tied)[0]
    for i in range(num_tied):
        tied_order[i] = i
        j = i
        while j > 0 and lists_before(tied_bits, num_words, tied_order[j], tied_order[j - 1]):
            tied_order[j], tied_order[j - 1] = tied_order[j - 1], tied_order[j]
            j -= 1
    return params, tied_bits, tied_bytes, tied_order


@kernel
def _devices(arena, a, devices, timed):  # type: ignore[no-untyped-def]
    """Fields of `PlacedStages` about devices, hosts and channels."""
    num_slots = len(devices)
    number = filled(arena.ints, len(a.device_type), -1)[0]
    for d in devices:
        number[d] = 0
    num_used = 0
    for d in range(len(number)):
        if number[d] == 0:
            number[d] = num_used
            num_used += 1
    used = take(arena.ints, num_used)[0]
    for d in range(len(number)):
        if number[d] >= 0:
            used[number[d]] = d
    slot_device = take(arena.ints, num_slots)[0]
    for i in range(num_slots):
        slot_device[i] = number[devices[i]]
    host_number = filled(arena.ints, len(a.link_bandwidth), -1)[0]
    on_host = filled(arena.ints, len(a.link_bandwidth), 0)[0]
    num_hosts, most = 0, 0
    host = take(arena.ints, num_used)[0]
    local = take(arena.ints, num_used)[0]
    for u in range(num_used):  # devices are listed host by host, so hosts come in ascending order
        h = a.device_host[used[u]]
        if host_number[h] < 0:
            host_number[h] = num_hosts
            num_hosts += 1
        host[u] = host_number[h]
        local[u] = u if timed else on_host[h]
        on_host[h] += 1
        most = max(most, on_host[h])
    link_bandwidth = take(arena.reals, num_hosts)[0]
    link_latency_s = take(arena.reals, num_hosts)[0]
    port_bandwidth = take(arena.reals, num_hosts)[0]
    port_latency_s = take(arena.reals, num_hosts)[0]
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
        num_used if timed else most,
        link_bandwidth,
        link_latency_s,
        port_bandwidth,
        port_latency_s,
    )


@kernel
def _times(arena, a, labels, slot_off, devices, recompute):  # type: ignore[no-untyped-def]
    """``[4, L]`` seconds of the actions in each slot."""
    num_stages, num_slots = len(slot_off) - 1, len(devices)
    num_types = a.action_s.shape[1]
    by_type = filled(arena.reals, 3 * num_types * num_stages, 0.0)[0]
    for i in range(3):
        for k in range(num_types):
            first = (i * num_types + k) * num_stages
            for o in range(len(labels)):
                by_type[first + labels[o]] += a.action_s[i, k, o]
    action_s = take(arena.reals, 4 * num_slots)[0]
    for s in range(num_stages):
        for i in range(slot_off[s], slot_off[s + 1]):
            k = a.device_type[devices[i]]
            forward = by_type[k * num_stages + s]
            input_grad = by_type[(num_types + k) * num_stages + s]
            weight_grad = by_type[(2 * num_types + k) * num_stages + s]
            again = forward if recompute[s] else 0.0
            action_s[i] = forward
            action_s[num_slots + i] = again + (input_grad + weight_grad)
            action_s[2 * num_slots + i] = again + input_grad
            action_s[3 * num_slots + i] = weight_grad
    return (action_s.reshape((4, num_slots)),)


@kernel
def _resident(  # type: ignore[no-untyped-def]
    arena, a, slot_off, devices, slot_device, num_used, params, tied_bits, num_words, tied_bytes, tied_order
):
    """``[U]`` resident bytes, ``[L]`` of gradients, ``[U]`` seconds of the optimizer; copies on one device are one."""
    num_stages = len(slot_off) - 1
    resident = filled(arena.reals, num_used, 0.0)[0]
    optimizer = filled(arena.reals, num_used, 0.0)[0]
    read = filled(arena.reals, num_used, 0.0)[0]
    for s in range(num_stages):
        for i in range(slot_off[s], slot_off[s + 1]):
            u = slot_device[i]
            resident[u] += params[s] * a.resident_factor
            optimizer[u] += params[s] * a.optimizer_s[devices[i]]
            read[u] += params[s]
    copies = filled(arena.reals, num_used, 0.0)[0]
    count_on = take(arena.ints, num_used)[0]
    for g in tied_order:
        for u in range(num_used):
            count_on[u] = 0
        for s in range(num_stages):
            if _has(tied_bits, num_words, g, s):
                for r in range(slot_off[s], slot_off[s + 1]):
                    count_on[slot_device[r]] += 1
        for u in range(num_used):
            if count_on[u] > 1:
                copies[u] += (count_on[u] - 1) * tied_bytes[g]
    for u in range(num_used):
        share = read[u] = 1.0 - copies[u] / read[u] if copies[u] > 0.0 else 1.0
        resident[u] *= share
        optimizer[u] *= share
    gradient = take(arena.reals, len(slot_device))[0]
    for s in range(num_stages):
        for i in range(slot_off[s], slot_off[s + 1]):
            gradient[i] = params[s] * read[slot_device[i]]
    return resident, gradient, optimizer


@kernel
def _groups(  # type: ignore[no-untyped-def]
    arena,
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
    num_words,
    tied_bytes,
    tied_order,
):
    """Fields of `PlacedStages` about all-reduces: of replicated stages, then of tied parameters."""
    num_stages, num_used, num_hosts = len(slot_off) - 1, len(host), len(link_bandwidth)
    num_tied = len(tied_order)
    own = take(arena.reals, num_stages)[0]
    most, most_devices = num_tied, num_tied * num_used
    for s in range(num_stages):
        own[s] = params[s]
        replicas = slot_off[s + 1] - slot_off[s]
        if replicas > 1:
            most += 1
            most_devices += replicas
    for g in tied_order:
        for s in range(num_stages):
            if _has(tied_bits, num_words, g, s):
                own[s] -= tied_bytes[g]
    on_device = take(arena.ints, num_used)[0]
    on_host = take(arena.ints, num_hosts)[0]
    group_s = take(arena.reals, most)[0]
    group_pending = take(arena.ints, most)[0]
    group_spans = take(arena.ints, most)[0]
    group_off = filled(arena.ints, most + 1, 0)[0]
    group_host_off = filled(arena.ints, most + 1, 0)[0]
    group_device = take(arena.ints, most_devices)[0]
    group_host = take(arena.ints, most_devices)[0]
    group_tied = take(arena.ints, most)[0]  # the set of stages, or -1 - s for stage s alone
    stage_group_off = filled(arena.ints, num_stages + 1, 0)[0]
    num_groups = 0
    for i in range(num_stages + num_tied):
        if i < num_stages:
            size = 0.0 if own[i] < 1e-9 * params[i] else own[i]
            tied = -1 - i
            if slot_off[i + 1] - slot_off[i] < 2:
                continue
        else:
            tied = tied_order[i - num_stages]
            size = tied_bytes[tied]
        if size <= 0.0:
            continue
        for u in range(num_used):
            on_device[u] = 0
        pending, num_on = 0, 0
        for s in range(num_stages):
            if tied == -1 - s or (tied >= 0 and _has(tied_bits, num_words, tied, s)):
                pending += min(slot_off[s + 1] - slot_off[s], num_mb)
                for r in range(slot_off[s], slot_off[s + 1]):
                    num_on += 1 - on_device[slot_device[r]]
                    on_device[slot_device[r]] = 1
        if num_on < 2:
            continue
        for h in range(num_hosts):
            on_host[h] = 0
        at = group_off[num_groups]
        for u in range(num_used):
            if on_device[u]:
                group_device[at] = u
                at += 1
                on_host[host[u]] += 1
        group_off[num_groups + 1] = at
        at = group_host_off[num_groups]
        for h in range(num_hosts):
            if on_host[h]:
                group_host[at] = h
                at += 1
        group_host_off[num_groups + 1] = at
        group_spans[num_groups] = 1 if at - group_host_off[num_groups] > 1 else 0
        group_pending[num_groups] = pending
        group_tied[num_groups] = tied
        group_s[num_groups] = _all_reduce_s(
            on_host, link_bandwidth, link_latency_s, port_bandwidth, port_latency_s, size
        )
        for s in range(num_stages):
            if tied == -1 - s or (tied >= 0 and _has(tied_bits, num_words, tied, s)):
                stage_group_off[s + 1] += 1
        num_groups += 1
    fill = take(arena.ints, num_stages)[0]
    for s in range(num_stages):
        stage_group_off[s + 1] += stage_group_off[s]
        fill[s] = stage_group_off[s]
    stage_group = take(arena.ints, stage_group_off[num_stages])[0]
    for g in range(num_groups):
        for s in range(num_stages):
            tied = group_tied[g]
            if tied == -1 - s or (tied >= 0 and _has(tied_bits, num_words, tied, s)):
                stage_group[fill[s]] = g
                fill[s] += 1
    return (
        group_s[:num_groups],
        group_pending[:num_groups],
        group_spans[:num_groups],
        group_off[: num_groups + 1],
        group_device[: group_off[num_groups]],
        group_host_off[: num_groups + 1],
        group_host[: group_host_off[num_groups]],
        stage_group_off,
        stage_group,
    )


@kernel
def place(arena, a, packed, number):  # type: ignore[no-untyped-def]
    """Places one of some packed assignments.

    Returns:
        The `PlacedStages`, and whether the partition is legal; if it is not, they are of no use.
    """
    first, first_slot = packed.stage_off[number], packed.slot_off[number]
    num_stages = packed.stage_off[number + 1] - first
    labels = packed.labels[number]
    legal = _is_legal(arena, a, labels, num_stages)
    if not legal:  # anything that has the type
        labels = filled(arena.ints, len(labels), 0)[0]
    num_words = (num_stages + 63) // 64
    slot_off = filled(arena.ints, num_stages + 1, 0)[0]
    for s in range(num_stages):
        slot_off[s + 1] = slot_off[s] + packed.replicas[first + s]
    devices = packed.devices[first_slot : first_slot + slot_off[num_stages]]
    recompute = packed.recompute[first : first + num_stages]

    messages = _messages(arena, a, labels, num_stages, num_words)
    timed, links_used = messages[12], messages[13]
    activation, boundary = _activations(arena, a, labels, num_stages, num_words, *messages[14:])
    params, tied_bits, tied_bytes, tied_order = _parameters(arena, a, labels, num_stages, num_words)
    on_devices = _devices(arena, a, devices, timed)
    used, slot_device, host = on_devices[0], on_devices[1], on_devices[2]
    resident, gradient, optimizer = _resident(
        arena, a, slot_off, devices, slot_device, len(used), params, tied_bits, num_words, tied_bytes, tied_order
    )
    groups = _groups(
        arena,
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
        num_words,
        tied_bytes,
        tied_order,
    )
    held = take(arena.reals, num_stages)[0]
    again = take(arena.reals, num_stages)[0]
    for s in range(num_stages):
        held[s] = boundary[s] if recompute[s] else activation[s]
        again[s] = activation[s] - held[s]
    memory_bytes = take(arena.reals, len(used))[0]
    for u in range(len(used)):
        memory_bytes[u] = a.memory_bytes[used[u]]
    action_s = _times(arena, a, labels, slot_off, devices, recompute)[0]
    ports_shared = 1 if len(on_devices[5]) > 1 and links_used else 0
    before = (a.num_microbatches, used, slot_off, slot_device, action_s)
    memory = (held, again, resident, gradient, memory_bytes, optimizer)
    fields = before + memory + messages[:12] + on_devices[2:] + (ports_shared,) + groups
    return PlacedStages(*fields), legal


@kernel
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
