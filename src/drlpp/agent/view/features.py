"""What the encoder sees of a problem: scale-free features of ops, edges, device classes and the whole.

Everything is relative: work to the mean op, bytes to totals, links to the time that the ideal split of the work
takes. Doubling all times and all bandwidth-free sizes changes nothing, so one set of weights serves any graph and
cluster. Names of models, ops and devices are never features.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drlpp.agent.view.device_classes import TINY, Floats, Ints, Tables, build_tables
from drlpp.agent.view.fixed_orders import fixed_orders
from drlpp.agent.view.op_classes import NUM_KIND_CLASSES, kind_class
from drlpp.graph.topology import depths
from drlpp.problem import PlanningProblem

NUM_OP_FEATURES = 13 + NUM_KIND_CLASSES
NUM_EDGE_FEATURES = 2
NUM_DEVICE_FEATURES = 9
NUM_PROBLEM_FEATURES = 11


@dataclasses.dataclass(frozen=True)
class ProblemView:
    """A problem as tensors.

    Attributes:
        op_features: ``[n, NUM_OP_FEATURES]``.
        arcs: ``[2, A]`` op indices (before, after).
        edge_features: ``[A, NUM_EDGE_FEATURES]``.
        device_features: ``[C, NUM_DEVICE_FEATURES]`` per device class.
        problem_features: ``[NUM_PROBLEM_FEATURES]``.
        profile: prefix sums along the graph's own order that place a share of the work in the graph.
        orders: ``[M, n]`` fixed orders of the ops, see `fixed_orders`.
        order_is_new: ``[M]`` False for an order that equals one before it.
        has_orders: there is more than one topological order.
    """

    problem: PlanningProblem
    tables: Tables
    op_features: Tensor
    arcs: Tensor
    edge_features: Tensor
    device_features: Tensor
    problem_features: Tensor
    profile: Profile
    orders: Ints
    order_is_new: NDArray[np.bool_]
    has_orders: bool


@dataclasses.dataclass(frozen=True)
class Profile:
    """Prefix sums of the ops in the graph's own order, ``[n + 1]`` each.

    Attributes:
        work: fraction of the work (mean over classes) before position i, 0 to 1.
        params, resident, saved: bytes before position i.
        live: bytes that cross a cut before position i.
    """

    work: Floats
    params: Floats
    resident: Floats
    saved: Floats
    live: Floats

    def at(self, values: Floats, fraction: Floats) -> Floats:
        """Values of one of the arrays where a fraction of the work is done (linear interpolation)."""
        return np.interp(fraction, self.work, values)

    def position(self, fraction: Floats) -> Floats:
        """Positions (with a fractional part) where a fraction of the work is done."""
        return np.interp(fraction, self.work, np.arange(len(self.work), dtype=np.float64))

    @functools.cached_property
    def narrow(self) -> Floats:
        """``[n + 1]`` smallest live bytes within a fiftieth of the work of each position: what a good cut can reach."""
        low = np.searchsorted(self.work, self.work - 0.02, side="left")
        high = np.searchsorted(self.work, self.work + 0.02, side="right")
        return np.array([self.live[a:b].min() for a, b in zip(low, high, strict=True)])


def log_ratio(x: Floats, floor: float = 1e-3) -> Floats:
    """A squashed logarithm of a ratio, about -2 to 3: ``log(x + floor) / 3``."""
    return np.asarray(np.log(np.minimum(x, 1e4) + floor) / 3.0)


def problem_view(problem: PlanningProblem) -> ProblemView:
    """Computes the features of a problem."""
    graph = problem.graph
    t = build_tables(problem)
    work = (t.time_s * t.speed[:, None]).mean(axis=0)
    order = np.arange(t.num_ops)
    profile = Profile(
        work=_prefix(work / max(work.sum(), TINY)),
        params=_prefix(t.params),
        resident=_prefix(t.resident),
        saved=_prefix(t.saved),
        live=t.live_bytes(order),
    )
    orders = fixed_orders(graph, t)
    return ProblemView(
        problem=problem,
        tables=t,
        op_features=_tensor(_op_features(problem, t, profile, work)),
        arcs=torch.from_numpy(np.ascontiguousarray(graph.arcs.T)),
        edge_features=_tensor(_edge_features(problem, t)),
        device_features=_tensor(_device_features(t, profile)),
        problem_features=_tensor(_problem_features(problem, t, profile)),
        profile=profile,
        orders=orders,
        order_is_new=np.array([not (orders[:k] == o).all(axis=1).any() for k, o in enumerate(orders)]),
        has_orders=any(i + 1 not in after for i, after in enumerate(graph.successors[:-1])),
    )


def _tensor(values: Floats) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _prefix(values: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(values)])


def _op_features(problem: PlanningProblem, t: Tables, profile: Profile, work: Floats) -> Floats:
    graph, n = problem.graph, t.num_ops
    depth = np.array(depths(graph.predecessors), dtype=np.float64)
    height = np.array(depths(list(reversed([[n - 1 - j for j in s] for s in graph.successors]))), dtype=np.float64)[
        ::-1
    ]
    relative = t.time_s * t.speed[:, None]  # [C, n] share of the graph on each class
    spread = (relative.max(axis=0) + TINY) / (relative.min(axis=0) + TINY)
    output = np.array([op.output_bytes for op in graph.ops])
    kinds = np.zeros((n, NUM_KIND_CLASSES))
    kinds[np.arange(n), [kind_class(op.kind) for op in graph.ops]] = 1.0
    mean_live = max(float(profile.live.mean()), TINY)
    columns = [
        log_ratio(work * n),
        work * 10.0,
        log_ratio(t.forward_s.mean(axis=0) / np.maximum(t.time_s.mean(axis=0), TINY)),
        log_ratio(t.params / max(float(t.params.mean()), TINY)),
        log_ratio(output / max(float(output.mean()), TINY)),
        log_ratio(t.saved / max(float(t.saved.mean()), TINY)),
        np.log(spread),
        profile.work[:-1],
        depth / np.maximum(depth + height, 1.0),
        (depth + height) / max(float((depth + height).max()), 1.0),
        log_ratio(np.array([len(p) for p in graph.predecessors], dtype=np.float64)),
        log_ratio(np.array([len(s) for s in graph.successors], dtype=np.float64)),
        log_ratio(profile.live[1:] / mean_live),
    ]
    return np.concatenate([np.stack(columns, axis=1), kinds], axis=1)


def _edge_features(problem: PlanningProblem, t: Tables) -> Floats:
    graph = problem.graph
    arcs, num_ops = graph.arcs, max(t.num_ops, 1)
    sizes, seconds = graph.tensor_table.bytes[graph.values.tensor[graph.values.of_edge]], graph.edge_seconds
    before, after = np.sort(graph.edge_ends, axis=1).T
    arc = np.searchsorted(arcs @ np.array([num_ops, 1]), before * num_ops + after)
    amounts = np.bincount(arc, weights=np.where(seconds < 0, sizes, seconds), minlength=len(arcs))
    mean = max(float(amounts.mean()) if len(amounts) else 0.0, TINY)
    span = (arcs[:, 1] - arcs[:, 0]).astype(np.float64) / num_ops
    return np.stack([log_ratio(amounts / mean), log_ratio(span)], axis=1).reshape(-1, NUM_EDGE_FEATURES)


def _device_features(t: Tables, profile: Profile) -> Floats:
    devices = t.size.sum()
    mean_speed = float((t.speed * t.size).sum() / devices)
    live = float(np.median(profile.live[1:-1])) if t.num_ops > 1 else 0.0
    need = (profile.resident[-1] + profile.saved[-1]) / devices
    columns = [
        np.log(t.speed / mean_speed),
        t.speed * t.size / (mean_speed * devices),
        np.log2(t.size) / 4.0,
        log_ratio(need / t.memory),
        log_ratio(profile.resident[-1] / t.memory),
        log_ratio(live / t.link_bandwidth / t.ideal_s),
        log_ratio(live / t.port_bandwidth / t.ideal_s),
        log_ratio(profile.params[-1] / t.link_bandwidth / (t.ideal_s * t.microbatches)),
        log_ratio(profile.params[-1] / t.port_bandwidth / (t.ideal_s * t.microbatches)),
    ]
    return np.stack(columns, axis=1)


def _problem_features(problem: PlanningProblem, t: Tables, profile: Profile) -> Floats:
    devices = float(t.size.sum())
    live = float(np.median(profile.live[1:-1])) if t.num_ops > 1 else 0.0
    narrow = float(np.quantile(profile.narrow, 0.2))
    port = float(t.port_bandwidth.min())
    return np.array(
        [
            np.log(t.num_ops) / 5.0,
            np.log2(devices) / 4.0,
            np.log2(t.num_classes) / 4.0,
            np.log(t.microbatches / devices),
            np.log(t.speed.max() / t.speed.min()),
            float(log_ratio(np.array(profile.resident[-1] / float((t.memory * t.size).sum())))),
            float(log_ratio(np.array(profile.saved[-1] / float(t.memory.min())))),
            float(log_ratio(np.array(live / port / t.ideal_s))),
            float(log_ratio(np.array(narrow / port / t.ideal_s))),
            float(log_ratio(np.array(profile.params[-1] / port / (t.ideal_s * t.microbatches)))),
            float(problem.objective.of_one_microbatch),
        ]
    )
