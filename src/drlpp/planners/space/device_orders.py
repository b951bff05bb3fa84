"""Orders in which a pipeline may visit the devices of a cluster.

Neighbours in the order exchange activations, so devices of one host stay together. Equal groups (same type, number
and links) are interchangeable, which leaves few orders to try on regular clusters.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import Cluster

MAX_PERMUTED_BLOCKS = 7
"""With more groups of devices their orders are drawn, not enumerated."""


def host_order(cluster: Cluster) -> tuple[int, ...]:
    """Devices as the cluster lists them: host after host."""
    return tuple(range(cluster.num_devices))


def device_orders(
    cluster: Cluster, slowness: NDArray[np.float64], limit: int, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    """Up to `limit` different orders, the plain one first.

    Args:
        slowness: ``[num_device_types]`` seconds of the whole model on each type.
        limit: how many.
        rng: picks among the permutations of groups where there are more.
    """
    blocks = _blocks(cluster)
    kinds = [_kind(cluster, b) for b in blocks]
    types = cluster.type_index

    def by_speed(b: int) -> float:
        return float(slowness[types[blocks[b][0]]])

    indices = list(range(len(blocks)))
    orders = [indices, sorted(indices, key=by_speed), sorted(indices, key=by_speed, reverse=True)]
    if len(blocks) <= MAX_PERMUTED_BLOCKS and _log_arrangements(kinds) <= math.log(4 * limit):
        orders += [list(p) for p in itertools.permutations(indices)]
    for _ in range(4 * limit):
        orders.append([int(i) for i in rng.permutation(len(blocks))])
    seen: set[tuple[object, ...]] = set()
    out: list[tuple[int, ...]] = []
    for order in orders:
        look = tuple(kinds[b] for b in order)
        hosts = tuple(cluster.host_index[blocks[b][0]] for b in order)
        key = (look, _pattern(hosts))
        if key not in seen:
            seen.add(key)
            out.append(tuple(d for b in order for d in blocks[b]))
        if len(out) >= limit:
            break
    return out


def folded(order: tuple[int, ...], depth: int) -> tuple[tuple[int, ...], ...]:
    """Places of `depth` devices: the order is cut in `depth` equal parts, which run as equal pipelines side by side."""
    length = len(order) // depth
    return tuple(tuple(order[k * length + i] for k in range(depth)) for i in range(length))


def fold_depths(cluster: Cluster, order: tuple[int, ...]) -> list[int]:
    """Depths at which all parts of the folded order are alike (same types, and hosts in the same places)."""
    kinds = [(int(cluster.type_index[d]), *_links(cluster, d)) for d in order]
    depths = []
    for depth in range(2, len(order)):
        if len(order) % depth:
            continue
        length = len(order) // depth
        parts = range(0, len(order), length)
        hosts = [_pattern(tuple(int(cluster.host_index[d]) for d in order[a : a + length])) for a in parts]
        if len({tuple(kinds[a : a + length]) for a in parts}) == 1 and len(set(hosts)) == 1:
            depths.append(depth)
    return depths


def _blocks(cluster: Cluster) -> list[tuple[int, ...]]:
    """Runs of devices of one type at one site of a host."""
    keys = [(int(s), int(t)) for s, t in zip(cluster.site_index, cluster.type_index, strict=True)]
    groups: dict[tuple[int, int], list[int]] = {}
    for d, key in enumerate(keys):
        groups.setdefault(key, []).append(d)
    return [tuple(g) for g in groups.values()]


def _kind(cluster: Cluster, block: tuple[int, ...]) -> tuple[object, ...]:
    host = cluster.hosts[cluster.devices[block[0]].host]
    return int(cluster.type_index[block[0]]), len(block), *_links(cluster, block[0]), host.network


def _links(cluster: Cluster, device: int) -> tuple[object, ...]:
    """What tells apart the links of devices inside their hosts."""
    h = cluster.devices[device].host
    host = cluster.hosts[h]
    return host.link, host.links, host.sites()[device - int(cluster.first_device[h])]


def _pattern(hosts: tuple[int, ...]) -> tuple[int, ...]:
    """Hosts renamed by first appearance, so that equal arrangements compare equal."""
    names: dict[int, int] = {}
    return tuple(names.setdefault(h, len(names)) for h in hosts)


def _log_arrangements(kinds: list[tuple[object, ...]]) -> float:
    """Logarithm of the number of different orders of the blocks."""
    return math.lgamma(len(kinds) + 1) - sum(math.lgamma(c + 1) for c in Counter(kinds).values())
