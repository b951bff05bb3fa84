"""What each part of the agent brings: policies trained alike but for one part, and `drl` without one of its steps.

    python benchmarks/ablations.py [--iterations 120] [--problems 10] [--budget 10]

Every variant is trained from random weights for as many iterations (half of them imitation, one seed; far fewer than
the weights of the package), then drawn from 64 times per unseen problem. Training and rows are kept in the output
folder, and the same command goes on from them. Writes the table between the markers ``ablations`` of
docs/benchmarks.md.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from drl_against_all import run
from drl_variants import Maker, arguments, drl, geometric, over_best, policy
from drlpp.agent.networks.policy import PolicyConfig
from drlpp.agent.networks.weights_file import random_policy, save_checkpoint
from drlpp.agent.training.corpus import CLUSTER_SPLITS, GRAPH_SPLITS
from drlpp.agent.training.pretrain import CHECKPOINT, PretrainConfig, pretrain
from drlpp.bench.case import Case, Suite
from drlpp.threads import one_thread
from tables import machine, markdown, write_section


def variants(iterations: int) -> dict[str, PretrainConfig]:
    """What is trained; without imitation all iterations are PPO."""
    warm = iterations // 2
    base = PretrainConfig(
        imitation_iterations=warm, iterations=iterations - warm, validate_every=iterations, validation_problems=1
    )
    ppo = dataclasses.replace(base, imitation_iterations=0, iterations=iterations)  # imitation teaches the scheduler
    return {
        "full": base,
        "no encoder (features only)": dataclasses.replace(base, policy=PolicyConfig(num_layers=0)),
        "no recurrence": dataclasses.replace(base, policy=PolicyConfig(recurrent=False)),
        "no scheduler (stage i on device i)": dataclasses.replace(ppo, policy=PolicyConfig(scheduler=False)),
        "no imitation": ppo,
    }


def train(folder: Path, config: PretrainConfig) -> Path:
    """Trains a variant, unless it has been; returns its last weights."""
    weights = folder / CHECKPOINT
    if not (folder / "done").exists():
        with one_thread():
            pretrain(folder, config, resume=weights.exists())
        (folder / "done").touch()
    return weights


def suite(problems: int) -> Suite:
    """Unseen families on unseen clusters."""
    families, kinds = GRAPH_SPLITS["test"], CLUSTER_SPLITS["test"]
    cases = [
        Case(
            f"{families[i % len(families)]}-{i}",
            f"generated:{families[i % len(families)]}?seed={900 + i}",
            f"generated:{kinds[i % len(kinds)]}?seed={900 + i}",
        )
        for i in range(problems)
    ]
    return Suite("ablations", "unseen families on unseen clusters", tuple(cases))


def main() -> None:
    parser = arguments(__doc__ or "", "runs/ablations", 10.0)
    parser.add_argument("--iterations", type=int, default=120, help="of training per variant")
    parser.add_argument("--problems", type=int, default=10)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    makers: dict[str, Maker] = {}
    for name, config in variants(args.iterations).items():
        folder = args.output / name.split(" (")[0].replace(" ", "-")
        makers[f"policy, {name}"] = policy(train(folder, config))
        print(f"trained: {name}", flush=True)
    full, untrained = args.output / "full" / CHECKPOINT, args.output / "random.safetensors"
    save_checkpoint(untrained, random_policy(PolicyConfig(), 0), {})
    makers |= {
        "policy, random weights": policy(untrained),
        "drl, full": drl(full),
        "drl, no refinement (samples and fine-tuning)": drl(full, policy_only=True),
        "drl, from scratch (random weights, samples and fine-tuning)": drl(untrained, policy_only=True),
        "drl, random weights": drl(untrained),
    }
    with one_thread():
        rows = run(suite(args.problems), args.output / "rows.jsonl", makers, args.budget, args.seeds)
    lines = []
    for name in makers:
        ratios = sorted(over_best(rows, name))
        lines.append([name, geometric(ratios), f"{ratios[len(ratios) // 2]:.3f}", f"{ratios[-1]:.3f}"])
    text = (
        f"{args.iterations} iterations of training per variant, {args.problems} problems of unseen families and "
        f"clusters, {args.budget:g} s of processor time per plan, {args.seeds} seed(s); {machine()}.\n\n"
        "Iteration time over the best that any of them found:\n\n"
        + markdown(["variant", "geometric mean", "median", "worst"], lines)
    )
    write_section("ablations", text)


if __name__ == "__main__":
    main()
