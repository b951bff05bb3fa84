"""Time truth: the predicted iteration time of many plans beside the measured one of their emulated execution.

    python benchmarks/time_truth.py [--plans 64] [--seconds 1.5]

Each plan (good and bad ones; chains, branches, replicas, several stages per device, unequal devices, two-tier networks;
every schedule) is simulated, and then executed by the real runtime in up to 8 processes on this machine, with real
messages and the real schedule, where each action waits for as long as the cost model says and each message is paced to
the links. Writes the table between the markers ``time-truth`` of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from scipy.stats import spearmanr

from drlpp.cluster import Cluster, cluster_from_dict
from drlpp.cost.problem_times import problem_times
from drlpp.errors import DrlppError
from drlpp.graph import OpGraph
from drlpp.graph.generate.synthetic import chain_graph, random_graph
from drlpp.plan import Assignment, Plan, Provenance
from drlpp.problem import PlanningProblem
from drlpp.runtime.launch.training import RunOptions, train_emulated
from drlpp.schedules import SCHEDULES
from drlpp.sim import Evaluator, simulate
from tables import machine, markdown, write_section

NUM_MICROBATCHES = 8
WORLD = 8


@dataclasses.dataclass(frozen=True)
class Case:
    """A plan to be emulated, with what it is an example of."""

    graph: str
    cluster: str
    partition: str
    plan: Plan


def clusters() -> list[Cluster]:
    """Equal devices on one host; two-tier networks; unequal devices."""
    types = {"fast": {"speed": 2.0, "memory": "80GB"}, "slow": {"speed": 1.0, "memory": "80GB"}}
    link, network = {"bandwidth": "12GB/s", "latency": "10us"}, {"bandwidth": "3GB/s", "latency": "50us"}
    slow_network = {"bandwidth": "1GB/s", "latency": "100us"}
    layouts = {
        "4 equal, one host": [(["slow"] * 4, network)],
        "2 x 2 unequal, two-tier": [(["fast", "slow"], network), (["slow", "fast"], network)],
        "4 x 1 unequal": [(["fast"], network), (["slow"], slow_network), (["slow"], network), (["fast"], network)],
        "4 x 2 two-tier, slow ports": [(["slow", "slow"], slow_network)] * 3 + [(["fast", "fast"], slow_network)],
    }
    return [
        cluster_from_dict(
            {
                "schema_version": 1,
                "name": name,
                "device_types": types,
                "hosts": [
                    {"name": f"h{i}", "devices": devices, "link": link, "network": port}
                    for i, (devices, port) in enumerate(hosts)
                ],
            }
        )
        for name, hosts in layouts.items()
    ]


def graphs() -> list[OpGraph]:
    """A chain, and two graphs with branches and skip connections."""
    rng = np.random.default_rng(7)
    chain = chain_graph(24, forward_s=1e-3, tensor_bytes=2e6, param_bytes=8e6)
    branchy = [random_graph(rng, n, branching=0.5, measured=True) for n in (30, 48)]
    return [
        chain,
        dataclasses.replace(branchy[0], name="branches-30"),
        dataclasses.replace(branchy[1], name="branches-48"),
    ]


def cases(number: int) -> list[Case]:
    """The plans, the same ones each time."""
    rng = np.random.default_rng(11)
    pairs = [(g, c) for c in clusters() for g in graphs()]
    out: list[Case] = []
    kinds = ("balanced", "random", "replicated", "scattered", "data parallel")
    schedules = sorted(SCHEDULES)
    while len(out) < number:
        i = len(out)
        graph, cluster = pairs[i % len(pairs)]
        kind = kinds[(i + i // len(pairs)) % len(kinds)]
        problem = PlanningProblem.build(graph, cluster, num_microbatches=NUM_MICROBATCHES)
        assignment = make_assignment(kind, problem, rng)
        for name in [schedules[i % len(schedules)], "list"]:
            try:
                plan = Evaluator(problem).make_plan(assignment, Provenance(planner=kind), [name])
            except DrlppError:
                continue  # this schedule does not apply to this placement
            prediction = simulate(plan).prediction
            plan = dataclasses.replace(plan, prediction=prediction)
            out.append(Case(graph.name, cluster.name, kind, plan))
            break
    return out


def make_assignment(kind: str, problem: PlanningProblem, rng: np.random.Generator) -> Assignment:
    """Partition and placement: good (balanced), or bad in different ways."""
    graph, devices = problem.graph, problem.cluster.num_devices
    work = problem_times(problem).total_s.mean(axis=0)
    share = np.cumsum(work) / work.sum()
    if kind == "data parallel":
        return Assignment(np.zeros(graph.num_ops, dtype=np.int64), (tuple(range(devices)),))
    if kind == "balanced":
        labels = np.minimum((share * devices).astype(np.int64), devices - 1)
        return Assignment.compact(labels, {s: (s,) for s in range(devices)})
    if kind == "replicated":
        labels = np.minimum((share * (devices // 2)).astype(np.int64), devices // 2 - 1)
        order = rng.permutation(devices)
        return Assignment.compact(
            labels, {s: tuple(int(d) for d in sorted(order[2 * s : 2 * s + 2])) for s in range(devices // 2)}
        )
    stages = devices if kind == "random" else 2 * devices
    labels = np.zeros(graph.num_ops, dtype=np.int64)
    for op, before in enumerate(graph.predecessors):
        low = max((int(labels[p]) for p in before), default=0)
        labels[op] = min(stages - 1, low + int(rng.random() < 1.3 * stages / graph.num_ops))
    return Assignment.compact(labels, {s: (int(rng.integers(devices)),) for s in range(stages)})


def worker(folder: Path) -> None:
    """One rank: emulates all plans, one after the other. Rank 0 writes the measured seconds."""
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=WORLD)
    plans, seconds = pickle.loads((folder / "plans.pickle").read_bytes())
    measured = []
    for plan in plans:
        options = RunOptions(steps=3, emulate=True, time_scale=seconds / plan.prediction.iteration_time_s)
        measured.append(train_emulated(plan, options, print).iteration_time_s)
        if rank == 0:
            print(f"{len(measured)} of {len(plans)}", file=sys.stderr, flush=True)
    if rank == 0:
        (folder / "measured.pickle").write_bytes(pickle.dumps(measured))
    dist.barrier()
    dist.destroy_process_group()


def emulate(plans: list[Plan], seconds: float) -> list[float]:
    """Measured iteration time of each plan, in predicted seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "plans.pickle").write_bytes(pickle.dumps((plans, seconds)))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(WORLD), "GLOO_SOCKET_IFNAME": "lo"}
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, "--worker", name],
                env={**environment, "RANK": str(r)},
                stdout=subprocess.DEVNULL,
            )
            for r in range(WORLD)
        ]
        if any(code != 0 for code in [p.wait() for p in processes]):
            sys.exit("a rank failed")
        result: list[float] = pickle.loads((folder / "measured.pickle").read_bytes())
        return result


def main() -> None:
    """Simulates, emulates, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.5, help="emulated length of an iteration")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker)
        return
    chosen = cases(arguments.plans)
    began = time.time()
    measured = emulate([c.plan for c in chosen], arguments.seconds)
    predicted = [c.plan.prediction.iteration_time_s for c in chosen if c.plan.prediction]
    errors = [m / p - 1 for m, p in zip(measured, predicted, strict=True)]
    by_problem: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, c in enumerate(chosen):
        by_problem[c.graph, c.cluster].append(i)
    within = [
        float(spearmanr([predicted[i] for i in some], [measured[i] for i in some]).statistic)
        for some in by_problem.values()
        if len(some) > 2
    ]
    ranks = f"{min(within):.3f} to {max(within):.3f}" if within else "(too few)"
    mean_error = statistics.mean(abs(e) for e in errors)
    rows = [
        [
            c.graph,
            c.cluster,
            c.partition,
            c.plan.schedule_name,
            str(c.plan.num_stages),
            f"{p * 1e3:.2f}",
            f"{m * 1e3:.2f}",
            f"{e:+.1%}",
        ]
        for c, p, m, e in zip(chosen, predicted, measured, errors, strict=True)
    ]
    header = ["graph", "cluster", "partition", "schedule", "stages", "predicted ms", "emulated ms", "error"]
    summary = (
        f"{len(chosen)} plans, {NUM_MICROBATCHES} micro-batches, iterations stretched to {arguments.seconds:g} s, "
        f"{machine()}, {time.time() - began:.0f} s in all.\n\n"
        f"Mean absolute error **{mean_error:.2%}** (largest {max(abs(e) for e in errors):.1%}), Spearman "
        f"**{float(spearmanr(predicted, measured).statistic):.4f}** over all plans and {ranks} "
        f"among the plans of one graph and cluster ({len(within)} pairs).\n"
    )
    print(summary)
    write_section("time-truth", summary + "\n" + markdown(header, rows))


if __name__ == "__main__":
    main()
