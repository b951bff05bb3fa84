"""Clusters of published runs: what their text says of devices, hosts, links and network cards."""

from __future__ import annotations

import dataclasses
import functools

from drlpp.cluster import NCCL_STEP_S, Cluster, Host, Link, device_preset
from truth.rows import UnreadableError

DEVICES = {
    "A100-80GB SXM": "a100-sxm4-80gb",
    "A100-80": "a100-sxm4-80gb",
    "A100-80GB": "a100-sxm4-80gb",
    "A100-40GB": "a100-sxm4-40gb",
    "A100-40": "a100-sxm4-40gb",
    "H100": "h100-sxm5-80gb",
    "H100-80GB": "h100-sxm5-80gb",
    "H200": "h200-sxm-141gb",
    "GB200": "gb200-186gb",
    "B200": "b200-sxm-180gb",
}
"""Names in the tables -> rows of the device database."""
_INSIDE = {"a100": 200e9, "h100": 350e9, "h200": 350e9, "gb200": 600e9, "b200": 600e9}
"""Bytes per second that collectives reach on NVLink, by the start of a device's name."""
_LATENCY_S = {"h100": 5e-6, "h200": 5e-6}
"""Of a message inside, where it is not 8 us."""
_NETWORK = {"a100": 8 * 25e9, "h100": 8 * 50e9, "h200": 8 * 50e9, "gb200": 4 * 50e9, "b200": 8 * 50e9}
"""Bytes per second of all network cards of a host."""

MEGATRON_HOST_S = 6.5e-5
"""Seconds of the host per kernel in the modules of Megatron-LM of 2021 to 2023 (Aceso, vTrain).

Aceso timed them one by one: small layers of GPT (350M, one sample) take 0.9 ms forward and 1.5 ms backward whatever
their size, and have 13 kernels forward and 24 backward in our graph.
"""


@functools.lru_cache(maxsize=256)
def dgx_cluster(
    device: str,
    gpus: int,
    per_host: int,
    network: float = 0.0,
    host_s: float = MEGATRON_HOST_S,
    members: int = 1,
) -> Cluster:
    """Hosts of `per_host` equal GPUs on NVLink; `network` is in bytes per second per host, 0 for what is usual.

    With `members`, a GPU is one of a group whose members all do the same, with its share of the host's network.
    """
    kind = dataclasses.replace(device_preset(device), host_op_s=host_s)
    family = device.split("-")[0]
    if family not in _INSIDE:
        raise UnreadableError(f"links and network of hosts with {device} are not known")
    link = Link(bandwidth=_INSIDE[family], latency_s=_LATENCY_S.get(family, 8e-6), step_s=NCCL_STEP_S)
    port = Link(bandwidth=(network or _NETWORK[family]) / members, latency_s=5e-6)
    sizes = [per_host] * (gpus // per_host) + ([gpus % per_host] if gpus % per_host else [])
    hosts = tuple(Host(name=f"h{i}", devices=(kind.name,) * n, link=link, network=port) for i, n in enumerate(sizes))
    return Cluster(f"{device}x{gpus}", (kind,), hosts)
