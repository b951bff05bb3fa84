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
from drlpp.schedules.events import pop, push, transfer
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
def _duration(p, slot, kind):  # type: ignore[no-untyped-def]
    if kind == 0:
        return p.forward_s[slot]
    if kind == 1:
        return p.backward_s[slot]
    if kind == 2:
        return p.input_grad_s[slot]
    return p.weight_grad_s[slot]


@numba.njit(cache=True)
def _replay(p, flat):  # type: ignore[no-untyped-def]
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
    channel_free = np.zeros(num_devices * p.channel_width)
    out_free = np.zeros(len(p.port_bandwidth))
    in_free = np.zeros(len(p.port_bandwidth))
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
    size, counter, done = 0, 0, 0
    ordered = p.ports_shared == 1

    num_woken = num_devices
    for d in range(num_devices):
        woken[d] = d
    while True:
        # start the next action of every device that may be able to
        for w in range(num_woken):
            d = woken[w]
            i = position[d]
            if idle[d] and i < flat.offset[d + 1]:
                s, kind, m = flat.stage[i], flat.kind[i], flat.microbatch[i]
                start = free[d]
                if kind != 3:
                    phase, at = min(kind, 1), s * num_mb + m
                    if missing[phase, at] > 0:
                        continue
                    start = max(start, ready[phase, at])
                first = p.slot_off[s]
                when[d] = start + _duration(p, first + m % (p.slot_off[s + 1] - first), kind)
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
            _all_reduce(p, event - num_devices, when[event], out_free, in_free, reduced)
            continue

        d = event
        i = position[d]
        s, kind, m = flat.stage[i], flat.kind[i], flat.microbatch[i]
        end = when[d]
        free[d] = end
        position[d] = i + 1
        idle[d] = True
        done += 1
        first = p.slot_off[s]
        slot = first + m % (p.slot_off[s + 1] - first)
        woken[0] = d
        num_woken = 1

        if kind == 0:
            memory[d] += p.held_bytes[s]
            peak[d] = max(peak[d], memory[d])
        elif kind == 1:
            peak[d] = max(peak[d], memory[d] + p.again_bytes[s])
            memory[d] -= p.held_bytes[s]
        elif kind == 2:
            memory[d] += p.again_bytes[s]
            peak[d] = max(peak[d], memory[d])
        else:
            memory[d] -= p.held_bytes[s] + p.again_bytes[s]

        if kind != 3:
            phase = min(kind, 1)
            at = s * num_mb + m
            for k in range(p.message_off[s], p.message_off[s + 1]):
                if p.message_backward[k] != phase:
                    continue
                counter += 1
                receivers = 0
                for j in range(p.dst_off[k], p.dst_off[k + 1]):
                    t = p.dst[j]
                    base = p.slot_off[t]
                    q = p.slot_device[base + m % (p.slot_off[t + 1] - base)]
                    if stamp[q] != counter:
                        stamp[q] = counter
                        leader[q] = j
                        receivers += 1
                        arrival[q] = end if q == d else transfer(p, channel_free, out_free, in_free, d, q, k, end)
                    consumers[leader[q] * num_mb + m] += 1
                    to = t * num_mb + m
                    ready[phase, to] = max(ready[phase, to], arrival[q])
                    missing[phase, to] -= 1
                    if missing[phase, to] == 0 and idle[q]:
                        num_woken = _wake(flat, position, q, t, m, phase, woken, num_woken)
                if p.message_grad[k]:
                    missing[1, at] += receivers
            if phase == 1:
                for r in range(p.returns_off[s], p.returns_off[s + 1]):
                    k = p.returns[r]
                    j = p.dst_off[k]
                    while True:  # the first receiver on this device counts for all
                        t = p.dst[j]
                        base = p.slot_off[t]
                        if p.slot_device[base + m % (p.slot_off[t + 1] - base)] == d:
                            break
                        j += 1
                    consumers[j * num_mb + m] -= 1
                    if consumers[j * num_mb + m] == 0:
                        t = p.message_src[k]
                        base = p.slot_off[t]
                        q = p.slot_device[base + m % (p.slot_off[t + 1] - base)]
                        back = end if q == d else transfer(p, channel_free, out_free, in_free, d, q, k, end)
                        to = t * num_mb + m
                        ready[1, to] = max(ready[1, to], back)
                        missing[1, to] -= 1
                        if missing[1, to] == 0 and idle[q]:
                            num_woken = _wake(flat, position, q, t, m, 1, woken, num_woken)
        if kind == 1 or kind == 3:
            slot_left[slot] -= 1
            if slot_left[slot] == 0:
                for r in range(p.stage_group_off[s], p.stage_group_off[s + 1]):
                    g = p.stage_group[r]
                    group_left[g] -= 1
                    when[num_devices + g] = max(when[num_devices + g], end)
                    if ordered and group_left[g] == 0:
                        size = push(queue, size, when, num_devices + g)

    if not ordered:
        for g in np.argsort(when[num_devices:], kind="mergesort"):
            _all_reduce(p, g, when[num_devices + g], out_free, in_free, reduced)
    time = 0.0
    for d in range(num_devices):
        time = max(time, max(free[d], reduced[d]) + p.optimizer_s[d])
    return done, time, peak


@numba.njit(cache=True)
def _wake(flat, position, device, stage, microbatch, phase, woken, num_woken):  # type: ignore[no-untyped-def]
    """Notes an idle device if the action that just got its last input is the one that it waits for."""
    i = position[device]
    if i < flat.offset[device + 1] and flat.stage[i] == stage and flat.microbatch[i] == microbatch:
        kind = flat.kind[i]
        if kind != 3 and min(kind, 1) == phase:
            woken[num_woken] = device
            return num_woken + 1
    return num_woken


@numba.njit(cache=True)
def _all_reduce(p, group, now, out_free, in_free, reduced):  # type: ignore[no-untyped-def]
    """Runs an all-reduce that was requested at `now`; ``reduced`` is when each device's last one ends."""
    start = now
    for i in range(p.group_off[group], p.group_off[group + 1]):
        start = max(start, reduced[p.group_device[i]])
    if p.group_spans[group]:
        for i in range(p.group_host_off[group], p.group_host_off[group + 1]):
            h = p.group_host[i]
            start = max(start, max(out_free[h], in_free[h]))
    end = start + p.group_s[group]
    if p.group_spans[group]:
        for i in range(p.group_host_off[group], p.group_host_off[group + 1]):
            h = p.group_host[i]
            out_free[h] = end
            in_free[h] = end
    for i in range(p.group_off[group], p.group_off[group + 1]):
        reduced[p.group_device[i]] = end
