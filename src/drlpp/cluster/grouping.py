"""Groups of devices that divide the ops of a stage among themselves (tensor parallelism)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from drlpp.cluster.cluster import Cluster
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
