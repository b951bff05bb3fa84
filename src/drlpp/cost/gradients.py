"""Which gradients are summed over which devices at the end of a step, and what each device holds of the parameters.

A replicated stage sums the gradients of its own parameters over its replicas. A parameter that several stages read
(tied) is summed once, over the devices of all of them. On a device that holds several of these stages it is one copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.stage_costs import StageCosts
from drlpp.graph.stages import StageGraph

Devices = Sequence[Sequence[int]]
"""Per stage, the devices that run it (its replicas)."""


class GradientGroup(NamedTuple):
    """An all-reduce: `num_bytes` of gradients over `devices`, when the backward passes of all `stages` are done."""

    stages: tuple[int, ...]
    devices: tuple[int, ...]
    num_bytes: float


def gradient_groups(stages: StageGraph, devices: Devices) -> list[GradientGroup]:
    """All-reduces of a step: those of replicated stages in order of the stage, then those of tied parameters."""
    own = stages.param_bytes.copy()
    for shared, num_bytes in stages.tied:
        own[list(shared)] -= num_bytes
    own[own < 1e-9 * stages.param_bytes] = 0.0
    groups = [
        GradientGroup((s,), tuple(sorted(devices[s])), float(own[s]))
        for s in range(stages.num_stages)
        if len(devices[s]) > 1 and own[s] > 0
    ]
    for shared, num_bytes in stages.tied:
        union = tuple(sorted({d for s in shared for d in devices[s]}))
        if len(union) > 1 and num_bytes > 0:
            groups.append(GradientGroup(shared, union, num_bytes))
    return groups


def resident_and_optimizer(
    costs: StageCosts, devices: Devices, num_devices: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``[D]`` bytes of parameters, gradients and optimizer state, and ``[D]`` seconds of the optimizer step."""
    resident, optimizer = np.zeros(num_devices), np.zeros(num_devices)
    for s, replicas in enumerate(devices):
        index = list(replicas)
        resident[index] += costs.resident_bytes[s]
        optimizer[index] += costs.optimizer_s[s, index]
    share = share_of_parameters(costs.graph, devices, num_devices)
    return resident * share, optimizer * share


def share_of_parameters(stages: StageGraph, devices: Devices, num_devices: int) -> NDArray[np.float64]:
    """``[D]`` of the parameters that the stages of a device read, the part that is no second copy."""
    params, copies = np.zeros(num_devices), np.zeros(num_devices)
    for s, replicas in enumerate(devices):
        params[list(replicas)] += stages.param_bytes[s]
    for shared, num_bytes in stages.tied:
        for d, count in Counter(d for s in shared for d in devices[s]).items():
            copies[d] += (count - 1) * num_bytes
    share = np.ones(num_devices)
    some = copies > 0
    share[some] = 1.0 - copies[some] / params[some]
    return share
