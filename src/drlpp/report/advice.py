"""What limits a plan, and what would help, in words: `sim.explain` for people who look at a report."""

from __future__ import annotations

from typing import Any

from drlpp.plan import Plan
from drlpp.sim import Change, Explanation
from drlpp.units import format_bytes, format_time

_MOST_CHANGES = 6
_NOTABLE = 0.0005
"""Changes that save a smaller part of the step are not worth a line."""


def bottleneck_sentences(plan: Plan, explanation: Explanation) -> list[str]:
    """The bottleneck, the waiting, the critical path, and the best single change of the plan and of the hardware."""
    total = explanation.iteration_time_s
    if not total or not explanation.busy_s:
        return ["The plan takes no time: its graph has no costs."]
    used = [explanation.bubble_fraction[d] for d in sorted(plan.schedule) if plan.schedule[d]]
    share = explanation.bottleneck_busy_fraction
    out = [
        f"The bottleneck is {_name(plan, explanation.bottleneck)}: busy {share:.0%} of the time, while the devices in "
        f"use wait {sum(used) / len(used):.0%} of it on average."
    ]
    parts = [
        f"{seconds / total:.0%} {'computing' if kind == 'compute' else kind} on {where.replace('device ', '#')}"
        for (kind, where), seconds in list(explanation.critical_path_s.items())[:3]
        if seconds >= 0.01 * total
    ]
    if parts:
        out.append(f"The critical path is {', '.join(parts)}.")
    helpful = helpful_changes(explanation)
    if not helpful:
        out.append(f"None of the {len(explanation.changes)} single changes that were tried makes it faster.")
    for kind, words in (("plan", "In the plan"), ("hardware", "Of the hardware")):
        best = next((c for c in helpful if c.kind == kind), None)
        if best is not None:
            out.append(f"{words}, {best.text} would help most: {_effect(best, total)}.")
    return out


def helpful_changes(explanation: Explanation) -> list[Change]:
    """The changes that save time without costing memory that is not there, or that make the plan fit; best first."""
    over = max((size for _, size in explanation.over_memory), default=0.0)
    threshold = _NOTABLE * explanation.iteration_time_s
    return [
        c
        for c in explanation.changes
        if c.over_memory_bytes < over or (c.over_memory_bytes <= over and c.saves_s > threshold)
    ]


def change_rows(explanation: Explanation) -> list[dict[str, Any]]:
    """Rows of the page's table: the best helpful changes, and what each does."""
    total = explanation.iteration_time_s or 1.0
    return [
        {
            "text": change.text,
            "kind": change.kind,
            "time": format_time(change.iteration_time_s),
            "saved": f"{change.saves_s / total:+.1%}",
            "fits": not change.over_memory_bytes,
        }
        for change in helpful_changes(explanation)[:_MOST_CHANGES]
    ]


def _effect(change: Change, total: float) -> str:
    if change.over_memory_bytes:
        return f"{format_bytes(change.over_memory_bytes)} too much memory instead of more"
    if change.saves_s <= 0:
        return f"the plan would fit, in {format_time(change.iteration_time_s)}"
    return f"{format_time(change.iteration_time_s)}, {change.saves_s / total:.1%} less"


def _name(plan: Plan, thing: str) -> str:
    """``device 3``, ``link 0->1``, ``host a out`` and ``all-reduce on device 3`` in words."""
    if thing.startswith("device "):
        device = int(thing.removeprefix("device "))
        stages = [str(s.index) for s in plan.stages if device in s.devices]
        kind = plan.cluster.devices[device].type.name
        return f"device #{device} ({kind}, stage{'s' if len(stages) > 1 else ''} {', '.join(stages)})"
    if thing.startswith("link "):
        src, _, dst = thing.removeprefix("link ").partition("->")
        return f"the link from device #{src} to #{dst}"
    if thing.startswith("host "):
        host, way = thing.removeprefix("host ").rsplit(" ", 1)
        return f"the network port of host {host} ({'sending' if way == 'out' else 'receiving'})"
    return f"the {thing.replace('device ', 'device #')}"
