"""A list scheduler: a schedule for any DAG of stages, any placement and unequal devices, within the memory.

It simulates the iteration (with the links of the cluster) and lets every device that becomes free start, among the
actions whose inputs are there, the most urgent one. Urgency is the action's place in 1F1B, by the longest path from the
stage to the end (`waves`): so the order is that of 1F1B where devices keep pace with it, and goes around whatever is
late elsewhere. (Due dates in seconds were tried instead: schedules were 2 % slower on average.)

How far a stage may run ahead is limited twice: by `slack` times the micro-batches that 1F1B has in flight, and by the
memory. Memory is reserved for a micro-batch on all of a device's stages before the first of them starts, in order of
the micro-batches; so the oldest one can always finish and nothing deadlocks.

With `split` the backward pass is two actions, and W runs when nothing else can: this fills bubbles (as the zero-bubble
schedules of Qi et al., ICLR 2024, do on chains).

Left out: gradient all-reduces and the optimizer step. Micro-batches of one stage keep their order.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from drlpp.schedules.events import idle_links, no_refcount, pop, push, slot_of, transfer
from drlpp.schedules.orders import FlatSchedule
from drlpp.schedules.placed import PlacedStages
from drlpp.schedules.waves import stage_depths

SLACKS = (1.0, 1.5, 2.5, math.inf)
"""Values of `slack` that `list_schedule` tries."""


def list_schedule(placed: PlacedStages) -> FlatSchedule:
    """The best list schedule with whole backward passes over `SLACKS`."""
    return _best(placed, split=False)


def split_list_schedule(placed: PlacedStages) -> FlatSchedule:
    """The best list schedule with separate input and weight gradients over `SLACKS`."""
    return _best(placed, split=True)


def _best(placed: PlacedStages, *, split: bool) -> FlatSchedule:
    to_sink = stage_depths(placed).to_sink
    found: list[tuple[float, FlatSchedule]] = []
    for slack in SLACKS:
        time, limited, *arrays = _list_schedule(placed, to_sink, slack, split)
        found.append((time, FlatSchedule(*arrays)))
        if not limited:  # more slack changes nothing
            break
    return min(found, key=lambda pair: pair[0])[1]


@numba.njit(cache=True)
def _list_schedule(p, to_sink, slack, split):  # type: ignore[no-untyped-def]
    """Returns when the last action ends, whether `slack` ever held a micro-batch back, and the `FlatSchedule`."""
    num_mb = p.num_microbatches
    num_stages = len(p.slot_off) - 1
    num_slots = len(p.slot_device)
    num_devices = len(p.used)
    held = p.held_bytes + p.again_bytes if split else p.held_bytes  # by a micro-batch in flight
    kinds = 3 if split else 2
    total = num_stages * num_mb * kinds

    # per slot: its stage, its micro-batches, and how many have had their F, backward and W started
    slot_stage = np.empty(num_slots, dtype=np.int64)
    slot_first = np.empty(num_slots, dtype=np.int64)
    count = np.empty(num_slots, dtype=np.int64)
    limit = np.empty(num_slots, dtype=np.int64)
    started = np.zeros((3, num_slots), dtype=np.int64)
    device_off = np.zeros(num_devices + 1, dtype=np.int64)
    offset = np.zeros(num_devices + 1, dtype=np.int64)
    for s in range(num_stages):
        replicas = p.slot_off[s + 1] - p.slot_off[s]
        for i in range(p.slot_off[s], p.slot_off[s + 1]):
            slot_stage[i] = s
            slot_first[i] = i - p.slot_off[s]
            count[i] = max(0, (num_mb - slot_first[i] + replicas - 1) // replicas)
            in_flight = slack * to_sink[s] / replicas
            limit[i] = num_mb if in_flight >= num_mb else max(1, math.ceil(in_flight - 1e-6))
            device_off[p.slot_device[i] + 1] += 1
            offset[p.slot_device[i] + 1] += count[i] * kinds
    for d in range(num_devices):
        device_off[d + 1] += device_off[d]
        offset[d + 1] += offset[d]
    device_slot = np.empty(num_slots, dtype=np.int64)
    fill = device_off[:-1].copy()
    for i in range(num_slots):
        d = p.slot_device[i]
        device_slot[fill[d]] = i
        fill[d] += 1

    # memory: reserved for the micro-batches before `admitted` on every device
    capacity = p.memory_bytes - p.resident_bytes
    if not split:
        for d in range(num_devices):
            again = 0.0
            for r in range(device_off[d], device_off[d + 1]):
                again = max(again, p.again_bytes[slot_stage[device_slot[r]]])
            capacity[d] -= again
    reserved = np.zeros(num_devices)
    admitted = np.zeros(num_devices, dtype=np.int64)
    outstanding = np.zeros(num_devices, dtype=np.int64)

    missing = np.empty((2, num_stages * num_mb), dtype=np.int32)
    ready = np.zeros((2, num_stages * num_mb))
    for s in range(num_stages):
        missing[0, s * num_mb : (s + 1) * num_mb] = p.forward_inputs[s]
        missing[1, s * num_mb : (s + 1) * num_mb] = p.backward_inputs[s]
    consumers = np.zeros(len(p.dst) * num_mb, dtype=np.int32)
    links = idle_links(p)
    stamp = np.zeros(num_devices, dtype=np.int64)
    leader = np.zeros(num_devices, dtype=np.int64)
    arrival = np.zeros(num_devices)

    # events: the end of a device's action, or an arrival that may let an idle device start one
    max_events = total + num_devices + 2 * len(p.dst) * num_mb
    when = np.zeros(max_events)
    event_device = np.zeros(max_events, dtype=np.int64)
    heap = np.empty(max_events, dtype=np.int64)
    running_slot = np.full(num_devices, -1, dtype=np.int64)
    running_kind = np.zeros(num_devices, dtype=np.int64)
    running_m = np.zeros(num_devices, dtype=np.int64)
    running_event = np.full(num_devices, -1, dtype=np.int64)
    running_end = np.zeros(num_devices)
    fill = offset[:-1].copy()
    out_stage = np.empty(total, dtype=np.int32)
    out_kind = np.empty(total, dtype=np.int8)
    out_m = np.empty(total, dtype=np.int32)
    last, limited = _loop(
        p,
        kinds,
        held,
        to_sink,
        slot_stage,
        slot_first,
        count,
        limit,
        started,
        device_off,
        device_slot,
        capacity,
        reserved,
        admitted,
        outstanding,
        missing,
        ready,
        consumers,
        links,
        stamp,
        leader,
        arrival,
        when,
        event_device,
        heap,
        running_slot,
        running_kind,
        running_m,
        running_event,
        running_end,
        fill,
        out_stage,
        out_kind,
        out_m,
    )
    return last, limited, offset, out_stage, out_kind, out_m


@no_refcount
def _loop(  # type: ignore[no-untyped-def]
    p,
    kinds,
    held,
    to_sink,
    slot_stage,
    slot_first,
    count,
    limit,
    started,
    device_off,
    device_slot,
    capacity,
    reserved,
    admitted,
    outstanding,
    missing,
    ready,
    consumers,
    links,
    stamp,
    leader,
    arrival,
    when,
    event_device,
    heap,
    running_slot,
    running_kind,
    running_m,
    running_event,
    running_end,
    fill,
    out_stage,
    out_kind,
    out_m,
):
    """Handles the events; the arguments are the state that `_list_schedule` sets up."""
    slot_off = p.slot_off
    slot_device = p.slot_device
    action_s = p.action_s
    message_off = p.message_off
    message_backward = p.message_backward
    message_grad = p.message_grad
    message_src = p.message_src
    dst_off = p.dst_off
    dst = p.dst
    returns_off = p.returns_off
    returns = p.returns
    message_s = p.message_s
    message_bytes = p.message_bytes
    num_mb = p.num_microbatches
    split = kinds == 3
    counter, num_events, size = 0, 0, 0
    limited, last = False, 0.0
    for d in range(len(p.used)):
        event_device[num_events] = d
        size = push(heap, size, when, num_events)
        num_events += 1
    while size > 0:
        event = pop(heap, size, when)
        size -= 1
        now = when[event]
        d = event_device[event]
        if running_event[d] >= 0:
            if running_event[d] != event:
                continue  # an arrival while the device computes
            # the action ends: send its messages
            slot, kind, m = running_slot[d], running_kind[d], running_m[d]
            s = slot_stage[slot]
            running_event[d] = -1
            last = max(last, now)
            if kind == kinds - 1:
                reserved[d] -= held[s]
                outstanding[d] -= 1
            if kind < 2:
                for k in range(message_off[s], message_off[s + 1]):
                    if message_backward[k] != kind:
                        continue
                    counter += 1
                    receivers = 0
                    for j in range(dst_off[k], dst_off[k + 1]):
                        t = dst[j]
                        q = slot_device[slot_of(slot_off, t, m)]
                        if stamp[q] != counter:
                            stamp[q] = counter
                            leader[q] = j
                            receivers += 1
                            arrival[q] = now if q == d else transfer(links, d, q, message_bytes[k], message_s[k], now)
                        consumers[leader[q] * num_mb + m] += 1
                        to = t * num_mb + m
                        ready[kind, to] = max(ready[kind, to], arrival[q])
                        missing[kind, to] -= 1
                        if (
                            missing[kind, to] == 0
                            and (q != d or ready[kind, to] > now)
                            and (running_event[q] < 0 or running_end[q] < ready[kind, to])
                        ):
                            when[num_events] = ready[kind, to]
                            event_device[num_events] = q
                            size = push(heap, size, when, num_events)
                            num_events += 1
                    if message_grad[k]:
                        missing[1, s * num_mb + m] += receivers
            if kind == 1:
                for r in range(returns_off[s], returns_off[s + 1]):
                    k = returns[r]
                    j = dst_off[k]
                    while True:
                        t = dst[j]
                        if slot_device[slot_of(slot_off, t, m)] == d:
                            break
                        j += 1
                    consumers[j * num_mb + m] -= 1
                    if consumers[j * num_mb + m] == 0:
                        t = message_src[k]
                        q = slot_device[slot_of(slot_off, t, m)]
                        back_at = now if q == d else transfer(links, d, q, message_bytes[k], message_s[k], now)
                        to = t * num_mb + m
                        ready[1, to] = max(ready[1, to], back_at)
                        missing[1, to] -= 1
                        if (
                            missing[1, to] == 0
                            and (q != d or ready[1, to] > now)
                            and (running_event[q] < 0 or running_end[q] < ready[1, to])
                        ):
                            when[num_events] = ready[1, to]
                            event_device[num_events] = q
                            size = push(heap, size, when, num_events)
                            num_events += 1

        # choose what the device does next
        best_key, best_slot, best_kind = np.int64(2**62), -1, 0
        for r in range(device_off[d], device_off[d + 1]):
            slot = device_slot[r]
            s = slot_stage[slot]
            replicas = slot_off[s + 1] - slot_off[s]
            i = started[1, slot]
            if i < started[0, slot]:
                m = slot_first[slot] + replicas * i
                at = s * num_mb + m
                key = 2 * m + to_sink[s] - 1
                if missing[1, at] == 0 and ready[1, at] <= now and key < best_key:
                    best_key, best_slot, best_kind = key, slot, 1
            i = started[0, slot]
            if i < count[slot]:
                m = slot_first[slot] + replicas * i
                at = s * num_mb + m
                key = 2 * m - to_sink[s]
                if missing[0, at] == 0 and ready[0, at] <= now and key < best_key:
                    if i - started[kinds - 1, slot] >= limit[slot]:
                        limited = True
                    elif m < admitted[d] or _fits(
                        held,
                        slot_off,
                        d,
                        m,
                        admitted,
                        outstanding,
                        reserved,
                        capacity,
                        device_off,
                        device_slot,
                        slot_stage,
                    ):
                        best_key, best_slot, best_kind = key, slot, 0
        if best_slot < 0 and split:
            for r in range(device_off[d], device_off[d + 1]):
                slot = device_slot[r]
                i = started[2, slot]
                if i < started[1, slot]:
                    s = slot_stage[slot]
                    key = 2 * (slot_first[slot] + (slot_off[s + 1] - slot_off[s]) * i) + to_sink[s]
                    if key < best_key:
                        best_key, best_slot, best_kind = key, slot, 2
        if best_slot < 0:
            continue
        slot = best_slot
        s = slot_stage[slot]
        m = slot_first[slot] + (slot_off[s + 1] - slot_off[s]) * started[best_kind, slot]
        started[best_kind, slot] += 1
        if best_kind == 0:
            while admitted[d] <= m:
                size_m, stages_m = _need(held, slot_off, d, admitted[d], device_off, device_slot, slot_stage)
                reserved[d] += size_m
                outstanding[d] += stages_m
                admitted[d] += 1
        action = best_kind + 1 if split and best_kind else best_kind
        out_stage[fill[d]] = s
        out_kind[fill[d]] = action
        out_m[fill[d]] = m
        fill[d] += 1
        running_slot[d], running_kind[d], running_m[d] = slot, best_kind, m
        running_event[d] = num_events
        running_end[d] = now + action_s[action, slot]
        when[num_events] = now + action_s[action, slot]
        event_device[num_events] = d
        size = push(heap, size, when, num_events)
        num_events += 1
    return last, limited


@no_refcount
def _need(held, slot_off, device, microbatch, device_off, device_slot, slot_stage):  # type: ignore[no-untyped-def]
    """Bytes that a micro-batch needs on a device for all of its stages there, and the number of these stages."""
    size, stages = 0.0, 0
    for r in range(device_off[device], device_off[device + 1]):
        slot = device_slot[r]
        s = slot_stage[slot]
        if microbatch % (slot_off[s + 1] - slot_off[s]) == slot - slot_off[s]:
            size += held[s]
            stages += 1
    return size, stages


@no_refcount
def _fits(  # type: ignore[no-untyped-def]
    held, slot_off, device, microbatch, admitted, outstanding, reserved, capacity, device_off, device_slot, slot_stage
):
    """Whether all micro-batches up to `microbatch` can be admitted; one always can be if nothing else is there."""
    size, stages = 0.0, outstanding[device]
    for m in range(admitted[device], microbatch + 1):
        size_m, stages_m = _need(held, slot_off, device, m, device_off, device_slot, slot_stage)
        if stages_m and stages and reserved[device] + size + size_m > capacity[device]:
            return False
        size += size_m
        stages += stages_m
    return True
