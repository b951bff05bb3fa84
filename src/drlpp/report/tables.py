"""Tables for the terminal: a comparison, a plan, a simulation, a run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from drlpp.plan import Objective, Plan, Prediction
from drlpp.planners.bounds.gap import COUNTS, gap_of
from drlpp.planners.break_even import describe
from drlpp.report.comparison import Comparison
from drlpp.report.headline import problems
from drlpp.report.stages import stage_rows
from drlpp.report.wording import describe_part, format_count, format_share
from drlpp.sim import Simulation
from drlpp.units import format_bytes, format_time

if TYPE_CHECKING:
    from drlpp.planners.bounds.lower_bound import Bound
    from drlpp.runtime.launch.job import RunReport

_NONE = "-"


def comparison_table(comparison: Comparison) -> Table:
    """One row per planner, the best one bold; below, why planners failed and what their parts found or took."""
    p = comparison.problem
    steady = p.objective.of_one_microbatch
    notes = Text()
    table = Table(
        title=f"{p.model} on {p.cluster}: {p.num_devices} devices, {p.num_microbatches} micro-batches",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("planner", no_wrap=True)
    for name in ("bottleneck" if steady else "iteration", "speed-up", "gap", "memory", "planned"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in comparison.rows:
        value = comparison.value(row)
        table.add_row(
            Text(row.planner),
            format_time(value) if value is not None else Text(row.status, style="red"),
            f"{row.speedup_over_data_parallel:.2f}x" if row.speedup_over_data_parallel is not None else _NONE,
            f"{row.gap:.1%}" if row.gap is not None else _NONE,
            format_share(share) if (share := row.fullest_memory) is not None else _NONE,
            format_time(row.planning_time_s),
            style="bold" if row is comparison.best else "",
        )
        parts = [describe_part(name, amount) for name, amount in row.breakdown.items()]
        if row.break_even_steps:
            parts.append(f"planning repaid: {describe(row.break_even_steps)}")
        if row.reason:
            notes.append(f"\n{row.planner} {row.status}: {row.reason}", style="red")
        if parts:
            notes.append(f"\n{row.planner}: {', '.join(parts)}", style="dim")
    legend = "speed-up: over data parallelism; memory: the fullest device"
    if comparison.useful_bound_s is not None:
        legend += f"; gap: to the lower bound of {format_time(comparison.useful_bound_s)} ({comparison.bound_kind})"
        gaps = [row.gap for row in comparison.rows if row.gap is not None]
        if gaps:
            legend += f"; the best plan is within {min(gaps):.1%} of the best possible"
        if comparison.bound_kind in COUNTS:
            legend += f"; the bound: {COUNTS[comparison.bound_kind]}"
    table.caption = Text(legend, style="dim") + notes
    return table


def plan_tables(
    plan: Plan, bound: Bound | None = None, objective: Objective = Objective.ITERATION_TIME
) -> list[RenderableType]:
    """The headline numbers of a plan with its prediction, and its stages.

    Args:
        bound: lower bound of the objective that the plan was made for.
    """
    tables: list[RenderableType] = []
    if plan.prediction is not None:
        tables.append(_headline(plan, plan.prediction, bound, objective))
    tables.append(stage_table(plan))
    return tables


def stage_table(plan: Plan) -> Table:
    """One row per stage: ops, modules, devices, time, memory."""
    table = Table(title="stages", title_justify="left")
    table.add_column("stage", justify="right", no_wrap=True)
    table.add_column("devices")
    for name in ("ops", "F + B", "params", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("modules", min_width=18)
    for row in stage_rows(plan):
        table.add_row(
            str(row.index),
            Text(row.device_text),
            f"{row.num_ops:,}",
            format_time(row.forward_s + row.backward_s),
            format_bytes(row.param_bytes),
            format_bytes(row.memory_bytes),
            Text((f"{row.remark}: " if row.remark else "") + _from_to(row.modules)),
        )
    return table


def simulation_tables(simulation: Simulation) -> list[RenderableType]:
    """What the simulator says of a plan: numbers, devices, and what does not fit."""
    plan, prediction = simulation.plan, simulation.prediction
    tables: list[RenderableType] = [_headline(plan, prediction), device_table(simulation)]
    tables += [Text(line, style="red") for line in problems(plan, prediction)]
    return tables


def device_table(simulation: Simulation) -> Table:
    """One row per device: its stages, how long it computes and waits, and its memory."""
    plan, prediction = simulation.plan, simulation.prediction
    table = Table(title="devices", title_justify="left")
    table.add_column("device")
    table.add_column("host")
    table.add_column("stages")
    for name in ("computes", "waits", "peak memory", "of"):
        table.add_column(name, justify="right", no_wrap=True)
    for device in plan.cluster.devices:
        stages = [str(s.index) for s in plan.stages if device.id in s.devices]
        idle = prediction.bubble_fraction[device.id]
        peak, capacity = prediction.peak_memory_bytes[device.id], device.type.memory_bytes
        table.add_row(
            Text(f"#{device.id} {device.type.name}"),
            Text(plan.cluster.hosts[device.host].name),
            ", ".join(stages) or "not used",
            f"{1 - idle:.0%}" if stages else _NONE,
            f"{idle:.0%}" if stages else _NONE,
            Text(format_bytes(peak), style="red" if peak > capacity else "") if stages else _NONE,
            format_bytes(capacity),
        )
    return table


def run_tables(plan: Plan, report: RunReport) -> list[RenderableType]:
    """What a run measured, beside what was predicted; and the verdict of the verification."""
    steps = len(report.iteration_times_s)
    emulated = report.time_scale != 1.0 or not report.losses
    table = Table(
        title=f"{plan.graph.name}: {steps} measured step{'s' if steps > 1 else ''}{', emulated' if emulated else ''}",
        title_justify="left",
        show_header=False,
    )
    table.add_column()
    table.add_column()
    table.add_row("measured iteration time", f"{format_time(report.iteration_time_s)} (median)")
    if report.predicted_s:
        ratio = report.iteration_time_s / report.predicted_s
        table.add_row("predicted iteration time", f"{format_time(report.predicted_s)}: measured is {ratio:.2f}x of it")
    samples = plan.num_microbatches * plan.graph.samples_per_microbatch
    table.add_row("throughput", f"{format_count(samples / report.iteration_time_s)} samples/s")
    if report.losses:
        losses = [f"{loss:.6g}" for loss in report.losses]
        table.add_row("losses", ", ".join(losses if len(losses) <= 6 else [*losses[:3], "...", *losses[-2:]]))
    if report.peak_memory_bytes:
        peaks = [f"#{d} {format_bytes(b)}" for d, b in enumerate(report.peak_memory_bytes) if b]
        table.add_row("peak memory of tensors", ", ".join(peaks))
    tables: list[RenderableType] = [table]
    if report.verification is not None:
        verdict = report.verification
        tables.append(Text(verdict.describe(), style="green" if verdict.passed else "red"))
    return tables


def _from_to(modules: str) -> str:
    """The first and the last of a list of modules."""
    names = modules.split(";")[0].split(", ")
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _headline(
    plan: Plan, prediction: Prediction, bound: Bound | None = None, objective: Objective = Objective.ITERATION_TIME
) -> Table:
    table = Table(
        title=f"{plan.graph.name} on {plan.cluster.name}, by {plan.provenance.planner}",
        title_justify="left",
        show_header=False,
    )
    table.add_column()
    table.add_column()
    samples = plan.num_microbatches * plan.graph.samples_per_microbatch
    table.add_row("iteration time", f"{format_time(prediction.iteration_time_s)} for {samples:,} samples")
    table.add_row("throughput", f"{format_count(prediction.throughput_samples_per_s)} samples/s")
    table.add_row("bottleneck", f"{format_time(prediction.bottleneck_s)} per micro-batch on the most loaded device")
    if bound is not None and 0 < bound.value_s < math.inf:
        gap = gap_of(plan, bound, objective)
        table.add_row(
            "lower bound", f"{format_time(bound.value_s)} ({bound.kind}), gap {gap.whole:.1%}: {gap.describe()}"
        )
        if bound.kind in COUNTS:
            table.add_row("", COUNTS[bound.kind])
    table.add_row("schedule", f"{plan.schedule_name}, {plan.num_microbatches} micro-batches")
    table.add_row("fullest memory", _fullest(plan, prediction.peak_memory_bytes))
    for name, text in plan.provenance.notes.items():
        table.add_row(name.replace("_", " "), Text(text))
    return table


def _fullest(plan: Plan | None, peak_memory_bytes: tuple[float, ...]) -> str:
    if plan is None or not peak_memory_bytes:
        return _NONE
    shares = [p / c for p, c in zip(peak_memory_bytes, plan.cluster.memory_bytes.tolist(), strict=True)]
    device = max(range(len(shares)), key=shares.__getitem__)
    return f"{format_share(shares[device])} of #{device}"
