"""Fits the unknowns of `parameters` to what runs measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import Cluster, Link
from drlpp.cost.calibration.measured import ActionTime, Measurements, Seconds
from drlpp.cost.calibration.parameters import INSIDE, NETWORK, SHORTEST_LATENCY_S, Floats, Unknowns, unknowns
from drlpp.cost.calibration.regression import Posterior, fit
from drlpp.cost.collectives import all_reduce_s
from drlpp.cost.divided_plans import DividedPlan, divided
from drlpp.cost.gradients import resident_and_optimizer
from drlpp.cost.links import transfer_s
from drlpp.cost.optimizer_state import OPTIMIZER_PASSES
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
        together: sets of devices that ran as groups: what was measured of one was measured of all.
    """

    graph: OpGraph
    cluster: Cluster
    unknowns: Unknowns
    posterior: Posterior
    action_s: Factor
    update_bandwidth: dict[int, float]
    counts: dict[str, int]
    together: tuple[tuple[int, ...], ...] = ()

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
    made = [divided(m.plan) for m in measured]
    model = _Model(where, measured, made)
    posterior = fit(model.predict, model.measured, model.deviation, where.prior_deviation)
    overhead = where.at("action")
    direction = np.eye(len(posterior.mean))[overhead]
    return Calibration(
        graph=first.graph,
        cluster=first.cluster,
        unknowns=where,
        posterior=posterior,
        action_s=Factor(model.action_s * float(np.exp(posterior.mean[overhead])), posterior.deviation(direction)),
        update_bandwidth=_update_bandwidth(measured, made),
        together=_together(measured),
        counts={
            "actions": sum(a.seconds.count for m in measured for a in m.actions),
            "transfers": sum(t.seconds.count for m in measured for t in m.transfers),
            "all_reduces": sum(a.seconds.count for m in measured for a in m.all_reduces),
        },
    )


def _together(measured: Sequence[Measurements]) -> tuple[tuple[int, ...], ...]:
    found: list[set[int]] = []
    for group in (group for m in measured for group in m.plan.grouping.groups if len(group) > 1):
        found, more = [s for s in found if not s & {*group}], [s for s in found if s & {*group}]
        found.append({*group}.union(*more))
    return tuple(tuple(sorted(devices)) for devices in found)


def _update_bandwidth(measured: Sequence[Measurements], made: Sequence[DividedPlan]) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for m, of_groups in zip(measured, made, strict=True):
        plan = of_groups.plan
        passes = OPTIMIZER_PASSES[plan.training.optimizer] / plan.cluster.members  # [D] of the bytes of a group
        costs = dataclasses.replace(
            of_groups.costs,
            optimizer_s=of_groups.costs.trained_bytes * passes,
            divided_update_s=passes * plan.training.zero1,
        )
        _, moved = resident_and_optimizer(costs, [s.devices for s in plan.stages], plan.cluster.num_devices)
        for d, seconds in m.update_s.items():
            size = float(moved[of_groups.group_of[d]])
            if size > 0 and seconds.typical_s > SHORTEST_UPDATE * m.iteration_time_s:
                found.setdefault(d, []).append(size / seconds.typical_s)
    return {d: float(np.median(rates)) for d, rates in found.items()}


class _Model:
    """Predicts the logarithms of all measurements from the unknowns."""

    def __init__(self, where: Unknowns, measured: Sequence[Measurements], made: Sequence[DividedPlan]) -> None:
        self._where = where
        self._cluster = measured[0].plan.cluster
        self._actions = _Actions(where, measured, made)
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

    def __init__(self, where: Unknowns, measured: Sequence[Measurements], made: Sequence[DividedPlan]) -> None:
        tables = [_Parts(where, d) for d in made]
        rows = [(a, parts) for m, parts in zip(measured, tables, strict=True) for a in m.actions]
        self.overhead_s = _ACTION_PART * float(np.median([a.seconds.typical_s for a, _ in rows] or [0.0]))
        cluster, num_classes = measured[0].plan.cluster, len(where.classes)
        self._work = np.zeros((len(rows), 2, num_classes))  # forward and backward seconds by class
        self._inside = np.zeros((len(rows), 3))  # of collectives inside the group: by what grows with what
        spread = np.array([parts.evenness(a) for a, parts in rows])
        self.misfit = ACTION_MISFIT * spread / spread.min(initial=1.0)
        for i, (a, parts) in enumerate(rows):
            forward, input_grad, weight_grad = parts.of(a)
            again = parts.again(a)
            counts = {"F": (1, 0, 0), "B": (again, 1, 1), "I": (again, 1, 0), "W": (0, 0, 1)}[a.kind]
            self._work[i, 0] = counts[0] * forward[0]
            self._work[i, 1] = counts[1] * input_grad[0] + counts[2] * weight_grad[0]
            self._inside[i] = counts[0] * forward[1] + counts[1] * input_grad[1] + counts[2] * weight_grad[1]
        self._divided = np.flatnonzero(self._inside.any(axis=1))
        self._links = _positions_inside(where, cluster, [rows[i][0].device for i in self._divided])
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
        seconds = np.full(len(self._work), self.overhead_s * float(np.exp(parameters[self._overhead])))
        for work, positions in zip(self._work.swapaxes(0, 1), (self._forward, self._backward), strict=True):
            seconds = seconds + (work * np.exp(parameters[positions].sum(axis=2))).sum(axis=1)
        if len(self._divided):
            slower = [np.exp(parameters[positions].sum(axis=1)) for positions in self._links]
            factors = np.stack([*slower, np.ones(len(self._divided))], axis=1)
            seconds[self._divided] += (self._inside[self._divided] * factors).sum(axis=1)
        out: Floats = np.log(seconds)
        return out


class _Parts:
    """Seconds of the parts of each stage, as the database says: of its ops by class, and inside groups."""

    def __init__(self, where: Unknowns, made: DividedPlan) -> None:
        num_classes = len(where.classes)
        self._made, self._costs = made, made.costs
        own = made.own_s()  # [3, K, N]
        by_class = [made.by_stage(own * (where.class_of_op == c)) for c in range(num_classes)]
        self._own = np.stack(by_class, axis=-1)  # [3, S, D, C]
        inside = [made.by_stage(part) for part in made.inside_parts()]
        self._inside = np.stack(inside, axis=-1)  # [3, S, D, 3]
        sums, squares = made.by_stage(own.sum(axis=0)[None]), made.by_stage((own.sum(axis=0) ** 2)[None])
        self._evenness = np.where(sums > 0, np.sqrt(squares) / np.maximum(sums, 1e-300), 1.0)[0]

    def _at(self, action: ActionTime) -> tuple[int, int]:
        return action.stage, self._made.group_of[action.device]

    def of(self, action: ActionTime) -> list[tuple[Floats, Floats]]:
        """Of forward, input gradient and weight gradient: ``[C]`` of ops, and ``[3]`` of collectives."""
        s, d = self._at(action)
        return list(zip(self._own[:, s, d], self._inside[:, s, d], strict=True))

    def again(self, action: ActionTime) -> float:
        """The part of the forward pass that runs again before the backward pass."""
        at = self._at(action)
        return float(self._costs.again_s[at] / max(self._costs.forward_s[at], 1e-300))

    def evenness(self, action: ActionTime) -> float:
        """Deviation of the seconds of a stage over that of its ops, if these are independent: 1 for a single op, 0.1
        for a hundred equal ones."""
        return float(self._evenness[self._at(action)])


def _positions_inside(
    where: Unknowns, cluster: Cluster, devices: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``[n, k]`` unknowns of seconds per byte, and of latency, of the links between the members of a device's group."""
    hosts = [cluster.devices[d].host for d in devices]
    wire = [where.positions_of_wire(INSIDE, h) for h in hosts]
    latency = [[where.at("latency", where.link_kind[INSIDE, h])] for h in hosts]
    return np.array(wire, dtype=np.int64), np.array(latency, dtype=np.int64)


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
