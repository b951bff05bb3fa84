"""Peak memory of a schedule, and the part of it that is buffers of messages.

Memory depends on the order of a device's actions and not on their times. The semantics are those of `drlpp.sim`.

A receive is posted `LOOKAHEAD` actions before the action that reads it, and its buffer exists from then on. A gradient
that was returned is kept until something that comes back proves that it was read: by then about `RETURNS_KEPT` of them
wait. Values that were sent are no buffers of their own, since the stage keeps them for its backward pass anyway. So
does a stage whose consumer is on the same device: there they count once, until the consumer's I if its backward pass is
split. The gradients of a stage exist from the end of its first backward pass (B or I) on, in a replica without
micro-batches always.

Where replicas make it depend on the micro-batch who the other side is, the first micro-batch of each replica decides.
"""

from __future__ import annotations

import numpy as np

from drlpp.plan.action import LOOKAHEAD
from drlpp.schedules.arena import filled, kernel, take
from drlpp.schedules.events import ONE, slot_of

RETURNS_KEPT = 2
"""Gradients of a stage that were returned to other devices and are still kept."""


@kernel
def message_memory(arena, p):  # type: ignore[no-untyped-def]
    """Bytes of the messages of a micro-batch, by slot.

    Returns:
        ``[2 L]`` received from other devices before F, then before B (or I); ``[L]`` gradients returned to them after B
        (or I); ``[L]`` received by F from stages of the same device that hold them until they have the gradient back.
    """
    num_slots = len(p.slot_device)
    received = filled(arena.reals, 2 * num_slots, 0.0)[0]
    returned = filled(arena.reals, num_slots, 0.0)[0]
    shared = filled(arena.reals, num_slots, 0.0)[0]
    for k in range(len(p.message_src)):
        src, size = p.message_src[k], p.message_bytes[k]
        sources = p.slot_off[src + 1] - p.slot_off[src]
        phase = num_slots if p.message_backward[k] else 0
        for j in range(p.dst_off[k], p.dst_off[k + 1]):
            for slot in range(p.slot_off[p.dst[j]], p.slot_off[p.dst[j] + 1]):
                m = slot - p.slot_off[p.dst[j]]
                d = p.slot_device[slot]
                if _device(p, src, m) == d:
                    replicas = p.slot_off[p.dst[j] + 1] - p.slot_off[p.dst[j]]
                    if p.message_grad[k] and p.again_bytes[src] == 0.0 and replicas % sources == 0:
                        shared[slot] += size
                elif _first_there(p, k, j, m, d):
                    received[phase + slot] += size
                    if p.message_grad[k]:
                        returned[slot] += size
        if p.message_grad[k]:
            for slot in range(p.slot_off[src], p.slot_off[src + 1]):
                m = slot - p.slot_off[src]
                for j in range(p.dst_off[k], p.dst_off[k + 1]):
                    d = _device(p, p.dst[j], m)
                    if d != p.slot_device[slot] and _first_there(p, k, j, m, d):
                        received[num_slots + slot] += size
    return received, returned, shared


@kernel
def peak_memory(arena, p, flat, peak):  # type: ignore[no-untyped-def]
    """Writes the ``[U]`` peak bytes of the used devices under a `FlatSchedule`."""
    num_slots = np.uint64(len(p.slot_device))
    slot_off = p.slot_off.view(np.uint64)
    offset = flat.offset.view(np.uint64)
    stage, kind, microbatch = flat.stage.view(np.uint32), flat.kind.view(np.uint32), flat.microbatch.view(np.uint32)
    received, returned, shared = message_memory(arena, p)
    kept = filled(arena.ints, len(p.slot_device), 0)[0]  # returned gradients that are not known to have been read
    read = take(arena.reals, len(stage))[0]  # bytes from other devices that an action reads
    for d in range(len(p.used)):
        peak[d] = p.resident_bytes[d]
    for t in range(len(p.slot_off) - 1):
        for i in range(p.slot_off[t], min(p.slot_off[t + 1], p.slot_off[t] + p.num_microbatches)):
            peak[p.slot_device[i]] -= p.gradient_bytes[i]
    for i in range(np.uint64(len(stage))):
        slot = slot_of(slot_off, np.uint64(stage[i]), np.uint64(microbatch[i]))
        read[i] = 0.0 if kind[i] == 3 else received[slot] if kind[i] == 0 else received[num_slots + slot]
    for d in range(np.uint64(len(p.used))):
        memory = peak[d]
        end = offset[d + ONE]
        for i in range(offset[d], end):
            s = np.uint64(stage[i])
            slot = slot_of(slot_off, s, np.uint64(microbatch[i]))
            if kind[i] == 0:
                memory += p.held_bytes[s] - shared[slot]
                during = memory
            elif kind[i] == 1:
                during = memory + p.again_bytes[s] + read[i]
                memory -= p.held_bytes[s] - shared[slot]
            elif kind[i] == 2:
                memory += p.again_bytes[s] + shared[slot]
                during = memory + read[i]
            else:
                during = memory
                memory -= p.held_bytes[s] + p.again_bytes[s]
            for j in range(i + ONE, min(i + ONE + np.uint64(LOOKAHEAD), end)):
                during += read[j]
            peak[d] = max(peak[d], during)
            if (kind[i] == 1 or kind[i] == 2) and kept[slot] < RETURNS_KEPT:
                if kept[slot] == 0:
                    memory += p.gradient_bytes[slot]
                kept[slot] += 1
                memory += returned[slot]
        peak[d] = max(peak[d], memory)


@kernel
def _slot(p, stage, m):  # type: ignore[no-untyped-def]
    """`events.slot_of` with signed numbers."""
    first = p.slot_off[stage]
    replicas = p.slot_off[stage + 1] - first
    return first if replicas == 1 else first + m % replicas


@kernel
def _device(p, stage, m):  # type: ignore[no-untyped-def]
    return p.slot_device[_slot(p, stage, m)]


@kernel
def _first_there(p, k, j, m, device):  # type: ignore[no-untyped-def]
    """Whether receiver j of message k is the first one on its device."""
    i = p.dst_off[k]
    while i < j and _device(p, p.dst[i], m) != device:
        i += 1
    return i == j
