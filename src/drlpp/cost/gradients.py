"""Which gradients are summed over which devices at the end of a step, and what each device holds of the parameters.

A replicated stage sums the gradients of its own trained parameters over its replicas. A parameter that several stages
read (tied) is summed once, over the devices of all of them. On a device that holds several of these stages it is one
copy, as is a shared buffer. Frozen parameters and buffers are held, and nothing else.
Under ZeRO stage 1 the devices of a sum divide the optimizer states and step of its parameters equally; gradients are
reduced and scattered before it and parameters gathered after it, which together takes what an all-reduce takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.stage_costs import StageCosts

Devices = Sequence[Sequence[int]]
"""Per stage, the devices that run it (its replicas)."""


class GradientGroup(NamedTuple):
    """An all-reduce when the backward passes of all `stages` are done.

    Attributes:
        num_bytes: of gradients, the most that one of the devices holds.
        held_bytes: ``[G]`` what each of them holds.
    """

    stages: tuple[int, ...]
    devices: tuple[int, ...]
    num_bytes: float
    held_bytes: tuple[float, ...]


def gradient_groups(costs: StageCosts, devices: Devices) -> list[GradientGroup]:
    """All-reduces of a step: those of replicated stages in order of the stage, then those of tied parameters."""
    own = costs.trained_bytes.copy()
    for shared, sizes, _ in costs.tied:
        own[list(shared)] -= sizes
    own[own < 1e-9 * costs.trained_bytes] = 0.0
    groups = []
    for s, replicas in enumerate(devices):
        if len(replicas) > 1 and own[s, replicas[0]] > 0:
            members = tuple(sorted(replicas))
            held = tuple(own[s, list(members)].tolist())
            groups.append(GradientGroup((s,), members, held[0], held))
    for shared, sizes, _ in costs.tied:
        members = tuple(sorted({d for s in shared for d in devices[s]}))
        held = tuple(sizes[list(members)].tolist())
        if len(members) > 1 and max(held) > 0:
            groups.append(GradientGroup(shared, members, max(held), held))
    return groups


def resident_and_optimizer(
    costs: StageCosts, devices: Devices, num_devices: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``[D]`` resident bytes (parameters, buffers, gradients, states), and ``[D]`` seconds of the optimizer step."""
    resident, optimizer = np.zeros(num_devices), np.zeros(num_devices)
    for s, replicas in enumerate(devices):
        index = list(replicas)
        resident[index] += costs.resident_bytes[s, index]
        optimizer[index] += costs.optimizer_s[s, index]
    share = share_of_parameters(costs, devices, num_devices)
    fixed = _read(costs.fixed_bytes, devices, num_devices)
    fixed *= _share(fixed, [(t.stages, t.fixed_bytes) for t in costs.tied], devices)
    resident, optimizer = resident * share + fixed, optimizer * share
    for group in gradient_groups(costs, devices):
        index = list(group.devices)
        spared = np.array(group.held_bytes) * (1 - 1 / len(index))
        resident[index] -= spared * costs.divided_states
        optimizer[index] -= spared * costs.divided_update_s[index]
    return resident, optimizer


def held_at_rest(
    costs: StageCosts, devices: Devices, num_devices: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """``[D]`` bytes of trained parameters, of frozen ones and buffers, and of trained ones whose states others keep.

    Each counts once on a device, however many of its stages read it. The last is 0 without ZeRO-1.
    """
    trained = _read(costs.trained_bytes, devices, num_devices) * share_of_parameters(costs, devices, num_devices)
    fixed = _read(costs.fixed_bytes, devices, num_devices)
    fixed *= _share(fixed, [(t.stages, t.fixed_bytes) for t in costs.tied], devices)
    spared = np.zeros(num_devices)
    for group in gradient_groups(costs, devices) if costs.divided_states else ():
        spared[list(group.devices)] += np.array(group.held_bytes) * (1 - 1 / len(group.devices))
    return trained, fixed, spared


def share_of_parameters(costs: StageCosts, devices: Devices, num_devices: int) -> NDArray[np.float64]:
    """``[D]`` of the trained parameters that the stages of a device read, the part that is no second copy."""
    read = _read(costs.trained_bytes, devices, num_devices)
    return _share(read, [(t.stages, t.trained_bytes) for t in costs.tied], devices)


def _read(sizes: NDArray[np.float64], devices: Devices, num_devices: int) -> NDArray[np.float64]:
    """``[D]`` sums over the stages of a device, of ``[S, D]`` sizes."""
    read = np.zeros(num_devices)
    for s, replicas in enumerate(devices):
        index = list(replicas)
        read[index] += sizes[s, index]
    return read


def _share(
    read: NDArray[np.float64], tied: Sequence[tuple[tuple[int, ...], NDArray[np.float64]]], devices: Devices
) -> NDArray[np.float64]:
    """``[D]`` of what the stages of a device `read`, the part that is no second copy of what they share (`tied`)."""
    copies = np.zeros(len(read))
    for shared, sizes in tied:
        for d, count in Counter(d for s in shared for d in devices[s]).items():
            copies[d] += (count - 1) * sizes[d]
    share = np.ones(len(read))
    some = copies > 0
    share[some] = 1.0 - copies[some] / read[some]
    return share
