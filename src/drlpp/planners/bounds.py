"""Certified lower bounds: no plan of the problem takes less, whatever its partition, placement, replication and
schedule.

Valid for unequal devices, replicated stages and devices with several stages. For both objectives:

- *work*: each device type t gets a weight y_t; an op costs at least ``min_t y_t time(t, op)`` somewhere, and the
  devices have ``sum_d y_d`` times the bound to spend. Any weights give a valid bound; the best are searched.
- *op*: the largest op on its best device. In the steady state r replicas divide its load by r, but then exchange its
  gradient; in a step the busiest replica runs ceil(M / r) micro-batches, and the exchange comes after its last one.
- *path* (iteration time): one micro-batch runs forward along the longest path of the graph and back.
- *cuts* (steady state): the ops of the heaviest path fall into runs with the same devices. A run of r replicas puts
  its time over r and its gradient exchange on each, which must stay below the bound; between two runs the activations
  have to be moved for a part of the micro-batches that follows from the numbers of replicas. The cheapest way to do
  that (a dynamic program over the path), with all other ops added, must fit all devices together. Where few cuts are
  cheap enough to matter, `run_bound` looks closer.
- *memory*: parameters, gradients and optimizer state that do not fit all devices together, or one op that fits none:
  no plan exists, and the bound is infinite.

Left out, all of it on the safe side: bubbles, latencies, shared ports, optimizer time, recomputation, activation
memory, and how loads of whole runs pack on devices.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drlpp.cluster import Cluster
from drlpp.planners.base import Budget
from drlpp.planners.op_arrays import OpArrays, op_arrays
from drlpp.planners.run_bound import may_exist
from drlpp.problem import PlanningProblem

SAFETY = 1.0 - 1e-9
"""Factor on every bound against the rounding of sums."""
MAX_PATH = 1500
MAX_REPLICAS = 64
"""Larger problems skip the bound by cuts."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bound:
    """A lower bound on the objective in seconds (inf: no plan fits), and which of the bounds it is."""

    value_s: float
    kind: str


def gap(value_s: float, bound: Bound) -> float:
    """(value - bound) / bound; inf for a bound of 0."""
    return (value_s - bound.value_s) / bound.value_s if bound.value_s > 0 else math.inf


def lower_bound(problem: PlanningProblem, budget: Budget | None = None) -> Bound:
    """The best bound on the problem's objective.

    Args:
        budget: the bound by cuts is skipped when it is spent.
    """
    arrays = op_arrays(problem)
    if not _may_fit(problem, arrays):
        return Bound(math.inf, "memory")
    weights, work = _work_bound(problem, arrays)
    if problem.objective == "steady-state":
        bounds = [Bound(work, "work"), Bound(_largest_op_steady(problem, arrays), "op")]
        if budget is None or not budget.spent:
            bounds.append(Bound(_cut_bound(problem, arrays, weights), "cuts"))
    else:
        bounds = [
            Bound(work * problem.training.num_microbatches, "work"),
            Bound(_largest_op_step(problem, arrays), "op"),
            Bound(_longest_path_s(problem), "path"),
        ]
    best = max(bounds, key=lambda b: b.value_s)
    return Bound(best.value_s * SAFETY, best.kind)


def _may_fit(problem: PlanningProblem, arrays: OpArrays) -> bool:
    """False if the parameters alone exceed the memory of all devices, or those of one op the largest device."""
    resident = arrays.param_bytes * problem.training.bytes_per_param_byte
    memory = problem.cluster.memory_bytes
    return bool(resident.sum() <= memory.sum() * (1 + 1e-9) and resident.max() <= memory.max() * (1 + 1e-9))


def _work_bound(problem: PlanningProblem, arrays: OpArrays) -> tuple[NDArray[np.float64], float]:
    """Weights ``[T]`` of the device types and the bound per micro-batch that they give."""
    count = np.bincount(problem.cluster.type_index, minlength=len(arrays.total_s)).astype(np.float64)
    used = count > 0

    def value(y: NDArray[np.float64]) -> float:
        spent = (arrays.total_s[used] * y[used, None]).min(axis=0).sum()
        return float(spent / (count[used] @ y[used]))

    whole = arrays.total_s.sum(axis=1)
    best = np.where(whole > 0, 1.0 / np.maximum(whole, 1e-300), 1.0)
    best /= best.max()
    best_value = value(best)
    step = 0.5
    while step > 1e-4 and used.sum() > 1:
        improved = False
        for t in np.flatnonzero(used):
            for factor in (1.0 + step, 1.0 / (1.0 + step)):
                y = best.copy()
                y[t] *= factor
                if (v := value(y)) > best_value:
                    best, best_value, improved = y, v, True
        step = step if improved else step / 2
    return best, best_value


def exchange_s_per_byte(cluster: Cluster) -> NDArray[np.float64]:
    """``[D + 1]`` seconds per byte that an all-reduce over r = 0, 1, ... D devices takes at least; not falling."""
    sizes = [len(h.devices) for h in cluster.hosts if h.devices]
    largest, hosts, total = max(sizes), len(sizes), cluster.num_devices
    link = max((h.link.bandwidth for h in cluster.hosts if h.link is not None), default=math.inf)
    port = max((h.network.bandwidth for h in cluster.hosts if h.network is not None), default=math.inf)
    out = np.zeros(total + 1)
    for r in range(2, total + 1):
        choices = []
        for n in range(1, min(r, largest) + 1):
            h = -(-r // n)
            if h <= hosts:
                choices.append(2 * (n - 1) / n / link + 2 * (h - 1) / h / port)
        out[r] = min(choices, default=0.0)
    return np.minimum.accumulate(out[::-1])[::-1]


def _replicas(problem: PlanningProblem) -> NDArray[np.int64]:
    return np.arange(1, (problem.cluster.num_devices if problem.may_replicate else 1) + 1)


def _largest_op_steady(problem: PlanningProblem, arrays: OpArrays) -> float:
    """Largest over ops of the smallest over numbers of replicas of time / r + exchange."""
    r = _replicas(problem)
    exchange = exchange_s_per_byte(problem.cluster)[r] / problem.training.num_microbatches
    fastest = _fastest(problem, arrays)
    worst = 0.0
    for seconds, params in zip(fastest, arrays.param_bytes, strict=True):
        if seconds > worst:  # one replica is an upper limit of this op's bound
            worst = max(worst, float((seconds / r + params * exchange).min()))
    return worst


def _largest_op_step(problem: PlanningProblem, arrays: OpArrays) -> float:
    """The same for a step: the busiest replica's micro-batches, then the exchange."""
    r = _replicas(problem)
    number = problem.training.num_microbatches
    exchange = exchange_s_per_byte(problem.cluster)[r]
    rounds = -(-number // r)
    worst = 0.0
    for seconds, params in zip(_fastest(problem, arrays), arrays.param_bytes, strict=True):
        if seconds * number > worst:
            worst = max(worst, float((seconds * rounds + params * exchange).min()))
    return worst


def _fastest(problem: PlanningProblem, arrays: OpArrays) -> NDArray[np.float64]:
    """``[N]`` seconds of each op on its best device."""
    fastest: NDArray[np.float64] = arrays.total_s[np.unique(problem.cluster.type_index)].min(axis=0)
    return fastest


def _longest_path_s(problem: PlanningProblem) -> float:
    """Forward along the longest path and, over edges that carry a gradient, back; each op on its best device."""
    types = np.unique(problem.cluster.type_index)
    times = problem.times
    forward = times.forward_s[types].min(axis=0)
    # a stage's backward pass may be split in two: then only the input gradient is on the path
    back = times.input_grad_s[types].min(axis=0)
    graph = problem.graph
    gradient: dict[tuple[int, int], bool] = {}
    ahead: dict[tuple[int, int], bool] = {}
    for e in graph.edges:
        key = (graph.index[e.before], graph.index[e.after])
        is_forward = e.phase == "forward"
        ahead[key] = ahead.get(key, False) or is_forward
        gradient[key] = gradient.get(key, False) or (e.requires_grad and is_forward)
    both = np.zeros(graph.num_ops)  # longest path to the op, forward and back, without the turn
    only = np.zeros(graph.num_ops)
    best = 0.0
    for i in range(graph.num_ops):
        for p in graph.predecessors[i]:
            if ahead[p, i]:
                only[i] = max(only[i], only[p])
                both[i] = max(both[i], both[p] if gradient[p, i] else only[p])
        both[i] = max(both[i], only[i])
        both[i] += forward[i] + back[i]
        only[i] += forward[i]
        best = max(best, float(both[i]))
    return best


def _heaviest_path(problem: PlanningProblem, weight: NDArray[np.float64]) -> list[int]:
    """Ops of the path of the graph with the largest sum of weights; light detours are left out."""
    graph = problem.graph
    # a detour over a light op (the size of a tensor) would hide the value that goes beside it
    gain = weight - 0.02 * weight.mean()
    total, previous = gain.copy(), [-1] * graph.num_ops
    for i in range(graph.num_ops):
        for p in graph.predecessors[i]:
            if total[p] + gain[i] > total[i]:
                total[i], previous[i] = total[p] + gain[i], p
    path, i = [], int(np.argmax(total))
    while i >= 0:
        path.append(i)
        i = previous[i]
    return path[::-1]


def _cut_bound(problem: PlanningProblem, arrays: OpArrays, weights: NDArray[np.float64]) -> float:
    """The bound by cuts along the heaviest path; 0 where the problem is too large for it."""
    cluster = problem.cluster
    replicas = int(_replicas(problem)[-1])
    used = np.unique(cluster.type_index)
    weighted = (arrays.total_s[used] * weights[used, None]).min(axis=0)
    least = float(weights[used].min())
    path = _heaviest_path(problem, weighted)
    if len(path) > MAX_PATH or replicas > MAX_REPLICAS:
        return 0.0
    if arrays.timed:
        per_unit = 1.0
    else:
        off = cluster.bandwidth[~np.eye(cluster.num_devices, dtype=np.bool_)]
        per_unit = float(1.0 / off.max()) if len(off) else 0.0
    moved = np.zeros(len(path))  # [k]: what a cut before op k of the path moves, both ends
    for k in range(1, len(path)):
        a, b = path[k - 1], path[k]
        amounts = [arrays.value_amount[v] for v in _values_between(arrays, a, b)]
        moved[k] = 2 * sum(amounts) * per_unit * least
    capacity = float(weights[cluster.type_index].sum())
    exchange = exchange_s_per_byte(cluster)[: replicas + 1] / problem.training.num_microbatches
    others = np.ones(arrays.num_ops, dtype=np.bool_)
    others[path] = False
    fastest = _fastest(problem, arrays)

    def fits(bound: float) -> bool:
        total = _cheapest_runs(
            weighted[path], fastest[path], arrays.param_bytes[path], moved, exchange, least, bound
        ) + _cheapest_apart(weighted[others], fastest[others], arrays.param_bytes[others], exchange, least, bound)
        return bool(total <= capacity * bound) and may_exist(
            fastest[path],
            arrays.param_bytes[path],
            moved / (2 * least),
            fastest[others],
            arrays.param_bytes[others],
            exchange,
            cluster.num_devices,
            bound,
        )

    # what does not fit at one value fits at none below it, so every "no" is a bound
    low = float(weighted.sum()) / capacity
    high = low
    while not fits(high):
        low, high = high, high * 1.25
    for _ in range(40):
        middle = (low + high) / 2
        if fits(middle):
            high = middle
        else:
            low = middle
        if high - low < 1e-4 * high:
            break
    return low


def _values_between(arrays: OpArrays, a: int, b: int) -> list[int]:
    """Values with one end at each of two ops."""
    mine = arrays.touch_value[arrays.touch_ptr[a] : arrays.touch_ptr[a + 1]].tolist()
    theirs = set(arrays.touch_value[arrays.touch_ptr[b] : arrays.touch_ptr[b + 1]].tolist())
    return [v for v in mine if v in theirs and arrays.value_src[v] in (a, b)]


@njit(cache=True)
def _cheapest_apart(
    weighted: NDArray[np.float64],
    fastest: NDArray[np.float64],
    params: NDArray[np.float64],
    exchange: NDArray[np.float64],
    least: float,
    bound: float,
) -> float:
    """Weighted load of ops taken one by one, each with the fewest replicas that keep it below the bound."""
    total = 0.0
    for i in range(len(weighted)):
        found = False
        for r in range(1, len(exchange)):
            if fastest[i] / r + exchange[r] * params[i] <= bound * (1 + 1e-9):
                total += weighted[i] + r * exchange[r] * params[i] * least
                found = True
                break
        if not found:
            return np.inf
    return total


@njit(cache=True)
def _cheapest_runs(
    weighted: NDArray[np.float64],
    fastest: NDArray[np.float64],
    params: NDArray[np.float64],
    moved: NDArray[np.float64],
    exchange: NDArray[np.float64],
    least: float,
    bound: float,
) -> float:
    """Smallest weighted load of a path cut in runs, each with a number of replicas that keeps it below the bound."""
    n, most = len(weighted), len(exchange) - 1
    best = np.full((n + 1, most + 1), np.inf)  # [position, replicas of the run that ends there]
    arrive = np.full((n + 1, most + 1), np.inf)  # [position, replicas of the run that begins there]
    for r in range(1, most + 1):
        arrive[0, r] = 0.0
    for j in range(1, n + 1):
        for r in range(1, most + 1):
            seconds, load, bytes_ = 0.0, 0.0, 0.0
            for i in range(j - 1, -1, -1):
                seconds += fastest[i]
                load += weighted[i]
                bytes_ += params[i]
                if seconds / r + exchange[r] * bytes_ > bound * (1 + 1e-9):
                    break
                value = arrive[i, r] + load + r * exchange[r] * bytes_ * least
                if value < best[j, r]:
                    best[j, r] = value
        if j < n:
            for r in range(1, most + 1):
                for q in range(1, most + 1):
                    part = 1.0 / r if q == r else 1.0 - min(q, r) / max(q, r)
                    value = best[j, q] + part * moved[j]
                    if value < arrive[j, r]:
                        arrive[j, r] = value
    return float(best[n].min())
