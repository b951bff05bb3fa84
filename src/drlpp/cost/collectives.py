"""Seconds of collectives: the only Python place of this price (all-reduce compiled: src/native/cost/collectives.h).

A ring inside a host: 2 (n - 1) steps, each of 1 / n of the bytes, in the order of the devices and as slow as its
slowest link. Over hosts a hierarchical one: reduce-scatter inside
each host, a ring between the hosts through the ports (which carry the whole gradient of the host), all-gather inside.
A reduce-scatter or an all-gather is one half of that. In an all-to-all every device sends an equal part to each other.
Source: Thakur et al., IJHPCA 2005.

Where every step is a message (gloo, hosts), it takes the latency of the link. A kernel of NCCL runs all steps inside a
host: it starts in one latency, hands data on in `Link.step_s`, and has to fill its channels, which takes larger
messages up to `FILL_STEPS` steps more. Both constants, and the 1.1 us of a step, are fitted to 2,129 times of
AIConfigurator, Vidur and vTrain on eleven kinds of hosts (`benchmarks/calibrate_links.py`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import Cluster, Link
from drlpp.cost.links import transfer_s

Real = TypeVar("Real", float, NDArray[np.float64])

FILL_STEPS = 37.0
"""Steps that filling the channels takes a kernel, for large messages."""
FILL_BYTES = 8.5e6
"""Bytes of a message for which it takes half of them."""


def ring_wire_s(n: Real, num_bytes: Real, bandwidth: Real) -> Real:
    """Seconds that a ring all-reduce of `num_bytes` over n members occupies its links. Takes arrays too."""
    return 2.0 * (n - 1.0) / n * num_bytes / bandwidth


def ring_s(n: int, num_bytes: float, link: Link) -> float:
    """Seconds of a ring all-reduce of `num_bytes` over n members."""
    steps = 2 * (n - 1)
    wire = ring_wire_s(n, num_bytes, link.bandwidth)
    if not link.step_s:
        return wire + steps * link.latency_s
    return wire + link.latency_s + (steps + _filling(num_bytes)) * link.step_s


def half_ring_s(n: int, num_bytes: float, link: Link) -> float:
    """Seconds of a reduce-scatter or an all-gather in a ring of n members, of `num_bytes` in all."""
    return (ring_s(n, num_bytes, link) + (link.latency_s if link.step_s else 0.0)) / 2


def _filling(num_bytes: float) -> float:
    """Steps that filling the channels takes."""
    return FILL_STEPS * num_bytes / (num_bytes + FILL_BYTES)


def all_reduce_s(cluster: Cluster, devices: Sequence[int], num_bytes: float) -> float:
    """Seconds of an all-reduce of `num_bytes` over `devices` on an idle network."""
    return _over_hosts_s(cluster, devices, num_bytes, ring_s)


def reduce_scatter_s(cluster: Cluster, devices: Sequence[int], num_bytes: float) -> float:
    """Seconds until each of `devices` has its part of the sum of `num_bytes` of all."""
    return _over_hosts_s(cluster, devices, num_bytes, half_ring_s)


def all_gather_s(cluster: Cluster, devices: Sequence[int], num_bytes: float) -> float:
    """Seconds until each of `devices` has the `num_bytes` of which each had a part."""
    return _over_hosts_s(cluster, devices, num_bytes, half_ring_s)


def _over_hosts_s(
    cluster: Cluster, devices: Sequence[int], num_bytes: float, ring: Callable[[int, float, Link], float]
) -> float:
    """Seconds of a ring inside each host and of one between the hosts."""
    if len(devices) < 2 or num_bytes == 0:
        return 0.0
    per_host = _per_host(cluster, devices)
    inside = max(_inside_s(cluster, members, num_bytes, ring) for members in per_host.values())
    if len(per_host) == 1:
        return inside
    ports = [port for h in per_host if (port := cluster.hosts[h].network) is not None]
    bandwidth, latency_s = min(port.bandwidth for port in ports), max(port.latency_s for port in ports)
    return inside + ring(len(per_host), num_bytes, Link(bandwidth=bandwidth, latency_s=2 * latency_s))


def _per_host(cluster: Cluster, devices: Sequence[int]) -> dict[int, list[int]]:
    """Some devices by host, ascending."""
    per_host: dict[int, list[int]] = defaultdict(list)
    for d in sorted(devices):
        per_host[cluster.devices[d].host].append(d)
    return per_host


def _inside_s(
    cluster: Cluster, members: Sequence[int], num_bytes: float, ring: Callable[[int, float, Link], float]
) -> float:
    """Seconds of the ring over devices of one host."""
    if len(members) < 2:
        return 0.0
    around = zip(members, [*members[1:], members[0]], strict=True)
    links = {cluster.path(src, dst) for src, dst in around}
    return max(ring(len(members), num_bytes, link) for link in links)


def all_to_all_s(cluster: Cluster, devices: Sequence[int], num_bytes: float) -> float:
    """Seconds until each of `devices` has sent its `num_bytes`, an equal part to each device (itself included)."""
    if len(devices) < 2 or num_bytes == 0:
        return 0.0
    per_host, part = _per_host(cluster, devices), num_bytes / len(devices)
    inside, outside = 0.0, 0.0
    for host, members in per_host.items():
        n, port = len(members), cluster.hosts[host].network
        for src in members:
            paths = Counter(cluster.path(src, dst) for dst in members if dst != src)
            sent = [_messages_s(path, number * part, num_bytes) for path, number in paths.items()]
            inside = max([inside, sum(sent)])
        if n < len(devices) and port is not None:
            outside = max(outside, transfer_s(port, n * (len(devices) - n) * part) + port.latency_s)
    return max(inside, outside)


def _messages_s(path: Link, sent: float, num_bytes: float) -> float:
    """Seconds in which a device sends its parts over links of one kind, of an all-to-all of `num_bytes`."""
    return transfer_s(path, sent) + _filling(num_bytes) / 2 * path.step_s
