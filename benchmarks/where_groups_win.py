"""Where tensor parallelism and ZeRO-1 win on unequal clusters, and whether they ever lose.

    python benchmarks/where_groups_win.py [--budget 4] [--planners drl,uniform,...] [--cases N]

Each case is planned by every planner with stages, replicas and ZeRO-1, and with groups of devices that divide ops as
well; by `drl` also with neither, and with groups but without ZeRO-1. Micro-batch sizes are searched everywhere. Budgets
are processor time. Writes the section of docs/when-it-wins.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import NamedTuple

from drlpp.bench.case import load_model_graph
from drlpp.cluster import Cluster, Host, Link, device_preset, load_cluster
from drlpp.planners.base import Budget, PlanResult
from drlpp.problem import PlanningProblem, parallelism_names
from drlpp.report.headline import layout_text
from drlpp.solving import make_planner, solve
from drlpp.threads import one_thread
from drlpp.units import format_time
from tables import WHEN_IT_WINS, machine, markdown, write_part

WITHOUT, WITH = "pp,dp,zero1", "pp,dp,tp,sp,zero1"
DIMENSIONS = {"stages and replicas": "pp,dp", "ZeRO-1": WITHOUT, "groups": "pp,dp,tp,sp", "both": WITH}
"""What `drl` may use: title of the column -> parallelism."""
PLANNERS = "drl,uniform,data-parallel,greedy,dp,piper,metis,annealing"
NEVER_WORSE = 1.005
"""Ratios up to this are ties: planners that use up their budget have less of it for each variant."""
NETWORK = Link(bandwidth=12.5e9, latency_s=1e-5)


class Problem(NamedTuple):
    """A case: a model, the cluster by name, and samples of a step."""

    name: str
    model: str
    cluster: str
    batch: int


DECODER = "generated:decoder?layers={}&hidden={}&heads={}&ffn={}"
SMALL, MIDDLE, LARGE = (
    DECODER.format(*sizes) for sizes in ((24, 1024, 16, 4096), (32, 4096, 32, 11008), (40, 5120, 40, 13824))
)
CASES = (
    Problem("decoder 7B", MIDDLE, "16 A100 + 16 V100", 128),
    Problem("decoder 13B", LARGE, "16 A100 + 16 V100", 128),
    Problem("decoder 0.4B", SMALL, "16 A100 + 16 V100", 128),
    Problem("decoder 7B", MIDDLE, "8 H100 + 16 A10G", 64),
    Problem("decoder 13B", LARGE, "8 H100 + 16 A10G", 64),
    Problem("U-Net", "generated:unet?seed=5", "8 H100 + 16 A10G", 256),
    Problem("decoder 0.4B", SMALL, "desktops", 16),
    Problem("encoder-decoder", "generated:encoder-decoder?seed=6", "desktops", 64),
    Problem("NASNet", "generated:nasnet?seed=5", "desktops", 64),
)


def cluster(name: str) -> Cluster:
    """The clusters of the cases."""
    nvlink, pcie = Link(bandwidth=250e9, latency_s=8e-6), Link(bandwidth=12e9, latency_s=1e-5)

    def hosts(preset: str, number: int, devices: int, link: Link) -> list[Host]:
        return [
            Host(name=f"{preset}-{h}", devices=(preset,) * devices, link=link, network=NETWORK) for h in range(number)
        ]

    if name == "desktops":
        return load_cluster("mixed-desktops")
    fast, slow = ("a100-sxm4-80gb", "v100-sxm2-16gb") if "V100" in name else ("h100-sxm5-80gb", "a10g-24gb")
    found = hosts(fast, 2, 8, nvlink) + hosts(slow, 2, 8, nvlink)
    if "H100" in name:
        found = hosts(fast, 1, 8, nvlink) + hosts(slow, 4, 4, pcie)
    return Cluster(name, (device_preset(fast), device_preset(slow)), tuple(found))


def planned(case: Problem, planner: str, parallelism: str, budget: float) -> PlanResult:
    """What a planner finds with what it may use."""
    problem = PlanningProblem.build(
        load_model_graph(case.model),
        cluster(case.cluster),
        global_batch=case.batch,
        optimizer="adamw",
    )
    problem = problem.with_parallelism(parallelism_names(parallelism))
    with one_thread():
        return solve(problem, make_planner(planner), budget=Budget(budget, time.process_time))


def seconds(result: PlanResult) -> float | None:
    """Of a step; None without a plan."""
    return None if result.plan is None or result.plan.prediction is None else result.plan.prediction.iteration_time_s


def cell(value: float | None, against: float | None) -> str:
    """A time, and how many times faster than another."""
    if value is None:
        return "-"
    return format_time(value) + (f" ({against / value:.2f}x)" if against is not None else "")


def main() -> None:
    """Plans all cases, and writes the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=4.0)
    parser.add_argument("--planners", default=PLANNERS)
    parser.add_argument("--cases", type=int, default=len(CASES))
    options = parser.parse_args()
    rows, ratios, losses = [], dict[str, list[float]](), list[str]()
    for case in CASES[: options.cases]:
        found = {title: planned(case, "drl", names, options.budget) for title, names in DIMENSIONS.items()}
        base = seconds(found["stages and replicas"])
        best = found["both"].plan
        rows.append(
            [
                f"{case.name} on {case.cluster}",
                *(cell(seconds(result), base) for result in found.values()),
                "-" if best is None else layout_text(best).rstrip(","),
            ]
        )
        print(" | ".join(rows[-1]), flush=True)
        for planner in options.planners.split(","):
            pair = [found["ZeRO-1"], found["both"]]
            if planner != "drl":
                pair = [planned(case, planner, names, options.budget) for names in (WITHOUT, WITH)]
            without, groups = map(seconds, pair)
            if without is not None:
                ratios.setdefault(planner, []).append(0.0 if groups is None else without / groups)
                if ratios[planner][-1] < 1 / NEVER_WORSE:
                    losses.append(f"{planner}, {rows[-1][0]}: {cell(groups, without)}")
            print("  ", planner, cell(without, None), cell(groups, without), flush=True)
    table = [
        [
            name,
            str(len(r)),
            f"{statistics.geometric_mean(r):.2f}x" if min(r) else "-",
            f"{max(r):.2f}x",
            f"{min(r):.3f}x",
        ]
        for name, r in ratios.items()
    ]
    text = (
        "## Groups of devices and sharded states\n\n"
        f"Written by `benchmarks/where_groups_win.py`; {options.budget:g} s of processor time per plan, "
        f"AdamW, micro-batch sizes searched; {machine()}.\n\n"
        "Steps planned by `drl`, and how many times faster than with stages and replicas alone:\n\n"
        f"{markdown(['problem', *DIMENSIONS, 'plan with both'], rows)}\n\n"
        "Every planner with groups against the same planner and budget without (both with ZeRO-1):\n\n"
        f"{markdown(['planner', 'plans', 'mean', 'best', 'worst'], table)}\n\n"
        + (f"Worse by more than {NEVER_WORSE - 1:.1%}: {'; '.join(losses)}.\n" if losses else "No plan is worse.\n")
    )
    write_part(WHEN_IT_WINS, "groups", text)


if __name__ == "__main__":
    main()
