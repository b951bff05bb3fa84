"""Compiled parts that event simulations share: a queue of events, and transfers over channels and ports."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.schedules.arena import filled, kernel, take

ONE = np.uint64(1)
"""Indices are unsigned, since a signed one may count from the end and is checked for that at every access."""


@kernel
def push(heap, size, when, event):  # type: ignore[no-untyped-def]
    """Puts `event` (an index into `when`) into the binary heap of `size` events; returns the new size.

    The order is that of ``(when[event], event)``.
    """
    i = size
    time = when[event]
    while i > 0:
        parent = (i - ONE) >> ONE
        other = heap[parent]
        if when[other] < time or (when[other] == time and other < event):
            break
        heap[i] = other
        i = parent
    heap[i] = event
    return size + ONE


@kernel
def settle(heap, size, when, event):  # type: ignore[no-untyped-def]
    """Puts `event` in the place of the first event of the heap of `size` events."""
    i = np.uint64(0)
    time = when[event]
    while True:
        child = i + i + ONE
        if child >= size:
            break
        c = heap[child]
        if child + ONE < size:
            right = heap[child + ONE]
            if when[right] < when[c] or (when[right] == when[c] and right < c):
                child += ONE
                c = right
        if time < when[c] or (time == when[c] and event < c):
            break
        heap[i] = c
        i = child
    heap[i] = event


@kernel
def pop(heap, size, when):  # type: ignore[no-untyped-def]
    """Takes the first event out of the heap; returns the new size."""
    size -= ONE
    if size > 0:
        settle(heap, size, when, heap[size])
    return size


class Links(NamedTuple):
    """Channels and ports: fields of `PlacedStages`, and when each channel and port is free again."""

    host: NDArray[np.uint64]
    local: NDArray[np.uint64]
    channel_width: np.uint64
    link_bandwidth: NDArray[np.float64]
    link_latency_s: NDArray[np.float64]
    port_bandwidth: NDArray[np.float64]
    port_latency_s: NDArray[np.float64]
    channel_free: NDArray[np.float64]
    out_free: NDArray[np.float64]
    in_free: NDArray[np.float64]


@kernel
def idle_links(arena, p):  # type: ignore[no-untyped-def]
    """All channels and ports of a `PlacedStages`, free from the start."""
    num_hosts = len(p.port_bandwidth)
    return Links(
        p.host.view(np.uint64),
        p.local.view(np.uint64),
        np.uint64(p.channel_width),
        p.link_bandwidth,
        p.link_latency_s,
        p.port_bandwidth,
        p.port_latency_s,
        filled(arena.reals, len(p.used) * p.channel_width, 0.0)[0],
        filled(arena.reals, num_hosts, 0.0)[0],
        filled(arena.reals, num_hosts, 0.0)[0],
    )


@kernel
def transfer(links, src, dst, num_bytes, given_s, now):  # type: ignore[no-untyped-def]
    """Requests a transfer between two devices at time `now`; returns when it has arrived.

    Args:
        given_s: seconds where the graph gives them, else negative.
    """
    a, b = links.host[src], links.host[dst]
    if given_s >= 0.0 or a == b:
        channel = src * links.channel_width + links.local[dst]
        start = max(now, links.channel_free[channel])
        if given_s >= 0.0:
            end = start + given_s
            links.channel_free[channel] = end
            return end
        end = start + num_bytes / links.link_bandwidth[a]
        links.channel_free[channel] = end
        return end + links.link_latency_s[a]
    start = max(now, max(links.out_free[a], links.in_free[b]))
    end = start + num_bytes / min(links.port_bandwidth[a], links.port_bandwidth[b])
    links.out_free[a] = end
    links.in_free[b] = end
    return end + (links.port_latency_s[a] + links.port_latency_s[b])


@kernel
def expected_inputs(arena, p):  # type: ignore[no-untyped-def]
    """(``[2 * S * M]`` messages that each F and, after all of these, each B or I waits for, without gradients,)."""
    num_stages, num_mb = len(p.slot_off) - 1, p.num_microbatches
    missing = take(arena.words, 2 * num_stages * num_mb)[0]
    at = 0
    for s in range(2 * num_stages):
        inputs = p.forward_inputs[s] if s < num_stages else p.backward_inputs[s - num_stages]
        for _ in range(num_mb):
            missing[at] = inputs
            at += 1
    return (missing,)


@kernel
def slot_of(slot_off, stage, microbatch):  # type: ignore[no-untyped-def]
    """The slot that runs a micro-batch of a stage."""
    first = slot_off[stage]
    replicas = slot_off[stage + ONE] - first
    return first if replicas == ONE else first + microbatch % replicas
