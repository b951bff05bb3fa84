"""The YAML form of a cluster (``schema_version`` 1): reading with clear errors, and writing back.

Plain numbers are SI; strings with a unit are accepted for every quantity. Unknown keys are errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from drlpp import units
from drlpp.cluster.cluster import Cluster, DeviceType, GroupLink, Host, Link
from drlpp.cluster.devices import REFERENCE_PRESET, device_preset
from drlpp.errors import ClusterError, InputError
from drlpp.files import read_text
from drlpp.parsing import first_problem, kind_of, parse_yaml

SCHEMA_VERSION = 1

Bytes = Annotated[int, BeforeValidator(units.parse_bytes), Field(gt=0)]
Bandwidth = Annotated[float, BeforeValidator(units.parse_bandwidth), Field(gt=0)]
Seconds = Annotated[float, BeforeValidator(units.parse_time), Field(ge=0)]
Flops = Annotated[float, BeforeValidator(units.parse_flops), Field(gt=0)]


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Link(_Schema):
    bandwidth: Bandwidth
    latency: Seconds = 0.0


class _Network(_Link):
    ports: Annotated[int, Field(ge=1)] = 1


class _LinkInside(_Link):
    collective_step: Seconds = 0.0


class _GroupLink(_LinkInside):
    between: Annotated[list[list[int]], Field(min_length=1)]


class _DeviceType(_Schema):
    preset: str | None = None
    memory: Bytes | None = None
    speed: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    memory_bandwidth: Bandwidth | None = None
    peak_flops: dict[str, Flops] | None = None
    host_op_time: Seconds | None = None
    action_time: Seconds = 0.0


class _Host(_Schema):
    name: str
    count: Annotated[int, Field(ge=1)] = 1
    devices: Annotated[list[str], Field(min_length=1)]
    link: _LinkInside | None = None
    links: list[_GroupLink] = []
    network: _Network | None = None


class _Cluster(_Schema):
    schema_version: int
    name: str
    device_types: dict[str, _DeviceType] = {}
    hosts: Annotated[list[_Host], Field(min_length=1)]


_KEYS = sorted(
    {key for schema in (_Cluster, _Host, _DeviceType, _Network, _LinkInside, _GroupLink) for key in schema.model_fields}
)


def cluster_from_dict(data: object, where: str = "cluster") -> Cluster:
    """Builds a cluster from the YAML form. Raises ClusterError that names the place, the value and the rule."""
    if not isinstance(data, Mapping):
        raise ClusterError(f"{where}: found {kind_of(data)}: a cluster is a mapping with name, device_types and hosts")
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ClusterError(f"{where}: schema_version is {version!r}: write schema_version: {SCHEMA_VERSION}")
    try:
        parsed = _Cluster.model_validate(data)
    except ValidationError as error:
        raise ClusterError(f"{where}: {first_problem(error, _KEYS)}") from error
    try:
        types = [_device_type(name, spec) for name, spec in parsed.device_types.items()]
        used = [t for h in parsed.hosts for t in h.devices if t not in parsed.device_types]
        types += [device_preset(name) for name in dict.fromkeys(used)]
        return Cluster(parsed.name, tuple(types), tuple(_hosts(parsed.hosts)))
    except ClusterError as error:
        raise ClusterError(f"{where}: {error}") from error


def _device_type(name: str, spec: _DeviceType) -> DeviceType:
    base = device_preset(spec.preset) if spec.preset else None
    if base is None and spec.memory is None:
        raise ClusterError(f"device type {name!r} has neither preset nor memory: give one of them")
    if base is None and spec.speed is None and spec.peak_flops is None:
        raise ClusterError(f"device type {name!r} has no speed: give preset, speed or peak_flops with memory_bandwidth")
    if spec.peak_flops is not None and base is None and spec.memory_bandwidth is None:
        raise ClusterError(f"device type {name!r} has peak_flops without memory_bandwidth: give both")
    peaks = {**(dict(base.peak_flops) if base else {}), **(spec.peak_flops or {})}
    float32 = peaks.get("float32") or max(peaks.values(), default=0.0)
    from_peak = float32 / device_preset(REFERENCE_PRESET).peak("float32") if float32 else 1.0
    memory = spec.memory if spec.memory is not None else (base.memory_bytes if base else 0)
    bandwidth = spec.memory_bandwidth if spec.memory_bandwidth is not None else (base.memory_bandwidth if base else 0.0)
    return DeviceType(
        name=name,
        memory_bytes=memory,
        speed=spec.speed if spec.speed is not None else from_peak,
        peak_flops=tuple(peaks.items()),
        memory_bandwidth=bandwidth,
        preset=spec.preset or "",
        speed_is_given=spec.speed is not None,
        source=base.source if base else "cluster file",
        host_op_s=spec.host_op_time if spec.host_op_time is not None else (base.host_op_s if base else 0.0),
        action_s=spec.action_time,
    )


def _hosts(specs: list[_Host]) -> list[Host]:
    hosts = []
    for spec in specs:
        for i in range(spec.count):
            hosts.append(
                Host(
                    name=spec.name if spec.count == 1 else f"{spec.name}{i}",
                    devices=tuple(spec.devices),
                    link=_link(spec.link) if spec.link else None,
                    links=tuple(
                        GroupLink(tuple(sorted(group)), _link(entry)) for entry in spec.links for group in entry.between
                    ),
                    network=_network(spec.network) if spec.network else None,
                )
            )
    return hosts


def _link(spec: _LinkInside) -> Link:
    return Link(bandwidth=spec.bandwidth, latency_s=spec.latency, step_s=spec.collective_step)


def _network(spec: _Network) -> Link:
    return Link(bandwidth=spec.bandwidth * spec.ports, latency_s=spec.latency, ports=spec.ports)


def cluster_to_dict(cluster: Cluster) -> dict[str, Any]:
    """The YAML form in plain SI numbers; `cluster_from_dict` gives the same cluster back."""
    types: dict[str, Any] = {}
    for t in cluster.device_types:
        entry: dict[str, Any] = {"memory": t.memory_bytes}
        if t.preset:
            entry["preset"] = t.preset
        if t.speed_is_given:
            entry["speed"] = t.speed
        if t.peak_flops:
            entry["peak_flops"] = dict(t.peak_flops)
        if t.memory_bandwidth:
            entry["memory_bandwidth"] = t.memory_bandwidth
        if t.host_op_s != (device_preset(t.preset).host_op_s if t.preset else 0.0):
            entry["host_op_time"] = t.host_op_s
        if t.action_s:
            entry["action_time"] = t.action_s
        types[t.name] = entry
    hosts = []
    for h in cluster.hosts:
        host: dict[str, Any] = {"name": h.name, "devices": list(h.devices)}
        for key, link in (("link", h.link), ("network", h.network)):
            if link is not None:
                host[key] = _link_to_dict(link)
        if h.links:
            host["links"] = [
                {
                    "between": [list(group.devices) for group in h.links if group.link == link],
                    **_link_to_dict(link),
                }
                for link in dict.fromkeys(group.link for group in h.links)
            ]
        hosts.append(host)
    return {"schema_version": SCHEMA_VERSION, "name": cluster.name, "device_types": types, "hosts": hosts}


def _link_to_dict(link: Link) -> dict[str, Any]:
    data: dict[str, Any] = {"bandwidth": link.bandwidth / link.ports, "latency": link.latency_s}
    if link.step_s:
        data["collective_step"] = link.step_s
    if link.ports > 1:
        data["ports"] = link.ports
    return data


def load_cluster_file(path: Path) -> Cluster:
    """Reads a cluster from a YAML file. Raises ClusterError with file, place, value and rule in one line."""
    try:
        text = read_text(path, "cluster file")
    except InputError as error:
        raise ClusterError(str(error)) from error
    return cluster_from_dict(parse_yaml(text, str(path), ClusterError), str(path))
