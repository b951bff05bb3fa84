"""Records what drlpp predicts and plans, and compares another version of the code with the record.

    python benchmarks/behaviour.py record out/behaviour.json     # with the code as it was
    python benchmarks/behaviour.py compare out/behaviour.json    # with the code as it is now

With `--equal-shares` planners give the replicas of a stage equal shares, as all planners did before there were others.

Predictions: of random assignments of random problems (branches, tied parameters, edges with transfer times, unequal
devices on one or several hosts, replicas, recomputation), the time, the bottleneck and the memory of every device under
every schedule, and the actions of the schedule. Times and bytes may differ by 1e-12, relative; all else must be equal.

Plans: of every planner, at a fixed seed. The budget runs on a clock that counts how often it is read, so a plan depends
on the number of steps of the search and not on the speed of the machine. HiGHS looks at the real clock, so `milp` plans
only the smallest problems, and `drl` plans without it.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from behaviour_problems import generated_problem, random_problem
from drlpp.plan import Assignment, Plan, Provenance
from drlpp.problem import PlanningProblem, SearchSpace
from drlpp.sim import Evaluator, simulate

try:
    from drlpp.solving import planner_names, solve
except ImportError:  # moved
    from drlpp.solve import planner_names, solve  # type: ignore[import-not-found,no-redef]
try:
    from drlpp.planners.base import Budget
except ImportError:  # moved
    from drlpp.planners import Budget  # type: ignore[attr-defined,no-redef]

SCHEDULES = (
    *("1f1b", "eager-1f1b", "gpipe", "interleaved-1f1b", "zero-bubble", "interleaved-zero-bubble", "zbv"),
    *("list", "split-list"),
)
NUM_PLANS = 200
TOLERANCE = 1e-12
TICK_S = 0.02
"""Seconds by which the clock of a budget moves whenever it is read."""
BUDGET_S = {"drl": 9.0}
DEFAULT_BUDGET_S = 5.0
SMALL = 6
"""`milp` plans only the first so many problems."""


def ticking() -> Callable[[], float]:
    """A clock that moves by `TICK_S` whenever it is read."""
    count = itertools.count()
    return lambda: TICK_S * next(count)


def digest(thing: object) -> str:
    return hashlib.sha256(repr(thing).encode()).hexdigest()[:16]


def prediction(plan: Plan) -> dict[str, Any]:
    predicted = plan.prediction
    assert predicted is not None  # noqa: S101
    return {
        "iteration_time_s": predicted.iteration_time_s,
        "bottleneck_s": predicted.bottleneck_s,
        "peak_memory_bytes": list(predicted.peak_memory_bytes),
        "bubble_fraction": list(predicted.bubble_fraction),
        "schedule": plan.schedule_name,
        "actions": digest(sorted((rank, [str(a) for a in row]) for rank, row in plan.schedule.items())),
    }


def predictions(problem: PlanningProblem, assignment: Assignment, *, with_reference: bool) -> dict[str, Any]:
    """What the evaluator says of an assignment under all schedules together and under each of them."""
    evaluator = Evaluator(problem)
    out: dict[str, Any] = {"loads_s": evaluator.loads_s(assignment).tolist()}
    for name in (None, *SCHEDULES):
        try:
            plan = evaluator.make_plan(assignment, Provenance(planner="behaviour"), None if name is None else (name,))
        except Exception as error:  # noqa: BLE001
            out[str(name)] = type(error).__name__
            continue
        out[str(name)] = prediction(plan)
        if name is None and with_reference:
            simulated = simulate(plan).prediction
            out["reference"] = {
                "iteration_time_s": simulated.iteration_time_s,
                "bottleneck_s": simulated.bottleneck_s,
                "peak_memory_bytes": list(simulated.peak_memory_bytes),
            }
    return out


def planned(planner: str, problem: PlanningProblem) -> dict[str, Any]:
    """The plan of a planner on a counted budget."""
    result = solve(problem, planner, budget=Budget(BUDGET_S.get(planner, DEFAULT_BUDGET_S), ticking()), seed=1)
    if result.plan is None:
        return {"status": result.status}
    stages = [(s.ops, s.devices, getattr(s, "settings", s).recompute) for s in result.plan.stages]
    return {
        "status": result.status,
        "stages": digest(stages),
        "num_stages": len(stages),
        **prediction(result.plan),
    }


def planning_problems(*, equal_shares: bool) -> list[PlanningProblem]:
    """Twenty problems, the smallest first, of both objectives."""
    small = [random_problem(seed, most_ops=9, most_devices=3)[0] for seed in range(100, 100 + SMALL)]
    larger = [random_problem(seed, most_ops=40, most_devices=6)[0] for seed in range(200, 206)]
    problems = [*small, *larger, *(generated_problem(i) for i in range(8))]
    objectives = itertools.cycle(("iteration-time", "steady-state", "iteration-time"))
    space = SearchSpace(shares=False) if equal_shares else SearchSpace()
    return [PlanningProblem(p.graph, p.cluster, p.training, next(objectives), space) for p in problems]


def rows(only: str, *, equal_shares: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """All rows of the record, by name. Args: only: ``predictions``, the name of a planner, or empty for all."""
    if only in ("", "predictions"):
        for seed in range(NUM_PLANS):
            problem, assignment = random_problem(seed)
            yield f"prediction {seed}", predictions(problem, assignment, with_reference=True)
    problems = planning_problems(equal_shares=equal_shares)
    for planner in planner_names():
        if only not in ("", planner):
            continue
        if planner == "drl":
            sys.modules["highspy"] = None  # type: ignore[assignment]
        for i, problem in enumerate(problems):
            if planner != "milp" or i < SMALL:
                yield f"plan {planner} {i}", planned(planner, problem)
        sys.modules.pop("highspy", None)


def differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Where two records differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if key not in old or key not in new:
                yield f"{where}.{key}: only in the {'record' if key in old else 'code as it is'}"
            else:
                yield from differences(old[key], new[key], f"{where}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from differences(a, b, f"{where}[{i}]")
    elif isinstance(old, float) and isinstance(new, float):
        if not math.isclose(old, new, rel_tol=TOLERANCE, abs_tol=0.0) and not (math.isnan(old) and math.isnan(new)):
            yield f"{where}: {old!r} -> {new!r}"
    elif old != new:
        yield f"{where}: {old!r} -> {new!r}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("verb", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", default="", help="predictions, or the name of a planner")
    parser.add_argument("--equal-shares", action="store_true")
    args = parser.parse_args()
    np.seterr(all="raise", under="ignore")
    if args.verb == "record":
        record = json.loads(args.file.read_text()) if args.only and args.file.exists() else {}
        for name, row in rows(args.only, equal_shares=args.equal_shares):
            record[name] = row
            print(name, row.get("iteration_time_s", row.get("status", "")), flush=True)
        args.file.parent.mkdir(parents=True, exist_ok=True)
        args.file.write_text(json.dumps(record, indent=0))
        return
    record, found, bitwise, count = json.loads(args.file.read_text()), [], 0, 0
    for name, row in rows(args.only, equal_shares=args.equal_shares):
        row = json.loads(json.dumps(row))
        count += 1
        bitwise += record.get(name) == row
        found += list(differences(record.get(name), row, name))
    print("\n".join(found))
    print(f"{count} rows: {len(found)} differences; {bitwise} rows are equal to the last bit")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
