"""Groups of devices that divide the ops of a stage among themselves (tensor parallelism)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Container, Sequence

from drlpp.cluster.cluster import Cluster, DeviceGroup, DeviceType, GroupLink, Link
from drlpp.errors import ClusterError


def why_no_group(cluster: Cluster, devices: Sequence[int]) -> str:
    """Why devices of a cluster cannot be a group; empty if they can."""
    hosts = {cluster.devices[d].host for d in devices}
    if len(hosts) > 1:
        names = ", ".join(sorted(cluster.hosts[h].name for h in hosts))
        return f"its devices are on the hosts {names}: a group lies within one host"
    types = {cluster.devices[d].type.name for d in devices}
    if len(types) > 1:
        return f"its devices are of the types {', '.join(sorted(types))}: a group has devices of one type"
    return ""


@dataclasses.dataclass(frozen=True, slots=True)
class Grouping:
    """In which group each device of a cluster is.

    Attributes:
        groups: in order of their first device; a device alone is a group of one.

    Raises:
        ClusterError: a group is empty, or a device is in two of them.
    """

    groups: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        seen: set[int] = set()
        for group in self.groups:
            if not group:
                raise ClusterError("a group has no devices: give each at least one")
            for d in group:
                if d in seen:
                    raise ClusterError(f"device {d} is in two groups, or twice in one: put each in one")
                seen.add(d)
        object.__setattr__(self, "groups", tuple(sorted(self.groups, key=min)))

    @property
    def divides(self) -> bool:
        """Some group has more than one device."""
        return any(len(group) > 1 for group in self.groups)

    def check(self, cluster: Cluster) -> None:
        """Raises ClusterError if these are no groups of all devices of a cluster."""
        missing = set(range(cluster.num_devices)) ^ {d for group in self.groups for d in group}
        if missing:
            raise ClusterError(
                f"groups of cluster {cluster.name!r} and its devices 0..{cluster.num_devices - 1} differ in device "
                f"{min(missing)}: every device is in one group"
            )
        for group in self.groups:
            if reason := why_no_group(cluster, group):
                raise ClusterError(f"group {list(group)}: {reason}")


def single_devices(cluster: Cluster) -> Grouping:
    """Every device alone."""
    return Grouping(tuple((d,) for d in range(cluster.num_devices)))


def completed(groups: Sequence[tuple[int, ...]], cluster: Cluster) -> Grouping:
    """The groups in use, and groups of the idle devices.

    These are as large as the smallest group in use on their host and of their type if that divides them, else of one.
    """
    used = {d for group in groups for d in group}
    out = list(dict.fromkeys(groups))
    idle: dict[tuple[int, str], list[int]] = {}
    for device in cluster.devices:
        if device.id not in used:
            idle.setdefault((device.host, device.type.name), []).append(device.id)
    for (host, kind), devices in idle.items():
        sizes = [len(g) for g in out if _kind(cluster, g) == (host, kind)]
        size = min(sizes, default=1)
        size = size if len(devices) % size == 0 else 1
        out += [tuple(devices[i : i + size]) for i in range(0, len(devices), size)]
    return Grouping(tuple(out))


def _kind(cluster: Cluster, group: Sequence[int]) -> tuple[int, str]:
    device = cluster.devices[group[0]]
    return device.host, device.type.name


def grouped_cluster(cluster: Cluster, grouping: Grouping, *, sequence: bool) -> Cluster:
    """The cluster with one device for each group, which is the sum of its members.

    Memory, its bandwidth and peaks add up, and so do the links inside a host, since each member of one group talks to a
    member of the other: of two groups the smaller decides. The port of a host stays as it is. Groups of one are the
    devices that they were.

    Args:
        sequence: groups divide what is kept between divided ops, too.

    Raises:
        ClusterError: these are no groups of the devices.
    """
    grouping.check(cluster)
    if not grouping.divides:
        return cluster
    types = {t.name: t for t in cluster.device_types}
    names: dict[DeviceGroup, str] = {}
    hosts = []
    for h, host in enumerate(cluster.hosts):
        groups = [g for g in grouping.groups if cluster.devices[g[0]].host == h]
        devices = []
        for group in groups:
            kind = cluster.devices[group[0]].type
            if len(group) > 1:
                made = DeviceGroup(
                    member=kind, size=len(group), link=_slowest(cluster, group, group), sequence=sequence
                )
                if made not in names:
                    names[made] = _free_name(f"{kind.name} x{len(group)}", types)
                    types[names[made]] = _summed(names[made], made)
                kind = types[names[made]]
            devices.append(kind.name)
        links = tuple(
            GroupLink((i, j), _scaled(_slowest(cluster, a, b), min(len(a), len(b))))
            for (i, a), (j, b) in itertools.combinations(enumerate(groups), 2)
        )
        same = {entry.link for entry in links}
        if len(same) == 1:
            hosts.append(dataclasses.replace(host, devices=tuple(devices), link=same.pop(), links=()))
        else:
            hosts.append(dataclasses.replace(host, devices=tuple(devices), link=host.link, links=links))
    used = {name for host in hosts for name in host.devices}
    return Cluster(cluster.name, tuple(t for name, t in types.items() if name in used), tuple(hosts))


def _slowest(cluster: Cluster, a: Sequence[int], b: Sequence[int]) -> Link:
    """The slowest link from a device of one group to one of another, or between the devices of one."""
    links = {cluster.path(i, j) for i in a for j in b if i != j}
    return min(links, key=lambda link: (link.bandwidth, -link.latency_s))


def _scaled(link: Link, times: int) -> Link:
    return dataclasses.replace(link, bandwidth=link.bandwidth * times)


def _free_name(wanted: str, taken: Container[str]) -> str:
    return next(name for k in itertools.count() if (name := wanted + "'" * k) not in taken)


def _summed(name: str, group: DeviceGroup) -> DeviceType:
    member, size = group.member, group.size
    return dataclasses.replace(
        member,
        name=name,
        memory_bytes=member.memory_bytes * size,
        speed=member.speed * size,
        peak_flops=tuple((dtype, peak * size) for dtype, peak in member.peak_flops),
        memory_bandwidth=member.memory_bandwidth * size,
        group=group,
    )
