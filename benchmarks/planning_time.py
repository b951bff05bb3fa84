"""Planning time: seconds that each planner takes, and how good its plan is, by number of ops and of devices.

    python benchmarks/planning_time.py [--budget 10] [--ops 100,1000,5000] [--devices 8,64,1024] [--planners dp,...]

Random graphs of a neural network's shape on clusters that are half A100 (100 Gbit/s per host), half V100 (25 Gbit/s).
Every planner has the same budget: one that ends by itself takes less, one that searches as long as it may takes all of
it. Times are wall-clock seconds after a first call that loads the compiled kernels. Writes the table between the
markers ``planning-time`` of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from drlpp.cluster import Cluster, cluster_from_dict
from drlpp.graph.synthetic import random_graph
from drlpp.planners.base import Budget
from drlpp.planners.bounds import gap, lower_bound
from drlpp.planners.registry import PLANNERS, get_planner
from drlpp.problem import PlanningProblem
from tables import machine, markdown, write_section

NUM_MICROBATCHES = 64


def half_and_half(num_devices: int) -> Cluster:
    """Hosts of 8 devices (4 where there are 8 devices in all), half with A100 and half with V100."""
    size = 4 if num_devices < 16 else 8
    count = num_devices // size // 2
    fast, slow = ("300GB/s", "100Gbit/s"), ("150GB/s", "25Gbit/s")
    hosts = [
        {
            "name": device,
            "count": count,
            "devices": [device] * size,
            "link": {"bandwidth": link, "latency": "5us"},
            "network": {"bandwidth": network, "latency": "10us"},
        }
        for device, (link, network) in (("a100-sxm4-80gb", fast), ("v100-sxm2-32gb", slow))
    ]
    return cluster_from_dict({"schema_version": 1, "name": f"half-{num_devices}", "hosts": hosts})


def problem(num_ops: int, num_devices: int) -> PlanningProblem:
    """The problem of a row of the table."""
    graph = random_graph(np.random.default_rng(num_ops), num_ops)
    return PlanningProblem.build(graph, half_and_half(num_devices), num_microbatches=NUM_MICROBATCHES)


def row(name: str, sizes: list[tuple[int, int]], problems: list[PlanningProblem], budget_s: float) -> list[str]:
    """Seconds and gap of one planner on all problems."""
    cells = [f"`{name}`"]
    for (num_ops, num_devices), case in zip(sizes, problems, strict=True):
        bound = lower_bound(case)
        start = time.perf_counter()
        result = get_planner(name).solve(case, Budget(budget_s), 0)
        seconds = time.perf_counter() - start
        found = f"{100 * gap(result.plan.prediction.iteration_time_s, bound):.0f}%" if result.plan else result.status
        print(f"{name:22} {num_ops:5} ops {num_devices:5} devices {seconds:7.2f} s  {found}", flush=True)
        cells.append(f"{seconds:.2f} s, {found}")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=10.0)
    parser.add_argument("--ops", default="100,1000,5000")
    parser.add_argument("--devices", default="8,64,1024")
    parser.add_argument("--planners", default=",".join(PLANNERS))
    args = parser.parse_args()
    sizes = [(int(n), int(d)) for n in args.ops.split(",") for d in args.devices.split(",")]
    problems = [problem(n, d) for n, d in sizes]
    names = args.planners.split(",")
    warm = problem(60, 8)
    for name in names:
        get_planner(name).solve(warm, Budget(1.0), 0)
    rows = [row(name, sizes, problems, args.budget) for name in names]
    header = ["planner", *(f"{n} ops, {d} devices" for n, d in sizes)]
    text = (
        f"Budget {args.budget:g} s, {NUM_MICROBATCHES} micro-batches, objective iteration-time, seed 0; {machine()}."
        "\n\n"
        "Wall-clock seconds of planning and the gap of the plan to the certified lower bound.\n\n"
        + markdown(header, rows)
    )
    write_section("planning-time", text)


if __name__ == "__main__":
    main()
