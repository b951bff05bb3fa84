"""Clusters: devices, hosts, links; the device database; presets; the YAML form."""

from drlpp.cluster.cluster import (
    NCCL_STEP_S,
    NO_LINK,
    Cluster,
    Device,
    DeviceGroup,
    DeviceType,
    GroupLink,
    Host,
    Link,
)
from drlpp.cluster.devices import device_preset, device_presets
from drlpp.cluster.presets import ClusterPreset, cluster_presets, load_cluster
from drlpp.cluster.schema import cluster_from_dict, cluster_to_dict

__all__ = [
    "NCCL_STEP_S",
    "NO_LINK",
    "Cluster",
    "ClusterPreset",
    "Device",
    "DeviceGroup",
    "DeviceType",
    "GroupLink",
    "Host",
    "Link",
    "cluster_from_dict",
    "cluster_presets",
    "cluster_to_dict",
    "device_preset",
    "device_presets",
    "load_cluster",
]
