"""The dynamic program over splits and device states: the core of the planners that cut a model in consecutive stages.

``best[q, i]`` is the value of the ops after state i on the devices of device state q, over all ways to split them.
Stages are added in front, so a stage knows how many devices come behind it, and with them how many micro-batches it
keeps in memory under 1F1B. Two values: the largest load of a stage (`bottleneck`), and the time that one micro-batch
takes through all stages where no load may exceed a limit (`fill`), which is what a step adds to its busiest device.

States that cannot be part of a solution below the limit, or of one better than the best so far, are skipped: the ops
behind a split must fit the devices behind it, and those before it the rest. The limit starts near the lower bound and
grows until a solution exists; where states are many, it is the solution over a part of them.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drlpp.plan.assignment import Assignment
from drlpp.planners.base import Budget
from drlpp.planners.consecutive.device_states import DeviceStates
from drlpp.planners.consecutive.split_states import SplitModel

Value = Literal["bottleneck", "fill"]

_SLACKS = (0.02, 0.08, 0.2, 0.5, 1.0, 3.0, 10.0, np.inf)
WORK_AT_ONCE = 2e8
"""Transitions, at most, between two looks at the clock."""
MANY_STATES, THINNED = 256, 4
"""With more states than this, the best solution of every fourth of them is the limit."""


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """A solution: the model's stages from first to last, and its value in seconds.

    Attributes:
        value_s: largest load, or time of one micro-batch through all stages.
        stages: per stage (state before, state after, step).
    """

    value_s: float
    stages: tuple[tuple[int, int, int], ...]


def solve_split(
    model: SplitModel,
    devices: DeviceStates,
    *,
    resident_per_param_byte: float,
    value: Value = "bottleneck",
    limit_s: float = np.inf,
    transfer_weight: float = 1.0,
    memory_share: float = 1.0,
    budget: Budget | None = None,
) -> Split | None:
    """The best split, or None if there is none within limit, memory and budget; where states are many and the budget
    ends, the best over a part of them.

    Args:
        resident_per_param_byte: bytes of parameter, gradient and optimizer state per parameter byte.
        limit_s: no stage may have a larger load.
        transfer_weight: factor on the seconds of transfers.
        memory_share: part of each device's memory that a stage may use; inf to ignore memory.
    """
    lower = float(model.work_s[-1] / devices.capacity.max())
    slacks = _SLACKS if value == "bottleneck" and lower > 0 else (np.inf,)
    rough = None
    if value == "bottleneck" and model.num_states > MANY_STATES:
        kept = np.unique(np.append(np.arange(0, model.num_states, THINNED), model.num_states - 1))
        rough = solve_split(
            model.part(kept),
            devices,
            resident_per_param_byte=resident_per_param_byte,
            limit_s=limit_s,
            transfer_weight=transfer_weight,
            memory_share=memory_share,
            budget=budget,
        )
        if rough is not None:
            limit_s, slacks = min(limit_s, rough.value_s * (1 + 1e-9)), (np.inf,)
            rough = Split(rough.value_s, tuple((int(kept[i]), int(kept[j]), e) for i, j, e in rough.stages))
    shape = devices.num_states, model.num_states
    best, next_state, step = np.empty(shape), np.empty(shape, dtype=np.int32), np.empty(shape, dtype=np.int32)
    work = max(1, len(devices.rest)) / devices.num_states * model.num_states**2
    at_once = max(1, int(WORK_AT_ONCE / work))
    for slack in slacks:
        bound = min(limit_s, lower * (1.0 + slack)) if slack < np.inf else limit_s
        best[:], next_state[:], step[:] = np.inf, -1, -1
        best[0, -1] = 0.0
        for start in range(1, devices.num_states, at_once):
            if start > 1 and budget is not None and budget.spent:
                return rough
            _fill_rows(
                best,
                next_state,
                step,
                start,
                min(start + at_once, devices.num_states),
                model.work_s,
                model.total_s,
                model.forward_s,
                model.param_bytes,
                model.saved_bytes,
                model.received,
                model.sent,
                devices.capacity,
                devices.step_ptr,
                devices.rest,
                devices.replicas,
                devices.type_index,
                devices.speed,
                devices.share,
                devices.seconds_in * transfer_weight,
                devices.seconds_out * transfer_weight,
                devices.latency_in_s * transfer_weight,
                devices.latency_out_s * transfer_weight,
                devices.sync_s,
                devices.sync_s_per_byte,
                devices.memory_bytes * memory_share,
                devices.in_flight,
                devices.recompute,
                resident_per_param_byte,
                bound,
                value == "fill",
            )
        q = int(np.argmin(best[:, 0]))
        if np.isfinite(best[q, 0]):
            return _trace(model, best, next_state, step, q, devices)
        if bound >= limit_s or (budget is not None and budget.spent):
            break
    return rough


def _trace(
    model: SplitModel,
    best: NDArray[np.float64],
    next_state: NDArray[np.int32],
    step: NDArray[np.int32],
    q: int,
    devices: DeviceStates,
) -> Split:
    value, i = float(best[q, 0]), 0
    stages = []
    while i < model.num_states - 1:
        e, j = int(step[q, i]), int(next_state[q, i])
        if devices.replicas[e]:
            stages.append((i, j, e))
        q, i = int(devices.rest[e]), j
    return Split(value, tuple(stages))


def to_assignment(model: SplitModel, devices: DeviceStates, split: Split) -> Assignment:
    """The partition and placement of a solution; devices of a class are taken in their order."""
    stage_of_op = np.zeros(model.members.shape[1], dtype=np.int64)
    free = [list(pool) for pool in devices.pools]
    placed: list[tuple[int, ...]] = []
    for s, (start, stop, step) in enumerate(split.stages):
        stage_of_op[model.stage_ops(start, stop)] = s
        if devices.pools:
            pool, number = devices.taken[step]
            placed.append(tuple(free[pool][:number]))
            del free[pool][:number]
        else:
            placed.append(devices.devices[step])
    recompute = tuple(bool(devices.recompute[step]) for _, _, step in split.stages)
    return Assignment.compact(stage_of_op, placed, recompute)


@njit(cache=True)
def _fill_rows(
    best: NDArray[np.float64],
    next_state: NDArray[np.int32],
    chosen: NDArray[np.int32],
    start: int,
    stop: int,
    work_s: NDArray[np.float64],
    total_s: NDArray[np.float64],
    forward_s: NDArray[np.float64],
    param_bytes: NDArray[np.float64],
    saved_bytes: NDArray[np.float64],
    received: NDArray[np.float64],
    sent: NDArray[np.float64],
    capacity: NDArray[np.float64],
    step_ptr: NDArray[np.int64],
    rest: NDArray[np.int64],
    replicas: NDArray[np.int64],
    type_index: NDArray[np.int64],
    speed: NDArray[np.float64],
    share: NDArray[np.float64],
    seconds_in: NDArray[np.float64],
    seconds_out: NDArray[np.float64],
    latency_in_s: NDArray[np.float64],
    latency_out_s: NDArray[np.float64],
    sync_s: NDArray[np.float64],
    sync_s_per_byte: NDArray[np.float64],
    memory_bytes: NDArray[np.float64],
    in_flight: NDArray[np.int64],
    recompute: NDArray[np.bool_],
    resident: float,
    limit: float,
    as_sum: bool,
) -> None:
    """Device states from `start` up to `stop`; those before are done."""
    last = len(work_s) - 1
    everything = capacity.max()
    slack = 1e-9 * work_s[last]
    for q in range(start, stop):
        behind, before = capacity[q] * limit + slack, (everything - capacity[q]) * limit + slack
        for e in range(step_ptr[q], step_ptr[q + 1]):
            after, r = rest[e], replicas[e]
            if r == 0:
                for i in range(last + 1):
                    if best[after, i] < best[q, i]:
                        best[q, i] = best[after, i]
                        next_state[q, i] = i
                        chosen[q, i] = e
                continue
            pace, part, tails = speed[e] / share[e], share[e], best[after]
            into_s, out_s, into_latency, out_latency = seconds_in[e], seconds_out[e], latency_in_s[e], latency_out_s[e]
            sync, sync_byte, memory, flying = sync_s[e], sync_s_per_byte[e], memory_bytes[e], in_flight[e]
            again, held = recompute[e], 0.5 if seconds_in[e] != 1.0 else 0.0
            op_s, again_s = total_s[type_index[e]], forward_s[type_index[e]]
            for i in range(last):
                if work_s[last] - work_s[i] > behind:
                    continue
                if work_s[i] > before:
                    break
                best_value, best_j = best[q, i], -1
                # what is behind j must fit the devices behind, and the stage its own, with less than the best so far
                most = limit if as_sum else min(limit, best_value)
                first = np.searchsorted(work_s, work_s[last] - capacity[after] * most - slack)
                reach = work_s[i] + pace * most + slack
                received_i, sent_i = received[i], sent[i]
                op_s_i, again_s_i, saved_i, params_i = op_s[i], again_s[i], saved_bytes[i], param_bytes[i]
                for j in range(max(i + 1, first), last + 1):
                    if work_s[j] > reach:
                        break
                    tail = tails[j]
                    if tail >= best_value:
                        continue
                    into, out = received_i[j], sent_i[j]
                    if into == np.inf:
                        continue
                    seconds = op_s[j] - op_s_i + into * into_s + out * out_s
                    if into > 0:
                        seconds += 2 * into_latency
                    if out > 0:
                        seconds += 2 * out_latency
                    kept, extra = saved_bytes[j] - saved_i, 0.0
                    if again:
                        seconds += again_s[j] - again_s_i
                        kept, extra = extra, kept
                    params = param_bytes[j] - params_i
                    load = seconds * part
                    if r > 1 and params > 0:
                        load += sync + sync_byte * params
                    if load > limit:
                        continue
                    candidate = tail + seconds if as_sum else max(tail, load)
                    if candidate < best_value:
                        if params * resident + flying * (kept + held * into) + extra > memory:
                            continue
                        best_value, best_j = candidate, j
                        if not as_sum and candidate < most:
                            reach = work_s[i] + pace * candidate + slack
                if best_j >= 0:
                    best[q, i], next_state[q, i], chosen[q, i] = best_value, best_j, e
