"""The fast evaluator: replays the orders of all devices and returns the iteration time and the peak memory.

The semantics are those of `sim.simulator` (written down in `sim/__init__.py`), number for number; this one keeps no
trace and works on flat arrays. What makes it fast: arrivals are not events, since an arrival only raises the earliest
start of an action; one entry per device is in the queue of events; and where no two hosts talk to each other nothing
but a device's own order matters, so that the queue becomes a stack.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from drlpp.errors import ScheduleError
from drlpp.schedules.events import idle_links, no_refcount, pop, push, slot_of, transfer
from drlpp.schedules.orders import FlatSchedule
from drlpp.schedules.placed import PlacedStages


class Replay(NamedTuple):
    """Result of a replay: seconds of the iteration, and ``[U]`` peak bytes of the used devices."""

    iteration_time_s: float
    peak_memory_bytes: NDArray[np.float64]


def replay(placed: PlacedStages, flat: FlatSchedule) -> Replay:
    """Replays a schedule. Raises ScheduleError if it deadlocks."""
    done, time, peak = _replay(placed, flat)
    if done < len(flat.stage):
        raise ScheduleError(
            f"the schedule deadlocks after {done} of {len(flat.stage)} actions: each rank waits for an action that is "
            "listed too late"
        )
    return Replay(time, peak)


@numba.njit(cache=True)
def _replay(p, flat):  # type: ignore[no-untyped-def]
    """Sets up the state; returns the number of actions that ended, the time and the peaks."""
    num_mb = p.num_microbatches
    num_stages = len(p.slot_off) - 1
    num_devices = len(p.used)
    num_groups = len(p.group_s)

    # missing[phase, s * M + m]: inputs of an action that are not known yet; ready: when the known ones have arrived
    missing = np.empty((2, num_stages * num_mb), dtype=np.int32)
    ready = np.zeros((2, num_stages * num_mb))
    for s in range(num_stages):
        missing[0, s * num_mb : (s + 1) * num_mb] = p.forward_inputs[s]
        missing[1, s * num_mb : (s + 1) * num_mb] = p.backward_inputs[s]
    # consumers[j * M + m]: stages on the device of receiver j that still have to return the gradient of a message
    consumers = np.zeros(len(p.dst) * num_mb, dtype=np.int32)
    slot_left = np.empty(len(p.slot_device), dtype=np.int64)
    for s in range(num_stages):
        replicas = p.slot_off[s + 1] - p.slot_off[s]
        for i in range(replicas):
            slot_left[p.slot_off[s] + i] = (num_mb - i + replicas - 1) // replicas
    links = idle_links(p)
    group_left = p.group_pending.copy()

    position = flat.offset[:-1].copy()
    when = np.zeros(num_devices + num_groups)  # end of the running action of a device; request of an all-reduce
    free = np.zeros(num_devices)
    idle = np.ones(num_devices, dtype=np.bool_)
    memory = p.resident_bytes.copy()
    peak = p.resident_bytes.copy()
    reduced = np.zeros(num_devices)  # end of the last all-reduce of a device
    arrival = np.zeros(num_devices)  # of the message in hand, by receiving device
    stamp = np.zeros(num_devices, dtype=np.int64)
    leader = np.zeros(num_devices, dtype=np.int64)
    woken = np.empty(num_devices + 1, dtype=np.int64)
    queue = np.empty(num_devices + num_groups, dtype=np.int64)
    done, time = _loop(
        p,
        flat,
        missing,
        ready,
        consumers,
        slot_left,
        links,
        group_left,
        position,
        when,
        free,
        idle,
        memory,
        peak,
        reduced,
        arrival,
        stamp,
        leader,
        woken,
        queue,
    )
    return done, time, peak


@no_refcount
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
    when,
    free,
    idle,
    memory,
    peak,
    reduced,
    arrival,
    stamp,
    leader,
    woken,
    queue,
):
    """Handles the events; returns the number of actions that ended, and the time."""
    used = p.used
    slot_off = p.slot_off
    slot_device = p.slot_device
    held_bytes = p.held_bytes
    again_bytes = p.again_bytes
    optimizer_s = p.optimizer_s
    message_off = p.message_off
    message_backward = p.message_backward
    message_grad = p.message_grad
    message_src = p.message_src
    dst_off = p.dst_off
    dst = p.dst
    returns_off = p.returns_off
    returns = p.returns
    ports_shared = p.ports_shared
    group_s = p.group_s
    stage_group_off = p.stage_group_off
    stage_group = p.stage_group
    message_s = p.message_s
    message_bytes = p.message_bytes
    action_s = p.action_s
    listed_off, listed_stage, listed_kind, listed_m = flat.offset, flat.stage, flat.kind, flat.microbatch
    num_mb = p.num_microbatches
    num_devices = len(used)
    size, counter, done = 0, 0, 0
    ordered = ports_shared == 1

    num_woken = num_devices
    for d in range(num_devices):
        woken[d] = d
    while True:
        # start the next action of every device that may be able to
        for w in range(num_woken):
            d = woken[w]
            i = position[d]
            if idle[d] and i < listed_off[d + 1]:
                s, kind, m = listed_stage[i], listed_kind[i], listed_m[i]
                start = free[d]
                if kind != 3:
                    phase, at = min(kind, 1), s * num_mb + m
                    if missing[phase, at] > 0:
                        continue
                    start = max(start, ready[phase, at])
                when[d] = start + action_s[kind, slot_of(slot_off, s, m)]
                idle[d] = False
                if ordered:
                    size = push(queue, size, when, d)
                else:
                    queue[size] = d
                    size += 1
        if size == 0:
            break
        event = pop(queue, size, when) if ordered else queue[size - 1]
        size -= 1
        num_woken = 0
        if event >= num_devices:
            _all_reduce(p, event - num_devices, when[event], links, reduced)
            continue

        d = event
        i = position[d]
        s, kind, m = listed_stage[i], listed_kind[i], listed_m[i]
        end = when[d]
        free[d] = end
        position[d] = i + 1
        idle[d] = True
        done += 1
        slot = slot_of(slot_off, s, m)
        woken[0] = d
        num_woken = 1

        if kind == 0:
            memory[d] += held_bytes[s]
            peak[d] = max(peak[d], memory[d])
        elif kind == 1:
            peak[d] = max(peak[d], memory[d] + again_bytes[s])
            memory[d] -= held_bytes[s]
        elif kind == 2:
            memory[d] += again_bytes[s]
            peak[d] = max(peak[d], memory[d])
        else:
            memory[d] -= held_bytes[s] + again_bytes[s]

        if kind != 3:
            phase = min(kind, 1)
            at = s * num_mb + m
            for k in range(message_off[s], message_off[s + 1]):
                if message_backward[k] != phase:
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
                        arrival[q] = end if q == d else transfer(links, d, q, message_bytes[k], message_s[k], end)
                    consumers[leader[q] * num_mb + m] += 1
                    to = t * num_mb + m
                    ready[phase, to] = max(ready[phase, to], arrival[q])
                    missing[phase, to] -= 1
                    if missing[phase, to] == 0 and idle[q]:
                        num_woken = _wake(
                            listed_off, listed_stage, listed_kind, listed_m, position, q, t, m, phase, woken, num_woken
                        )
                if message_grad[k]:
                    missing[1, at] += receivers
            if phase == 1:
                for r in range(returns_off[s], returns_off[s + 1]):
                    k = returns[r]
                    j = dst_off[k]
                    while True:  # the first receiver on this device counts for all
                        t = dst[j]
                        if slot_device[slot_of(slot_off, t, m)] == d:
                            break
                        j += 1
                    consumers[j * num_mb + m] -= 1
                    if consumers[j * num_mb + m] == 0:
                        t = message_src[k]
                        q = slot_device[slot_of(slot_off, t, m)]
                        back = end if q == d else transfer(links, d, q, message_bytes[k], message_s[k], end)
                        to = t * num_mb + m
                        ready[1, to] = max(ready[1, to], back)
                        missing[1, to] -= 1
                        if missing[1, to] == 0 and idle[q]:
                            num_woken = _wake(
                                listed_off, listed_stage, listed_kind, listed_m, position, q, t, m, 1, woken, num_woken
                            )
        if kind == 1 or kind == 3:
            slot_left[slot] -= 1
            if slot_left[slot] == 0:
                for r in range(stage_group_off[s], stage_group_off[s + 1]):
                    g = stage_group[r]
                    group_left[g] -= 1
                    when[num_devices + g] = max(when[num_devices + g], end)
                    if ordered and group_left[g] == 0:
                        size = push(queue, size, when, num_devices + g)

    if not ordered:  # nothing but all-reduces is left
        for g in range(len(group_s)):
            size = push(queue, size, when, num_devices + g)
        while size > 0:
            event = pop(queue, size, when)
            size -= 1
            _all_reduce(p, event - num_devices, when[event], links, reduced)
    time = 0.0
    for d in range(num_devices):
        time = max(time, max(free[d], reduced[d]) + optimizer_s[d])
    return done, time


@no_refcount
def _wake(  # type: ignore[no-untyped-def]
    listed_off, listed_stage, listed_kind, listed_m, position, device, stage, microbatch, phase, woken, num_woken
):
    """Notes an idle device if the action that just got its last input is the one that it waits for."""
    i = position[device]
    if i < listed_off[device + 1] and listed_stage[i] == stage and listed_m[i] == microbatch:
        kind = listed_kind[i]
        if kind != 3 and min(kind, 1) == phase:
            woken[num_woken] = device
            return num_woken + 1
    return num_woken


@no_refcount
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
