"""Costs as runs measured them: a graph with the time of every op on every type of device, and a cluster.

Devices of one type that turned out unequal get types of their own: `TYPE-1`, `TYPE-2`, ...
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from drlpp.cluster import Cluster, DeviceType
from drlpp.cost.calibration.fit import Calibration, scaled_links
from drlpp.cost.op_times import op_times
from drlpp.graph import Edge, Op, OpGraph, OpTimes
from drlpp.plan import Plan

ALIKE, SURE = 0.02, 3.0
"""Devices of a type stay of one type if their seconds differ by less than this part, or by less than so many standard
deviations of the difference."""


def calibrated_plan(plan: Plan, calibration: Calibration) -> Plan:
    """A plan of the same model on the same devices, with calibrated costs; its prediction is left out."""
    cluster, graph = calibrated_costs(calibration)
    return dataclasses.replace(plan, graph=graph, cluster=cluster, prediction=None)


def calibrated_costs(calibration: Calibration) -> tuple[Cluster, OpGraph]:
    """The cluster and the graph of a calibration, with corrected costs."""
    groups = _alike(calibration)
    calibration = _with_equal(calibration, [devices for mine in groups.values() for devices in mine])
    cluster = calibration.cluster
    taken = {t.name for t in cluster.device_types}
    type_of: dict[int, str] = {}
    types: list[DeviceType] = []
    for kind, device_type in enumerate(cluster.device_types):
        mine = groups.get(kind, [])
        if not mine:
            types.append(device_type)
        for number, devices in enumerate(mine, 1):
            name = device_type.name if len(mine) == 1 else _free(f"{device_type.name}-{number}", taken)
            types.append(_calibrated_type(calibration, device_type, name, devices))
            type_of |= dict.fromkeys(devices, name)
    linked = scaled_links(cluster, calibration.unknowns, calibration.posterior.mean)
    names = iter([type_of[d.id] for d in cluster.devices])
    hosts = tuple(dataclasses.replace(h, devices=tuple(next(names) for _ in h.devices)) for h in linked.hosts)
    new = Cluster(cluster.name, tuple(types), hosts)
    devices_of: dict[str, list[int]] = {}
    for d, name in type_of.items():
        devices_of.setdefault(name, []).append(d)
    return new, _graph(calibration, devices_of)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "x"
    taken.add(name)
    return name


def _alike(calibration: Calibration) -> dict[int, list[list[int]]]:
    """Type -> its devices, in lists of those that are alike, by the first device of each."""
    where, mean = calibration.unknowns, calibration.posterior.mean
    out: dict[int, list[list[int]]] = {}
    own = {d.id: float(mean[where.at("device", d.id)]) for d in calibration.cluster.devices}
    for group in calibration.together:  # members wait for each other, so they are alike as far as one can see
        own |= dict.fromkeys(group, sum(own[d] for d in group) / len(group))
    for d in sorted(own, key=lambda d: (own[d], d)):
        lists = out.setdefault(int(calibration.cluster.type_index[d]), [])
        if lists and own[d] - own[lists[-1][0]] <= _tolerance(calibration, lists[-1][0], d):
            lists[-1].append(d)
        else:
            lists.append([d])
    return {kind: sorted(sorted(devices) for devices in lists) for kind, lists in out.items()}


def _with_equal(calibration: Calibration, lists: Sequence[Sequence[int]]) -> Calibration:
    """The calibration if the devices of each list are equal: those that were measured better count more."""
    pairs = [pair for devices in lists for pair in itertools.pairwise(devices)]
    sums = np.zeros((len(pairs), len(calibration.posterior.mean)))
    for row, (a, b) in zip(sums, pairs, strict=True):
        row[calibration.unknowns.at("device", a)] = 1.0
        row[calibration.unknowns.at("device", b)] = -1.0
    return dataclasses.replace(calibration, posterior=calibration.posterior.given(sums))


def _tolerance(calibration: Calibration, a: int, b: int) -> float:
    difference = np.zeros(len(calibration.posterior.mean))
    difference[calibration.unknowns.at("device", a)] = 1.0
    difference[calibration.unknowns.at("device", b)] = -1.0
    return max(ALIKE, SURE * calibration.posterior.deviation(difference))


def _calibrated_type(calibration: Calibration, old: DeviceType, name: str, devices: list[int]) -> DeviceType:
    shares = np.bincount(calibration.unknowns.class_of_op, minlength=len(calibration.unknowns.classes))
    factors = [calibration.op_factor(devices, c).value for c in range(len(shares))]
    slower = float(np.exp(np.average(np.log(factors), weights=shares)))
    rates = [calibration.update_bandwidth[d] for d in devices if d in calibration.update_bandwidth]
    bandwidth = float(np.median(rates)) if rates else old.memory_bandwidth
    return dataclasses.replace(
        old,
        name=name,
        speed=old.speed / slower,
        speed_is_given=True,
        memory_bandwidth=bandwidth,
        source="calibrated",
        action_s=calibration.action_s.value,
    )


def _graph(calibration: Calibration, devices_of: dict[str, list[int]]) -> OpGraph:
    """The graph with the seconds of every op on each type; the devices of a type are taken for equal."""
    graph, cluster = calibration.graph, calibration.cluster
    table = op_times(graph, cluster)
    num_classes = len(calibration.unknowns.classes)
    columns: dict[str, list[tuple[float, float, float]]] = {}
    for name, devices in devices_of.items():
        kind = int(cluster.type_index[devices[0]])
        ahead = np.array([calibration.op_factor(devices, c).value for c in range(num_classes)])
        back = np.array([calibration.op_factor(devices, c, backward=True).value for c in range(num_classes)])
        forward, backward = ahead[calibration.unknowns.class_of_op], back[calibration.unknowns.class_of_op]
        parts = (
            table.forward_s[kind] * forward,
            table.input_grad_s[kind] * backward,
            table.weight_grad_s[kind] * backward,
        )
        columns[name] = list(zip(*(part.tolist() for part in parts), strict=True))
    edge = calibration.edge_factor().value if graph.has_transfer_times else 1.0
    return dataclasses.replace(
        graph,
        ops=tuple(
            _with_times(op, {name: OpTimes(*rows[i]) for name, rows in columns.items()})
            for i, op in enumerate(graph.ops)
        ),
        edges=tuple(_slower(e, edge) for e in graph.edges) if edge != 1.0 else graph.edges,
        slowdown=(),  # the seconds were measured with all devices at work
    )


def _with_times(op: Op, times: dict[str, OpTimes]) -> Op:
    return dataclasses.replace(op, times={**op.times, **times})


def _slower(edge: Edge, factor: float) -> Edge:
    return edge if edge.transfer_s is None else dataclasses.replace(edge, transfer_s=edge.transfer_s * factor)
