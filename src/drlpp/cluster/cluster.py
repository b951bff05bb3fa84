"""A cluster: devices of several types on hosts, and the links that join them.

Inside a host any two devices are joined by a link (one channel per ordered pair): that of a group of devices which
has both, or the host's own. A host reaches other hosts through its network, full duplex, that all its devices share:
the bandwidths of its cards are added. Left out: that a transfer alone uses one card only (it is up to `Link.ports`
times too fast; eight devices that send at a time are right); switches that are oversubscribed; what several pairs of
devices of a host share (the bus between two PCIe bridges).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from drlpp.errors import ClusterError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeviceType:
    """A kind of device.

    Attributes:
        name: the name in the cluster file.
        memory_bytes: memory that training may use.
        speed: relative speed for ops with measured times on a reference of unknown kind: time = measured / speed.
            Devices of the database have one relative to the V100 (see `cluster.devices`).
        peak_flops: FLOP per second by element type; empty if only `speed` is known.
        memory_bandwidth: bytes per second to the device's memory; 0 if only `speed` is known.
        preset: name in the device database; empty if there is none.
        speed_is_given: the user wrote `speed`, so it also scales what the database says.
        source: where the numbers come from.
        host_op_s: seconds that the host needs to ask for one kernel of an eager program; 0 with CUDA graphs.
        group: what it stands for, if it is a group of devices that divide ops (`cluster.grouping`).
        action_s: seconds that a forward or backward pass of a stage takes besides its ops.
    """

    name: str
    memory_bytes: int
    speed: float = 1.0
    peak_flops: tuple[tuple[str, float], ...] = ()
    memory_bandwidth: float = 0.0
    preset: str = ""
    speed_is_given: bool = False
    source: str = ""
    host_op_s: float = 0.0
    group: DeviceGroup | None = None
    action_s: float = 0.0

    def __post_init__(self) -> None:
        if self.memory_bytes <= 0:
            raise ClusterError(f"device type {self.name!r}: memory is {self.memory_bytes} bytes: it must be positive")
        if not (math.isfinite(self.speed) and self.speed > 0):
            raise ClusterError(f"device type {self.name!r}: speed is {self.speed}: it must be positive")
        for dtype, peak in self.peak_flops:
            if not (math.isfinite(peak) and peak > 0):
                raise ClusterError(f"device type {self.name!r}: peak of {dtype} is {peak}: it must be positive")
        if not (math.isfinite(self.memory_bandwidth) and self.memory_bandwidth >= 0):
            raise ClusterError(
                f"device type {self.name!r}: memory_bandwidth is {self.memory_bandwidth}: it must be positive"
            )

        for key, seconds in (("host_op_time", self.host_op_s), ("action_time", self.action_s)):
            if not (math.isfinite(seconds) and seconds >= 0):
                raise ClusterError(f"device type {self.name!r}: {key} is {seconds} s: it must not be negative")

    def peak(self, dtype: str) -> float:
        """FLOP per second for an element type; types that the device lacks run at the float32 rate."""
        peaks = dict(self.peak_flops)
        return peaks.get(dtype) or peaks.get("float32") or max(peaks.values(), default=0.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A channel: `bandwidth` in bytes per second, `latency_s` in seconds.

    Attributes:
        bandwidth: of all ports together.
        latency_s: of a message.
        step_s: of a step of a collective, where one kernel runs all of its steps (as NCCL's do inside a host); 0 where
            every step is a message of its own.
        ports: network cards that a host has for it.
    """

    bandwidth: float
    latency_s: float = 0.0
    step_s: float = 0.0
    ports: int = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bandwidth) and self.bandwidth > 0):
            raise ClusterError(f"a link's bandwidth is {self.bandwidth} B/s: it must be positive")
        if not (math.isfinite(self.latency_s) and self.latency_s >= 0):
            raise ClusterError(f"a link's latency is {self.latency_s} s: it must not be negative")
        if not (math.isfinite(self.step_s) and self.step_s >= 0):
            raise ClusterError(f"a link's collective_step is {self.step_s} s: it must not be negative")
        if self.ports < 1:
            raise ClusterError(f"a link has {self.ports} ports: it must have at least 1")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGroup:
    """Devices that divide the ops of a stage among themselves.

    Attributes:
        member: the type of each.
        size: how many they are.
        link: joins any two of them.
        sequence: they divide what is kept between divided ops, too.
    """

    member: DeviceType
    size: int
    link: Link
    sequence: bool


NCCL_STEP_S = 1.1e-6
"""`Link.step_s` of NCCL inside a host: fitted to AIConfigurator, Vidur and vTrain (`benchmarks/calibrate_links.py`)."""
NO_LINK = Link(bandwidth=1e30)
"""What joins devices that need no channel: a device with itself, and the devices of a host or cluster of one."""


@dataclasses.dataclass(frozen=True, slots=True)
class GroupLink:
    """A link that joins any two devices of a group.

    Attributes:
        devices: their positions on the host, ascending.
        link: what joins them.
    """

    devices: tuple[int, ...]
    link: Link


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine: names of the types of its devices, the links between them, and its network port.

    `link` may be None where `links` join every pair of devices, `network` in a cluster with one host.

    Attributes:
        link: joins the devices that no entry of `links` joins.
        links: links of groups of devices, such as pairs with NVLink.

    Raises:
        ClusterError: an entry of `links` that names fewer than two devices or one that the host lacks, or two entries
            for one pair.
    """

    name: str
    devices: tuple[str, ...]
    link: Link | None = None
    network: Link | None = None
    links: tuple[GroupLink, ...] = ()

    def __post_init__(self) -> None:
        joined: set[tuple[int, int]] = set()
        for group in self.links:
            named, last = sorted(set(group.devices)), len(self.devices) - 1
            if len(named) < 2 or len(named) < len(group.devices):
                raise ClusterError(
                    f"host {self.name!r}: links between {list(group.devices)}: name two or more different devices"
                )
            if named[0] < 0 or named[-1] > last:
                raise ClusterError(
                    f"host {self.name!r}: links between {list(group.devices)}: its devices are 0..{last}, in the "
                    "order of `devices`"
                )
            pairs = set(itertools.combinations(named, 2))
            if joined & pairs:
                raise ClusterError(
                    f"host {self.name!r}: two entries of links join devices {list(min(joined & pairs))}: name a pair "
                    "once"
                )
            joined |= pairs

    def path(self, src: int, dst: int) -> Link | None:
        """What joins two different devices, by their positions on the host."""
        for group in self.links:
            if src in group.devices and dst in group.devices:
                return group.link
        return self.link

    @property
    def all_links(self) -> tuple[Link, ...]:
        """The different links between devices of this host."""
        pairs = itertools.combinations(range(len(self.devices)), 2)
        found = (self.path(i, j) for i, j in pairs) if self.links else (self.link for _ in self.devices[1:])
        return tuple(dict.fromkeys(link for link in found if link is not None))

    @property
    def slowest_link(self) -> Link | None:
        """Of those between devices of this host the one of least bandwidth; None where there is none."""
        return min(self.all_links, key=lambda link: link.bandwidth, default=None)

    def sites(self) -> tuple[int, ...]:
        """For each device the number of its site: devices of a site have equal links, to others and between them."""
        if not self.links:
            return (0,) * len(self.devices)
        everyone = range(len(self.devices))
        first: list[int] = []
        sites = []
        for i in everyone:
            alike = (
                s
                for s, j in enumerate(first)
                if all(self.path(i, k) == self.path(j, k) for k in everyone if k not in (i, j))
            )
            site = next(alike, len(first))
            if site == len(first):
                first.append(i)
            sites.append(site)
        return tuple(sites)


@dataclasses.dataclass(frozen=True, slots=True)
class Device:
    """A device of a cluster: its id (position in the file), its type and the index of its host."""

    id: int
    type: DeviceType
    host: int


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Devices, hosts and links. Devices are numbered 0, 1, ... in the order of the hosts.

    Raises:
        ClusterError: no devices, duplicate or unknown names, or a link that is needed and missing.
    """

    name: str
    device_types: tuple[DeviceType, ...]
    hosts: tuple[Host, ...]

    def __post_init__(self) -> None:
        names = [t.name for t in self.device_types]
        if len(set(names)) < len(names):
            raise ClusterError(f"cluster {self.name!r}: device types {names} repeat a name: names must be unique")
        host_names = [h.name for h in self.hosts]
        if len(set(host_names)) < len(host_names):
            raise ClusterError(f"cluster {self.name!r}: hosts {host_names} repeat a name: names must be unique")
        if not any(h.devices for h in self.hosts):
            raise ClusterError(f"cluster {self.name!r} has no devices: list at least one host with a device")
        for h in self.hosts:
            for t in h.devices:
                if t not in names:
                    raise ClusterError(
                        f"cluster {self.name!r}, host {h.name!r}: device type {t!r} is not defined: "
                        f"defined types are {', '.join(names) or 'none'}"
                    )
            pairs = itertools.combinations(range(len(h.devices)), 2)
            alone = None if h.link else next((pair for pair in pairs if h.path(*pair) is None), None)
            if alone is not None:
                raise ClusterError(
                    f"cluster {self.name!r}, host {h.name!r}: nothing joins devices {alone[0]} and {alone[1]} of its "
                    f"{len(h.devices)}: give it a link"
                )
            if len(self.hosts) > 1 and h.network is None:
                raise ClusterError(
                    f"cluster {self.name!r}, host {h.name!r}: with {len(self.hosts)} hosts each needs a network"
                )

    @functools.cached_property
    def devices(self) -> tuple[Device, ...]:
        types = {t.name: t for t in self.device_types}
        pairs = [(types[t], i) for i, h in enumerate(self.hosts) for t in h.devices]
        return tuple(Device(k, t, i) for k, (t, i) in enumerate(pairs))

    @property
    def num_devices(self) -> int:
        return len(self.devices)

    @functools.cached_property
    def type_index(self) -> NDArray[np.int64]:
        """``[num_devices]`` index into `device_types`."""
        position = {t.name: i for i, t in enumerate(self.device_types)}
        return np.array([position[d.type.name] for d in self.devices], dtype=np.int64)

    @functools.cached_property
    def is_unequal(self) -> bool:
        """There are devices of several types."""
        return len({d.type.name for d in self.devices}) > 1

    @functools.cached_property
    def host_index(self) -> NDArray[np.int64]:
        """``[num_devices]`` index into `hosts`."""
        return np.array([d.host for d in self.devices], dtype=np.int64)

    @functools.cached_property
    def memory_bytes(self) -> NDArray[np.float64]:
        """``[num_devices]`` memory of each device."""
        return np.array([d.type.memory_bytes for d in self.devices], dtype=np.float64)

    @functools.cached_property
    def members(self) -> NDArray[np.int64]:
        """``[num_devices]`` devices that each stands for."""
        return np.array([d.type.group.size if d.type.group else 1 for d in self.devices], dtype=np.int64)

    def path(self, src: int, dst: int) -> Link:
        """The channel from one device to another: the host's link, or the smaller port and both latencies."""
        a, b = self.hosts[self.devices[src].host], self.hosts[self.devices[dst].host]
        if a is b:
            first = int(self.first_device[self.devices[src].host])
            return (a.path(src - first, dst - first) if src != dst else None) or NO_LINK
        if a.network is None or b.network is None:  # excluded at construction
            raise ClusterError(f"hosts {a.name!r} and {b.name!r} are not connected")
        return Link(
            bandwidth=min(a.network.bandwidth, b.network.bandwidth),
            latency_s=a.network.latency_s + b.network.latency_s,
        )

    @functools.cached_property
    def first_device(self) -> NDArray[np.int64]:
        """``[num_hosts]`` id of the first device of each host."""
        return np.cumsum([0, *(len(h.devices) for h in self.hosts[:-1])], dtype=np.int64)

    @functools.cached_property
    def sites_on(self) -> NDArray[np.int64]:
        """``[num_hosts]`` number of sites of each host: one where all links inside are equal."""
        return np.array([len(set(h.sites())) for h in self.hosts], dtype=np.int64)

    @functools.cached_property
    def site_index(self) -> NDArray[np.int64]:
        """``[num_devices]`` the site of each device: those of host 0 before those of host 1, ..."""
        local = np.array([s for h in self.hosts for s in h.sites()], dtype=np.int64)
        return local + (np.cumsum(self.sites_on) - self.sites_on)[self.host_index]

    @functools.cached_property
    def site_bandwidth(self) -> NDArray[np.float64]:
        """``[sites, sites]`` bytes per second of `path` between two of their devices; 0 where there are no two."""
        ports = [h.network.bandwidth if h.network else 0.0 for h in self.hosts]
        return self._site_table(np.minimum.outer(ports, ports), lambda x: x.bandwidth)

    @functools.cached_property
    def site_latency_s(self) -> NDArray[np.float64]:
        """``[sites, sites]`` seconds of `path` between two of their devices; 0 where there are no two."""
        ports = [h.network.latency_s if h.network else 0.0 for h in self.hosts]
        return self._site_table(np.add.outer(ports, ports), lambda x: x.latency_s)

    @functools.cached_property
    def site_step_s(self) -> NDArray[np.float64]:
        """``[sites, sites]`` `Link.step_s` between two devices of a host; 0 between hosts."""
        return self._site_table(np.zeros((len(self.hosts), len(self.hosts))), lambda x: x.step_s)

    @functools.cached_property
    def bandwidth(self) -> NDArray[np.float64]:
        """``[num_devices, num_devices]`` bytes per second of `path` (that of `NO_LINK` on the diagonal)."""
        return self._device_table(self.site_bandwidth, NO_LINK.bandwidth)

    @functools.cached_property
    def latency_s(self) -> NDArray[np.float64]:
        """``[num_devices, num_devices]`` seconds of `path` (0 on the diagonal)."""
        return self._device_table(self.site_latency_s, 0.0)

    def _site_table(self, between_hosts: NDArray[np.float64], of: Callable[[Link], float]) -> NDArray[np.float64]:
        host = np.repeat(np.arange(len(self.hosts)), self.sites_on)
        table = np.where(host[:, None] == host, 0.0, between_hosts[np.ix_(host, host)])
        for h, first in zip(self.hosts, np.cumsum(self.sites_on) - self.sites_on, strict=True):
            sites = h.sites()
            two_of_each = [d for d, site in enumerate(sites) if sites[:d].count(site) < 2]
            for i, j in itertools.permutations(two_of_each, 2):
                table[first + sites[i], first + sites[j]] = of(h.path(i, j) or NO_LINK)
        return table

    def _device_table(self, table: NDArray[np.float64], itself: float) -> NDArray[np.float64]:
        out = table[np.ix_(self.site_index, self.site_index)]
        np.fill_diagonal(out, itself)
        return out

    def subset(self, device_ids: Sequence[int], name: str = "") -> Cluster:
        """The cluster that is left when only `device_ids` are (they are numbered anew, in order)."""
        keep = sorted(set(device_ids))
        if not keep or keep[0] < 0 or keep[-1] >= self.num_devices:
            raise ClusterError(f"devices {keep} are not all in cluster {self.name!r} with {self.num_devices} devices")
        hosts = []
        for i, h in enumerate(self.hosts):
            left = [d - int(self.first_device[i]) for d in keep if self.devices[d].host == i]
            if left:
                groups = [(tuple(left.index(d) for d in g.devices if d in left), g.link) for g in h.links]
                links = tuple(GroupLink(members, link) for members, link in groups if len(members) > 1)
                hosts.append(dataclasses.replace(h, devices=tuple(h.devices[d] for d in left), links=links))
        return Cluster(name or f"{self.name}-{len(keep)}", self.device_types, tuple(hosts))
