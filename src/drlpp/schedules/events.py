"""Two compiled parts that event simulations share: a queue of events, and transfers over channels and ports."""

from __future__ import annotations

import numba


@numba.njit(cache=True)
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


@numba.njit(cache=True)
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


@numba.njit(cache=True)
def transfer(p, channel_free, out_free, in_free, src, dst, message, now):  # type: ignore[no-untyped-def]
    """Requests the transfer of a message between two devices at time `now`; returns when it has arrived.

    Args:
        p: the `PlacedStages`.
        channel_free, out_free, in_free: when channels and the hosts' ports are free again; updated.
    """
    given = p.message_s[message]
    a, b = p.host[src], p.host[dst]
    if given >= 0.0 or a == b:
        channel = src * p.channel_width + p.local[dst]
        start = max(now, channel_free[channel])
        if given >= 0.0:
            end = start + given
            channel_free[channel] = end
            return end
        end = start + p.message_bytes[message] / p.link_bandwidth[a]
        channel_free[channel] = end
        return end + p.link_latency_s[a]
    start = max(now, max(out_free[a], in_free[b]))
    end = start + p.message_bytes[message] / min(p.port_bandwidth[a], p.port_bandwidth[b])
    out_free[a] = end
    in_free[b] = end
    return end + (p.port_latency_s[a] + p.port_latency_s[b])
