"""How good the policy alone is on problems that it has never seen: ``python benchmarks/agent_gap.py --split test``.

For each drawn problem: the best of 64 samples of the policy (no search, no baselines), PipeDream's plan, the dynamic
programme, and annealing with the given seconds. The gap is to the best plan that any of them, or annealing from the
policy's samples, found. With ``--models`` the graphs are captured models instead of generated ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import torch

from drlpp.agent.checkpoint import initial_policy, load_checkpoint
from drlpp.agent.coarse import coarse_problem
from drlpp.agent.corpus import draw_problem
from drlpp.agent.features import problem_view
from drlpp.agent.policy import Policy
from drlpp.capture import capture, load_model
from drlpp.files import write_atomically
from drlpp.planners.annealing import anneal
from drlpp.planners.base import Budget
from drlpp.planners.registry import get_planner
from drlpp.planners.search import Search
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator

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
OTHERS = ("data-parallel", "pipedream", "dp", "annealing")


def measure(problem: PlanningProblem, policy: Policy, seconds: float) -> dict[str, float]:
    """Objective values in seconds by planner, and the seconds that the policy took."""
    objective = problem.objective
    start = time.perf_counter()
    coarse = coarse_problem(problem, 200)
    view = problem_view(coarse.problem)
    rollout = policy.sample([view], 64, torch.Generator().manual_seed(0), repeats=2, greedy_first=True)[0]
    evaluator = Evaluator(coarse.problem)
    assignments = rollout.assignments()
    values = np.array([evaluator.evaluate(a).score(objective) for a in assignments])
    row = {"policy_took_s": time.perf_counter() - start, "policy": float(values.min()), "greedy": float(values[0])}
    for name in OTHERS:
        plan = get_planner(name).solve(problem, Budget(seconds), 0).plan
        if plan is None or plan.prediction is None:
            row[name] = float("inf")
        else:
            row[name] = getattr(
                plan.prediction, "iteration_time_s" if objective == "iteration-time" else "bottleneck_s"
            )
    search = Search("best known", problem, Budget(seconds), 0)
    for i in np.argsort(values)[:8].tolist():
        search.offer(coarse.expand(assignments[i]))
    anneal(search, np.random.default_rng(0))
    row["policy+annealing"] = search.best_value
    row["best"] = min(v for k, v in row.items() if k != "policy_took_s")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", choices=["train", "validation", "test"], default="test")
    parser.add_argument("--models", action="store_true", help="captured models instead of generated graphs")
    parser.add_argument("--problems", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=4.0, help="budget of every other planner")
    parser.add_argument("--weights", type=Path, help="instead of the package's")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    policy = load_checkpoint(args.weights)[0] if args.weights else initial_policy(0)
    graphs = [capture(load_model(spec)).graph for spec in MODELS] if args.models else []
    rows = []
    for i in range(args.problems):
        problem = draw_problem(np.random.default_rng([2024, i]), args.split)
        if graphs:
            problem = dataclasses.replace(problem, graph=graphs[i % len(graphs)])
        row = measure(problem, policy, args.seconds)
        rows.append({"graph": problem.graph.name, "devices": problem.cluster.num_devices, **row})
        shown = "  ".join(f"{k} {row[k] / row['best']:.3f}" for k in ("policy", "greedy", *OTHERS, "policy+annealing"))
        print(f"{problem.graph.name:24s} {problem.cluster.num_devices:3d} devices  {shown}", flush=True)
    for name in ("policy", "greedy", *OTHERS, "policy+annealing"):
        ratio = np.array([r[name] / r["best"] for r in rows])
        ok = np.isfinite(ratio)
        mean = float(np.exp(np.log(ratio[ok]).mean()))
        print(f"{name:18s} geometric mean {mean:.4f}  median {np.median(ratio):.4f}  failed {int((~ok).sum())}")
    took = [r["policy_took_s"] for r in rows]
    print(f"policy took {np.median(took):.2f} s (median), {max(took):.2f} s (most)")
    if args.json:
        write_atomically(args.json, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
