"""How good the policy alone is on problems that it has never seen: ``python benchmarks/agent_gap.py``.

Three groups of problems: generated graphs of unseen families on unseen kinds of clusters, with unequal and with equal
devices, and captured models of unseen families on both. For each: the best of 64 samples of the policy (no search, no
baselines), with the package's weights and with random ones, and PipeDream's plan. The gap is to the best plan known:
of annealing for the given CPU seconds (with its own starts, and from the policy's samples), PipeDream, and all samples
of the policy. What is known is kept in a file, so that later runs start from it.

Writes the section ``agent-gap`` of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from drlpp.agent.networks.policy import Policy, PolicyConfig
from drlpp.agent.networks.weights_file import initial_policy, load_checkpoint, random_policy
from drlpp.agent.sampling.proposals import propose
from drlpp.agent.sampling.rollout import Rewarder
from drlpp.agent.training.corpus import draw_problem
from drlpp.agent.view.coarse import coarse_problem
from drlpp.agent.view.features import problem_view
from drlpp.capture import capture_graph
from drlpp.files import write_atomically
from drlpp.graph import OpGraph
from drlpp.plan.assignment import Assignment
from drlpp.planners.base import Budget
from drlpp.planners.local_search.annealing import anneal, offer_starts
from drlpp.planners.registry import get_planner
from drlpp.planners.search import Search
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator
from tables import machine, markdown, write_section

MODELS = (
    "timm:inception_v3?batch_size=16",
    "timm:efficientnet_b0?batch_size=32",
    "timm:convnext_tiny?batch_size=16",
    "timm:swin_tiny_patch4_window7_224?batch_size=8",
    "timm:nasnetalarge?batch_size=4",
    "timm:hrnet_w18?batch_size=8",
    "timm:dpn68?batch_size=16",
    "transformers:LlamaForCausalLM?num_hidden_layers=8&hidden_size=1024&intermediate_size=2816",
    "transformers:CLIPModel",
)
"""Families that pre-training never sees."""
EPISODES = 64
GROUPS = 200


def generated(cluster: str, number: int) -> Iterator[tuple[str, PlanningProblem]]:
    """Problems of the test split on one kind of cluster."""
    for i in range(number):
        yield f"{cluster} {i}", draw_problem(np.random.default_rng([2024, i]), "test", clusters=[cluster])


def captured(number: int) -> Iterator[tuple[str, PlanningProblem]]:
    """Captured models on clusters of the test split."""
    graphs: dict[str, OpGraph] = {}
    for i in range(number):
        model = MODELS[i % len(MODELS)]
        if model not in graphs:
            graphs[model] = capture_graph(model)
        for attempt in range(100):
            problem = draw_problem(np.random.default_rng([2025, i, attempt]), "test", [graphs[model]])
            if problem.graph is graphs[model]:
                yield f"{model} {i}", problem
                break


@dataclasses.dataclass(frozen=True)
class Samples:
    """What the policy drew: the best assignments of the ops, values ``[64]``, whether they fit, and CPU seconds."""

    assignments: list[Assignment]
    values: np.ndarray
    fits: np.ndarray
    took_s: float

    @property
    def best(self) -> float:
        """Of those that fit; where none does, the score of the nearest miss."""
        return float(self.values.min())


def draw(problem: PlanningProblem, policy: Policy, seed: int) -> Samples:
    """Samples of the policy, evaluated."""
    start = time.process_time()
    coarse = coarse_problem(problem, GROUPS)
    view, evaluator = problem_view(coarse.problem), Evaluator(coarse.problem)
    generator = torch.Generator().manual_seed(seed)
    rewarder = Rewarder(lambda a: evaluator.evaluate(a).score(problem.objective), 1.0)
    drawn = propose(policy, view, rewarder, EPISODES, generator, greedy_first=True)
    took = time.process_time() - start
    values = np.array([value for value, _ in drawn])
    best = [coarse.expand(drawn[i][1]) for i in np.argsort(values)[:8]]
    return Samples(best, values, np.array([evaluator.evaluate(a).feasible for _, a in drawn]), took)


def search(problem: PlanningProblem, starts: list[Assignment], seconds: float) -> float:
    """The best value of annealing: half of the time with its own starts, half from the policy's samples."""
    alone = Search("best known", problem, Budget(seconds / 2, clock=time.process_time), 0)
    offer_starts(alone, np.random.default_rng(0))
    anneal(alone, np.random.default_rng(0))
    after = Search("best known", problem, Budget(seconds / 2, clock=time.process_time), 0, evaluator=alone.evaluator)
    for assignment in [*starts, *([alone.best] if alone.best else [])]:
        after.offer(assignment)
    anneal(after, np.random.default_rng(1))
    return min(alone.best_value, after.best_value)


def pipedream(problem: PlanningProblem) -> float:
    plan = get_planner("pipedream").solve(problem, Budget(10.0, clock=time.process_time), 0).plan
    if plan is None or plan.prediction is None:
        return math.inf
    return problem.objective.value_s(plan.prediction)


def gmean(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values)))) if values else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=24, help="per group")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of annealing per problem, CPU")
    parser.add_argument("--groups", default="unequal,equal,captured")
    parser.add_argument("--weights", type=Path, help="instead of the package's; writes no section")
    parser.add_argument("--known", type=Path, default=Path("runs/best-known.json"), help="file of the best known plans")
    args = parser.parse_args()
    torch.set_num_threads(1)
    policy = load_checkpoint(args.weights)[0] if args.weights else initial_policy(0)
    untrained = random_policy(PolicyConfig(), 0)
    known = json.loads(args.known.read_text()) if args.known.is_file() else {}
    makers = {
        "unequal": lambda: generated("desktops", args.problems),
        "equal": lambda: generated("uneven-hosts", args.problems),
        "captured": lambda: captured(args.problems),
    }
    table, details = [], []
    draw(next(generated("desktops", 1))[1], policy, 0)  # compiles
    for group in args.groups.split(","):
        rows = []
        for name, problem in makers[group]():
            seeds = [draw(problem, policy, seed) for seed in range(args.seeds)]
            raw = draw(problem, untrained, 0)
            entry = known.setdefault(name, {"best_s": math.inf, "searched_s": 0.0})
            if "pipedream_s" not in entry:
                entry["pipedream_s"] = pipedream(problem)
            if entry["searched_s"] < args.seconds:
                entry["best_s"] = min(entry["best_s"], search(problem, seeds[0].assignments, args.seconds))
                entry["searched_s"] = args.seconds
            found = [s.best for s in [*seeds, raw] if s.fits[s.values.argmin()]]
            entry["best_s"] = min([entry["best_s"], entry["pipedream_s"], *found])
            args.known.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(args.known, json.dumps(known, indent=1) + "\n")
            best = entry["best_s"]
            if not math.isfinite(best):
                print(f"{name}: nobody found a plan that fits", flush=True)
                continue
            row = {
                "best": [s.best / best for s in seeds],
                "greedy": float(seeds[0].values[0]) / best,
                "fit": float(np.mean([s.fits.mean() for s in seeds])),
                "random": raw.best / best,
                "pipedream": entry["pipedream_s"] / gmean([s.best for s in seeds]),
                "took": max(s.took_s for s in seeds),
            }
            rows.append(row)
            shown = [group, name, problem.graph.name, str(problem.graph.num_ops), str(problem.cluster.num_devices)]
            details.append([*shown, f"{gmean(row['best']):.3f}", f"{row['random']:.3f}", f"{row['pipedream']:.2f}"])
            print(
                " ".join(details[-1]),
                f"greedy {row['greedy']:.3f} fit {row['fit']:.2f} {row['took']:.2f} s",
                flush=True,
            )
        per_seed = [gmean([r["best"][s] for r in rows]) for s in range(args.seeds)]
        ratios = [r["pipedream"] for r in rows if math.isfinite(r["pipedream"])]
        table.append(
            [
                group,
                str(len(rows)),
                f"**{gmean(per_seed):.4f}** ({min(per_seed):.4f} to {max(per_seed):.4f})",
                f"{np.median([gmean(r['best']) for r in rows]):.4f}",
                f"{max(gmean(r['best']) for r in rows):.3f}",
                f"{gmean([min(r['greedy'], 20.0) for r in rows]):.3f}",
                f"{np.mean([r['fit'] for r in rows]):.0%}",
                f"{gmean([r['random'] for r in rows]):.4f}",
                f"**{gmean(ratios):.2f}** ({len(rows) - len(ratios)} without)",
                f"{np.median([r['took'] for r in rows]):.2f}, {max(r['took'] for r in rows):.2f}",
            ]
        )
        print(" | ".join(table[-1]), flush=True)
    if args.weights is None:
        header = [
            "devices", "problems", "best of 64 / best known", "median", "worst", "greedy", "samples that fit",
            "random weights", "PipeDream / policy", "CPU seconds (median, most)",
        ]  # fmt: skip
        columns = ["group", "problem", "graph", "ops", "devices", "policy", "random weights", "PipeDream"]
        text = (
            f"{args.seeds} seeds of the samples, {args.seconds:.0f} s of annealing per problem, {machine()}.\n\n"
            "The policy alone: 64 samples, no search, no baselines; on families of graphs and kinds of clusters that "
            "training never saw. Geometric means of iteration times.\n\n"
            f"{markdown(header, table)}\n"
            f"{markdown(columns, details)}"
        )
        write_section("agent-gap", text)


if __name__ == "__main__":
    main()
