"""Replays the orders of all devices: the iteration time and the peak memory of a schedule, fast.

The semantics are those of `sim.simulator` (written down in `sim/__init__.py`), number for number; this one keeps no
trace and works on flat arrays. What makes it fast: arrivals are not events, since an arrival only raises the earliest
start of an action; one entry per device is in the queue of events; where no two hosts talk to each other nothing but a
device's own order matters, so that the queue becomes a stack; and indices are unsigned.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.errors import ScheduleError
from drlpp.schedules.arena import entry, filled, kernel, take, with_arena
from drlpp.schedules.events import ONE, expected_inputs, idle_links, pop, push, settle, slot_of, transfer
from drlpp.schedules.memory import peak_memory
from drlpp.schedules.orders import FlatSchedule
from drlpp.schedules.placed import PlacedStages


class Replay(NamedTuple):
    """Result of a replay: seconds of the iteration, and ``[U]`` peak bytes of the used devices."""

    iteration_time_s: float
    peak_memory_bytes: NDArray[np.float64]


def replay(placed: PlacedStages, flat: FlatSchedule) -> Replay:
    """Replays a schedule. Raises ScheduleError if it deadlocks."""
    peak = np.empty(len(placed.used))
    (done, time), _ = with_arena(lambda arena: replay_alone(arena, placed, flat, peak))
    if done < len(flat.stage):
        raise ScheduleError(
            f"the schedule deadlocks after {done} of {len(flat.stage)} actions: each rank waits for an action that is "
            "listed too late"
        )
    return Replay(time, peak)


@entry
def replay_alone(arena, p, flat, peak):  # type: ignore[no-untyped-def]
    """`replay_into` for callers in Python."""
    return replay_into(arena, p, flat, peak)


@kernel
def replay_into(arena, p, flat, peak):  # type: ignore[no-untyped-def]
    """Writes the ``[U]`` peaks; returns the number of actions that ended, and the time."""
    num_mb = p.num_microbatches
    num_stages = len(p.slot_off) - 1
    num_devices = len(p.used)
    num_events = num_devices + len(p.group_s)

    # missing[phase * S * M + s * M + m]: inputs of an action that are not known yet; ready: when the known ones arrive
    missing = expected_inputs(arena, p)[0]
    ready = filled(arena.reals, 2 * num_stages * num_mb, 0.0)[0]
    # consumers[j * M + m]: stages on the device of receiver j that still have to return the gradient of a message
    consumers = filled(arena.words, len(p.dst) * num_mb, 0)[0]
    slot_left = take(arena.ints, len(p.slot_device))[0]
    for s in range(num_stages):
        replicas = p.slot_off[s + 1] - p.slot_off[s]
        for i in range(replicas):
            slot_left[p.slot_off[s] + i] = (num_mb - i + replicas - 1) // replicas
    group_left = take(arena.ints, len(p.group_s))[0]
    for g in range(len(p.group_s)):
        group_left[g] = p.group_pending[g]
    position = take(arena.ints, num_devices)[0]
    free = take(arena.reals, num_devices)[0]  # end of the last action of a device
    for d in range(num_devices):
        position[d] = flat.offset[d]
        free[d] = 0.0
    peak_memory(arena, p, flat, peak)
    return _loop(
        p,
        flat,
        missing,
        ready,
        consumers,
        slot_left,
        idle_links(arena, p),
        group_left,
        position.view(np.uint64),
        filled(arena.reals, num_events, 0.0)[0],
        free,
        filled(arena.words, num_devices, 1)[0],
        filled(arena.reals, num_devices, 0.0)[0],
        filled(arena.reals, num_devices, 0.0)[0],
        filled(arena.ints, num_devices, 0)[0],
        take(arena.ints, num_devices)[0].view(np.uint64),
        take(arena.ints, num_events)[0].view(np.uint64),
        take(arena.ints, num_events)[0].view(np.uint64),
    )


@kernel
def _loop(  # type: ignore[no-untyped-def]
    p,
    flat,
    missing,
    ready,
    consumers,
    slot_left,
    links,
    group_left,
    position,
    when,  # end of the running action of a device; request of an all-reduce
    free,
    idle,
    reduced,  # end of the last all-reduce of a device
    arrival,  # of the message in hand, by receiving device
    stamp,
    leader,
    woken,  # events to be put into the queue
    queue,
):
    """Handles the events; returns the number of actions that ended, and the time."""
    slot_off = p.slot_off.view(np.uint64)
    slot_device = p.slot_device.view(np.uint64)
    message_off = p.message_off.view(np.uint64)
    message_src = p.message_src.view(np.uint64)
    dst_off = p.dst_off.view(np.uint64)
    dst = p.dst.view(np.uint64)
    returns_off = p.returns_off.view(np.uint64)
    returns = p.returns.view(np.uint64)
    stage_group_off = p.stage_group_off.view(np.uint64)
    stage_group = p.stage_group.view(np.uint64)
    message_backward = p.message_backward
    message_grad = p.message_grad
    message_s = p.message_s
    message_bytes = p.message_bytes
    action_s = p.action_s
    listed_off = flat.offset.view(np.uint64)
    listed_stage = flat.stage.view(np.uint32)
    listed_kind = flat.kind.view(np.uint32)
    listed_m = flat.microbatch.view(np.uint32)
    num_mb = np.uint64(p.num_microbatches)
    half = np.uint64(len(p.held_bytes)) * num_mb
    num_devices = np.uint64(len(p.used))
    ordered = p.ports_shared == 1
    size, counter, done = np.uint64(0), 0, 0

    num_woken = np.uint64(0)
    for d in range(num_devices):
        num_woken = _start(
            d, listed_off, listed_stage, listed_kind, listed_m, position, missing, ready, half, num_mb, free, slot_off,
            action_s, when, idle, woken, num_woken,
        )  # fmt: skip
    while True:
        for w in range(num_woken):
            if ordered:
                size = push(queue, size, when, woken[w])
            else:
                queue[size] = woken[w]
                size += ONE
        if size == 0:
            break
        d = queue[np.uint64(0)] if ordered else queue[size - ONE]
        num_woken = np.uint64(0)
        if d >= num_devices:
            size = pop(queue, size, when)
            _all_reduce(p, np.int64(d - num_devices), when[d], links, reduced)
            continue

        i = position[d]
        s, kind, m = np.uint64(listed_stage[i]), listed_kind[i], np.uint64(listed_m[i])
        end = when[d]
        free[d] = end
        done += 1
        if kind != 3:
            phase = 0 if kind == 0 else 1
            base = np.uint64(0) if kind == 0 else half
            for k in range(message_off[s], message_off[s + ONE]):
                if message_backward[k] != phase:
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
                        arrival[q] = end if q == d else transfer(links, d, q, message_bytes[k], message_s[k], end)
                    consumers[leader[q] * num_mb + m] += 1
                    to = base + t * num_mb + m
                    ready[to] = max(ready[to], arrival[q])
                    missing[to] -= 1
                    if missing[to] == 0 and idle[q]:
                        num_woken = _start(
                            q, listed_off, listed_stage, listed_kind, listed_m, position, missing, ready, half, num_mb,
                            free, slot_off, action_s, when, idle, woken, num_woken,
                        )  # fmt: skip
                if message_grad[k]:
                    missing[half + s * num_mb + m] += receivers
            if phase == 1:
                for r in range(returns_off[s], returns_off[s + ONE]):
                    k = returns[r]
                    j = dst_off[k]
                    while slot_device[slot_of(slot_off, dst[j], m)] != d:
                        j += ONE  # the first receiver on this device counts for all
                    consumers[j * num_mb + m] -= 1
                    if consumers[j * num_mb + m] == 0:
                        t = message_src[k]
                        q = slot_device[slot_of(slot_off, t, m)]
                        back = end if q == d else transfer(links, d, q, message_bytes[k], message_s[k], end)
                        to = half + t * num_mb + m
                        ready[to] = max(ready[to], back)
                        missing[to] -= 1
                        if missing[to] == 0 and idle[q]:
                            num_woken = _start(
                                q, listed_off, listed_stage, listed_kind, listed_m, position, missing, ready, half,
                                num_mb, free, slot_off, action_s, when, idle, woken, num_woken,
                            )  # fmt: skip
        if kind == 1 or kind == 3:
            slot = slot_of(slot_off, s, m)
            slot_left[slot] -= 1
            if slot_left[slot] == 0:
                for r in range(stage_group_off[s], stage_group_off[s + ONE]):
                    g = stage_group[r]
                    group_left[g] -= 1
                    when[num_devices + g] = max(when[num_devices + g], end)
                    if ordered and group_left[g] == 0:
                        woken[num_woken] = num_devices + g
                        num_woken += ONE

        # the device itself: its next action takes the place of this one in the queue
        position[d] = i + ONE
        idle[d] = 1
        before = num_woken
        num_woken = _start(
            d, listed_off, listed_stage, listed_kind, listed_m, position, missing, ready, half, num_mb, free, slot_off,
            action_s, when, idle, woken, num_woken,
        )  # fmt: skip
        if num_woken > before:
            num_woken = before
            if ordered:
                settle(queue, size, when, d)
        elif ordered:
            size = pop(queue, size, when)
        else:
            size -= ONE

    if not ordered:  # nothing but all-reduces is left
        for g in range(np.uint64(len(p.group_s))):
            size = push(queue, size, when, num_devices + g)
        while size > 0:
            d = queue[np.uint64(0)]
            size = pop(queue, size, when)
            _all_reduce(p, np.int64(d - num_devices), when[d], links, reduced)
    time = 0.0
    for d in range(num_devices):
        time = max(time, max(free[d], reduced[d]) + p.optimizer_s[d])
    return done, time


@kernel
def _start(  # type: ignore[no-untyped-def]
    d, listed_off, listed_stage, listed_kind, listed_m, position, missing, ready, half, num_mb, free, slot_off,
    action_s, when, idle, woken, num_woken,
):  # fmt: skip
    """Starts the next action of an idle device if all of its inputs are known, and notes the event."""
    i = position[d]
    if i == listed_off[d + ONE]:
        return num_woken
    s, kind, m = np.uint64(listed_stage[i]), np.uint64(listed_kind[i]), np.uint64(listed_m[i])
    start = free[d]
    if kind != 3:
        at = s * num_mb + m
        if kind != 0:
            at += half
        if missing[at] > 0:
            return num_woken
        start = max(start, ready[at])
    when[d] = start + action_s[kind, slot_of(slot_off, s, m)]
    idle[d] = 0
    woken[num_woken] = d
    return num_woken + ONE


@kernel
def _all_reduce(p, group, now, links, reduced):  # type: ignore[no-untyped-def]
    """Runs an all-reduce that was requested at `now`; ``reduced`` is when each device's last one ends."""
    start = now
    for i in range(p.group_off[group], p.group_off[group + 1]):
        start = max(start, reduced[p.group_device[i]])
    if p.group_spans[group]:
        for i in range(p.group_host_off[group], p.group_host_off[group + 1]):
            h = p.group_host[i]
            start = max(start, max(links.out_free[h], links.in_free[h]))
    end = start + p.group_s[group]
    if p.group_spans[group]:
        for i in range(p.group_host_off[group], p.group_host_off[group + 1]):
            h = p.group_host[i]
            links.out_free[h] = end
            links.in_free[h] = end
    for i in range(p.group_off[group], p.group_off[group + 1]):
        reduced[p.group_device[i]] = end
