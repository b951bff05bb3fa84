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
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.native import library
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


class SplitTable(NamedTuple):
    """The table of the program, ``[Q, P]``: of the ops after model state i on the devices of device state q.

    Attributes:
        value_s: the best value; inf if there is no solution.
        next_state: model state behind the first stage.
        step: step of the devices that the first stage takes.
    """

    value_s: NDArray[np.float64]
    next_state: NDArray[np.int32]
    step: NDArray[np.int32]


class SplitLimits(NamedTuple):
    """What a solution must keep to.

    Attributes:
        load_s: largest load of a stage.
        memory_share: part of each device's memory that a stage may use.
        as_sum: the value is the time of a micro-batch through all stages, not the largest load.
    """

    load_s: float
    memory_share: float
    as_sum: bool


def solve_split(
    model: SplitModel,
    devices: DeviceStates,
    *,
    value: Value = "bottleneck",
    limit_s: float = np.inf,
    memory_share: float = 1.0,
    budget: Budget | None = None,
) -> Split | None:
    """The best split, or None if there is none within limit, memory and budget; where states are many and the budget
    ends, the best over a part of them.

    Args:
        limit_s: no stage may have a larger load.
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
            limit_s=limit_s,
            memory_share=memory_share,
            budget=budget,
        )
        if rough is not None:
            limit_s, slacks = min(limit_s, rough.value_s * (1 + 1e-9)), (np.inf,)
            rough = Split(rough.value_s, tuple((int(kept[i]), int(kept[j]), e) for i, j, e in rough.stages))
    shape = devices.num_states, model.num_states
    table = SplitTable(np.empty(shape), np.empty(shape, dtype=np.int32), np.empty(shape, dtype=np.int32))
    work = max(1, len(devices.rest)) / devices.num_states * model.num_states**2
    at_once = max(1, int(WORK_AT_ONCE / work))
    for slack in slacks:
        bound = min(limit_s, lower * (1.0 + slack)) if slack < np.inf else limit_s
        limits = SplitLimits(
            load_s=bound,
            memory_share=memory_share,
            as_sum=value == "fill",
        )
        table.value_s[:], table.next_state[:], table.step[:] = np.inf, -1, -1
        table.value_s[0, -1] = 0.0
        for start in range(1, devices.num_states, at_once):
            if start > 1 and budget is not None and budget.spent:
                return rough
            stop = min(start + at_once, devices.num_states)
            library.fill_split_rows(table, model, devices, limits, start, stop)
        q = int(np.argmin(table.value_s[:, 0]))
        if np.isfinite(table.value_s[q, 0]):
            return _trace(model, table, q, devices)
        if bound >= limit_s or (budget is not None and budget.spent):
            break
    return rough


def _trace(model: SplitModel, table: SplitTable, q: int, devices: DeviceStates) -> Split:
    value, i = float(table.value_s[q, 0]), 0
    stages = []
    while i < model.num_states - 1:
        e, j = int(table.step[q, i]), int(table.next_state[q, i])
        if devices.replicas[e]:
            stages.append((i, j, e))
        q, i = int(devices.rest[e]), j
    return Split(value, tuple(stages))


def to_assignment(model: SplitModel, devices: DeviceStates, split: Split) -> Assignment:
    """The partition and placement of a solution."""
    stage_of_op = np.zeros(model.members.shape[1], dtype=np.int64)
    for s, (start, stop, _) in enumerate(split.stages):
        stage_of_op[model.stage_ops(start, stop)] = s
    return Assignment.compact(stage_of_op, *devices.placement([step for _, _, step in split.stages]))
