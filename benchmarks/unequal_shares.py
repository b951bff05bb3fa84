"""What unequal shares of the micro-batches bring on unequal devices: every planner with them and without.

``python benchmarks/unequal_shares.py [--budget 10] [--only NAME,...]``

Each planner gets the same problem and the same processor time twice: replicas may run unequal numbers of micro-batches
(``SearchSpace.shares``), or not. Written: a section of docs/benchmarks.md and of docs/when-it-wins.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from drlpp.bench.case import load_model_graph
from drlpp.cluster import Cluster, Host, Link, device_preset, load_cluster
from drlpp.plan import Plan
from drlpp.planners.base import Budget
from drlpp.problem import PlanningProblem
from drlpp.solving import make_planner
from tables import WHEN_IT_WINS, machine, markdown, write_part, write_section

PLANNERS = ("data-parallel", "uniform", "dp", "annealing", "drl")
MODELS = {
    "resnet50": "timm:resnet50?batch_size=32",
    "bert-base": "transformers:BertForMaskedLM?batch_size=16&seq_len=128",
    "gnmt-8": "generated:gnmt?layers=8&batch_size=64",
}
TITLE = "## Replicas on unequal devices: shares by speed"
EVEN = 0.005
"""Values that differ by less are a draw."""


def _cluster(name: str, hosts: Sequence[tuple[str, int, float, float]]) -> Cluster:
    """Hosts of one kind of device each: (preset, number, bytes per second inside, Gbit/s of the port)."""
    kinds = {preset: device_preset(preset) for preset, *_ in hosts}
    return Cluster(
        name,
        tuple(kinds.values()),
        tuple(
            Host(
                name=f"h{i}",
                devices=(kinds[preset].name,) * count,
                link=Link(bandwidth=inside, latency_s=1e-5),
                network=Link(bandwidth=port * 1e9 / 8, latency_s=3e-5),
            )
            for i, (preset, count, inside, port) in enumerate(hosts)
        ),
    )


def clusters() -> dict[str, Cluster]:
    """The clusters: presets, the hosts of a cloud, and two generations side by side."""
    return {
        "mixed-desktops": load_cluster("mixed-desktops"),
        "8 H100 + 16 A10G": _cluster(
            "h100-a10g", [("h100-sxm5-80gb", 8, 320e9, 100.0), *[("a10g-24gb", 4, 12e9, 40.0)] * 4]
        ),
        "2 A100 + 2 V100": _cluster(
            "a100-v100", [("a100-sxm4-40gb", 2, 200e9, 25.0), ("v100-sxm2-16gb", 2, 45e9, 25.0)]
        ),
    }


def solved(problem: PlanningProblem, planner: str, budget_s: float) -> Plan | None:
    """The plan of a planner in so much processor time."""
    return make_planner(planner).solve(problem, Budget(budget_s, time.process_time), 0).plan


def value_s(plan: Plan | None) -> float | None:
    """Seconds of a step."""
    return None if plan is None or plan.prediction is None else plan.prediction.iteration_time_s


def shares_of(plan: Plan) -> str:
    """The stages with unequal shares, for people."""
    texts = []
    for stage in plan.stages:
        if stage.settings.shares:
            names = [plan.cluster.devices[d].type.name for d in stage.devices]
            counted = Counter(zip(names, stage.settings.shares, strict=True))
            parts = ", ".join(f"{count} {name} with {share} each" for (name, share), count in counted.items())
            texts.append(f"stage {stage.index} of {plan.num_stages}: {parts}")
    return "; ".join(texts)


def row_of(model: str, cluster: Cluster, budget_s: float) -> dict[str, Any]:
    """Steps by planner, with shares and without, and the shares of the best plan."""
    problem = PlanningProblem.build(load_model_graph(MODELS[model]), cluster)
    equal = dataclasses.replace(problem, space=dataclasses.replace(problem.space, shares=False))
    row: dict[str, Any] = {"planners": {}, "best": None}
    for planner in PLANNERS:
        plans = [solved(p, planner, budget_s) for p in (problem, equal)]
        row["planners"][planner] = tuple(map(value_s, plans))
        ours = value_s(plans[0])
        if ours is not None and (row["best"] is None or ours < row["best"]):
            row["best"], row["shares"] = ours, shares_of(plans[0])
    return row


def gain(values: tuple[float | None, float | None]) -> str:
    """By how much shares make a step faster."""
    ours, without = values
    if ours is None or without is None:
        return "no plan" if ours is None else "fits only with shares"
    return f"{without / ours:.2f}x"


def best_of(row: Mapping[str, Any], which: int) -> float | None:
    """The best step over the planners, with shares (0) or without (1)."""
    return min((v[which] for v in row["planners"].values() if v[which] is not None), default=None)


def document(rows: Mapping[tuple[str, str], Mapping[str, Any]], budget_s: float) -> str:
    """The section."""
    table, stories, draws, worse = [], [], [], []
    for (cluster, model), row in rows.items():
        both = best_of(row, 0), best_of(row, 1)
        name = f"{model} on {cluster}"
        table.append([name, *(gain(row["planners"][p]) for p in PLANNERS), gain(both)])
        worse += [f"{name} ({p})" for p, v in row["planners"].items() if all(v) and v[0] > v[1] * (1 + EVEN)]
        if None in both or both[1] / both[0] > 1 + EVEN:
            stories.append(f"- **{name}**: {gain(both)}. {row['shares'] or 'the best plan has equal shares'}")
        else:
            draws.append(name)
    parts = [
        f"{len(rows)} problems, {budget_s:g} s of processor time per plan, seed 0, {machine()}.",
        "Replicas of a stage run micro-batches in proportion to their shares, so unequal devices can be replicas of "
        "one stage without waiting for the slowest. Each planner was asked with shares and without; the columns say "
        "how many times faster a simulated step is with them. The last compares the best plans of all five.",
        markdown(["problem", *PLANNERS, "best of all"], table),
        "Where the best plan is faster with shares, and how its replicas share:",
        "\n".join(stories) or "Nowhere.",
    ]
    if draws:
        parts.append(f"A draw: {', '.join(draws)}.")
    parts.append(
        f"Slower with shares: {', '.join(worse)}." if worse else "No planner is slower with shares than without."
    )
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, default=10.0)
    parser.add_argument("--only", default="", help="clusters, comma-separated")
    given = parser.parse_args()
    wanted = [name for name in given.only.split(",") if name]
    rows = {}
    for name, cluster in clusters().items():
        for model in MODELS if not wanted or name in wanted else ():
            rows[name, model] = row_of(model, cluster, given.budget)
            print(name, model, rows[name, model], flush=True)
    text = document(rows, given.budget)
    print(text)
    if not wanted:
        write_section("unequal-shares", text)
        write_part(WHEN_IT_WINS, "unequal-shares", f"{TITLE}\n\nWritten by `benchmarks/unequal_shares.py`.\n\n{text}")


if __name__ == "__main__":
    main()
