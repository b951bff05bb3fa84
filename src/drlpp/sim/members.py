"""From a simulated iteration of groups to one of their members.

All members of a group do the same at the same time, and each holds its part of the memory. Each sends its part of what
the group sends, to the members of the other group in turn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from drlpp.cost.groups import lifted_events, lifted_prediction, pairs_of_members
from drlpp.plan import Plan, Trace
from drlpp.sim.simulation import Simulation, Transfer

_Group = tuple[int, ...]


def of_members(simulation: Simulation, plan: Plan) -> Simulation:
    """The iteration of the devices of a plan, from that of its groups."""
    groups = plan.grouping.groups
    trace, part = simulation.trace, {d: (g, len(group)) for g, group in enumerate(groups) for d in group}
    return Simulation(
        plan=plan,
        prediction=lifted_prediction(simulation.prediction, plan.grouping),
        trace=Trace(
            source=trace.source,
            num_devices=plan.cluster.num_devices,
            events=lifted_events(trace.events, plan.grouping),
            memory=tuple(
                tuple((time, size / number) for time, size in trace.memory[g])
                for _, (g, number) in sorted(part.items())
            ),
            iteration_time_s=trace.iteration_time_s,
        ),
        transfers=tuple(made for transfer in simulation.transfers for made in _transfers(transfer, groups)),
        infeasible=tuple((d, size / len(groups[g])) for g, size in simulation.infeasible for d in groups[g]),
        busy_s={made: seconds for name, seconds in simulation.busy_s.items() for made in _names(name, groups)},
    )


def _transfers(transfer: Transfer, groups: tuple[_Group, ...]) -> Iterator[Transfer]:
    pairs = pairs_of_members(groups[transfer.src], groups[transfer.dst])
    for u, v in pairs:
        resources = tuple(f"{u}->{v}" if "->" in name else name for name in transfer.resources)
        yield dataclasses.replace(transfer, src=u, dst=v, bytes=transfer.bytes / len(pairs), resources=resources)


def _names(name: str, groups: tuple[_Group, ...]) -> list[str]:
    """The channels of the members for a channel of groups; a port is what it was."""
    src, arrow, dst = name.partition("->")
    return [f"{u}->{v}" for u, v in pairs_of_members(groups[int(src)], groups[int(dst)])] if arrow else [name]
