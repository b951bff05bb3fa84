"""Named clusters, and `load_cluster`, which takes a preset's name or a YAML file.

Each preset's numbers name their source in its description. They are data in the YAML form, so `drlpp clusters`
can print one for a user to start from.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from drlpp.cluster.cluster import NCCL_STEP_S, Cluster
from drlpp.cluster.generate import generated_cluster
from drlpp.cluster.schema import SCHEMA_VERSION, cluster_from_dict, load_cluster_file
from drlpp.errors import ClusterError, did_you_mean
from drlpp.files import is_file
from drlpp.generator_spec import PREFIX


@dataclasses.dataclass(frozen=True, slots=True)
class ClusterPreset:
    """A named cluster: what it is, where its numbers come from, and its YAML form."""

    name: str
    description: str
    source: str
    spec: dict[str, Any]


def _preset(
    name: str, description: str, source: str, types: dict[str, Any], hosts: list[dict[str, Any]]
) -> ClusterPreset:
    spec = {"schema_version": SCHEMA_VERSION, "name": name, "device_types": types, "hosts": hosts}
    return ClusterPreset(name, description, source, spec)


def _host(
    name: str, devices: list[str], link: tuple[str, str], network: tuple[str, str], count: int = 1, ports: int = 1
) -> dict[str, Any]:
    return {
        "name": name,
        "count": count,
        "devices": devices,
        "link": {"bandwidth": link[0], "latency": link[1], "collective_step": NCCL_STEP_S},
        "network": {"bandwidth": network[0], "latency": network[1], "ports": ports},
    }


_PCIE3 = ("12GB/s", "10us")
_NVLINK2 = ("150GB/s", "5us")
_NVLINK3 = ("200GB/s", "8us")
_NVLINK4 = ("350GB/s", "5us")
_PCIE4 = ("24GB/s", "10us")
_ETHERNET10 = ("10Gbit/s", "30us")
_ETHERNET25 = ("25Gbit/s", "30us")

_PRESETS = [
    _preset(
        "paper-4x4-10gbe",
        "4 hosts with 4 V100 each (PCIe 3.0 x16), 10 Gbit/s Ethernet: close to the DRL-PP and PipeDream papers",
        "PCIe 3.0 x16: 15.75 GB/s nominal, about 12 GB/s reached; Ethernet nominal; PipeDream (SOSP'19), cluster A",
        {"v100": {"preset": "v100-pcie-16gb"}},
        [_host("host", ["v100"] * 4, _PCIE3, _ETHERNET10, 4)],
    ),
    _preset(
        "paper-2x8-25gbe",
        "2 hosts with 8 V100 each (NVLink), 25 Gbit/s Ethernet: cluster B of the PipeDream paper",
        "PipeDream (SOSP'19), cluster B (AWS p3.16xlarge); NVLink 2 data sheet: 300 GB/s in both directions together",
        {"v100": {"preset": "v100-sxm2-16gb"}},
        [_host("host", ["v100"] * 8, _NVLINK2, _ETHERNET25, 2)],
    ),
    _preset(
        "nvlink-ib-2x8-a100",
        "2 hosts with 8 A100 80 GB each (NVLink 3), 8 x 200 Gbit/s InfiniBand per host",
        "NVLink 3: 300 GB/s in one direction nominal, 200 GB/s reached by NCCL (vTrain, Vidur); InfiniBand nominal",
        {"a100": {"preset": "a100-sxm4-80gb"}},
        [_host("dgx", ["a100"] * 8, _NVLINK3, ("200Gbit/s", "5us"), 2, ports=8)],
    ),
    _preset(
        "nvlink-ib-4x8-h100",
        "4 hosts with 8 H100 each (NVLink 4), 8 x 400 Gbit/s InfiniBand per host",
        "NVLink 4: 450 GB/s in one direction nominal, 350 GB/s reached by NCCL (AIConfigurator, Vidur); a card of 400 "
        "Gbit/s: 36 GB/s reached by one flow (Vidur)",
        {"h100": {"preset": "h100-sxm5-80gb"}},
        [_host("dgx", ["h100"] * 8, _NVLINK4, ("36GB/s", "5us"), 4, ports=8)],
    ),
    _preset(
        "mixed-a100-v100-t4",
        "three generations on 25/10 Gbit/s Ethernet: a host with 2 A100, one with 4 V100, one with 2 T4",
        "data sheets of devices and of NVLink 2; NVLink 3 and PCIe 3.0 as reached (vTrain, Vidur); Ethernet nominal",
        {"a100": {"preset": "a100-sxm4-40gb"}, "v100": {"preset": "v100-sxm2-16gb"}, "t4": {"preset": "t4-16gb"}},
        [
            _host("new", ["a100"] * 2, _NVLINK3, _ETHERNET25),
            _host("old", ["v100"] * 4, _NVLINK2, _ETHERNET25),
            _host("small", ["t4"] * 2, _PCIE3, _ETHERNET10),
        ],
    ),
    _preset(
        "mixed-desktops",
        "three desktops on 10 Gbit/s Ethernet: RTX 4090, RTX 3090 and two GTX 1080 Ti",
        "NVIDIA specifications; PCIe about 12 GB/s (3.0) and 24 GB/s (4.0) reached; Ethernet nominal",
        {
            "rtx4090": {"preset": "rtx4090-24gb"},
            "rtx3090": {"preset": "rtx3090-24gb"},
            "gtx1080ti": {"preset": "gtx1080ti-11gb"},
        },
        [
            _host("a", ["rtx4090"], _PCIE4, _ETHERNET10),
            _host("b", ["rtx3090"], _PCIE4, _ETHERNET10),
            _host("c", ["gtx1080ti"] * 2, _PCIE3, _ETHERNET10),
        ],
    ),
    _preset(
        "local-2",
        "two processes on this machine's CPU, joined by loopback: for trying things out",
        "order of magnitude; `drlpp profile` measures the real times of a model here",
        {"cpu": {"preset": "cpu-core"}},
        [{"name": "localhost", "devices": ["cpu", "cpu"], "link": {"bandwidth": "1GB/s", "latency": "200us"}}],
    ),
    _preset(
        "local-4",
        "four processes on this machine's CPU, joined by loopback: for trying things out",
        "order of magnitude; `drlpp profile` measures the real times of a model here",
        {"cpu": {"preset": "cpu-core"}},
        [{"name": "localhost", "devices": ["cpu"] * 4, "link": {"bandwidth": "1GB/s", "latency": "200us"}}],
    ),
]


def cluster_presets() -> dict[str, ClusterPreset]:
    """Name -> preset."""
    return {p.name: p for p in _PRESETS}


def load_cluster(name_or_path: str) -> Cluster:
    """A preset by name, a generated cluster (``generated:desktops?seed=3``), or the cluster of a YAML file.

    Raises:
        ClusterError: neither a preset nor a readable, valid file, or nothing is generated by that name.
    """
    if name_or_path.startswith(PREFIX):
        return generated_cluster(name_or_path)
    presets = cluster_presets()
    if name_or_path in presets:
        return cluster_from_dict(presets[name_or_path].spec, name_or_path)
    path = Path(name_or_path)
    if not is_file(path) and path.suffix not in (".yaml", ".yml"):
        raise ClusterError(
            f"cluster {name_or_path!r} is neither a preset nor a file: {did_you_mean(name_or_path, presets)}presets "
            f"are {', '.join(presets)}; a file is YAML (see docs/cluster.md)"
        )
    return load_cluster_file(path)
