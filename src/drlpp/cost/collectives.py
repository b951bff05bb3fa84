"""Seconds of collectives: the only Python place of this price (all-reduce compiled: src/native/cost/collectives.h).

A ring inside a host: 2 (n - 1) steps, each of 1 / n of the bytes, in the order of the devices and as slow as its
slowest link. Over hosts a hierarchical one: reduce-scatter inside
each host, a ring between the hosts through the ports (which carry the whole gradient of the host), all-gather inside.
A reduce-scatter or an all-gather is one half of that. In an all-to-all every device sends an equal part to each other.
Source: Thakur et al., IJHPCA 2005.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from drlpp.cluster import Cluster
from drlpp.cost.links import transfer_s


def ring_s(n: int, num_bytes: float, bandwidth: float, latency_s: float) -> float:
    """Seconds of a ring all-reduce of `num_bytes` over n members."""
    return 2 * (n - 1) / n * num_bytes / bandwidth + 2 * (n - 1) * latency_s


def all_reduce_s(cluster: Cluster, devices: Sequence[int], num_bytes: float) -> float:
    """Seconds of an all-reduce of `num_bytes` over `devices` on an idle network."""
    if len(devices) < 2 or num_bytes == 0:
        return 0.0
    per_host = _per_host(cluster, devices)
    inside = max(_inside_s(cluster, members, num_bytes) for members in per_host.values())
    if len(per_host) == 1:
        return inside
    ports = [port for h in per_host if (port := cluster.hosts[h].network) is not None]
    bandwidth, latency_s = min(port.bandwidth for port in ports), max(port.latency_s for port in ports)
    return inside + ring_s(len(per_host), num_bytes, bandwidth, 2 * latency_s)


def _per_host(cluster: Cluster, devices: Sequence[int]) -> dict[int, list[int]]:
    """Some devices by host, ascending."""
    per_host: dict[int, list[int]] = defaultdict(list)
    for d in sorted(devices):
        per_host[cluster.devices[d].host].append(d)
    return per_host


def _inside_s(cluster: Cluster, members: Sequence[int], num_bytes: float) -> float:
    """Seconds of the ring over devices of one host."""
    if len(members) < 2:
        return 0.0
    around = zip(members, [*members[1:], members[0]], strict=True)
    links = {cluster.path(src, dst) for src, dst in around}
    return max(ring_s(len(members), num_bytes, link.bandwidth, link.latency_s) for link in links)


def reduce_scatter_s(cluster: Cluster, devices: Sequence[int], num_bytes: float) -> float:
    """Seconds until each of `devices` has its part of the sum of `num_bytes` of all."""
    return all_reduce_s(cluster, devices, num_bytes) / 2


def all_gather_s(cluster: Cluster, devices: Sequence[int], num_bytes: float) -> float:
    """Seconds until each of `devices` has the `num_bytes` of which each had a part."""
    return all_reduce_s(cluster, devices, num_bytes) / 2


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
            sent = [transfer_s(path, number * part) for path, number in paths.items()]
            inside = max([inside, sum(sent)])
        if n < len(devices) and port is not None:
            outside = max(outside, transfer_s(port, n * (len(devices) - n) * part) + port.latency_s)
    return max(inside, outside)
