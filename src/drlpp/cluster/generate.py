"""Generated clusters: for pre-training and benchmarks. Device types come from the database; links are drawn."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from drlpp.cluster.cluster import NCCL_STEP_S, Cluster, DeviceType, Host, Link
from drlpp.cluster.devices import device_preset
from drlpp.errors import ClusterError
from drlpp.generator_spec import make_generated

_FAMILIES = (
    ("p100-pcie-16gb", "v100-pcie-16gb", "t4-16gb", "v100-sxm2-32gb"),
    ("gtx1080ti-11gb", "rtx2080ti-11gb", "rtx3090-24gb", "rtx4090-24gb"),
    ("v100-sxm2-16gb", "a100-sxm4-40gb", "a100-sxm4-80gb", "h100-sxm5-80gb"),
    ("t4-16gb", "a10-24gb", "l4-24gb", "l40s-48gb", "a100-pcie-80gb"),
)
_LINKS = (6e9, 12e9, 24e9, 50e9, 150e9, 300e9, 450e9)
_NETWORK = Link(bandwidth=1.25e9, latency_s=3e-5)
"""Between the copies of a single host: 10 Gbit/s."""
_NETWORKS = (0.125e9, 1.25e9, 1.25e9, 3.125e9, 6.25e9, 12.5e9, 25e9, 50e9)


def _types(rng: np.random.Generator, number: int) -> list[DeviceType]:
    """Distinct device types of one family, or one type at drawn speeds."""
    family = _FAMILIES[rng.integers(len(_FAMILIES))]
    if rng.random() < 0.3:
        base = device_preset(str(rng.choice(family)))
        return [
            dataclasses.replace(
                base, name=f"{base.name}-{i}", speed=float(2 ** rng.uniform(-2, 1)), speed_is_given=True
            )
            for i in range(number)
        ]
    return [device_preset(str(name)) for name in rng.choice(family, size=min(number, len(family)), replace=False)]


def _link(rng: np.random.Generator) -> Link:
    return Link(bandwidth=float(rng.choice(_LINKS)), latency_s=float(rng.choice([5e-6, 1e-5])))


def _network(rng: np.random.Generator) -> Link:
    return Link(bandwidth=float(rng.choice(_NETWORKS)), latency_s=float(rng.choice([5e-6, 3e-5])))


def one_host(rng: np.random.Generator) -> Cluster:
    """2 to 8 equal devices on one host."""
    (kind,) = _types(rng, 1)
    size = int(rng.integers(2, 9))
    return Cluster("one-host", (kind,), (Host(name="h", devices=(kind.name,) * size, link=_link(rng)),))


def two_tier(rng: np.random.Generator) -> Cluster:
    """Equal hosts of equal devices on a network."""
    (kind,) = _types(rng, 1)
    link, network, size = _link(rng), _network(rng), int(rng.choice([1, 2, 4, 8]))
    number = int(rng.integers(2, {1: 9, 2: 9, 4: 9, 8: 5}[size]))
    hosts = tuple(Host(name=f"h{i}", devices=(kind.name,) * size, link=link, network=network) for i in range(number))
    return Cluster("two-tier", (kind,), hosts)


def mixed_hosts(rng: np.random.Generator) -> Cluster:
    """Hosts of equal devices, of a different type from host to host."""
    types = _types(rng, int(rng.integers(2, 4)))
    hosts = []
    for i in range(int(rng.integers(2, 6))):
        kind = types[i % len(types)] if i < len(types) else types[rng.integers(len(types))]
        size = int(rng.choice([1, 2, 2, 4, 4, 8]))
        hosts.append(Host(name=f"h{i}", devices=(kind.name,) * size, link=_link(rng), network=_network(rng)))
    return Cluster("mixed-hosts", tuple(types), tuple(hosts))


def mixed_in_host(rng: np.random.Generator) -> Cluster:
    """One or two hosts with devices of several types beside each other."""
    types = _types(rng, int(rng.integers(2, 4)))
    hosts = []
    for i in range(int(rng.integers(1, 3))):
        devices = [t.name for t in types] + [
            str(rng.choice([t.name for t in types])) for _ in range(rng.integers(0, 5))
        ]
        hosts.append(Host(name=f"h{i}", devices=tuple(sorted(devices)), link=_link(rng), network=_network(rng)))
    return Cluster("mixed-in-host", tuple(types), tuple(hosts))


def desktops(rng: np.random.Generator) -> Cluster:
    """Hosts with one or two devices each, of any type, on a slow network."""
    types = _types(rng, int(rng.integers(2, 4)))
    network = Link(bandwidth=float(rng.choice([0.125e9, 0.3125e9, 1.25e9])), latency_s=5e-5)
    hosts = []
    for i in range(int(rng.integers(2, 7))):
        kind = types[i % len(types)] if i < len(types) else types[rng.integers(len(types))]
        size = int(rng.integers(1, 3))
        hosts.append(Host(name=f"h{i}", devices=(kind.name,) * size, link=_link(rng), network=network))
    return Cluster("desktops", tuple(types), tuple(hosts))


def uneven_hosts(rng: np.random.Generator) -> Cluster:
    """Equal devices, more of them on one host than on another."""
    (kind,) = _types(rng, 1)
    link, network = _link(rng), _network(rng)
    sizes = rng.integers(1, 7, size=int(rng.integers(2, 6)))
    if len(set(sizes.tolist())) == 1:
        sizes[0] += 1
    hosts = tuple(
        Host(name=f"h{i}", devices=(kind.name,) * int(size), link=link, network=network) for i, size in enumerate(sizes)
    )
    return Cluster("uneven-hosts", (kind,), hosts)


def racks(rng: np.random.Generator) -> Cluster:
    """Two to four kinds of hosts of 4 or 8 equal devices, 16 to 512 devices in all, not as many of each kind."""
    return _racks(rng, "racks", mixed=False)


def mixed_racks(rng: np.random.Generator) -> Cluster:
    """The same with two types of device beside each other in each host."""
    return _racks(rng, "mixed-racks", mixed=True)


def _racks(rng: np.random.Generator, name: str, mixed: bool) -> Cluster:
    types = _types(rng, int(rng.integers(2, 5)))
    size, number = int(rng.choice([4, 8, 8])), round(2 ** rng.uniform(2, 6))
    part = rng.dirichlet(np.full(len(types), 3.0))
    hosts = []
    for i, kind in enumerate(types):
        other = types[(i + 1) % len(types)] if mixed else kind
        devices = (kind.name,) * (size // 2) + (other.name,) * (size - size // 2)
        bandwidth = float(rng.choice(_LINKS))
        link = Link(bandwidth=bandwidth, latency_s=8e-6, step_s=NCCL_STEP_S)
        ports = int(rng.choice([1, 2, 4]))
        network = Link(bandwidth=ports * float(rng.choice(_NETWORKS[3:])), latency_s=1e-5, ports=ports)
        alike = max(1, round(number * part[i]))
        hosts += [Host(name=f"h{i}-{k}", devices=devices, link=link, network=network) for k in range(alike)]
    return Cluster(name, tuple(types), tuple(hosts))


CLUSTER_KINDS: dict[str, Callable[[np.random.Generator], Cluster]] = {
    "one-host": one_host,
    "two-tier": two_tier,
    "mixed-hosts": mixed_hosts,
    "mixed-in-host": mixed_in_host,
    "desktops": desktops,
    "uneven-hosts": uneven_hosts,
    "racks": racks,
    "mixed-racks": mixed_racks,
}
"""Name -> generator of a cluster of 2 to 40 devices, of racks up to 512."""


def half_and_half(devices: int) -> Cluster:
    """Hosts of 8 devices (4 where there are 8 in all): half with A100 and 100 Gbit/s, half with V100 and 25 Gbit/s."""
    size = 4 if devices < 16 else 8
    if devices < 8 or devices % (2 * size):
        raise ClusterError(f"half-and-half of {devices} devices: their number must be 8 or a multiple of 16")
    count = devices // size // 2
    kinds = [device_preset("a100-sxm4-80gb"), device_preset("v100-sxm2-32gb")]
    links = [Link(bandwidth=300e9, latency_s=5e-6), Link(bandwidth=150e9, latency_s=5e-6)]
    networks = [Link(bandwidth=12.5e9, latency_s=1e-5), Link(bandwidth=3.125e9, latency_s=1e-5)]
    hosts = tuple(
        Host(name=f"{kind.name}-{i}", devices=(kind.name,) * size, link=link, network=network)
        for kind, link, network in zip(kinds, links, networks, strict=True)
        for i in range(count)
    )
    return Cluster(f"half-{devices}", tuple(kinds), hosts)


def dgx_h100(devices: int) -> Cluster:
    """Hosts of 8 H100 on NVLink 4, with 8 cards of 400 Gbit/s each, at the rates that NCCL reaches."""
    if devices < 8 or devices % 8:
        raise ClusterError(f"dgx-h100 of {devices} devices: their number must be a multiple of 8")
    kind = device_preset("h100-sxm5-80gb")
    link = Link(bandwidth=350e9, latency_s=5e-6, step_s=NCCL_STEP_S)
    network = Link(bandwidth=8 * 36e9, latency_s=5e-6, ports=8)
    hosts = tuple(
        Host(name=f"dgx-{i}", devices=(kind.name,) * 8, link=link, network=network) for i in range(devices // 8)
    )
    return Cluster(f"dgx-h100-{devices}", (kind,), hosts)


_POD = (
    ("h100-sxm5-80gb", 350e9, 36e9),
    ("a100-sxm4-80gb", 200e9, 22e9),
    ("l40s-48gb", 24e9, 11e9),
    ("a10-24gb", 12e9, 5.5e9),
)
"""Device, bandwidth of its links inside a host, and of its network per device: as NCCL reaches on such hosts."""


def pods(devices: int, kinds: int = 2, first: int = 0, mixed: int = 0) -> Cluster:
    """Hosts of 8 equal devices, as many of each of 2 to 4 kinds (`_POD`, from number `first` on), one network card for
    every two devices; with `mixed`, hosts have four of one kind beside four of the next, on the links of the slower.
    """
    if not 2 <= kinds <= len(_POD) or devices < 8 * kinds or devices % (8 * kinds) or first + kinds > len(_POD):
        raise ClusterError(
            f"pods of {devices} devices of {kinds} kinds from {first} on: there are {len(_POD)} kinds, take 2 or more "
            "of them, and a multiple of 8 devices of each"
        )
    chosen = _POD[first : first + kinds]
    hosts = []
    for i, own in enumerate(chosen):
        pair = (own, chosen[(i + 1) % kinds]) if mixed else (own, own)
        link = Link(bandwidth=min(bandwidth for _, bandwidth, _ in pair), latency_s=8e-6, step_s=NCCL_STEP_S)
        network = Link(bandwidth=8 * min(port for _, _, port in pair), latency_s=5e-6, ports=4)
        inside = (pair[0][0],) * 4 + (pair[1][0],) * 4
        hosts += [
            Host(name=f"{own[0]}-{k}", devices=inside, link=link, network=network) for k in range(devices // 8 // kinds)
        ]
    types = tuple(device_preset(name) for name, _, _ in chosen)
    return Cluster(f"pods-{devices}x{kinds}", types, tuple(hosts))


def drawn(kind: str, seed: int = 0, copies: int = 1) -> Cluster:
    """A cluster of a kind, as the seed draws it; with `copies`, that many of each host."""
    cluster = CLUSTER_KINDS[kind](np.random.default_rng(seed))
    if copies < 1:
        raise ClusterError(f"{kind} with {copies} copies of each host: there must be at least 1")
    if copies == 1:
        return cluster
    hosts = tuple(
        dataclasses.replace(host, name=f"{host.name}-{i}", network=host.network or _NETWORK)
        for i in range(copies)
        for host in cluster.hosts
    )
    return Cluster(f"{cluster.name}-x{copies}", cluster.device_types, hosts)


MAKERS: dict[str, Callable[..., Cluster]] = {
    **{name: functools.partial(drawn, name) for name in CLUSTER_KINDS},
    "half-and-half": half_and_half,
    "dgx-h100": dgx_h100,
    "pods": pods,
}
"""Name -> maker; its parameters are the options."""


def generated_cluster(spec: str) -> Cluster:
    """The cluster that ``generated:NAME?key=number`` names. Raises ClusterError if there is none."""
    return make_generated(spec, MAKERS, ClusterError)
