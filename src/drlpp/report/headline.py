"""What the report says first: the tiles and the words about a plan, and what is wrong with it if anything is."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence

from drlpp.cluster import Cluster
from drlpp.plan import Objective, Plan, Prediction, Trace
from drlpp.planners.base import gap_to
from drlpp.planners.bounds.gap import COUNTS
from drlpp.report.advice import bottleneck_sentences
from drlpp.report.comparison import DATA_PARALLEL, Comparison, ComparisonRow
from drlpp.report.wording import format_count, format_share
from drlpp.sim import Explanation, Simulation
from drlpp.units import format_bytes, format_time


@dataclasses.dataclass(frozen=True, slots=True)
class Tile:
    """A big number: what it is, the number, a remark, and ``good``, ``bad`` or nothing."""

    label: str
    value: str
    detail: str
    mood: str = ""


def cluster_text(cluster: Cluster) -> str:
    """``8 devices on 3 hosts: 2 a100, 4 v100, 2 t4``."""
    kinds = Counter(d.type.name for d in cluster.devices)
    hosts = len(cluster.hosts)
    devices = f"{cluster.num_devices} device{'s' if cluster.num_devices != 1 else ''}"
    return f"{devices} on {hosts} host{'s' if hosts != 1 else ''}: {', '.join(f'{n} {t}' for t, n in kinds.items())}"


def tiles(
    plan: Plan,
    prediction: Prediction,
    comparison: Comparison | None,
    lower_bound_s: float | None,
    measured: Trace | None,
) -> list[Tile]:
    """The big numbers of a plan."""
    sizes = f"{plan.num_microbatches} × {plan.graph.samples_per_microbatch}"
    out = [
        Tile("Iteration time", format_time(prediction.iteration_time_s), f"one step of {sizes} samples"),
        Tile("Throughput", format_count(prediction.throughput_samples_per_s), "samples per second"),
    ]
    if measured is not None:
        error = measured.iteration_time_s / prediction.iteration_time_s - 1
        out.append(Tile("Measured", format_time(measured.iteration_time_s), f"{error:+.1%} against the prediction"))
    baseline = _row(comparison, DATA_PARALLEL)
    if comparison is not None and baseline is not None:
        value = comparison.value(baseline)
        if value is None:
            out.append(Tile("Over data parallelism", "–", f"data parallelism: {baseline.status}"))
        else:
            ratio = value / objective_value(comparison, prediction)
            out.append(
                Tile(
                    "Over data parallelism",
                    f"{ratio:.2f}×",
                    f"which takes {format_time(value)}",
                    "good" if ratio > 1.005 else "",
                )
            )
    if lower_bound_s:
        gap = gap_to(objective_value(comparison, prediction), lower_bound_s)
        out.append(
            Tile(
                "Gap to the lower bound",
                f"{gap:.1%}" if gap < 1 else f"{gap:.0%}",
                f"no plan is below {format_time(lower_bound_s)}",
            )
        )
    utilization = plan.model_flops_utilization
    if utilization is not None:
        out.append(Tile("Model FLOP utilization", f"{utilization:.1%}", "of the dense peak of all devices"))
    used = [1 - b for d, b in enumerate(prediction.bubble_fraction) if plan.schedule.get(d)]
    out.append(Tile("Devices busy", f"{sum(used) / max(1, len(used)):.0%}", f"mean of the {len(used)} in use"))
    shares = [m / c for m, c in zip(prediction.peak_memory_bytes, plan.cluster.memory_bytes.tolist(), strict=True)]
    worst = max(range(len(shares)), key=shares.__getitem__)
    mood = "bad" if shares[worst] > 1 else ""
    out.append(Tile("Fullest memory", format_share(shares[worst]), f"device #{worst}, at its peak", mood))
    return out


def problems(plan: Plan, prediction: Prediction) -> list[str]:
    """One line for each device whose memory the plan exceeds."""
    out = []
    for device, peak in zip(plan.cluster.devices, prediction.peak_memory_bytes, strict=True):
        if peak > device.type.memory_bytes:
            over = peak - device.type.memory_bytes
            out.append(
                f"This plan does not fit: device #{device.id} ({device.type.name}) needs {format_bytes(peak)} of "
                f"{format_bytes(device.type.memory_bytes)}, {format_bytes(over)} too much."
            )
    return out


def words(simulation: Simulation, explanation: Explanation, comparison: Comparison | None) -> list[str]:
    """The plan, its speed, its bottleneck and what would help, in sentences."""
    plan = simulation.plan
    return [
        " ".join([_what(plan), *_speed(plan, simulation.prediction, comparison)]),
        " ".join(bottleneck_sentences(plan, explanation)),
    ]


def _what(plan: Plan) -> str:
    used = plan.used_devices
    kinds = Counter(plan.cluster.devices[d].type.name for d in used)
    spread = ", ".join(f"{n} {t}" for t, n in kinds.items())
    of_all = (
        f"{len(used)} of {plan.cluster.num_devices}" if len(used) < plan.cluster.num_devices else f"all {len(used)}"
    )
    branches = "" if _is_chain(plan) else ", with branches that run side by side"
    stages = layout_text(plan)
    return (
        f"{plan.graph.name} runs in {stages} on {of_all} devices ({spread}){branches}, in the {plan.schedule_name} "
        f"order over {plan.num_microbatches} micro-batches."
    )


def layout_text(plan: Plan) -> str:
    """Stages and degrees: ``2 stages x TP4 x 2 replicas, ZeRO-1``; ranges where stages differ."""

    def most(values: Iterable[int], word: str) -> str:
        low, high = min(found := set(values)), max(found)
        return word.format(f"{low}" if low == high else f"{low}-{high}")

    parts = [f"{plan.num_stages} stages" if plan.num_stages != 1 else "one stage"]
    if any(s.sharding.tensor > 1 for s in plan.stages):
        parts.append(most((s.sharding.tensor for s in plan.stages), "TP{}"))
    if (len(parts) > 1 or plan.training.zero1) and any(s.num_replicas > 1 for s in plan.stages):
        parts.append(most((s.num_replicas for s in plan.stages), "{} replicas"))
    return " x ".join(parts) + (", ZeRO-1," if plan.training.zero1 and len(parts) > 1 else "")


def _is_chain(plan: Plan) -> bool:
    inner = {(m.src, d) for m in plan.stage_graph.messages if m.phase == "forward" for d in m.dsts}
    return all((s, s + 1) in inner for s in range(plan.num_stages - 1))


def _speed(plan: Plan, prediction: Prediction, comparison: Comparison | None) -> list[str]:
    text = f"One training step takes {format_time(prediction.iteration_time_s)}"
    if comparison is None:
        return [f"{text}."]
    value = objective_value(comparison, prediction)
    baseline = _row(comparison, DATA_PARALLEL)
    clauses = []
    if baseline is not None and plan.provenance.planner != DATA_PARALLEL:
        other = comparison.value(baseline)
        if other:
            clauses.append(_ratio("data parallelism", other / value))
    known = (DATA_PARALLEL, plan.provenance.planner)
    others = [(v, row.planner) for row in comparison.rows if row.planner not in known and (v := comparison.value(row))]
    if others:
        best, name = min(others)
        clauses.append(f"{_ratio(name, best / value)}, the best of the others")
    out = [f"{text}: {' and '.join(clauses)}." if clauses else f"{text}."]
    if baseline is not None and comparison.value(baseline) is None:
        out.append(f"Data parallelism has no plan to compare with ({baseline.status}).")
    bound = comparison.useful_bound_s
    if bound is not None:
        gap = gap_to(value, bound)
        near = f"it is within {gap:.1%} of the best possible"
        far = f"it takes at most {1 + gap:.1f} times as long as the best possible"
        out.append(f"No plan can take less than {format_time(bound)} here, so {near if gap <= 1 else far}.")
        if comparison.bound_kind in COUNTS:
            out.append(f"Part of that gap may be the bound's own: {COUNTS[comparison.bound_kind]}.")
    return out


def _ratio(name: str, ratio: float) -> str:
    if abs(ratio - 1) < 0.005:
        return f"as fast as {name}"
    return f"{ratio:.2f}× faster than {name}" if ratio > 1 else f"{1 / ratio:.2f}× slower than {name}"


def objective_value(comparison: Comparison | None, prediction: Prediction) -> float:
    """The value that planners minimised, in seconds."""
    return (comparison.problem.objective if comparison else Objective.ITERATION_TIME).value_s(prediction)


def _row(comparison: Comparison | None, planner: str) -> ComparisonRow | None:
    rows: Sequence[ComparisonRow] = comparison.rows if comparison else ()
    return next((row for row in rows if row.planner == planner), None)
