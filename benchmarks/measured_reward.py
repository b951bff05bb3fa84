"""Learning from measured steps beside learning from simulated ones, on 2 and 4 real processes of unequal speed.

    python benchmarks/measured_reward.py [--iterations 8] [--episodes 16]

The ranks are real processes (gloo) under the real runtime, and wait for as long as the devices of a cluster would
compute. What the planner is told is wrong, as it is without a profile: all devices look equal, and the time of every op
is off by a random factor. Compared are the policy that learns from the simulator with what it is told, the one that
learns from measured steps, the one that measures only plans that may be better than all before, and as the bound of
these the one that learns from a simulator that knows the truth; with data parallelism and the dynamic programme on what
they are told. All plans found are then measured on the same ranks.
Resumes from the output folder. Writes the table between the markers ``measured-reward`` of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import time
from pathlib import Path

import numpy as np

from drlpp.agent.training.fine_tune import TrainConfig
from drlpp.agent.training.train_on_problem import CHECKPOINT, Outcome, train_in_folder
from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.cost.problem_times import problem_times
from drlpp.graph import OpGraph, OpTimes
from drlpp.graph.generate.synthetic import random_graph
from drlpp.plan import Plan, Trace, load_plan
from drlpp.planners.base import Budget
from drlpp.planners.registry import get_planner
from drlpp.problem import PlanningProblem
from drlpp.runtime.launch.job import RunOptions
from drlpp.runtime.launch.plan_measurement import Trials
from tables import machine, markdown, write_section

SPEEDS = {2: (1.0, 0.4), 4: (1.0, 1.0, 0.5, 0.25)}
NUM_OPS = 32
NUM_MICROBATCHES = 8
WRONG_BY = 0.7
"""Standard deviation of the logarithm of told over true times."""
STEP_S = 0.25
"""Emulated seconds of a step in which all devices share the work perfectly."""


def cluster(speeds: tuple[float, ...]) -> Cluster:
    """One host with a device of each speed."""
    types = {s: DeviceType(name=f"speed-{s:g}", memory_bytes=10**11, speed=s, speed_is_given=True) for s in speeds}
    devices = tuple(types[s].name for s in speeds)
    link = Link(bandwidth=2e9, latency_s=1e-5)
    return Cluster(f"{len(speeds)}-devices", tuple(types.values()), (Host(name="here", devices=devices, link=link),))


def told(graph: OpGraph, rng: np.random.Generator) -> OpGraph:
    """The graph with every op's times off by a factor."""

    def wrong(times: OpTimes, factor: float) -> OpTimes:
        seconds = {f.name: getattr(times, f.name) * factor for f in dataclasses.fields(times)}
        return dataclasses.replace(times, **seconds)

    ops = []
    for op in graph.ops:
        factor = float(np.exp(rng.normal(0.0, WRONG_BY)))
        ops.append(dataclasses.replace(op, times={key: wrong(t, factor) for key, t in op.times.items()}))
    return dataclasses.replace(graph, ops=tuple(ops))


def problems(size: int) -> tuple[PlanningProblem, PlanningProblem]:
    """The true problem, and what is told of it."""
    rng = np.random.default_rng(size)
    graph = random_graph(rng, NUM_OPS, branching=0.4, skips=0.2, measured=True)
    true = PlanningProblem.build(graph, cluster(SPEEDS[size]), num_microbatches=NUM_MICROBATCHES)
    equal = PlanningProblem.build(told(graph, rng), cluster((1.0,) * size), num_microbatches=NUM_MICROBATCHES)
    return true, equal


def compare(size: int, folder: Path, config: TrainConfig) -> list[list[str]]:
    """Lines of the table for one number of processes."""
    true, equal = problems(size)
    work = float(problem_times(true).total_s.min(axis=0).sum()) * NUM_MICROBATCHES / sum(SPEEDS[size])
    options = RunOptions(steps=2, emulate=True, time_scale=STEP_S / work)
    plans: dict[str, tuple[Plan, Outcome | None, float]] = {}
    with Trials(size, options) as trials:

        def measure(plan: Plan) -> float:
            return run(plan)[0]

        def run(plan: Plan) -> tuple[float, Trace]:
            return trials.trace(dataclasses.replace(plan, graph=true.graph, cluster=true.cluster))

        for name, problem, how in (
            ("simulated reward, told", equal, {}),
            ("measured reward, told", equal, {"measure": measure}),
            ("modelled reward, told", equal, {"run": run}),
            ("simulated reward, truth", true, {}),
        ):
            place = folder / f"{size}-{name.replace(', ', '-').replace(' ', '-')}"
            start = time.perf_counter()
            resume = (place / CHECKPOINT).exists()
            outcome = train_in_folder(place, problem, config, seed=0, resume=resume, **how)
            plans[f"drl, {name}"] = (load_plan(Path(outcome.plan)), outcome, time.perf_counter() - start)
            print(f"{size} processes, {name}: {outcome}", flush=True)
        for name in ("data-parallel", "dp"):
            result = get_planner(name).solve(equal, Budget(10.0), 0)
            if result.plan is not None:
                plans[f"{name}, told"] = (result.plan, None, result.planning_time_s)
        lines = []
        for name, (plan, outcome, _) in plans.items():
            seconds = sorted(measure(plan) for _ in range(3))[1]
            ran = f"{outcome.num_measured} ({outcome.num_failed})" if outcome else "-"
            cost = (
                f"{outcome.sampling_s:.1f} / {outcome.evaluation_s:.1f} / {outcome.learning_s:.1f}" if outcome else "-"
            )
            lines.append([str(size), name, f"{1e3 * seconds:.2f}", f"{seconds / work:.3f}", ran, cost])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/measured-reward"))
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--episodes", type=int, default=16)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    config = TrainConfig(episodes=args.episodes, repeats=2, iterations=args.iterations)
    lines = [line for size in SPEEDS for line in compare(size, args.output, config)]
    text = (
        f"{NUM_OPS} ops, {NUM_MICROBATCHES} micro-batches, {args.iterations} iterations of {args.episodes} plans; what "
        f"is told: equal devices, times off by a factor of e^±{WRONG_BY}; real processes with emulated devices of "
        f"speeds {', '.join(str(s) for s in SPEEDS[2])} and {', '.join(str(s) for s in SPEEDS[4])}; {machine()}.\n\n"
        "Measured iteration time of the plan found, and its ratio to all work shared perfectly by speed:\n\n"
        + markdown(
            [
                "processes",
                "planner and what it knows",
                "measured ms",
                "to ideal",
                "plans run (failed)",
                "sampling / evaluation / learning s",
            ],
            lines,
        )
    )
    write_section("measured-reward", text)


if __name__ == "__main__":
    main()
