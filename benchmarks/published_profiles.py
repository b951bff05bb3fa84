"""Published profiles: what the planners make of them, against the figures of the programs published with them.

    python benchmarks/published_profiles.py DATA [--budget 10] [--only vgg16,...] [--cpu-time]

DATA holds the folders ``pipedream`` (profiles of PipeDream, SOSP 2019, at 1 and 10 GB/s on 4, 8, 16 and [4, 4]
devices) and ``dnn-partitioning`` (graphs of NeurIPS 2020), and a README.md whose tables give the reference figures.
Every value in the first table but the first two is the steady-state objective of this project; the first two are
PipeDream's own (seconds of the slowest stage in its cost model). Writes the table between the markers
``published-profiles`` of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

from drlpp.cluster import Cluster, cluster_from_dict
from drlpp.graph.readers import read_graph
from drlpp.planners.base import Budget, gap_to
from drlpp.planners.bounds.lower_bound import lower_bound
from drlpp.planners.registry import get_planner
from drlpp.problem import PlanningProblem
from tables import machine, markdown, write_section

PROFILES = ("alexnet", "densenet121", "gnmt", "resnet18", "resnet50", "vgg16")
SETTINGS: tuple[tuple[list[int], list[float]], ...] = (
    ([4], [1e9]),
    ([4], [1e10]),
    ([8], [1e9]),
    ([8], [1e10]),
    ([16], [1e9]),
    ([16], [1e10]),
    ([4, 4], [1e10, 1e9]),
)
PLANNERS = ("pipedream", "dp", "annealing")
BOUND_SHARE, LONG_BOUND_SHARE = 3.0, 15.0
"""Seconds for the bound, over those of a planner; and where the plan of equal devices is then further above it than
`GOAL`."""
GOAL = 0.02


def cluster(sizes: list[int], bandwidths: list[float], slow: int = 0) -> Cluster:
    """Equal devices: one host, or ``sizes[1]`` hosts of ``sizes[0]``; and some of a tenth of their speed."""
    return cluster_from_dict(
        {
            "schema_version": 1,
            "name": "equal",
            "device_types": {"gpu": {"speed": 1.0, "memory": "1TB"}, "cpu": {"speed": 0.1, "memory": "1TB"}},
            "hosts": [
                {
                    "name": "h",
                    "count": sizes[1] if len(sizes) > 1 else 1,
                    "devices": ["gpu"] * sizes[0] + ["cpu"] * slow,
                    "link": {"bandwidth": bandwidths[0], "latency": "0s"},
                    "network": {"bandwidth": bandwidths[-1], "latency": "0s"},
                }
            ],
        }
    )


def rows_of(document: Path, columns: int) -> list[list[str]]:
    """Rows of the tables of a document that have so many columns."""
    lines = [line.strip().strip("|").split("|") for line in document.read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines if len(line) == columns]


def references(data: Path) -> dict[tuple[str, str, str], float]:
    """PipeDream's own figures by (profile, devices, bandwidths)."""
    return {
        (name, devices, bandwidth): float(value)
        for name, devices, bandwidth, value, *_ in rows_of(data / "README.md", 7)
        if name in PROFILES
    }


def shown(values: list[int] | list[float]) -> str:
    """As the README writes it: a list, or the only value."""
    return str(values[0]) if len(values) == 1 else str(values)


def profile_row(
    data: Path,
    name: str,
    sizes: list[int],
    bandwidths: list[float],
    reference: float | None,
    budget: Callable[[float], Budget],
) -> list[str]:
    """One row of the first table; `budget` makes one of so many times the seconds of a planner."""
    graph = read_graph(data / "pipedream" / f"{name}.txt")
    problem = PlanningProblem.build(graph, cluster(sizes, bandwidths), objective="steady-state")
    bound = lower_bound(problem, budget(BOUND_SHARE))
    results = {p: get_planner(p).solve(problem, budget(1.0), 0) for p in PLANNERS}
    values = {p: r.plan.prediction.bottleneck_s if r.plan else math.inf for p, r in results.items()}
    if len(sizes) == 1 and gap_to(min(values.values()), bound.value_s) > GOAL:
        bound = max(bound, lower_bound(problem, budget(LONG_BOUND_SHARE)), key=lambda b: b.value_s)
    own = results["pipedream"].breakdown["pipedream_time_s"]
    if reference is not None and not math.isclose(own, reference, rel_tol=1e-9):
        print(f"{name} {sizes}: pipedream gives {own} s in its own model, the reference {reference} s", flush=True)
    return [
        name,
        shown(sizes),
        "/".join(f"{b:.0e}" for b in bandwidths),
        "-" if reference is None else f"{1e3 * reference:.3f}",
        f"{1e3 * own:.3f}",
        *(f"{1e3 * values[p]:.3f}" for p in PLANNERS),
        f"{1e3 * bound.value_s:.3f}",
        f"{100 * gap_to(min(values.values()), bound.value_s):.2f}%",
    ]


def partitioning_row(
    data: Path, name: str, number: int, optimum_ms: float, budget: Callable[[float], Budget]
) -> list[str]:
    """One row of the second table: the accelerators, and a CPU that may take ops as well."""
    problem = PlanningProblem.build(
        read_graph(data / "dnn-partitioning" / f"{name}.json"),
        cluster([number], [1e12], slow=1),
        objective="steady-state",
    )
    bound = lower_bound(problem, budget(BOUND_SHARE))
    results = {p: get_planner(p).solve(problem, budget(1.0), 0) for p in ("dp", "annealing")}
    values = {p: r.plan.prediction.bottleneck_s if r.plan else math.inf for p, r in results.items()}
    best = min(values.values())
    return [
        name,
        str(number),
        f"{optimum_ms:.3f}",
        *(f"{1e3 * v:.3f}" for v in values.values()),
        f"{100 * (1 - values['annealing'] * 1e3 / optimum_ms):.1f}%",
        f"{1e3 * bound.value_s:.3f}",
        f"{100 * gap_to(best, bound.value_s):.1f}%",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--budget", type=float, default=10.0)
    parser.add_argument("--only", default=",".join(PROFILES))
    parser.add_argument("--cpu-time", action="store_true", help="budgets in seconds of processor time")
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter

    def budget(times: float) -> Budget:
        return Budget(times * args.budget, clock)

    known = references(args.data)
    rows = []
    profile_row(args.data, args.only.split(",")[0], *SETTINGS[0], None, budget)  # compiles
    for name in args.only.split(","):
        for sizes, bandwidths in SETTINGS:
            reference = known.get((name, shown(sizes), shown(bandwidths)))
            rows.append(profile_row(args.data, name, sizes, bandwidths, reference, budget))
            print(*rows[-1], flush=True)
    second = []
    for name, number, optimum, *_ in rows_of(args.data / "README.md", 8):
        short = name.split("/")[-1]
        if (args.data / "dnn-partitioning" / f"{short}.json").exists():
            second.append(partitioning_row(args.data, short, int(number), float(optimum), budget))
            print(*second[-1], flush=True)
    header = ["profile", "devices", "B/s", "reference", "its program here", *PLANNERS, "bound", "gap"]
    text = (
        f"Budget {args.budget:g} s{' of processor time' if args.cpu_time else ''} per planner, {BOUND_SHARE:g} times "
        f"that for the bound ({LONG_BOUND_SHARE:g} times on equal devices where the gap stays above {100 * GOAL:g} %), "
        f"seed 0; {machine()}; `python benchmarks/published_profiles.py`.\n\n"
        "Profiles of PipeDream, ms per mini-batch. *reference* and *its program here*: PipeDream's optimum in its "
        "own cost model, by the published program and by ours. The others: load of the most loaded device per "
        "micro-batch; *gap*: of the best plan to the certified lower bound.\n\n"
        + markdown(header, rows)
        + "\nGraphs of dnn-partitioning, ms per sample; *optimum*: the published one over contiguous splits; *gain*: "
        "of annealing, whose stages need not be contiguous, over it.\n\n"
        + markdown(["graph", "accelerators", "optimum", "dp", "annealing", "gain", "bound", "gap"], second)
    )
    write_section("published-profiles", text)


if __name__ == "__main__":
    main()
