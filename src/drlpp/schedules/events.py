"""Two compiled parts that event simulations share: a queue of events, and transfers over channels and ports."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

_OPTIONS: dict[str, Any] = {"cache": True, "error_model": "numpy", "_nrt": False}
no_refcount: Any = numba.njit(**_OPTIONS)
"""Compiles a function that allocates nothing: without counting references to arrays, which costs more than the work."""


@no_refcount
def push(heap, size, when, event):  # type: ignore[no-untyped-def]
    """Puts `event` (an index into `when`) into the binary heap of `size` events; returns the new size.

    The order is that of ``(when[event], event)``.
    """
    i = size
    while i > 0:
        parent = (i - 1) >> 1
        other = heap[parent]
        if when[other] < when[event] or (when[other] == when[event] and other < event):
            break
        heap[i] = other
        i = parent
    heap[i] = event
    return size + 1


@no_refcount
def pop(heap, size, when):  # type: ignore[no-untyped-def]
    """Takes the first event out of the heap; returns it. The caller's size is one less from then on."""
    first, last = heap[0], heap[size - 1]
    size -= 1
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        c = heap[child]
        if child + 1 < size:
            right = heap[child + 1]
            if when[right] < when[c] or (when[right] == when[c] and right < c):
                child += 1
                c = right
        if when[last] < when[c] or (when[last] == when[c] and last < c):
            break
        heap[i] = c
        i = child
    heap[i] = last
    return first


class Links(NamedTuple):
    """Channels and ports: fields of `PlacedStages`, and when each channel and port is free again."""

    host: NDArray[np.int64]
    local: NDArray[np.int64]
    channel_width: int
    link_bandwidth: NDArray[np.float64]
    link_latency_s: NDArray[np.float64]
    port_bandwidth: NDArray[np.float64]
    port_latency_s: NDArray[np.float64]
    channel_free: NDArray[np.float64]
    out_free: NDArray[np.float64]
    in_free: NDArray[np.float64]


@numba.njit(cache=True)
def idle_links(p):  # type: ignore[no-untyped-def]
    """All channels and ports of a `PlacedStages`, free from the start."""
    num_hosts = len(p.port_bandwidth)
    return Links(
        p.host,
        p.local,
        p.channel_width,
        p.link_bandwidth,
        p.link_latency_s,
        p.port_bandwidth,
        p.port_latency_s,
        np.zeros(len(p.used) * p.channel_width),
        np.zeros(num_hosts),
        np.zeros(num_hosts),
    )


@no_refcount
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


@no_refcount
def slot_of(slot_off, stage, microbatch):  # type: ignore[no-untyped-def]
    """The slot that runs a micro-batch of a stage."""
    first = slot_off[stage]
    replicas = slot_off[stage + 1] - first
    return first if replicas == 1 else first + microbatch % replicas
