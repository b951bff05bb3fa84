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

A run is given up once it cannot end before a given time, which is that of the best order so far (`schedules.choice`).

Left out: gradient all-reduces and the optimizer step. Micro-batches of one stage keep their order.
"""

from __future__ import annotations

import math

import numpy as np

from drlpp.plan.action import LOOKAHEAD
from drlpp.schedules.arena import filled, kernel, take
from drlpp.schedules.events import ONE, expected_inputs, idle_links, pop, push, slot_of, transfer
from drlpp.schedules.memory import RETURNS_KEPT, message_memory
from drlpp.schedules.orders import empty_orders

SLACKS = (1.0, 1.5, 2.5, math.inf)
"""Values of `slack` that are tried, until one changes nothing."""


@kernel
def list_order(arena, p, to_sink, slack, split, work_left, after, give_up_s):  # type: ignore[no-untyped-def]
    """A list schedule.

    Args:
        to_sink: see `waves.depths`.
        work_left, after: ``[U]`` seconds that a device computes, changed here; that at least pass when it is done.
        give_up_s: the run is of no use if it does not end before.

    Returns:
        When the last action ends, infinity if the run was given up; whether `slack` ever held a micro-batch back; and
        the `FlatSchedule`.
    """
    num_mb = p.num_microbatches
    num_stages = len(p.slot_off) - 1
    num_slots = len(p.slot_device)
    num_devices = len(p.used)
    kinds = 3 if split else 2
    received, returned, shared = message_memory(arena, p)
    held = take(arena.reals, num_slots)[0]  # by a micro-batch in flight

    # per slot: its stage, its micro-batches, and how many have had their F, backward and W started
    slot_stage = take(arena.ints, num_slots)[0]
    slot_first = take(arena.ints, num_slots)[0]
    count = take(arena.ints, num_slots)[0]
    limit = take(arena.ints, num_slots)[0]
    device_off = filled(arena.ints, num_devices + 1, 0)[0]
    for s in range(num_stages):
        replicas = p.slot_off[s + 1] - p.slot_off[s]
        for i in range(p.slot_off[s], p.slot_off[s + 1]):
            slot_stage[i] = s
            held[i] = p.held_bytes[s] + (p.again_bytes[s] if split else -shared[i])
            slot_first[i] = i - p.slot_off[s]
            count[i] = max(0, (num_mb - slot_first[i] + replicas - 1) // replicas)
            in_flight = slack * to_sink[s] / replicas
            limit[i] = num_mb if in_flight >= num_mb else max(1, np.int64(math.ceil(in_flight - 1e-6)))
            device_off[p.slot_device[i] + 1] += 1
    for d in range(num_devices):
        device_off[d + 1] += device_off[d]
    device_slot = take(arena.ints, num_slots)[0]
    fill = take(arena.ints, num_devices)[0]
    for d in range(num_devices):
        fill[d] = device_off[d]
    for i in range(num_slots):
        d = p.slot_device[i]
        device_slot[fill[d]] = i
        fill[d] += 1

    # memory: reserved for the micro-batches before `admitted` on every device; the rest is for buffers of messages
    capacity = take(arena.reals, num_devices)[0]
    for d in range(num_devices):
        again = 0.0
        if not split:
            for r in range(device_off[d], device_off[d + 1]):
                again = max(again, p.again_bytes[slot_stage[device_slot[r]]])
        capacity[d] = p.memory_bytes[d] - p.resident_bytes[d] - again
        largest = 0.0
        for r in range(device_off[d], device_off[d + 1]):
            slot = device_slot[r]
            largest = max(largest, max(received[slot], received[num_slots + slot]))
            capacity[d] -= RETURNS_KEPT * returned[slot]
        capacity[d] -= (1 + LOOKAHEAD) * largest

    # events: the end of a device's action, or an arrival that may let an idle device start one
    max_events = num_stages * num_mb * kinds + num_devices + 2 * len(p.dst) * num_mb
    flat, fill = empty_orders(arena, p, kinds)
    last, limited = _loop(
        p,
        kinds,
        held,
        to_sink,
        slot_stage.view(np.uint64),
        slot_first.view(np.uint64),
        count,
        limit,
        filled(arena.ints, 3 * num_slots, 0)[0],
        device_off.view(np.uint64),
        device_slot.view(np.uint64),
        capacity,
        filled(arena.reals, num_devices, 0.0)[0],
        filled(arena.ints, num_devices, 0)[0],
        filled(arena.ints, num_devices, 0)[0],
        expected_inputs(arena, p)[0],
        filled(arena.reals, 2 * num_stages * num_mb, 0.0)[0],
        filled(arena.words, len(p.dst) * num_mb, 0)[0],
        idle_links(arena, p),
        filled(arena.ints, num_devices, 0)[0],
        take(arena.ints, num_devices)[0].view(np.uint64),
        take(arena.reals, num_devices)[0],
        take(arena.reals, max_events)[0],
        take(arena.ints, max_events)[0].view(np.uint64),
        take(arena.ints, max_events)[0].view(np.uint64),
        filled(arena.ints, num_devices, -1)[0],
        filled(arena.ints, num_devices, 0)[0],
        take(arena.ints, num_devices)[0].view(np.uint64),
        filled(arena.reals, num_devices, 0.0)[0],
        flat,
        fill.view(np.uint64),
        work_left,
        after,
        give_up_s,
    )
    return last, limited, flat


@kernel
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
    running_event,
    running_kind,
    running_slot,
    running_end,
    flat,
    fill,
    work_left,
    after,
    give_up_s,
):
    """Handles the events; the arguments are the state that `list_order` sets up."""
    slot_off = p.slot_off.view(np.uint64)
    slot_device = p.slot_device.view(np.uint64)
    action_s = p.action_s
    message_off = p.message_off.view(np.uint64)
    message_backward = p.message_backward
    message_grad = p.message_grad
    message_src = p.message_src.view(np.uint64)
    dst_off = p.dst_off.view(np.uint64)
    dst = p.dst.view(np.uint64)
    returns_off = p.returns_off.view(np.uint64)
    returns = p.returns.view(np.uint64)
    message_s = p.message_s
    message_bytes = p.message_bytes
    num_mb = np.uint64(p.num_microbatches)
    num_slots = np.uint64(len(slot_device))
    half = np.uint64(len(p.held_bytes)) * num_mb
    zero = np.uint64(0)
    split = kinds == 3
    weights = num_slots + num_slots if split else num_slots  # where `started` counts what frees the memory
    size, num_events, counter = zero, zero, 0
    limited, last = False, 0.0
    microbatch = flat.microbatch
    for d in range(np.uint64(len(p.used))):
        event_device[num_events] = d
        when[num_events] = 0.0
        size = push(heap, size, when, num_events)
        num_events += ONE
    while size > 0:
        event = heap[zero]
        size = pop(heap, size, when)
        now = when[event]
        d = event_device[event]
        if running_event[d] >= 0:
            if running_event[d] != np.int64(event):
                continue  # an arrival while the device computes
            # the action ends: send its messages
            slot, kind = running_slot[d], running_kind[d]
            s = slot_stage[slot]
            m = np.uint64(microbatch[fill[d] - ONE])
            running_event[d] = -1
            last = max(last, now)
            if kind == kinds - 1:
                reserved[d] -= held[slot]
                outstanding[d] -= 1
            if kind < 2:
                base = half if kind == 1 else zero
                for k in range(message_off[s], message_off[s + ONE]):
                    if message_backward[k] != kind:
                        continue
                    counter += 1
                    receivers = 0
                    for j in range(dst_off[k], dst_off[k + ONE]):
                        t = dst[j]
                        q = slot_device[slot_of(slot_off, t, m)]
                        if stamp[q] != counter:
                            stamp[q] = counter
                            leader[q] = j
                            receivers += 1
                            arrival[q] = now if q == d else transfer(links, d, q, message_bytes[k], message_s[k], now)
                        consumers[leader[q] * num_mb + m] += 1
                        to = base + t * num_mb + m
                        ready[to] = max(ready[to], arrival[q])
                        missing[to] -= 1
                        if (
                            missing[to] == 0
                            and (q != d or ready[to] > now)
                            and (running_event[q] < 0 or running_end[q] < ready[to])
                        ):
                            when[num_events] = ready[to]
                            event_device[num_events] = q
                            size = push(heap, size, when, num_events)
                            num_events += ONE
                    if message_grad[k]:
                        missing[half + s * num_mb + m] += receivers
            if kind == 1:
                for r in range(returns_off[s], returns_off[s + ONE]):
                    k = returns[r]
                    j = dst_off[k]
                    while slot_device[slot_of(slot_off, dst[j], m)] != d:
                        j += ONE
                    consumers[j * num_mb + m] -= 1
                    if consumers[j * num_mb + m] == 0:
                        t = message_src[k]
                        q = slot_device[slot_of(slot_off, t, m)]
                        back = now if q == d else transfer(links, d, q, message_bytes[k], message_s[k], now)
                        to = half + t * num_mb + m
                        ready[to] = max(ready[to], back)
                        missing[to] -= 1
                        if (
                            missing[to] == 0
                            and (q != d or ready[to] > now)
                            and (running_event[q] < 0 or running_end[q] < ready[to])
                        ):
                            when[num_events] = ready[to]
                            event_device[num_events] = q
                            size = push(heap, size, when, num_events)
                            num_events += ONE

        # choose what the device does next
        found = False
        best_key, best_slot, best_kind = np.int64(2**62), zero, 0
        for r in range(device_off[d], device_off[d + ONE]):
            slot = device_slot[r]
            s = slot_stage[slot]
            replicas = slot_off[s + ONE] - slot_off[s]
            i = started[num_slots + slot]
            if i < started[slot]:
                m = slot_first[slot] + replicas * np.uint64(i)
                at = half + s * num_mb + m
                key = 2 * np.int64(m) + to_sink[s] - 1
                if missing[at] == 0 and ready[at] <= now and key < best_key:
                    found, best_key, best_slot, best_kind = True, key, slot, 1
            i = started[slot]
            if i < count[slot]:
                m = slot_first[slot] + replicas * np.uint64(i)
                at = s * num_mb + m
                key = 2 * np.int64(m) - to_sink[s]
                if missing[at] == 0 and ready[at] <= now and key < best_key:
                    if i - started[weights + slot] >= limit[slot]:
                        limited = True
                    elif np.int64(m) < admitted[d] or _fits(
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
                        found, best_key, best_slot, best_kind = True, key, slot, 0
        if split and not found:
            for r in range(device_off[d], device_off[d + ONE]):
                slot = device_slot[r]
                i = started[weights + slot]
                if i < started[num_slots + slot]:
                    s = slot_stage[slot]
                    m = slot_first[slot] + (slot_off[s + ONE] - slot_off[s]) * np.uint64(i)
                    key = 2 * np.int64(m) + to_sink[s]
                    if key < best_key:
                        found, best_key, best_slot, best_kind = True, key, slot, 2
        if not found:
            continue
        if now + work_left[d] + after[d] >= give_up_s:
            return math.inf, limited
        slot = best_slot
        s = slot_stage[slot]
        counted = slot if best_kind == 0 else num_slots + slot if best_kind == 1 else weights + slot
        m = slot_first[slot] + (slot_off[s + ONE] - slot_off[s]) * np.uint64(started[counted])
        started[counted] += 1
        if best_kind == 0:
            while admitted[d] <= np.int64(m):
                need, stages = _need(held, slot_off, d, np.uint64(admitted[d]), device_off, device_slot, slot_stage)
                reserved[d] += need
                outstanding[d] += stages
                admitted[d] += 1
        action = np.uint64(best_kind + 1 if split and best_kind else best_kind)
        flat.stage[fill[d]] = s
        flat.kind[fill[d]] = action
        microbatch[fill[d]] = m
        fill[d] += ONE
        running_slot[d], running_kind[d] = slot, best_kind
        running_event[d] = num_events
        work_left[d] -= action_s[action, slot]
        running_end[d] = now + action_s[action, slot]
        when[num_events] = now + action_s[action, slot]
        event_device[num_events] = d
        size = push(heap, size, when, num_events)
        num_events += ONE
    return last, limited


@kernel
def _need(held, slot_off, device, microbatch, device_off, device_slot, slot_stage):  # type: ignore[no-untyped-def]
    """Bytes that a micro-batch needs on a device for all of its stages there, and the number of these stages."""
    need, stages = 0.0, 0
    for r in range(device_off[device], device_off[device + ONE]):
        slot = device_slot[r]
        s = slot_stage[slot]
        if microbatch % (slot_off[s + ONE] - slot_off[s]) == slot - slot_off[s]:
            need += held[slot]
            stages += 1
    return need, stages


@kernel
def _fits(  # type: ignore[no-untyped-def]
    held, slot_off, device, microbatch, admitted, outstanding, reserved, capacity, device_off, device_slot, slot_stage
):
    """Whether all micro-batches up to `microbatch` can be admitted; one always can be if nothing else is there."""
    size, stages = 0.0, outstanding[device]
    for m in range(np.uint64(admitted[device]), microbatch + ONE):
        need, more = _need(held, slot_off, device, m, device_off, device_slot, slot_stage)
        if more and stages and reserved[device] + size + need > capacity[device]:
            return False
        size += need
        stages += more
    return True
