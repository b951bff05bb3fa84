"""Links, and seconds of transfers: the only Python place of this price (compiled: src/native/cost/links.h).

A transfer occupies its path, a channel inside a host or the ports of two hosts, for bytes / bandwidth. It arrives the
latency after that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import NO_LINK, Cluster, Link


class LinksInside(NamedTuple):
    """Links inside of some hosts.

    Attributes:
        sites: ``[H]`` sites of each host (`Host.sites`).
        link_off: ``[H]`` where the links of a host begin: those of its ``[sites, sites]``, row after row.
        bandwidth, latency_s, step_s: ``[L]``.
    """

    sites: NDArray[np.int64]
    link_off: NDArray[np.int64]
    bandwidth: NDArray[np.float64]
    latency_s: NDArray[np.float64]
    step_s: NDArray[np.float64]


def links_inside(cluster: Cluster, hosts: Sequence[int]) -> LinksInside:
    """The links inside of `hosts`; `NO_LINK` where a site has one device."""
    sites = cluster.sites_on[hosts]
    first = (np.cumsum(cluster.sites_on) - cluster.sites_on)[hosts]
    own = [slice(f, f + n) for f, n in zip(first.tolist(), sites.tolist(), strict=True)]
    tables = (cluster.site_bandwidth, cluster.site_latency_s, cluster.site_step_s)
    bandwidth, latency_s, step_s = (np.concatenate([table[s, s].ravel() for s in own]) for table in tables)
    bandwidth = np.where(bandwidth > 0, bandwidth, NO_LINK.bandwidth)
    return LinksInside(sites, np.cumsum(sites**2) - sites**2, bandwidth, latency_s, step_s)


def site_on_host(cluster: Cluster) -> NDArray[np.int64]:
    """``[num_devices]`` the site of each device, counted on its host."""
    return cluster.site_index - (np.cumsum(cluster.sites_on) - cluster.sites_on)[cluster.host_index]


def wire_s(path: Link, num_bytes: float) -> float:
    """Seconds that a transfer of `num_bytes` occupies its path."""
    return num_bytes / path.bandwidth


def transfer_s(path: Link, num_bytes: float) -> float:
    """Seconds from the start of a transfer of `num_bytes` to its arrival, on an idle network."""
    return wire_s(path, num_bytes) + path.latency_s
