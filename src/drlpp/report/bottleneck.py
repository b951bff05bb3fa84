"""What limits a simulated plan, and what would help, in words.

Looks at what is occupied most: a device, or a channel or port of the network. Left out: how much a change would gain.
"""

from __future__ import annotations

from drlpp.sim import Simulation
from drlpp.units import format_time

_LIMITING = 0.85
"""A resource that is occupied for this part of the step leaves little room for anything else."""


def bottleneck_and_advice(simulation: Simulation) -> list[str]:
    """Two sentences: the bottleneck, and what would help against it."""
    plan, total = simulation.plan, simulation.prediction.iteration_time_s
    if total <= 0:
        return ["The plan takes no time: its graph has no costs."]
    computes = [1 - bubble for bubble in simulation.prediction.bubble_fraction]
    device = max(range(len(computes)), key=computes.__getitem__)
    link, occupied = max(simulation.busy_s.items(), key=lambda item: item[1], default=("", 0.0))
    kind = plan.cluster.devices[device].type.name
    stages = [str(s.index) for s in plan.stages if device in s.devices]
    where = f"#{device} ({kind}, stage{'s' if len(stages) > 1 else ''} {', '.join(stages)})"
    if occupied / total > computes[device]:
        first = f"The bottleneck is {_name(link)}, which is occupied {occupied / total:.0%} of the time."
        if occupied / total < 0.5:
            return [first, _waiting(simulation)]
        return [first, "Stages that exchange less, larger stages on one host, or a faster network would help."]
    if computes[device] < _LIMITING:
        return [f"No device is busy all the time: the busiest, {where}, computes {computes[device]:.0%} of it.",
                _waiting(simulation)]  # fmt: skip
    used = [d for d in range(len(computes)) if plan.schedule.get(d)]
    idle = min(used, key=computes.__getitem__)
    first = f"The bottleneck is device {where}, which computes {computes[device]:.0%} of the time."
    if computes[device] - computes[idle] > 0.15:
        other = plan.cluster.devices[idle].type.name
        return [first, f"Work moved from it to #{idle} ({other}), which computes {computes[idle]:.0%}, would help."]
    return [first, "All devices in use are about as busy: only faster or more devices would help."]


def _waiting(simulation: Simulation) -> str:
    plan = simulation.plan
    bubbles = [b for d, b in enumerate(simulation.prediction.bubble_fraction) if plan.schedule.get(d)]
    mean = sum(bubbles) / len(bubbles)
    lost = format_time(mean * simulation.prediction.iteration_time_s)
    return (
        f"Devices wait {mean:.0%} of the step ({lost}) for tensors of others: more than {plan.num_microbatches} "
        "micro-batches per step would fill the gaps."
    )


def _name(resource: str) -> str:
    """``0->1`` and ``host a out`` in words."""
    src, arrow, dst = resource.partition("->")
    if arrow:
        return f"the link from device #{src} to #{dst}"
    host, way = resource.removeprefix("host ").rsplit(" ", 1)
    return f"the network port of host {host} ({'sending' if way == 'out' else 'receiving'})"
