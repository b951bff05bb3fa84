"""A cluster: devices of several types on hosts, and the links that join them.

Inside a host any two devices are joined by a link of the host's own (one channel per ordered pair). A host reaches
other hosts through its network, full duplex, that all its devices share: the bandwidths of its cards are added. Left
out: that a transfer alone uses one card only (it is up to `Link.ports` times too fast; eight devices that send at a
time are right); switches that are oversubscribed; topologies inside a host (rings, NVSwitch planes).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

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

        if not (math.isfinite(self.host_op_s) and self.host_op_s >= 0):
            raise ClusterError(
                f"device type {self.name!r}: host_op_time is {self.host_op_s} s: it must not be negative"
            )

    def peak(self, dtype: str) -> float:
        """FLOP per second for an element type; types that the device lacks run at the float32 rate."""
        peaks = dict(self.peak_flops)
        return peaks.get(dtype) or peaks.get("float32") or max(peaks.values(), default=0.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A channel: `bandwidth` in bytes per second, `latency_s` in seconds.

    Attributes:
        bandwidth: of all ports together.
        ports: network cards that a host has for it.
    """

    bandwidth: float
    latency_s: float = 0.0
    ports: int = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bandwidth) and self.bandwidth > 0):
            raise ClusterError(f"a link's bandwidth is {self.bandwidth} B/s: it must be positive")
        if not (math.isfinite(self.latency_s) and self.latency_s >= 0):
            raise ClusterError(f"a link's latency is {self.latency_s} s: it must not be negative")
        if self.ports < 1:
            raise ClusterError(f"a link has {self.ports} ports: it must have at least 1")


NO_LINK = Link(bandwidth=1e30)
"""What joins devices that need no channel: a device with itself, and the devices of a host or cluster of one."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine: names of the types of its devices, the link between them, and its network port.

    `link` may be None on a host with one device, `network` in a cluster with one host.
    """

    name: str
    devices: tuple[str, ...]
    link: Link | None = None
    network: Link | None = None


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
            if len(h.devices) > 1 and h.link is None:
                raise ClusterError(
                    f"cluster {self.name!r}, host {h.name!r} has {len(h.devices)} devices: give it a link"
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
    def host_index(self) -> NDArray[np.int64]:
        """``[num_devices]`` index into `hosts`."""
        return np.array([d.host for d in self.devices], dtype=np.int64)

    @functools.cached_property
    def memory_bytes(self) -> NDArray[np.float64]:
        """``[num_devices]`` memory of each device."""
        return np.array([d.type.memory_bytes for d in self.devices], dtype=np.float64)

    def path(self, src: int, dst: int) -> Link:
        """The channel from one device to another: the host's link, or the smaller port and both latencies."""
        a, b = self.hosts[self.devices[src].host], self.hosts[self.devices[dst].host]
        if a is b:
            return a.link if src != dst and a.link else NO_LINK
        if a.network is None or b.network is None:  # excluded at construction
            raise ClusterError(f"hosts {a.name!r} and {b.name!r} are not connected")
        return Link(
            bandwidth=min(a.network.bandwidth, b.network.bandwidth),
            latency_s=a.network.latency_s + b.network.latency_s,
        )

    @functools.cached_property
    def host_bandwidth(self) -> NDArray[np.float64]:
        """``[hosts, hosts]`` bytes per second of `path` between two of their devices; 0 where there are no two."""
        ports = [h.network.bandwidth if h.network else 0.0 for h in self.hosts]
        return self._host_table(
            np.minimum.outer(ports, ports), [h.link.bandwidth if h.link else 0.0 for h in self.hosts]
        )

    @functools.cached_property
    def host_latency_s(self) -> NDArray[np.float64]:
        """``[hosts, hosts]`` seconds of `path` between two of their devices; 0 where there are no two."""
        ports = [h.network.latency_s if h.network else 0.0 for h in self.hosts]
        return self._host_table(np.add.outer(ports, ports), [h.link.latency_s if h.link else 0.0 for h in self.hosts])

    @functools.cached_property
    def bandwidth(self) -> NDArray[np.float64]:
        """``[num_devices, num_devices]`` bytes per second of `path` (that of `NO_LINK` on the diagonal)."""
        return self._device_table(self.host_bandwidth, NO_LINK.bandwidth)

    @functools.cached_property
    def latency_s(self) -> NDArray[np.float64]:
        """``[num_devices, num_devices]`` seconds of `path` (0 on the diagonal)."""
        return self._device_table(self.host_latency_s, 0.0)

    def _host_table(self, between: NDArray[np.float64], inside: Sequence[float]) -> NDArray[np.float64]:
        devices = np.array([len(h.devices) for h in self.hosts])
        table = np.where(np.minimum.outer(devices, devices) > 0, between, 0.0)
        np.fill_diagonal(table, np.where(devices > 1, inside, 0.0))
        return table

    def _device_table(self, table: NDArray[np.float64], itself: float) -> NDArray[np.float64]:
        out = table[np.ix_(self.host_index, self.host_index)]
        np.fill_diagonal(out, itself)
        return out

    def subset(self, device_ids: Sequence[int], name: str = "") -> Cluster:
        """The cluster that is left when only `device_ids` are (they are numbered anew, in order)."""
        keep = sorted(set(device_ids))
        if not keep or keep[0] < 0 or keep[-1] >= self.num_devices:
            raise ClusterError(f"devices {keep} are not all in cluster {self.name!r} with {self.num_devices} devices")
        hosts = []
        for i, h in enumerate(self.hosts):
            left = tuple(self.devices[d].type.name for d in keep if self.devices[d].host == i)
            if left:
                hosts.append(dataclasses.replace(h, devices=left))
        return Cluster(name or f"{self.name}-{len(keep)}", self.device_types, tuple(hosts))
