"""Which devices hold a tensor of the model, and in which parts: replicas of stages, stages that share it, groups.

In a group of devices a parameter is cut where all ops that read it want the same part of it on a member. Else it is
whole on every member. The gradient of a whole parameter is complete on each member if only undivided ops read it in
groups of one size; else each member has a part of the sum.

Members of a group count by their device ids: the first part is that of the smallest.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence

from drlpp.capture import CapturedModel
from drlpp.capture.cuts import Cut
from drlpp.graph import Split
from drlpp.plan import Plan
from drlpp.runtime.stage.moves import Members
from drlpp.runtime.stage.stage_module import stage_of_node, tensor_readers
from drlpp.runtime.stage.ways import placed_parameters, ways_of
from drlpp.runtime.transfers.reduction import Holders, new_groups


@dataclasses.dataclass(frozen=True)
class Holdings:
    """Who holds what of a model.

    Attributes:
        plan: its stages.
        readers: name of every tensor that the captured model reads -> stages that read it.
        homes: parameter -> the device that holds it if nothing reads it; other tensors are on the first one then.
        cuts: parameter -> cut, of those that the members of a group have parts of.
        partial: whole parameters whose gradients are partial sums on the members of groups.
        owners: parameter and devices that sum its gradient -> the only one of them that changes it; empty: all do.
    """

    plan: Plan
    readers: Mapping[str, tuple[int, ...]]
    homes: Mapping[str, int]
    cuts: Mapping[str, Cut] = dataclasses.field(default_factory=dict)
    partial: Collection[str] = ()
    owners: Mapping[tuple[str, Holders], int] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def group_of(self) -> Mapping[int, tuple[int, ...]]:
        """Device -> its group, sorted; of the devices that run a stage."""
        groups = [tuple(sorted(g)) for stage in self.plan.stages for g in stage.replicas]
        return {d: g for g in groups for d in g}

    def place(self, device: int | None) -> int:
        """Position of a device in its group."""
        return self.group_of[device].index(device) if device is not None and device in self.group_of else 0

    def holders(self, name: str) -> Holders:
        """All devices that hold a tensor which is read, or a part of it."""
        return tuple(sorted({d for s in self.readers[name] for d in self.plan.stages[s].devices}))

    @functools.cached_property
    def sums(self) -> Mapping[str, tuple[Holders, ...]]:
        """Tensor -> sets of devices that sum their gradients of it. Together they are its holders."""
        return {
            name: (self.holders(name),) if name in self.partial else self.positions(stages)
            for name, stages in self.readers.items()
        }

    @functools.cached_property
    def copies(self) -> Mapping[str, tuple[Holders, ...]]:
        """Tensor -> sets of devices that hold the same values of it. Together they are its holders."""
        return {name: sets if name in self.cuts else (self.holders(name),) for name, sets in self.sums.items()}

    def positions(self, stages: Collection[int]) -> tuple[Holders, ...]:
        """Per position in the groups of some stages, the devices that are there; all if their sizes differ."""
        groups = sorted({tuple(sorted(g)) for s in stages for g in self.plan.stages[s].replicas})
        if len({len(g) for g in groups}) > 1:
            return (tuple(sorted({d for g in groups for d in g})),)
        return tuple(tuple(sorted(devices)) for devices in zip(*groups, strict=True))

    def answering(self, name: str) -> tuple[int, ...]:
        """The devices that answer for a tensor: one, or one per part."""
        if name not in self.readers:
            return (self.homes.get(name, min(self.group_of)),)
        sets = self.sums[name] if name in self.cuts else self.sums[name][:1]
        return tuple(self.owners.get((name, devices), devices[0]) for devices in sets)

    def summed_with(self, name: str, device: int | None) -> Holders:
        """The devices that sum the gradient of a parameter with a device; none if it does not hold it."""
        return next((devices for devices in self.sums.get(name, ()) if device in devices), ())

    def changes(self, name: str, device: int | None) -> bool:
        """Whether a device changes a tensor that it holds, and so has its newest value between the steps."""
        return not self.owners or self.owners.get((name, self.summed_with(name, device)), device) == device


def holdings_of(captured: CapturedModel, plan: Plan, chosen: Mapping[str, Split]) -> Holdings:
    """Who holds which tensors of a model."""
    stage_of = stage_of_node(captured, plan)
    cuts, partial = placed_parameters(captured, stage_of, plan, ways_of(captured, plan, chosen))
    stages = zip(plan.graph.ops, plan.stage_of_op.tolist(), strict=True)
    homes = {name: plan.stages[s].devices[0] for op, s in stages for name in op.params}
    readers = {name: stages for name, stages in tensor_readers(captured, stage_of).items() if stages}
    return Holdings(plan, readers, homes, cuts, partial)


def members_of(plan: Plan, device: int | None, rank_of: Mapping[int, int]) -> Members | None:
    """The group of a device, with a process group of its own; called on every rank. None if it is alone."""
    groups = sorted({tuple(sorted(g)) for stage in plan.stages for g in stage.replicas if len(g) > 1})
    made = new_groups(groups, rank_of)
    mine = next((g for g in groups if device in g), None)
    return None if mine is None or device is None else Members(made[mine], len(mine), mine.index(device))


def several(sets: Mapping[str, Sequence[Holders]]) -> Mapping[str, Sequence[Holders]]:
    """The sets of several devices."""
    found = {name: [devices for devices in each if len(devices) > 1] for name, each in sets.items()}
    return {name: each for name, each in found.items() if each}
