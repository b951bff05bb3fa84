"""Simulated annealing over the slot of every op, with incremental loads: the inner search of `annealing`.

A *slot* is a set of devices that replicate what is in it. Slots have an order, and an op may not be in an earlier
slot than one of its predecessors; or, if `free`, any op may be in any slot (the plan then has several stages per
device). A move takes one op to another slot and updates the loads of the slots that its values touch.

The energy is the p-norm of the slots' loads (p = 16), which follows the largest load but also rewards work on the
next largest ones. Left out against the evaluator: one latency per pair of slots instead of one per message, the mean
path between replicas instead of the path of each, and memory as an estimate that multiplies the load of slots that
exceed it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.op_amounts import OpAmounts
from drlpp.cost.optimizer_state import resident_factor
from drlpp.cost.problem_arrays import ProblemArrays
from drlpp.native import library
from drlpp.planners.consecutive.device_states import AllReduceTable
from drlpp.planners.space.shares import busiest_replica
from drlpp.problem import PlanningProblem


@dataclasses.dataclass(frozen=True)
class Slots:
    """L slots in pipeline order.

    Attributes:
        devices: per slot, its replicas.
        op_s: ``[L, N]`` seconds of each op on the busiest replica of the slot per micro-batch of the step (share
            included).
        send, receive: ``[L, L]`` seconds per unit of amount from slot a to slot b, for the replica of a, and of b, that
            runs the most micro-batches.
        latency: ``[L, L]`` seconds of a message from a to b, for a replica of each, mean.
        sync_s, sync_s_per_byte: ``[L]`` gradient exchange per micro-batch.
        memory_bytes: ``[L]`` of the smallest replica; inf to ignore memory.
        in_flight: ``[L]`` micro-batches kept.
        resident_factor: ``[L]`` bytes of parameter, gradient and optimizer state per trained byte.
    """

    devices: tuple[tuple[int, ...], ...]
    op_s: NDArray[np.float64]
    send: NDArray[np.float64]
    receive: NDArray[np.float64]
    latency: NDArray[np.float64]
    sync_s: NDArray[np.float64]
    sync_s_per_byte: NDArray[np.float64]
    memory_bytes: NDArray[np.float64]
    in_flight: NDArray[np.float64]
    resident_factor: NDArray[np.float64]


def make_slots(
    problem: PlanningProblem, arrays: ProblemArrays, devices: Sequence[tuple[int, ...]], reduce_s: AllReduceTable
) -> Slots:
    """Slots for given device sets in pipeline order."""
    cluster = problem.cluster
    number = len(devices)
    replicas = np.array([len(d) for d in devices], dtype=np.float64)
    kinds, shares, most = zip(*(busiest_replica(problem, group, by_speed=True) for group in devices), strict=True)
    share = np.array(most)
    sync = np.array([reduce_s(group) for group in devices]) / problem.training.num_microbatches
    path, latency = np.zeros((number, number)), np.zeros((number, number))
    if arrays.ops.timed:
        path[:] = 1.0
    else:
        member = np.zeros((number, cluster.num_devices))
        for s, group in enumerate(devices):
            member[s, list(group)] = 1.0 / len(group)
        inverse = 1.0 / cluster.bandwidth
        np.fill_diagonal(inverse, 0.0)
        path, latency = member @ inverse @ member.T, member @ cluster.latency_s @ member.T
    behind = np.cumsum(replicas[::-1])[::-1]
    num_microbatches = problem.training.num_microbatches
    return Slots(
        devices=tuple(devices),
        op_s=np.ascontiguousarray(arrays.times.total_s[list(kinds)] * np.array(shares)[:, None]),
        send=path * share[:, None],
        receive=path * share[None, :],
        latency=latency,
        sync_s=np.ascontiguousarray(sync[:, 0]),
        sync_s_per_byte=np.ascontiguousarray(sync[:, 1]),
        memory_bytes=np.array([min(float(cluster.memory_bytes[d]) for d in group) for group in devices]),
        in_flight=np.minimum(np.ceil(num_microbatches / replicas), np.ceil(behind / replicas)),
        resident_factor=np.array([resident_factor(problem.graph, problem.training, len(d)) for d in devices]),
    )


class Cooling(NamedTuple):
    """How long and how hot an annealing is.

    Attributes:
        moves: single ops that are tried.
        hot, cold: first and last temperature, relative to the energy.
        seed: of the moves.
    """

    moves: int
    hot: float
    cold: float
    seed: int


class Rules(NamedTuple):
    """What the search may do.

    Attributes:
        free: ops may be in any slot.
    """

    free: bool


def anneal_labels(
    ops: OpAmounts, slots: Slots, labels: NDArray[np.int64], cooling: Cooling, rules: Rules
) -> tuple[NDArray[np.int64], float]:
    """Runs the moves from `labels` ``[N]``; returns the best labels and their largest load in seconds.

    Raises:
        ValueError: labels that are no slots.
    """
    found = library.anneal_stages(ops, slots, labels.astype(np.int64), cooling, rules)
    return found["labels"], found["load_s"]
