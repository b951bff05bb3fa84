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

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drlpp.planners.consecutive.device_states import AllReduceTable, microbatch_share
from drlpp.planners.space.op_arrays import OpArrays
from drlpp.problem import PlanningProblem

MEMORY_PENALTY = 20.0


@dataclasses.dataclass(frozen=True)
class Slots:
    """L slots in pipeline order.

    Attributes:
        devices: per slot, its replicas.
        op_s: ``[L, N]`` seconds of each op on each replica of the slot per micro-batch of the step (share included).
        send, receive: ``[L, L]`` seconds per unit of amount from slot a to slot b, for a replica of a and of b.
        latency: ``[L, L]`` seconds of a message from a to b, for a replica of each, mean.
        sync_s, sync_s_per_byte: ``[L]`` gradient exchange per micro-batch.
        memory_bytes: ``[L]`` of the smallest replica; inf to ignore memory.
        in_flight: ``[L]`` micro-batches kept.
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


def make_slots(
    problem: PlanningProblem, arrays: OpArrays, devices: Sequence[tuple[int, ...]], reduce_s: AllReduceTable
) -> Slots:
    """Slots for given device sets in pipeline order."""
    cluster = problem.cluster
    number = len(devices)
    types = cluster.type_index
    slowness = arrays.total_s.sum(axis=1)
    replicas = np.array([len(d) for d in devices], dtype=np.float64)
    share = np.array([microbatch_share(problem, len(d)) for d in devices])
    slowest = [int(types[max(group, key=lambda d: (slowness[types[d]], d))]) for group in devices]
    sync = np.array([reduce_s(group) for group in devices]) / problem.training.num_microbatches
    path, latency = np.zeros((number, number)), np.zeros((number, number))
    if arrays.timed:
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
        op_s=np.ascontiguousarray(arrays.total_s[slowest] * share[:, None]),
        send=path * share[:, None],
        receive=path * share[None, :],
        latency=latency,
        sync_s=np.ascontiguousarray(sync[:, 0]),
        sync_s_per_byte=np.ascontiguousarray(sync[:, 1]),
        memory_bytes=np.array([min(float(cluster.memory_bytes[d]) for d in group) for group in devices]),
        in_flight=np.minimum(np.ceil(num_microbatches / replicas), np.ceil(behind / replicas)),
    )


def anneal_labels(
    arrays: OpArrays,
    arcs: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    slots: Slots,
    labels: NDArray[np.int64],
    *,
    moves: int,
    hot: float,
    cold: float,
    free: bool,
    resident_per_param_byte: float,
    seed: int,
) -> tuple[NDArray[np.int64], float]:
    """Runs `moves` moves from `labels` ``[N]``; returns the best labels and their largest load in seconds.

    Args:
        arcs: predecessors and successors as (pointer, index) arrays (`arc_arrays`).
        hot, cold: first and last temperature, relative to the load.
        free: ops may be in any slot.
        resident_per_param_byte: bytes of parameter, gradient and optimizer state per parameter byte.
        seed: of the moves.
    """
    best, load = _anneal(
        arrays.param_bytes,
        arrays.saved_bytes,
        arrays.value_src,
        arrays.value_amount,
        arrays.value_copies,
        arrays.consumer_ptr,
        arrays.consumer_op,
        arrays.touch_ptr,
        arrays.touch_value,
        arrays.timed,
        *arcs,
        slots.op_s,
        slots.send,
        slots.receive,
        slots.latency,
        slots.sync_s,
        slots.sync_s_per_byte,
        slots.memory_bytes,
        slots.in_flight,
        labels.astype(np.int64),
        moves,
        hot,
        cold,
        free,
        resident_per_param_byte,
        seed,
    )
    return best, float(load)


def arc_arrays(
    predecessors: Sequence[Sequence[int]], successors: Sequence[Sequence[int]]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Predecessors and successors as (pointer, index, pointer, index)."""
    out: list[NDArray[np.int64]] = []
    for lists in (predecessors, successors):
        pointer = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(x) for x in lists], out=pointer[1:])
        out += [pointer, np.array([j for x in lists for j in x], dtype=np.int64)]
    return out[0], out[1], out[2], out[3]


@njit(cache=True)
def _apply(  # type: ignore[no-untyped-def]
    v,
    sign,
    labels,
    src,
    amount,
    copies,
    ptr,
    consumers,
    timed,
    send,
    receive,
    latency,
    pair,
    load,
    held,
    stamp,
    counter,
):
    """Adds (or with sign -1 takes away) value v to the loads of the slots that send and receive it."""
    a = labels[src[v]]
    stamp[a] = counter
    sent = False
    for k in range(ptr[v], ptr[v + 1]):
        b = labels[consumers[k]]
        if stamp[b] == counter:
            continue
        stamp[b] = counter
        load[b] += sign * amount[v] * receive[a, b]
        if timed:
            if not sent:
                load[a] += sign * amount[v]
        else:
            load[a] += sign * amount[v] * send[a, b]
            held[b] += sign * amount[v] / copies[v]
            before = pair[a, b]
            pair[a, b] += sign
            if before == 0 or pair[a, b] == 0:
                load[a] += sign * copies[v] * latency[a, b]
                load[b] += sign * copies[v] * latency[a, b]
        sent = True


@njit(cache=True)
def _power(load, params, held, sync, sync_byte, memory, flying, resident, scale):  # type: ignore[no-untyped-def]
    """16th power of a slot's load, relative to `scale`."""
    x = load
    if params > 0:
        x += sync + sync_byte * params
    over = params * resident + held * flying - memory
    if over > 0:
        x *= 1.0 + MEMORY_PENALTY * over / memory
    x /= scale
    x *= x
    x *= x
    x *= x
    return x * x


@njit(cache=True)
def _anneal(  # type: ignore[no-untyped-def]
    param_bytes, saved_bytes, src, amount, copies, ptr, consumers, touch_ptr, touch_value, timed,
    before_ptr, before, after_ptr, after,
    op_s, send, receive, latency, sync, sync_byte, memory, flying,
    labels, moves, hot, cold, free, resident, seed,
):  # fmt: skip
    np.random.seed(seed)
    number, n = op_s.shape
    load = np.zeros(number)
    params = np.zeros(number)
    held = np.zeros(number)
    pair = np.zeros((number, number), dtype=np.int64)
    stamp = np.zeros(number, dtype=np.int64)
    touched = np.zeros(number, dtype=np.int64)
    counter = 0
    for i in range(n):
        s = labels[i]
        load[s] += op_s[s, i]
        params[s] += param_bytes[i]
        held[s] += saved_bytes[i]
    for v in range(len(src)):
        counter += 1
        _apply(v, 1, labels, src, amount, copies, ptr, consumers, timed, send, receive, latency, pair, load, held,
               stamp, counter)  # fmt: skip
    scale = 1e-300
    for s in range(number):
        scale = max(scale, load[s] + sync_byte[s] * params[s])
    power = np.zeros(number)
    energy = 0.0
    for s in range(number):
        power[s] = _power(load[s], params[s], held[s], sync[s], sync_byte[s], memory[s], flying[s], resident, scale)
        energy += power[s]
    best_energy, best = energy, labels.copy()
    mark = np.zeros(number, dtype=np.int64)
    epoch = 0
    for move in range(moves):
        i = np.random.randint(n)
        a = labels[i]
        low, high = 0, number - 1
        if not free:
            for k in range(before_ptr[i], before_ptr[i + 1]):
                low = max(low, labels[before[k]])
            for k in range(after_ptr[i], after_ptr[i + 1]):
                high = min(high, labels[after[k]])
        if low >= high:
            continue
        if free and np.random.random() < 0.8:  # mostly to the slot of a neighbour
            degree = before_ptr[i + 1] - before_ptr[i] + after_ptr[i + 1] - after_ptr[i]
            if degree == 0:
                continue
            k = np.random.randint(degree)
            into = before_ptr[i + 1] - before_ptr[i]
            b = labels[before[before_ptr[i] + k]] if k < into else labels[after[after_ptr[i] + k - into]]
        else:
            b = low + np.random.randint(high - low + 1)
        if a == b:
            continue
        # which slots change: a, b and those at the other ends of the op's values
        epoch += 1
        count = 0
        for s in (a, b):
            mark[s] = epoch
            touched[count] = s
            count += 1
        for k in range(touch_ptr[i], touch_ptr[i + 1]):
            v = touch_value[k]
            s = labels[src[v]]
            if mark[s] != epoch:
                mark[s] = epoch
                touched[count] = s
                count += 1
            if src[v] == i:
                for c in range(ptr[v], ptr[v + 1]):
                    s = labels[consumers[c]]
                    if mark[s] != epoch:
                        mark[s] = epoch
                        touched[count] = s
                        count += 1
        for step in range(2):
            here, there = (a, b) if step == 0 else (b, a)
            for k in range(touch_ptr[i], touch_ptr[i + 1]):
                counter += 1
                _apply(touch_value[k], -1, labels, src, amount, copies, ptr, consumers, timed, send, receive, latency,
                       pair, load, held, stamp, counter)  # fmt: skip
            load[here] -= op_s[here, i]
            params[here] -= param_bytes[i]
            held[here] -= saved_bytes[i]
            labels[i] = there
            load[there] += op_s[there, i]
            params[there] += param_bytes[i]
            held[there] += saved_bytes[i]
            for k in range(touch_ptr[i], touch_ptr[i + 1]):
                counter += 1
                _apply(touch_value[k], 1, labels, src, amount, copies, ptr, consumers, timed, send, receive, latency,
                       pair, load, held, stamp, counter)  # fmt: skip
            if step == 1:
                break  # taken back
            change = 0.0
            for k in range(count):
                s = touched[k]
                p = params[s] if params[s] > 0.5 else 0.0
                change += (
                    _power(load[s], p, held[s], sync[s], sync_byte[s], memory[s], flying[s], resident, scale) - power[s]
                )
            proposed = max(energy + change, 1e-300)
            accept = proposed <= energy
            if not accept:
                temperature = hot * (cold / hot) ** (move / moves)
                accept = np.random.random() < np.exp(-(np.log(proposed) - np.log(energy)) / (16.0 * temperature))
            if accept:
                energy = 0.0
                for k in range(count):
                    s = touched[k]
                    p = params[s] if params[s] > 0.5 else 0.0
                    power[s] = _power(load[s], p, held[s], sync[s], sync_byte[s], memory[s], flying[s], resident, scale)
                for s in range(number):
                    energy += power[s]
                if energy < best_energy:
                    best_energy = energy
                    best[:] = labels
                break
    return best, scale * best_energy ** (1.0 / 16.0)
