"""The steady-state load of each device: seconds per micro-batch that it computes, sends and receives.

With R replicas a stage loads each of them with 1/R of its time. A message loads its sender once per receiving device
and each receiver once, with latency + bytes / bandwidth of the path; gradients likewise. Which devices meet depends on
the micro-batch (m mod R on either side), so transfers are averaged over a period of the replicas involved. All-reduces
are spread over the micro-batches of a step. Messages that carry their own time (dnn-partitioning, NeurIPS 2020) load
their sender once, however many devices receive them.

Left out: ports that devices of a host share, bubbles, and the optimizer step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from drlpp.native import library
from drlpp.schedules.arena import filled, kernel
from drlpp.schedules.placed import PlacedStages

LONGEST_PERIOD = 10_000
"""Transfers are averaged over at most this many micro-batches."""


def device_loads(placed: PlacedStages) -> NDArray[np.float64]:
    """``[U]`` seconds per micro-batch of each used device."""
    return library.device_loads(placed)


@kernel
def _gcd(a, b):  # type: ignore[no-untyped-def]
    while b:
        a, b = b, a % b
    return a


@kernel
def _seconds(p, message, src, dst):  # type: ignore[no-untyped-def]
    a, b = p.host[src], p.host[dst]
    if a == b:
        return p.link_latency_s[a] + p.message_bytes[message] / p.link_bandwidth[a]
    bandwidth = min(p.port_bandwidth[a], p.port_bandwidth[b])
    return p.port_latency_s[a] + p.port_latency_s[b] + p.message_bytes[message] / bandwidth


@kernel
def write_loads(arena, p, load):  # type: ignore[no-untyped-def]
    """Writes the ``[U]`` loads."""
    for u in range(len(p.used)):
        load[u] = 0.0
    num_stages = len(p.slot_off) - 1
    for s in range(num_stages):
        replicas = p.slot_off[s + 1] - p.slot_off[s]
        for i in range(p.slot_off[s], p.slot_off[s + 1]):
            load[p.slot_device[i]] += (p.action_s[0, i] + p.action_s[1, i]) / replicas
    stamp = filled(arena.ints, len(p.used), 0)[0]
    counter = 0
    for k in range(len(p.message_src)):
        s = p.message_src[k]
        period = p.slot_off[s + 1] - p.slot_off[s]
        for j in range(p.dst_off[k], p.dst_off[k + 1]):
            replicas = p.slot_off[p.dst[j] + 1] - p.slot_off[p.dst[j]]
            period = min(LONGEST_PERIOD, period // _gcd(period, replicas) * replicas)
        given = p.message_s[k]
        for m in range(period):
            src = p.slot_device[p.slot_off[s] + m % (p.slot_off[s + 1] - p.slot_off[s])]
            counter += 1
            stamp[src] = counter
            sent = False
            for j in range(p.dst_off[k], p.dst_off[k + 1]):
                t = p.dst[j]
                q = p.slot_device[p.slot_off[t] + m % (p.slot_off[t + 1] - p.slot_off[t])]
                if stamp[q] == counter:
                    continue
                stamp[q] = counter
                seconds = (given if given >= 0.0 else _seconds(p, k, src, q)) / period
                load[q] += seconds
                if given < 0.0 or not sent:
                    load[src] += seconds
                    sent = True
                if p.message_grad[k]:
                    load[q] += seconds
                    load[src] += seconds
    for g in range(len(p.group_s)):
        for i in range(p.group_off[g], p.group_off[g + 1]):
            load[p.group_device[i]] += p.group_s[g] / p.num_microbatches
