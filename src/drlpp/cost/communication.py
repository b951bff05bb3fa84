"""Seconds of transfers and of gradient all-reduces on a cluster.

Transfer: latency + bytes / bandwidth of the path. All-reduce: ring inside a host (2 (n-1)/n of the bytes cross each
link), and over hosts a hierarchical one: reduce-scatter inside each host, ring between the hosts through the ports
(which carry the whole gradient of the host), all-gather inside. Source: Thakur et al., IJHPCA 2005.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from drlpp.cluster import Cluster


def transfer_s(cluster: Cluster, src: int, dst: int, num_bytes: float) -> float:
    """Seconds to move `num_bytes` between two devices on an idle network; 0 on the same device."""
    if src == dst:
        return 0.0
    return float(cluster.latency_s[src, dst] + num_bytes / cluster.bandwidth[src, dst])


def all_reduce_s(cluster: Cluster, devices: Sequence[int], num_bytes: float) -> float:
    """Seconds of an all-reduce of `num_bytes` over `devices` on an idle network."""
    if len(devices) < 2 or num_bytes == 0:
        return 0.0
    per_host = Counter(cluster.devices[d].host for d in devices)
    inside = max(_ring_s(cluster, host, n, num_bytes) for host, n in per_host.items())
    if len(per_host) == 1:
        return inside
    n = len(per_host)
    links = [link for h in per_host if (link := cluster.hosts[h].network) is not None]
    bandwidth = min(link.bandwidth for link in links)
    latency = 2 * max(link.latency_s for link in links)
    return inside + 2 * (n - 1) / n * num_bytes / bandwidth + 2 * (n - 1) * latency


def _ring_s(cluster: Cluster, host: int, n: int, num_bytes: float) -> float:
    link = cluster.hosts[host].link
    if n < 2 or link is None:
        return 0.0
    return 2 * (n - 1) / n * num_bytes / link.bandwidth + 2 * (n - 1) * link.latency_s
