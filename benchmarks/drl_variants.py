"""What the benchmarks of the agent share: variants of `drl` for `drlpp.bench`, and ratios over their rows."""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from drlpp.agent.planner.planner import DrlConfig, DrlPlanner
from drlpp.bench.results import Row
from drlpp.planners.base import Planner

Maker = Callable[[], Planner]


def policy(weights: Path | None) -> Maker:
    """The policy alone: the best of 64 samples, no search, no baselines, no fine-tuning."""
    return lambda: DrlPlanner(DrlConfig(policy_only=True, iterations=0, weights=weights))


def drl(weights: Path | None, *, policy_only: bool = False) -> Maker:
    """The planner; with `policy_only` samples and fine-tuning, without baselines and refinement."""
    return lambda: DrlPlanner(DrlConfig(policy_only=policy_only, weights=weights))


def arguments(description: str, folder: str, budget_s: float) -> argparse.ArgumentParser:
    """The options that these benchmarks have."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path(folder), help="results; a run goes on from them")
    parser.add_argument("--budget", type=float, default=budget_s, help="seconds of processor time per plan")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--weights", type=Path, help="instead of the package's")
    return parser


def pairs(rows: Sequence[Row], ours: str, theirs: str) -> list[tuple[float, str]]:
    """(our value over theirs, case) of each case and seed; infinite where only they have a plan, 0 where only we."""
    value = {(r["case"]["name"], r["seed"], r["planner"]): r["value_s"] for r in rows}
    out = []
    for case, seed, planner in value:
        if planner == theirs:
            a, b = value.get((case, seed, ours)), value[case, seed, theirs]
            if a is not None or b is not None:
                out.append((0.0 if b is None else math.inf if a is None else a / b, case))
    return out


def over_best(rows: Sequence[Row], planner: str) -> list[float]:
    """A planner's values over the best known of their cases; infinite where it has no plan and another has."""
    best: dict[str, float] = {}
    for row in rows:
        if row["value_s"] is not None:
            best[row["case"]["name"]] = min(row["value_s"], best.get(row["case"]["name"], math.inf))
    mine = [r for r in rows if r["planner"] == planner and r["case"]["name"] in best]
    return [math.inf if r["value_s"] is None else r["value_s"] / best[r["case"]["name"]] for r in mine]


def geometric(ratios: Iterable[float]) -> str:
    """Geometric mean of the finite ratios, with how many are not; ``-`` for none."""
    known = list(ratios)
    finite = [r for r in known if 0 < r < math.inf]
    if not finite:
        return "-"
    lost = sum(math.isinf(r) for r in known)
    mean = math.exp(statistics.fmean(math.log(r) for r in finite))
    return f"{mean:.3f}" + (f" ({lost} without plan)" if lost else "")
