"""Fits the unknowns of `parameters` to what runs measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import Cluster, Link
from drlpp.cost.calibration.measured import Measurements, Seconds
from drlpp.cost.calibration.parameters import INSIDE, NETWORK, SHORTEST_LATENCY_S, Floats, Unknowns, unknowns
from drlpp.cost.calibration.regression import Posterior, fit
from drlpp.cost.collectives import all_reduce_s
from drlpp.cost.links import transfer_s
from drlpp.cost.op_times import op_times
from drlpp.cost.optimizer_state import OPTIMIZER_PASSES
from drlpp.cost.stage_costs import costs_of_plan
from drlpp.errors import InputError
from drlpp.graph import OpGraph

MISFIT, ACTION_MISFIT = 0.02, 0.05
"""Parts by which times of messages, and of the action with the most ops, are off besides: ops of one class are not
equally far from what the database says. The fewer ops an action has, the more chance counts."""
SHORTEST_UPDATE = 1e-3
"""An optimizer's step that takes a smaller part of a step says nothing of the device."""
_ACTION_PART = 0.003
"""Part of the typical action that is taken for its overhead, before anything is measured."""


@dataclasses.dataclass(frozen=True, slots=True)
class Factor:
    """What seconds are multiplied by.

    Attributes:
        value: the factor.
        deviation: its relative standard deviation.
    """

    value: float
    deviation: float


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What runs say of the costs of a model on a cluster.

    Attributes:
        graph, cluster: with the costs that are corrected.
        unknowns, posterior: see there.
        action_s: seconds that an action takes besides its ops, and their relative deviation.
        update_bandwidth: device -> bytes per second that the optimizer's step reached; of devices that took one.
        counts: how many actions, transfers and all-reduces were measured.
    """

    graph: OpGraph
    cluster: Cluster
    unknowns: Unknowns
    posterior: Posterior
    action_s: Factor
    update_bandwidth: dict[int, float]
    counts: dict[str, int]

    def op_factor(self, devices: Sequence[int], op_class: int, *, backward: bool = False) -> Factor:
        """Of ops of a class (index into `Unknowns.classes`) on devices of one type, on average over these."""
        kind = int(self.cluster.type_index[devices[0]])
        direction = np.zeros(len(self.posterior.mean))
        for d in devices:
            direction[self.unknowns.positions_of_op_factor(kind, d, op_class, backward=backward)] += 1 / len(devices)
        return self._factor(direction)

    def wire_factor(self, scope: str, host: int) -> Factor:
        """Of seconds per byte of the links inside a host, or of its network."""
        return self._factor(self._sum(self.unknowns.positions_of_wire(scope, host)))

    def latency_factor(self, scope: str, host: int) -> Factor:
        """Of their latency."""
        return self._factor(self._sum([self.unknowns.at("latency", self.unknowns.link_kind[scope, host])]))

    def edge_factor(self) -> Factor:
        """Of the transfer times that the graph carries."""
        return self._factor(self._sum([self.unknowns.at("edges")]))

    def _sum(self, positions: Sequence[int]) -> Floats:
        direction = np.zeros(len(self.posterior.mean))
        direction[list(positions)] = 1.0
        return direction

    def _factor(self, direction: Floats) -> Factor:
        return Factor(float(np.exp(direction @ self.posterior.mean)), self.posterior.deviation(direction))


def calibrate(measured: Sequence[Measurements]) -> Calibration:
    """Fits costs to what runs of plans of one model on one cluster measured.

    Raises:
        InputError: there are no measurements, or they are of several models or clusters.
    """
    if not measured:
        raise InputError("there is nothing to calibrate from: give the trace of at least one measured step")
    first = measured[0].plan
    for other in measured[1:]:
        if other.plan.cluster != first.cluster or other.plan.graph != first.graph:
            raise InputError("the measured plans are of several models or clusters: calibrate from one at a time")
    where = unknowns(first.graph, first.cluster)
    model = _Model(where, measured)
    posterior = fit(model.predict, model.measured, model.deviation, where.prior_deviation)
    overhead = where.at("action")
    direction = np.eye(len(posterior.mean))[overhead]
    return Calibration(
        graph=first.graph,
        cluster=first.cluster,
        unknowns=where,
        posterior=posterior,
        action_s=Factor(model.action_s * float(np.exp(posterior.mean[overhead])), posterior.deviation(direction)),
        update_bandwidth=_update_bandwidth(measured),
        counts={
            "actions": sum(a.seconds.count for m in measured for a in m.actions),
            "transfers": sum(t.seconds.count for m in measured for t in m.transfers),
            "all_reduces": sum(a.seconds.count for m in measured for a in m.all_reduces),
        },
    )


def _update_bandwidth(measured: Sequence[Measurements]) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for m in measured:
        passes = OPTIMIZER_PASSES[m.plan.training.optimizer]
        graph = m.plan.stage_graph
        for d, seconds in m.update_s.items():
            size = sum(float(graph.trained_bytes[s.index]) for s in m.plan.stages if d in s.devices)
            if size > 0 and passes > 0 and seconds.typical_s > SHORTEST_UPDATE * m.iteration_time_s:
                found.setdefault(d, []).append(passes * size / seconds.typical_s)
    return {d: float(np.median(rates)) for d, rates in found.items()}


class _Model:
    """Predicts the logarithms of all measurements from the unknowns."""

    def __init__(self, where: Unknowns, measured: Sequence[Measurements]) -> None:
        self._where = where
        self._cluster = measured[0].plan.cluster
        self._actions = _Actions(where, measured)
        self.action_s = self._actions.overhead_s
        self._transfers = [(t, m.plan) for m in measured for t in m.transfers]
        self._reduces = [a for m in measured for a in m.all_reduces if self._ring(m.plan.cluster, a.devices, a.bytes)]
        seconds: list[Seconds] = [a.seconds for m in measured for a in m.actions]
        seconds += [t.seconds for t, _ in self._transfers] + [a.seconds for a in self._reduces]
        self.measured = np.log([s.typical_s for s in seconds])
        misfit = np.full(len(seconds), MISFIT)
        misfit[: len(self._actions.misfit)] = self._actions.misfit
        self.deviation = np.hypot([s.deviation for s in seconds], misfit)
        self._fixed = self._edges()

    def predict(self, parameters: Floats) -> Floats:
        """``[P]`` -> ``[n]``."""
        scaled = scaled_links(self._cluster, self._where, parameters)
        links = np.empty(len(self._transfers))
        for i, (t, _) in enumerate(self._transfers):
            if (fixed := self._fixed.get(i)) is not None:
                links[i] = np.log(fixed) + parameters[self._where.at("edges")]
                continue
            path = scaled.path(t.src, t.dst)
            links[i] = np.log(max(transfer_s(path, t.bytes), SHORTEST_LATENCY_S))
        sums = [np.log(self._ring(scaled, a.devices, a.bytes)) for a in self._reduces]
        return np.concatenate([self._actions.predict(parameters), links, np.array(sums)])

    @staticmethod
    def _ring(cluster: Cluster, devices: Sequence[int], num_bytes: float) -> float:
        return all_reduce_s(cluster, devices, num_bytes)

    def _edges(self) -> dict[int, float]:
        """Transfer -> seconds that the graph gives it, by the size of the message."""
        out: dict[int, float] = {}
        for i, (t, plan) in enumerate(self._transfers):
            times = [m.transfer_s for m in plan.stage_graph.messages if round(m.bytes) == round(t.bytes)]
            known = [s for s in times if s]
            if plan.graph.has_transfer_times and known:
                out[i] = float(np.median(known))
        return out


class _Actions:
    """The actions among the measurements, as arrays.

    Attributes:
        overhead_s: what an action takes besides its ops, before anything is measured.
        misfit: ``[n]`` part by which each action is off because its ops are (`ACTION_MISFIT`).
    """

    def __init__(self, where: Unknowns, measured: Sequence[Measurements]) -> None:
        rows = [(a, m) for m in measured for a in m.actions]
        self.overhead_s = _ACTION_PART * float(np.median([a.seconds.typical_s for a, _ in rows] or [0.0]))
        cluster, num_classes = measured[0].plan.cluster, len(where.classes)
        self._work = np.zeros((len(rows), 2, num_classes))  # forward and backward seconds by class
        tables = {id(m): _by_class(where, m) for m in measured}
        costs = {id(m): costs_of_plan(m.plan) for m in measured}
        evenness = {id(m): _evenness(m) for m in measured}
        spread = np.array([evenness[id(m)][int(cluster.type_index[a.device]), a.stage] for a, m in rows])
        self.misfit = ACTION_MISFIT * spread / spread.min(initial=1.0)
        for i, (a, m) in enumerate(rows):
            forward, input_grad, weight_grad = tables[id(m)][:, int(cluster.type_index[a.device]), a.stage]
            if a.kind == "F":
                self._work[i, 0] = forward
            if a.kind in "BI":
                again = costs[id(m)].again_s[a.stage, a.device] / max(costs[id(m)].forward_s[a.stage, a.device], 1e-300)
                self._work[i, 0] = again * forward
                self._work[i, 1] += input_grad
            if a.kind in "BW":
                self._work[i, 1] += weight_grad
        kinds = cluster.type_index[[a.device for a, _ in rows]] if rows else np.zeros(0, dtype=np.int64)
        positions = [
            [
                [where.positions_of_op_factor(int(t), a.device, c, backward=back) for c in range(num_classes)]
                for t, (a, _) in zip(kinds, rows, strict=True)
            ]
            for back in (False, True)
        ]
        self._forward, self._backward = (
            np.array(p, dtype=np.int64).reshape(len(rows), num_classes, -1) for p in positions
        )
        self._overhead = where.at("action")

    def predict(self, parameters: Floats) -> Floats:
        """``[P]`` -> ``[n]`` logarithms of seconds."""
        seconds = self.overhead_s * float(np.exp(parameters[self._overhead]))
        for work, positions in zip(self._work.swapaxes(0, 1), (self._forward, self._backward), strict=True):
            seconds = seconds + (work * np.exp(parameters[positions].sum(axis=2))).sum(axis=1)
        out: Floats = np.log(seconds)
        return out


def _by_class(where: Unknowns, measured: Measurements) -> NDArray[np.float64]:
    """``[3, num_device_types, S, C]`` seconds of the parts of each stage by class of op, as the database says."""
    plan = measured.plan
    times = op_times(plan.graph, plan.cluster)
    cell = plan.stage_of_op * len(where.classes) + where.class_of_op
    size = plan.num_stages * len(where.classes)
    parts = (times.forward_s, times.input_grad_s, times.weight_grad_s)
    table = np.array([[np.bincount(cell, weights=row, minlength=size) for row in part] for part in parts])
    return table.reshape(3, -1, plan.num_stages, len(where.classes))


def _evenness(measured: Measurements) -> NDArray[np.float64]:
    """``[num_device_types, S]`` deviation of the seconds of a stage over that of its ops, if these are independent: 1
    for a single op, 0.1 for a hundred equal ones."""
    plan = measured.plan
    size = plan.num_stages
    seconds = op_times(plan.graph, plan.cluster).total_s
    sums = np.array([np.bincount(plan.stage_of_op, weights=row, minlength=size) for row in seconds])
    squares = np.array([np.bincount(plan.stage_of_op, weights=row**2, minlength=size) for row in seconds])
    evenness: NDArray[np.float64] = np.sqrt(squares) / np.maximum(sums, 1e-300)
    return np.where(sums > 0, evenness, 1.0)


def scaled_links(cluster: Cluster, where: Unknowns, parameters: Floats) -> Cluster:
    """The cluster with links as the unknowns say."""

    def scaled(link: Link, scope: str, host: int) -> Link:
        slower = float(np.exp(parameters[where.positions_of_wire(scope, host)].sum()))
        latency = float(np.exp(parameters[where.at("latency", where.link_kind[scope, host])]))
        return dataclasses.replace(
            link, bandwidth=link.bandwidth / slower, latency_s=max(link.latency_s, SHORTEST_LATENCY_S) * latency
        )

    hosts = []
    for h, host in enumerate(cluster.hosts):
        inside = (INSIDE, h) in where.link_kind
        hosts.append(
            dataclasses.replace(
                host,
                link=scaled(host.link, INSIDE, h) if host.link is not None and inside else host.link,
                links=tuple(dataclasses.replace(g, link=scaled(g.link, INSIDE, h)) for g in host.links),
                network=scaled(host.network, NETWORK, h)
                if host.network is not None and (NETWORK, h) in where.link_kind
                else host.network,
            )
        )
    return dataclasses.replace(cluster, hosts=tuple(hosts))
