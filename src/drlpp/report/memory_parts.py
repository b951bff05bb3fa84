"""What the memory of each device holds when it is fullest, and which devices do the same.

Left out: what of the last part is activations, and what is messages that wait to be read or sent.
"""

from __future__ import annotations

import dataclasses

from drlpp.cost.gradients import held_at_rest
from drlpp.cost.groups import for_groups
from drlpp.cost.optimizer_state import state_bytes
from drlpp.cost.stage_costs import costs_of_plan
from drlpp.plan import Plan, Prediction
from drlpp.plan.modules import summarize_modules
from drlpp.units import format_bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemoryParts:
    """Bytes on one device at its peak.

    Attributes:
        device: its number.
        parameters, gradients, states: of what is trained; `states` with main parameters, without what others keep.
        buffers: and frozen parameters.
        activations: of micro-batches in flight, and messages.
    """

    device: int
    parameters: float
    gradients: float
    states: float
    buffers: float
    activations: float

    @property
    def peak(self) -> float:
        """All of them."""
        return self.parameters + self.gradients + self.states + self.buffers + self.activations


def memory_parts(plan: Plan, prediction: Prediction) -> tuple[MemoryParts, ...]:
    """The memory of every device. Raises PlanError if the partition is not legal."""
    of_groups, groups = for_groups(plan), plan.grouping.groups
    costs = costs_of_plan(of_groups)
    number = of_groups.cluster.num_devices
    trained, fixed, spared = held_at_rest(costs, [s.devices for s in of_groups.stages], number)
    each = state_bytes(plan.graph, plan.training)
    found = []
    for g, group in enumerate(groups):
        for d in group:
            of_member = trained[g] / len(group), fixed[g] / len(group), spared[g] / len(group)
            parameters, gradients = of_member[0] * each.parameter, of_member[0] * each.gradient
            states = of_member[0] * each.states - of_member[2] * each.divided
            rest = parameters + gradients + states + of_member[1]
            found.append(
                MemoryParts(
                    device=d,
                    parameters=parameters,
                    gradients=gradients,
                    states=states,
                    buffers=of_member[1],
                    activations=max(0.0, prediction.peak_memory_bytes[d] - rest),
                )
            )
    return tuple(sorted(found, key=lambda parts: parts.device))


def memory_rows(plan: Plan, prediction: Prediction) -> list[dict[str, str]]:
    """Cells of a table: one row for devices of one type that hold the same."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for parts in memory_parts(plan, prediction):
        kind = plan.cluster.devices[parts.device].type
        sizes = (parts.peak, kind.memory_bytes, parts.parameters, parts.gradients, parts.states, parts.activations)
        cells = (kind.name, *map(format_bytes, (*sizes, parts.buffers)))
        alike.setdefault(cells, []).append(parts.device)
    names = ("peak", "capacity", "parameters", "gradients", "states", "activations", "buffers")
    return [
        {"device": f"{summarize_modules(f'#{d}' for d in devices)} {kind}", **dict(zip(names, cells, strict=True))}
        for (kind, *cells), devices in alike.items()
    ]
