"""Time truth without emulation: predicted iteration times beside measured ones of real training on this CPU.

    python benchmarks/real_time_truth.py

Models are profiled, planned for two devices and trained by the real runtime in two processes joined by gloo; bandwidth
and latency of the link are measured first. Each plan is predicted twice: from a profile of one process on an idle
machine, and from one that ran beside a second process, as in the run (`drlpp profile --processes 2`). The error is
reported as measured. Writes the table between the markers ``real-time-truth`` of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from scipy.stats import spearmanr

from drlpp.capture import capture, load_model, profile
from drlpp.cluster import Cluster, cluster_from_dict
from drlpp.cost.problem_times import problem_times
from drlpp.graph import OpGraph
from drlpp.plan import Assignment, Plan, Provenance
from drlpp.problem import PlanningProblem
from drlpp.runtime.launch.training import RunOptions, train_captured
from drlpp.sim import Evaluator, simulate
from tables import machine, markdown, write_section

MODELS = [
    "timm:resnet18?batch_size=4",
    "timm:mobilenetv3_small_100?batch_size=8",
    "timm:convnext_atto?batch_size=4",
    "timm:vit_tiny_patch16_224?batch_size=4",
]
NUM_MICROBATCHES = 6
WORLD = 2
STEPS = 3
LINK_BYTES = 1 << 23


@dataclasses.dataclass(frozen=True)
class Case:
    """A plan with its predictions from a profile alone, and from one beside another process."""

    model: str
    kind: str
    plan: Plan
    alone_s: float
    beside_s: float


def cluster(bandwidth: float, latency_s: float) -> Cluster:
    """Two cores of this machine."""
    link = {"bandwidth": bandwidth, "latency": latency_s}
    return cluster_from_dict(
        {
            "schema_version": 1,
            "name": "two processes",
            "device_types": {"cpu": {"preset": "cpu-core"}},
            "hosts": [{"name": "here", "devices": ["cpu"] * WORLD, "link": link}],
        }
    )


def profiled(name: str) -> tuple[OpGraph, OpGraph]:
    """The graph of a model with times measured alone, and beside another process."""
    captured = capture(load_model(name), device="cpu", kernels="cpu")
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "calls.json"
        alone = profile(captured, measured_on="cpu-core", repeats=2, cache=cache)
        beside = profile(captured, measured_on="cpu-core", repeats=2, cache=cache, processes=WORLD)
    print(f"{name}: {alone.step_s:.4f} s alone, {beside.step_s:.4f} s beside another", file=sys.stderr, flush=True)
    return alone.graph, beside.graph


def cases(name: str, here: Cluster) -> list[Case]:
    """A balanced plan of two stages, and a random one of four on the two devices."""
    alone, beside = profiled(name)
    problem = PlanningProblem.build(beside, here, num_microbatches=NUM_MICROBATCHES)
    evaluator = Evaluator(problem)
    work = problem_times(problem).total_s.mean(axis=0)
    share = np.cumsum(work) / work.sum()
    rng = np.random.default_rng(3)
    labels = np.zeros(beside.num_ops, dtype=np.int64)
    for op, before in enumerate(beside.predecessors):
        low = max((int(labels[p]) for p in before), default=0)
        labels[op] = min(3, low + int(rng.random() < 6 / beside.num_ops))
    assignments = {
        ("two stages", "1f1b"): Assignment.compact((share > 0.5).astype(np.int64), {0: (0,), 1: (1,)}),
        ("random DAG", "list"): Assignment.compact(labels, {0: (0,), 1: (1,), 2: (0,), 3: (1,)}),
    }
    out = []
    for (kind, schedule), assignment in assignments.items():
        plan = evaluator.make_plan(assignment, Provenance(planner="hand"), [schedule])
        seconds = [
            simulate(dataclasses.replace(plan, graph=graph)).prediction.iteration_time_s for graph in (alone, beside)
        ]
        out.append(Case(name, f"{kind}, {schedule}", plan, *seconds))
    return out


def join(folder: Path) -> int:
    """Joins the process group; returns the rank."""
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=WORLD)
    return rank


def measure_link(folder: Path) -> None:
    """One of two ranks: sends a large and a small tensor back and forth; rank 0 prints bytes/s and seconds."""
    rank = join(folder)
    seconds = []
    for number in (1, LINK_BYTES):
        tensor = torch.zeros(number, dtype=torch.uint8)
        times = []
        for _ in range(20):
            dist.barrier()
            begin = time.perf_counter()
            for sender in (0, 1):
                if rank == sender:
                    dist.send(tensor, 1 - rank)
                else:
                    dist.recv(tensor, 1 - rank)
            times.append((time.perf_counter() - begin) / 2)
        seconds.append(statistics.median(times))
    if rank == 0:
        print(json.dumps([LINK_BYTES / max(seconds[1] - seconds[0], 1e-9), seconds[0]]))
    dist.destroy_process_group()


def train(folder: Path) -> None:
    """One of two ranks: trains all plans; rank 0 prints the measured seconds of each."""
    rank = join(folder)
    name, captured = "", None
    for case in pickle.loads((folder / "cases.pickle").read_bytes()):
        if case.model != name or captured is None:
            name, captured = case.model, capture(load_model(case.model), device="cpu", kernels="cpu")
        report = train_captured(captured, case.plan, RunOptions(steps=STEPS), lambda line: None)
        if rank == 0:
            print(json.dumps(report.iteration_time_s), flush=True)
        for parameter in captured.module.parameters():
            parameter.grad = None
    dist.barrier()
    dist.destroy_process_group()


def launch(role: str, chosen: list[Case]) -> list[str]:
    """Runs a role in two processes; returns the lines of rank 0."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "cases.pickle").write_bytes(pickle.dumps(chosen))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(WORLD), "GLOO_SOCKET_IFNAME": "lo"}
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, f"--{role}", name],
                env={**environment, "RANK": str(r)},
                stdout=subprocess.PIPE if r == 0 else subprocess.DEVNULL,
                text=True,
            )
            for r in range(WORLD)
        ]
        lines = (processes[0].communicate()[0] or "").splitlines()
        if any(code != 0 for code in [p.wait() for p in processes]):
            sys.exit("a rank failed")
        return lines


def main() -> None:
    """Profiles, plans, trains, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--link", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.link or arguments.train:
        measure_link(arguments.link) if arguments.link else train(arguments.train)
        return
    began = time.time()
    bandwidth, latency_s = json.loads(launch("link", [])[-1])
    chosen = [case for name in arguments.models for case in cases(name, cluster(bandwidth, latency_s))]
    measured = [json.loads(line) for line in launch("train", chosen)]
    alone = [c.alone_s / m - 1 for c, m in zip(chosen, measured, strict=True)]
    beside = [c.beside_s / m - 1 for c, m in zip(chosen, measured, strict=True)]
    rows = [
        [
            c.model,
            c.kind,
            f"{c.alone_s * 1e3:.0f}",
            f"{c.beside_s * 1e3:.0f}",
            f"{m * 1e3:.0f}",
            f"{a:+.1%}",
            f"{b:+.1%}",
        ]
        for c, m, a, b in zip(chosen, measured, alone, beside, strict=True)
    ]
    header = ["model", "plan", "alone ms", "beside ms", "measured ms", "error alone", "error beside"]
    summary = (
        f"{len(chosen)} plans on two processes with one thread each, {NUM_MICROBATCHES} micro-batches, median of "
        f"{STEPS - 1} steps, link of {bandwidth / 1e9:.2f} GB/s and {latency_s * 1e6:.0f} us, {machine()}, "
        f"{time.time() - began:.0f} s in all.\n\nMean absolute error with a profile beside another process "
        f"**{statistics.mean(abs(e) for e in beside):.1%}** (largest {max(beside, key=abs):+.1%}), with one alone "
        f"{statistics.mean(abs(e) for e in alone):.1%} ({max(alone, key=abs):+.1%}); Spearman "
        f"{float(spearmanr([c.beside_s for c in chosen], measured).statistic):.3f}.\n"
    )
    print(summary)
    write_section("real-time-truth", summary + "\n" + markdown(header, rows))


if __name__ == "__main__":
    main()
