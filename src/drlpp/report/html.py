"""The report: one self-contained HTML page about a plan, below 2 MB, without anything from the network.

Left out: interactive editing of plans, and charts of more than one problem.
"""

from __future__ import annotations

import importlib.resources
import json
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from drlpp.cluster import cluster_presets
from drlpp.errors import InputError
from drlpp.files import write_atomically
from drlpp.graph import graph_hash
from drlpp.plan import Plan, Trace
from drlpp.planners.break_even import describe
from drlpp.report.advice import change_rows
from drlpp.report.charts import CurvePoint, curve_chart, history_chart
from drlpp.report.comparison import Comparison, ComparisonRow
from drlpp.report.graph_picture import color_of, stage_picture
from drlpp.report.headline import cluster_text, problems, tiles, words
from drlpp.report.memory_parts import memory_rows
from drlpp.report.run_record import RunRecord, run_chart
from drlpp.report.stages import StageRow, stage_rows
from drlpp.report.timeline import pack, timeline_data
from drlpp.report.wording import describe_part, format_share
from drlpp.sim import Simulation, explain, simulate
from drlpp.units import format_bytes, format_time

_MAX_HOSTS = 4
"""Hosts whose command is written out."""
_KIND_LABELS = {
    "F": "forward",
    "B": "backward",
    "I": "input gradient",
    "W": "weight gradient",
    "recompute": "recomputation",
    "send": "transfer",
    "all-reduce": "gradient all-reduce",
    "optimizer": "optimizer",
}


def write_report(
    plan: Plan,
    path: Path,
    *,
    comparison: Comparison | None = None,
    curve: Sequence[CurvePoint] = (),
    measured: Trace | None = None,
    run: RunRecord | None = None,
    lower_bound_s: float | None = None,
) -> None:
    """Simulates a plan and writes its page, atomically.

    Args:
        comparison: other planners on the same problem.
        curve: the learning of the agent, iteration by iteration; that of `comparison` if empty.
        measured: a trace of a real run of the plan, drawn beside the predicted one.
        run: the steps of a run that began with the plan, with what it decided.
        lower_bound_s: of the iteration time; that of `comparison` if None.

    Raises:
        PlanError, ScheduleError: the plan is not legal.
        InputError: `path` cannot be written, or `measured` is of another cluster.
    """
    page = render_report(
        simulate(plan), comparison=comparison, curve=curve, measured=measured, run=run, lower_bound_s=lower_bound_s
    )
    write_atomically(path, page)


def render_report(
    simulation: Simulation,
    *,
    comparison: Comparison | None = None,
    curve: Sequence[CurvePoint] = (),
    measured: Trace | None = None,
    run: RunRecord | None = None,
    lower_bound_s: float | None = None,
) -> str:
    """The page as text; see `write_report`."""
    plan, prediction, trace = simulation.plan, simulation.prediction, simulation.trace
    if measured is not None and measured.num_devices != trace.num_devices:
        raise InputError(
            f"the measured trace has {measured.num_devices} devices and the plan {trace.num_devices}: "
            "give a trace of a run of this plan"
        )
    traces = [trace] if measured is None else [trace, measured]
    explanation = explain(simulation)
    data = timeline_data(traces, plan.cluster, explanation.critical_path)
    rows = stage_rows(plan)
    if comparison is not None:
        curve = curve or next((row.curve for row in comparison.rows if row.curve), ())
        lower_bound_s = comparison.useful_bound_s if lower_bound_s is None else lower_bound_s
    charts = {"history": history_chart(comparison), "curve": curve_chart(curve)}
    charts["run"] = None if run is None else run_chart(run)
    used = {e.kind for t in traces for e in t.events}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(_resource("report.html")).render(
        css=_resource("report.css"),
        js=_resource("report.js"),
        model=plan.graph.name,
        cluster=plan.cluster.name,
        cluster_text=cluster_text(plan.cluster),
        problems=problems(plan, prediction),
        tiles=tiles(plan, prediction, comparison, lower_bound_s, measured),
        words=words(simulation, explanation, comparison),
        changes=change_rows(explanation),
        measured=measured is not None,
        run=run,
        folded=len(data["alike"]) < plan.cluster.num_devices,
        kinds=[{"key": k, "label": label} for k, label in _KIND_LABELS.items() if k in used],
        left_out=f"{data['left_out']:,}" if data["left_out"] else "",
        memory=memory_rows(plan, prediction),
        graph=stage_picture(plan, rows),
        rows=[_stage_row(plan, row) for row in rows],
        comparison=_comparison(comparison) if comparison else None,
        charts=charts,
        charts_json=json.dumps(charts, separators=(",", ":")).replace("<", "\\u003c"),
        packed=pack(data),
        provenance=_provenance(plan),
        commands=_commands(plan),
        footer=f"Written by DRL-PP {plan.provenance.version}. Predicted numbers come from its simulator.",
    )


def _resource(name: str) -> str:
    return importlib.resources.files("drlpp.report").joinpath(name).read_text(encoding="utf-8")


def _stage_row(plan: Plan, row: StageRow) -> dict[str, Any]:
    return {
        "index": row.index,
        "modules": row.modules,
        "remark": row.remark,
        "devices": [{"color": color_of(d), "text": f"#{d} {plan.cluster.devices[d].type.name}"} for d in row.devices],
        "replicas": len(row.devices),
        "num_ops": f"{row.num_ops:,}",
        "forward": format_time(row.forward_s),
        "backward": format_time(row.backward_s),
        "share": f"{row.time_share:.0%}",
        "params": format_bytes(row.param_bytes),
        "in_flight": row.in_flight,
        "memory": format_bytes(row.memory_bytes),
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    values = [v for row in comparison.rows if (v := comparison.value(row)) is not None]
    bound = comparison.useful_bound_s
    longest = max([*values, bound or 0.0]) or 1.0
    problem = comparison.problem
    caption = (
        f"{problem.objective.label.capitalize()} of the best plan of each planner, shorter is better; on the right, "
        f"the speed-up over data parallelism. {_conditions(comparison)}"
    )
    if bound is not None:
        caption += f"The dashed line is the lower bound of {format_time(bound)} ({comparison.bound_kind})."
    return {
        "caption": caption,
        "bound_at": f"{100 * bound / longest:.2f}" if bound is not None else "",
        "rows": [_comparison_row(comparison, row, longest) for row in comparison.rows],
    }


def _conditions(comparison: Comparison) -> str:
    """Under which conditions the planners worked: equal ones, if their plans say so."""
    made = [row.plan.provenance for row in comparison.rows if row.plan]
    budgets = {p.budget_s for p in made if p.budget_s is not None}
    seeds = {p.seed for p in made}
    if len(budgets) == 1 and len(seeds) == 1:
        return f"Same problem, same simulator, {format_time(budgets.pop())} each, seed {seeds.pop()}. "
    return "Same problem, same simulator. "


def _comparison_row(comparison: Comparison, row: ComparisonRow, longest: float) -> dict[str, Any]:
    value = comparison.value(row)
    none = "–"
    return {
        "planner": row.planner,
        "status": row.status,
        "reason": row.reason,
        "best": row is comparison.best,
        "value": format_time(value) if value is not None else "",
        "width": f"{100 * (value or 0.0) / longest:.2f}",
        "iteration": format_time(row.iteration_time_s) if row.iteration_time_s is not None else none,
        "bottleneck": format_time(row.bottleneck_s) if row.bottleneck_s is not None else none,
        "speedup": f"{row.speedup_over_data_parallel:.2f}×" if row.speedup_over_data_parallel is not None else none,
        "gap": f"{row.gap:.1%}" if row.gap is not None else none,
        "planned": format_time(row.planning_time_s),
        "memory": format_share(share) if (share := row.fullest_memory) is not None else none,
        "breakdown": [
            *(describe_part(name, amount) for name, amount in row.breakdown.items()),
            *([f"planning repaid: {describe(row.break_even_steps)}"] if row.break_even_steps else []),
        ],
    }


def _provenance(plan: Plan) -> list[tuple[str, str]]:
    p = plan.provenance
    budget = f", budget {format_time(p.budget_s)}" if p.budget_s is not None else ""
    out = [
        ("Planner", f"{p.planner}, seed {p.seed}{budget}"),
        ("DRL-PP", p.version or "unknown version"),
        ("Model", plan.graph.source or f"{plan.graph.name} (generated)"),
        ("Graph", f"{plan.graph.num_ops:,} ops, SHA-256 {graph_hash(plan.graph)[:16]}…"),
        ("Training", f"{plan.num_microbatches} micro-batches per step, optimizer {plan.training.optimizer}"),
        ("Schedule", plan.schedule_name),
    ]
    return out + [(name.replace("_", " ").capitalize(), text) for name, text in p.notes.items()]


def _commands(plan: Plan) -> list[dict[str, str]]:
    p = plan.provenance
    cluster = plan.cluster.name if plan.cluster.name in cluster_presets() else "CLUSTER.yaml"
    make = ["drlpp", "plan", plan.graph.source or "GRAPH.json", "--cluster", cluster, "--planner", p.planner]
    make += ["--num-microbatches", str(plan.num_microbatches), "--seed", str(p.seed)]
    if p.budget_s is not None:
        make += ["--budget", f"{p.budget_s:g}"]
    make += ["-o", "plan.json"]
    return [
        {"what": "Make it again:", "command": shlex.join(make)},
        {
            "what": "Check it, and write a trace for ui.perfetto.dev:",
            "command": "drlpp validate plan.json\ndrlpp simulate plan.json --trace trace.json",
        },
        {
            "what": "Train with it here, and compare the result with training on one device:",
            "command": "drlpp run plan.json --steps 10 --verify",
        },
        *_across_hosts(plan),
        {
            "what": "Hand it to another engine (FORMAT: torch-schedule, torchtitan, megatron, accelerate, ...):",
            "command": "drlpp export plan.json --to FORMAT -o FILE",
        },
    ]


def _across_hosts(plan: Plan) -> list[dict[str, str]]:
    """How to start the ranks on each host, for plans that use several."""
    per_host = Counter(plan.cluster.hosts[plan.cluster.devices[d].host].name for d in plan.used_devices)
    if len(per_host) < 2:
        return []
    lines = [
        f"torchrun --nnodes {len(per_host)} --node-rank {rank} --nproc-per-node {number} --master-addr "
        f"{next(iter(per_host))} --master-port 29500 -m drlpp run plan.json  # on host {name}"
        for rank, (name, number) in enumerate(per_host.items())
    ]
    if len(lines) > _MAX_HOSTS:
        lines[_MAX_HOSTS:] = [f"# and so on, up to --node-rank {len(per_host) - 1}"]
    return [{"what": "Train with it on the cluster, one command on each host:", "command": "\n".join(lines)}]
