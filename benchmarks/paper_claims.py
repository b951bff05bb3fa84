"""The paper's claims, and why: speed-up over data parallelism and over PipeDream per model, with the reason of each.

    python benchmarks/paper_claims.py [--budget 20] [--suites paper,heterogeneous] [--weights FILE]

Plans of data parallelism, PipeDream and `drl` are simulated, and the iteration is taken apart: *ideal* (all work
shared perfectly by speed), *balance* (what the busiest device computes more than that), *communication* (transfers and
all-reduces on the critical path, as far as the busiest device waits), *bubble* (the rest of its waiting). The reason of
a difference is the part that changed most; where a baseline's plan does not fit, memory. Cases with another objective
are left out. Budgets are seconds of processor time. Rows are kept in the output folder. Writes the tables between the
markers ``paper-claims`` of docs/benchmarks.md, and docs/when-it-wins.md from the same rows.
"""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drl_variants import arguments, drl
from drlpp.bench.case import Case
from drlpp.bench.results import append_row, read_rows
from drlpp.bench.settings import settings
from drlpp.bench.suites import find_suite
from drlpp.cost.problem_times import problem_times
from drlpp.plan import Plan
from drlpp.planners.base import Budget
from drlpp.planners.registry import get_planner
from drlpp.problem import PlanningProblem
from drlpp.sim import explain, simulate
from drlpp.threads import one_thread
from tables import WHEN_IT_WINS, machine, markdown, write_part, write_section

BASELINES = ("data-parallel", "pipedream")
PARTS = ("balance", "communication", "bubble")
EVEN = 0.01
"""Differences below this part of the iteration are a draw."""
WORDS = {
    "balance": "the work is shared more evenly, by the speeds of the devices",
    "communication": "less time is spent in transfers and gradient exchange on the critical path",
    "bubble": "devices wait less for one another",
    "memory": "the baseline's plan does not fit the memory",
}


def parts(plan: Plan, problem: PlanningProblem) -> dict[str, float]:
    """Seconds of an iteration by part, and what else tells plans apart."""
    simulation = simulate(plan)
    step = simulation.prediction.iteration_time_s
    critical = explain(simulation).critical_path_s
    busiest = step * (1 - min(simulation.prediction.bubble_fraction))
    communication = min(
        step - busiest, sum(s for (kind, _), s in critical.items() if kind in ("transfer", "all-reduce"))
    )
    speed = problem_times(problem).total_s.sum(axis=1)
    ideal = problem.training.num_microbatches / float((1 / speed[problem.cluster.type_index]).sum())
    chain = {(m.src, d) for m in plan.stage_graph.messages if m.phase == "forward" for d in m.dsts}
    return {
        "iteration": step,
        "balance": busiest - ideal,
        "communication": communication,
        "bubble": step - busiest - communication,
        "stages": plan.num_stages,
        "replicated": sum(len(s.devices) > 1 for s in plan.stages),
        "recomputing": sum(s.settings.recompute for s in plan.stages),
        "branches": float(not all((s, s + 1) in chain for s in range(plan.num_stages - 1))),
    }


def reason(ours: Mapping[str, float], theirs: Mapping[str, float] | None) -> str:
    """The part that changed most in the direction of the difference; ``memory``, or ``draw``."""
    if theirs is None:
        return "memory"
    gain = theirs["iteration"] - ours["iteration"]
    if abs(gain) < EVEN * ours["iteration"]:
        return "draw"
    return max(PARTS, key=lambda p: (theirs[p] - ours[p]) * (1 if gain > 0 else -1))


def cell(case: Case, weights: Path | None, budget_s: float) -> dict[str, Any]:
    """The row of a case."""
    problem = case.problem()
    row: dict[str, Any] = {
        "case": case.to_dict(), "planner": "all", "seed": 0, "settings": settings(budget_s, cpu_time=True),
        "num_ops": problem.graph.num_ops, "num_devices": problem.cluster.num_devices, "status": {},
    }  # fmt: skip
    planners = {name: get_planner(name) for name in BASELINES} | {"drl": drl(weights)()}
    for name, planner in planners.items():
        result = planner.solve(problem, Budget(budget_s, time.process_time), 0)
        row["status"][name] = result.status
        row[name] = parts(result.plan, problem) if result.plan is not None else None
        if name == "drl":
            row["breakdown"] = dict(result.breakdown)
    return row


def line(row: Mapping[str, Any]) -> list[str]:
    """The row as cells of the table."""
    ours = row["drl"]
    if ours is None:
        return [row["case"]["name"], row["status"]["drl"], *["-"] * 5]
    cells = [row["case"]["name"], f"{1e3 * ours['iteration']:.1f}"]
    for name in BASELINES:
        ratio = f"{row[name]['iteration'] / ours['iteration']:.2f}x" if row[name] else row["status"][name]
        cells += [ratio, reason(ours, row[name])]
    found = row["breakdown"]
    best = {p: found.get(f"{p.removesuffix('s')}_best_s", float("inf")) for p in ("policy", "baselines", "annealing")}
    source = min(best, key=lambda p: best[p])
    refined = 1 - ours["iteration"] / best[source]
    return [*cells, f"{source}, refined by {refined:.1%}"]


def story(row: Mapping[str, Any]) -> str:
    """A case in sentences."""
    name, ours = row["case"]["name"], row["drl"]
    if ours is None:
        return f"- **{name}**: no plan ({row['status']['drl']})."
    shape = f"{ours['stages']:.0f} stages, {ours['replicated']:.0f} of them replicated"
    if ours["branches"]:
        shape += ", branches side by side"
    if ours["recomputing"]:
        shape += f", {ours['recomputing']:.0f} recomputing"
    sentences = [f"- **{name}** ({row['num_ops']} ops, {row['num_devices']} devices): {shape}."]
    for other in BASELINES:
        theirs = row[other]
        why = reason(ours, theirs)
        if why == "memory":
            sentences.append(f"{other}: {row['status'][other]}, {WORDS['memory']}.")
        elif why == "draw":
            sentences.append(f"{other}: a draw.")
        else:
            ratio = theirs["iteration"] / ours["iteration"]
            change = 1e3 * abs(theirs[why] - ours[why])
            how = (
                f"{ratio:.2f} times faster, since {WORDS[why]}"
                if ratio > 1
                else f"{1 / ratio:.2f} times slower, by {why}"
            )
            whole = 1e3 * abs(theirs["iteration"] - ours["iteration"])
            sentences.append(f"{other}: {how} ({why}: {change:.1f} ms; in all {whole:.1f} ms).")
    return " ".join(sentences)


def summary(suites: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Speed-ups by suite, as a table: geometric mean and largest."""
    lines = []
    for suite, rows in suites.items():
        cells = [suite, str(len(rows))]
        for other in BASELINES:
            found = [r[other]["iteration"] / r["drl"]["iteration"] for r in rows if r[other] and r["drl"]]
            cells.append(f"{statistics.geometric_mean(found):.2f}x (up to {max(found):.2f}x)" if found else "-")
        lines.append(cells)
    return markdown(["suite", "cases", "over data parallelism", "over PipeDream"], lines)


def document(suites: Mapping[str, Sequence[Mapping[str, Any]]], how: str) -> str:
    """docs/when-it-wins.md."""
    rows = [row for some in suites.values() for row in some]
    groups = []
    for other in BASELINES:
        count: dict[str, list[str]] = {}
        for row in [r for r in rows if r["drl"] is not None]:
            why = reason(row["drl"], row[other])
            lost = row[other] is not None and row[other]["iteration"] < row["drl"]["iteration"]
            key = "a draw" if why == "draw" else f"{'slower' if lost else 'faster'}, {why}"
            count.setdefault(key, []).append(row["case"]["name"])
        body = "\n".join(f"- {key} ({len(names)}): {', '.join(names)}" for key, names in sorted(count.items()))
        groups.append(f"### Against {other}\n\n{body}\n")
    return (
        "# When it wins, and why\n\nWritten by `benchmarks/paper_claims.py` from its rows; do not edit.\n\n"
        f"{how}\n\nThe paper claims up to 6.8x over data parallelism and 1.3x over PipeDream. Here, simulated:\n\n"
        f"{summary(suites)}\n"
        "An iteration is taken apart into the work shared perfectly by speed, *balance* (what the busiest device "
        "computes more than that), *communication* (transfers and all-reduces on the critical path, as far as the "
        "busiest device waits) and *bubble* (the rest of its waiting). The reason of a difference is the part that "
        "changed most.\n\n## By reason\n\n"
        + "\n".join(groups)
        + "\n## By case\n\n"
        + "\n".join(story(row) for row in rows)
        + "\n"
    )


def main() -> None:
    parser = arguments(__doc__ or "", "runs/paper-claims", 20.0)
    parser.add_argument("--suites", default="paper,heterogeneous")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    args.output.mkdir(parents=True, exist_ok=True)
    path, now = args.output / "rows.jsonl", settings(args.budget, cpu_time=True)
    known = {json.dumps(r["case"], sort_keys=True): r for r in read_rows(path) if r["settings"] == now}
    suites: dict[str, list[dict[str, Any]]] = {}
    for name in args.suites.split(","):
        for case in [c for c in find_suite(name).cases if c.objective == "iteration-time"]:
            key = json.dumps(case.to_dict(), sort_keys=True)
            if key not in known:
                with one_thread():
                    known[key] = cell(case, args.weights, args.budget)
                append_row(path, known[key])
                print(" | ".join(line(known[key])), flush=True)
            suites.setdefault(name, []).append(known[key])
    how = f"Suites {args.suites}, {args.budget:g} s of processor time per plan, seed 0; {machine()}."
    header = ["problem", "`drl` ms", "over data parallelism", "reason", "over PipeDream", "reason", "plan from"]
    write_section(
        "paper-claims", f"{how}\n\n{markdown(header, [line(row) for some in suites.values() for row in some])}"
    )
    write_part(WHEN_IT_WINS, "paper-claims", document(suites, how))


if __name__ == "__main__":
    main()
