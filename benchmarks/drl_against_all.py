"""`drl` against every other planner with the same budget, on models and clusters that its training never saw.

    python benchmarks/drl_against_all.py [--budget 30] [--short 2] [--short-seeds 3] [--suite generalisation]

With the long budget: every planner, one seed. With the short one: `drl` and `annealing`, several seeds. Budgets are
seconds of processor time, so that other work on the machine does not count; rows of finished cells are kept in the
output folder, and the same command goes on from them. Loading the weights and compiled code is not part of a budget.
Writes the tables between the markers ``drl-against-all`` of docs/benchmarks.md.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from drl_variants import Maker, arguments, drl, geometric, pairs
from drlpp.bench.case import Suite
from drlpp.bench.results import Row
from drlpp.bench.runner import run_suite
from drlpp.bench.suites import find_suite
from drlpp.planners.registry import PLANNERS, get_planner
from drlpp.threads import one_thread
from tables import machine, markdown, write_section

TIE = 1.0 + 1e-6
MOST_WORSE = 1.01


def verdict(rows: Sequence[Row], names: Sequence[str]) -> tuple[list[list[str]], float, float]:
    """A line per baseline; the part of the cases in which `drl` is as good as all, and its worst ratio to the best."""
    lines = []
    worst: dict[str, float] = {}
    for name in names:
        found = pairs(rows, "drl", name)
        as_good = sum(r <= TIE for r, _ in found)
        bad, where = max(found)
        for ratio, case in found:
            worst[case] = max(worst.get(case, 0.0), ratio)
        share = f"{as_good} of {len(found)}"
        lines.append([f"`{name}`", geometric(r for r, _ in found), share, f"{bad:.4f} ({where})"])
    return lines, sum(r <= TIE for r in worst.values()) / len(worst), max(worst.values())


def short_table(rows: Sequence[Row]) -> tuple[list[list[str]], float]:
    """A line per case, and the geometric mean of `drl` over annealing."""
    found: dict[str, list[float]] = {}
    for ratio, case in pairs(rows, "drl", "annealing"):
        found.setdefault(case, []).append(ratio)
    lines = [[case, geometric(ratios), f"{min(ratios):.3f} to {max(ratios):.3f}"] for case, ratios in found.items()]
    finite = [math.log(r) for ratios in found.values() for r in ratios if 0 < r < math.inf]
    return lines, math.exp(statistics.fmean(finite)) if finite else math.nan


def run(suite: Suite, path: Path, makers: dict[str, Maker], budget_s: float, seeds: int) -> list[Row]:
    """The rows, with a line on the terminal for each cell."""
    return run_suite(
        suite,
        path,
        planners=makers,
        budget_s=budget_s,
        seeds=range(seeds),
        cpu_time=True,
        say=print,
        on_step=lambda step: print(f"[{step.done}/{step.total}] {step.what}", flush=True) if step.row else None,
    )


def main() -> None:
    parser = arguments(__doc__ or "", "runs/drl-against-all", 30.0)
    parser.add_argument("--short", type=float, default=2.0, help="the short budget")
    parser.add_argument("--short-seeds", type=int, default=3)
    parser.add_argument("--suite", default="generalisation")
    parser.add_argument("--planners", default=",".join(PLANNERS), help="with the long budget, besides drl")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    args.output.mkdir(parents=True, exist_ok=True)
    suite, names = find_suite(args.suite), args.planners.split(",")
    ours: dict[str, Maker] = {"drl": drl(args.weights)}
    with one_thread():
        quick = run(
            suite,
            args.output / f"short-{args.suite}.jsonl",
            ours | {"annealing": partial(get_planner, "annealing")},
            args.short,
            args.short_seeds,
        )
        full = run(
            suite,
            args.output / f"long-{args.suite}.jsonl",
            ours | {n: partial(get_planner, n) for n in names},
            args.budget,
            args.seeds,
        )
    lines, share, worst = verdict(full, names)
    short_lines, mean = short_table(quick)
    over = max(r["planning_time_s"] / args.budget for r in full if r["planner"] == "drl")
    over_short = max(r["planning_time_s"] / args.short for r in quick if r["planner"] == "drl")
    text = (
        f"Suite `{args.suite}`, {len(suite.cases)} problems; budgets in seconds of processor time; {machine()}.\n\n"
        f"**{args.budget:g} s each**: `drl` is at least as good as every other planner on {share:.0%} of the problems "
        f"(bar: 95 %), and at worst {worst:.4f} times the best of them (bar: {MOST_WORSE}). It used at most {over:.2f} "
        "of its budget. Value of `drl` over that of each:\n\n"
        + markdown(["planner", "geometric mean", "as good or better", "worst"], lines)
        + f"\n**{args.short:g} s each, {args.short_seeds} seeds**: `drl` takes {mean:.4f} of the iteration time of "
        f"`annealing` in the geometric mean (bar: below 1); it used at most {over_short:.2f} of its budget.\n\n"
        + markdown(["problem", "drl / annealing", "by seed"], short_lines)
    )
    write_section("drl-against-all", text)


if __name__ == "__main__":
    main()
