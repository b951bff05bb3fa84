"""The groupings of a cluster that a search tries.

A *pool* is all devices of one type on hosts that are alike. The devices of a pool are in groups of one size, or half of
them in groups of one size and half of another: half of its hosts, or of the devices of its only host. Where a number of
devices is not divisible by a size, the rest is in smaller groups. Pools are combined freely while they have one size
each; a pool has two where all others have the same.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import overload

from drlpp.cluster.cluster import Cluster
from drlpp.cluster.grouping import Grouping

DEGREES = (1, 2, 4, 8)
"""Sizes of groups that a search tries."""

Sizes = tuple[int, int]
"""Of the groups in the first and in the second half of a pool."""


class UsualGroupings(Sequence[Grouping]):
    """The groupings; every device alone is first, then as equal groups as there can be on all hosts, the largest first.

    Args:
        cluster: the devices.
        divides: whether the ops of the model can be divided by a number.
        one_degree: only those whose groups all have one size.
        size: the size of all groups, as far as pools allow; 0 for any.

    Attributes:
        equal: how many of the first have one size, or as near to it as a pool can come.
    """

    def __init__(
        self, cluster: Cluster, divides: Callable[[int], bool], *, one_degree: bool = False, size: int = 0
    ) -> None:
        self._pools = _pools(cluster)
        degrees = [d for d in DEGREES if d == 1 or divides(d)]
        self._one = [_one_size(pool, degrees) for pool in self._pools]
        self._two = [_two_sizes(pool, one) for pool, one in zip(self._pools, self._one, strict=True)]
        levels = sorted({d for one in self._one for d, _ in one if d > 1}, reverse=True)
        equal = [
            tuple(max(s for s in one if s[0] <= level) for one in self._one)
            for level in ([size] if size else [1, *levels])
        ]
        if one_degree:
            equal = [sizes for sizes in equal if len(self._lengths(sizes)) == 1]
        self.equal = len(equal)
        if not (one_degree or size):
            equal += [*itertools.product(*(one[::-1] for one in self._one)), *self._halves(equal)]
        self._sizes = list(dict.fromkeys(equal))
        self._made: dict[int, Grouping] = {}
        self._forms: dict[tuple[int, Sizes], dict[int, int]] = {}

    def _halves(self, equal: Sequence[tuple[Sizes, ...]]) -> Iterator[tuple[Sizes, ...]]:
        """One pool with two sizes, all others equal."""
        for sizes, (k, two) in itertools.product(equal, enumerate(self._two)):
            yield from ((*sizes[:k], pair, *sizes[k + 1 :]) for pair in two)

    def _lengths(self, sizes: tuple[Sizes, ...]) -> set[int]:
        return {len(g) for pool, own in zip(self._pools, sizes, strict=True) for g in _cut(pool, own)}

    def __len__(self) -> int:
        return len(self._sizes)

    @overload
    def __getitem__(self, number: int) -> Grouping: ...

    @overload
    def __getitem__(self, number: slice) -> list[Grouping]: ...

    def __getitem__(self, number: int | slice) -> Grouping | list[Grouping]:
        if isinstance(number, slice):
            return [self[g] for g in range(len(self))[number]]
        g = range(len(self))[number]
        if g not in self._made:
            pools = zip(self._pools, self._sizes[g], strict=True)
            self._made[g] = Grouping(tuple(group for pool, sizes in pools for group in _cut(pool, sizes)))
        return self._made[g]

    def forms(self, number: int) -> list[tuple[int, dict[int, int]]]:
        """Per pool one of its devices, and length of a group -> how many; without making the groups."""
        pools = zip(self._pools, self._sizes[number], strict=True)
        return [(pool[0][0], self._form(k, sizes)) for k, (pool, sizes) in enumerate(pools)]

    def _form(self, pool: int, sizes: Sizes) -> dict[int, int]:
        if (pool, sizes) not in self._forms:
            self._forms[pool, sizes] = dict(Counter(_form(self._pools[pool], sizes)))
        return self._forms[pool, sizes]


Pool = Sequence[Sequence[int]]


def _one_size(pool: Pool, degrees: Sequence[int]) -> list[Sizes]:
    """Every size of groups for a whole pool, ascending."""
    most = max(map(len, pool))
    return [(d, d) for d in degrees if d <= most]


def _two_sizes(pool: Pool, one: Sequence[Sizes]) -> list[Sizes]:
    """Two sizes for the halves of a pool, where that is not the same as one for all."""
    seen = {_form(pool, sizes) for sizes in one}
    found: dict[tuple[int, ...], Sizes] = {}
    for (large, _), (small, _) in itertools.combinations(one[::-1], 2):
        if (form := _form(pool, (large, small))) not in seen:
            found.setdefault(form, (large, small))
    return list(found.values())


def _form(pool: Pool, sizes: Sizes) -> tuple[int, ...]:
    return tuple(len(group) for group in _cut(pool, sizes))


def _pools(cluster: Cluster) -> list[list[list[int]]]:
    """Per pool and host the devices, as the hosts and devices are numbered."""
    pools: dict[object, dict[int, list[int]]] = {}
    for device in cluster.devices:
        host = cluster.hosts[device.host]
        pool = pools.setdefault((host.devices, host.link, host.links, device.type.name), {})
        pool.setdefault(device.host, []).append(device.id)
    return [list(hosts.values()) for hosts in pools.values()]


def _cut(pool: Pool, sizes: Sizes) -> Iterator[tuple[int, ...]]:
    """The groups of a pool: of neighbours on a host."""
    first, second = sizes
    if len(pool) == 1 and first != second:
        (devices,) = pool
        half = max(first, len(devices) // 2 // first * first)
        pool = [devices[:half], devices[half:]]
    for h, devices in enumerate(pool):
        yield from _groups(devices, first if h < (len(pool) + 1) // 2 else second)


def _groups(devices: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
    """Neighbours in groups of a size, and what is left in smaller ones."""
    end = len(devices) // size * size
    yield from (tuple(devices[i : i + size]) for i in range(0, end, size))
    if end < len(devices):
        yield from _groups(devices[end:], max(d for d in DEGREES if d < size))
