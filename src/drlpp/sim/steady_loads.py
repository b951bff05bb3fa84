"""The steady-state load of each device, readably: for the reference simulator, and the oracle of the compiled loads.

The rules are those of `bottleneck`; nothing is shared with it but the prices.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from drlpp.cost import StageCosts, all_reduce_s, gradient_groups, transfer_s
from drlpp.cost.device_loads import LONGEST_PERIOD
from drlpp.graph.stages import Message
from drlpp.plan import Plan


def steady_loads_s(plan: Plan, costs: StageCosts) -> NDArray[np.float64]:
    """``[D]`` seconds per micro-batch of each device. Args: costs: of the plan's stages."""
    loads = np.zeros(plan.cluster.num_devices)
    for stage in plan.stages:
        seconds = costs.forward_s[stage.index] + costs.backward_s[stage.index] + costs.again_s[stage.index]
        for r, d in enumerate(stage.devices):
            loads[d] += seconds[d] * stage.turns.count(r) / len(stage.turns)
    for message in plan.stage_graph.messages:
        _add_message(plan, message, loads)
    for group in gradient_groups(costs, [stage.devices for stage in plan.stages]):
        seconds_of_step = all_reduce_s(plan.cluster, group.devices, group.num_bytes)
        loads[list(group.devices)] += seconds_of_step / plan.num_microbatches
    return loads


def _add_message(plan: Plan, message: Message, loads: NDArray[np.float64]) -> None:
    """Adds a message, averaged over the micro-batches after which the same replicas meet again."""
    ends = [plan.stages[s] for s in (message.src, *message.dsts)]
    period = min(LONGEST_PERIOD, math.lcm(*(len(stage.turns) for stage in ends)))
    there_and_back = 2 if message.requires_grad and message.phase == "forward" else 1
    for m in range(period):
        source = ends[0].device(m)
        receivers = {stage.device(m) for stage in ends[1:]} - {source}
        for d in receivers:
            path_s = transfer_s(plan.cluster.path(source, d), message.bytes)
            seconds = path_s if message.transfer_s is None else message.transfer_s
            loads[d] += there_and_back * seconds / period
            loads[source] += there_and_back * seconds / period
        if message.transfer_s is not None and receivers:  # the sender pays once, however many devices receive
            loads[source] -= (len(receivers) - 1) * message.transfer_s / period
