"""How the policy does on what it was not trained on: larger clusters, other device types, other families of models.

    python benchmarks/generalisation.py [--problems 6] [--budget 10] [--weights FILE]

Each group of problems differs from training in one thing (the last one in all). Per problem: the policy alone (best of
64 samples), `drl`, `annealing` and the dynamic programme; all against the best plan that any of them found. Resumes.
Writes the table between the markers ``generalisation`` of docs/benchmarks.md.
"""

from __future__ import annotations

import logging
from functools import partial

from drl_against_all import run
from drl_variants import arguments, drl, geometric, over_best, policy
from drlpp.agent.training.corpus import CLUSTER_SPLITS, GRAPH_SPLITS, Split
from drlpp.bench.case import Case, Suite
from drlpp.planners.registry import get_planner
from drlpp.threads import one_thread
from tables import machine, markdown, write_section

GROUPS: dict[str, tuple[Split, Split, int]] = {
    "as in training": ("train", "train", 1),
    "twice the devices": ("train", "train", 2),
    "four times the devices": ("train", "train", 4),
    "unseen kind of cluster: other types, mixed in a host": ("train", "validation", 1),
    "unseen kind of cluster: desktops": ("train", "test", 1),
    "unseen families of models": ("test", "train", 1),
    "all of it: unseen families, desktops, twice the devices": ("test", "test", 2),
}
"""Name -> split of the graphs, split of the clusters, copies of each host."""
FIRST_SEED = 500


def suite(problems: int) -> Suite:
    """`problems` of each group."""
    cases = []
    for name, (graphs, clusters, copies) in GROUPS.items():
        for i in range(problems):
            families, kinds = GRAPH_SPLITS[graphs], CLUSTER_SPLITS[clusters]
            graph = f"generated:{families[i % len(families)]}?seed={FIRST_SEED + i}"
            cluster = f"generated:{kinds[i % len(kinds)]}?seed={FIRST_SEED + i}&copies={copies}"
            cases.append(Case(f"{name}: {i}", graph, cluster))
    return Suite("generalisation-groups", "what changes against training", tuple(cases))


def main() -> None:
    parser = arguments(__doc__ or "", "runs/generalisation", 10.0)
    parser.add_argument("--problems", type=int, default=6, help="of each group")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    args.output.mkdir(parents=True, exist_ok=True)
    makers = {"policy": policy(args.weights), "drl": drl(args.weights)}
    makers |= {name: partial(get_planner, name) for name in ("annealing", "dp")}
    with one_thread():
        rows = run(suite(args.problems), args.output / "rows.jsonl", makers, args.budget, args.seeds)
    lines = []
    for name in GROUPS:
        mine = [r for r in rows if r["case"]["name"].startswith(f"{name}: ")]
        sizes = [r["num_devices"] for r in mine if r["planner"] == "policy"]
        seconds = sorted(r["planning_time_s"] for r in mine if r["planner"] == "policy")
        ratios = [geometric(over_best(mine, planner)) for planner in makers]
        lines.append([name, f"{min(sizes)} to {max(sizes)}", *ratios, f"{seconds[len(seconds) // 2]:.2f}"])
    text = (
        f"{args.problems} generated problems a group, {args.budget:g} s of processor time each (the policy ends when "
        f"it has drawn 64 samples), {args.seeds} seed(s); {machine()}.\n\n"
        "Geometric means of the iteration time over the best known of the problem:\n\n"
        + markdown(["against training", "devices", "policy alone", "`drl`", "`annealing`", "`dp`", "policy, s"], lines)
    )
    write_section("generalisation", text)


if __name__ == "__main__":
    main()
