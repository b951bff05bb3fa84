"""What people want to know of each stage of a plan, in one row: ops, modules, devices, time and memory."""

from __future__ import annotations

import dataclasses

import numpy as np

from drlpp.cost.groups import for_groups
from drlpp.cost.stage_costs import costs_of_plan
from drlpp.graph.stages import Kept
from drlpp.plan import Plan, Stage
from drlpp.plan.modules import StageModules, stage_modules, summarize_modules
from drlpp.plan.shares import microbatches_of_each

_NAMED_OPS = 40


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """One stage.

    Attributes:
        index: of the stage.
        num_ops: ops of the graph in it.
        modules: the modules it covers, for people; ``part of ...`` for modules that several stages share;
            names of ops where the graph has no modules.
        devices: ids of its replicas.
        degrees: how they share it: ``TP4 × 2`` for two replicas of four devices that divide ops; empty for one device.
        device_types: names of their types, each once.
        forward_s, backward_s: seconds per micro-batch on its slowest device (backward with recomputation if any).
        time_share: its part of the seconds of all stages per micro-batch, on the busiest of its replicas.
        param_bytes: parameters and buffers.
        activation_bytes: kept per micro-batch in flight.
        in_flight: largest number of micro-batches between forward and backward on one of its devices.
        memory_bytes: parameters, gradients, optimizer state and activations in flight, on one of its devices; without
            messages, which belong to the device.
        remark: what else is to be said of it: that it recomputes or divides ops, and how many micro-batches its
            replicas run where their shares are unequal.
    """

    index: int
    num_ops: int
    modules: str
    devices: tuple[int, ...]
    degrees: str
    device_types: tuple[str, ...]
    forward_s: float
    backward_s: float
    time_share: float
    param_bytes: float
    activation_bytes: float
    in_flight: int
    memory_bytes: float
    remark: str

    @property
    def device_text(self) -> str:
        """``v100 #2-5``."""
        return f"{'/'.join(self.device_types)} {summarize_modules(f'#{d}' for d in sorted(self.devices))}"


def stage_rows(plan: Plan) -> tuple[StageRow, ...]:
    """The rows of all stages of a legal plan. Raises PlanError if the partition is not legal."""
    of_groups = for_groups(plan)
    costs = costs_of_plan(of_groups)
    covers = stage_modules(plan)
    forward, backward, loads = [], [], []
    for s in of_groups.stages:
        devices = list(s.devices)
        forward.append(float(costs.forward_s[s.index, devices].max()))
        backward.append(float((costs.backward_s + costs.again_s)[s.index, devices].max()))
        both = (costs.forward_s + costs.backward_s + costs.again_s)[s.index, devices]
        loads.append(float((both * np.bincount(s.turns)).max()) / len(s.turns))
    total = sum(loads) or 1.0
    rows = []
    for s, on in zip(plan.stages, of_groups.stages, strict=True):
        i = s.index
        here = i, on.devices[0]
        kept_bytes = costs.held_bytes, costs.again_bytes, costs.remade_bytes
        tables = *kept_bytes, costs.trained_bytes, costs.fixed_bytes, costs.resident_bytes
        *parts, trained, fixed, resident = (float(table[here]) / s.sharding.tensor for table in tables)  # of one member
        resident -= trained * costs.divided_states * (1 - 1 / s.num_replicas)
        kept = Kept(*parts)
        in_flight, peak = max(_most_held(plan, i, d, kept) for d in s.devices)
        rows.append(
            StageRow(
                index=i,
                num_ops=len(s.ops),
                modules=_describe(covers[i], s.ops),
                devices=s.devices,
                degrees=_degrees(s),
                device_types=tuple(dict.fromkeys(plan.cluster.devices[d].type.name for d in s.devices)),
                forward_s=forward[i],
                backward_s=backward[i],
                time_share=loads[i] / total,
                param_bytes=trained + fixed,
                activation_bytes=kept.held,
                in_flight=in_flight,
                memory_bytes=resident + fixed + peak,
                remark=_remark(s, plan.num_microbatches),
            )
        )
    return tuple(rows)


def _degrees(stage: Stage) -> str:
    parts = [f"TP{stage.sharding.tensor}"] if stage.sharding.tensor > 1 else []
    if stage.num_replicas > 1:
        parts.append(f"× {stage.num_replicas}")
    return " ".join(parts)


def _remark(stage: Stage, num_microbatches: int) -> str:
    tensor = f"TP{stage.sharding.tensor}" if stage.sharding.tensor > 1 else ""
    recomputes = "recomputes" if stage.settings.recompute else ""
    return ", ".join(part for part in (tensor, recomputes, _unequal_shares(stage, num_microbatches)) if part)


def _unequal_shares(stage: Stage, num_microbatches: int) -> str:
    """``micro-batches: 12 on #0-7, 2 on #8-9``; empty where all replicas have equal shares."""
    if not stage.settings.shares:
        return ""
    devices_of: dict[int, list[int]] = {}
    numbers = microbatches_of_each(stage.settings.shares, stage.num_replicas, num_microbatches)
    for number, group in zip(numbers, stage.replicas, strict=True):
        devices_of.setdefault(number, []).extend(group)
    each = (f"{n} on {summarize_modules(f'#{d}' for d in sorted(devices_of[n]))}" for n in sorted(devices_of)[::-1])
    return f"micro-batches: {', '.join(each)}"


def _most_held(plan: Plan, stage: int, device: int, kept: Kept) -> tuple[int, float]:
    """The largest number of micro-batches in flight, and the largest number of bytes that they hold."""
    count, most, level, peak = 0, 0, 0.0, 0.0
    for action in plan.schedule.get(device, ()):
        if action.stage != stage:
            continue
        if action.kind == "F":
            count += 1
            level += kept.held
        elif action.kind == "I":
            level += kept.remade
        elif action.kind == "B":
            peak = max(peak, level + kept.again)
        most, peak = max(most, count), max(peak, level)
        if action.kind in ("B", "W"):
            count -= 1
            level -= kept.held + (kept.remade if action.kind == "W" else 0.0)
    return most, peak


def _describe(modules: StageModules, ops: tuple[str, ...]) -> str:
    """Modules where the graph has them, else names of ops."""
    parts = [summarize_modules(modules.whole)] if modules.whole else []
    if modules.split:
        parts.append(f"part of {summarize_modules(modules.split)}")
    if not parts:
        names = summarize_modules(ops[:_NAMED_OPS])
        parts.append(f"{names} and {len(ops) - _NAMED_OPS} more ops" if len(ops) > _NAMED_OPS else names)
    return "; ".join(parts)
