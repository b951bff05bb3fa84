"""Time truth without emulation: predicted iteration times beside measured ones of real training on this CPU.

    python benchmarks/real_time_truth.py

Six models are profiled, planned for two devices in two ways and trained by the real runtime in two processes joined by
gloo; bandwidth and latency of the link are measured first. Each plan is predicted twice: from the profile, with its
curve of how much two processes slow each other down; and with costs that were calibrated from a trace of the model's
other plan. The error is reported as measured. Writes the section ``real-time-truth`` of docs/benchmarks.md.
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
from drlpp.cost.calibration import calibrate, calibrated_plan, measurements
from drlpp.cost.problem_times import problem_times
from drlpp.freed_memory import keep_freed_memory
from drlpp.graph import OpGraph
from drlpp.plan import Assignment, Plan, Provenance, Trace
from drlpp.problem import PlanningProblem
from drlpp.runtime.launch.training import RunOptions, train_captured
from drlpp.sim import Evaluator, simulate
from tables import machine, markdown, write_section

MODELS = [
    "timm:resnet18?batch_size=4",
    "timm:mobilenetv3_small_100?batch_size=8",
    "timm:convnext_atto?batch_size=4",
    "timm:vit_tiny_patch16_224?batch_size=4",
    "timm:regnety_002?batch_size=8",
    "timm:mixer_s32_224?batch_size=8",
]
NUM_MICROBATCHES = 6
WORLD = 2
STEPS = 13
LINK_BYTES = 1 << 23


@dataclasses.dataclass(frozen=True)
class Case:
    """A plan of a profiled model with its prediction."""

    model: str
    kind: str
    plan: Plan
    predicted_s: float


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


def profiled(name: str) -> OpGraph:
    """The graph of a model with measured times."""
    captured = capture(load_model(name), device="cpu", kernels="cpu")
    found = profile(captured, measured_on="cpu-core", repeats=5, processes=WORLD)
    curve = ", ".join(f"{f:.3f}" for f in found.graph.slowdown)
    print(f"{name}: {found.step_s:.4f} s alone, curve {curve}", file=sys.stderr, flush=True)
    return found.graph


def cases(name: str, here: Cluster) -> list[Case]:
    """A balanced plan of two stages, and a random one of four on the two devices."""
    graph = profiled(name)
    problem = PlanningProblem.build(graph, here, num_microbatches=NUM_MICROBATCHES)
    evaluator = Evaluator(problem)
    work = problem_times(problem).total_s.mean(axis=0)
    share = np.cumsum(work) / work.sum()
    rng = np.random.default_rng(3)
    labels = np.zeros(graph.num_ops, dtype=np.int64)
    for op, before in enumerate(graph.predecessors):
        low = max((int(labels[p]) for p in before), default=0)
        labels[op] = min(3, low + int(rng.random() < 6 / graph.num_ops))
    assignments = {
        ("two stages", "1f1b"): Assignment.compact((share > 0.5).astype(np.int64), {0: (0,), 1: (1,)}),
        ("random DAG", "list"): Assignment.compact(labels, {0: (0,), 1: (1,), 2: (0,), 3: (1,)}),
    }
    plans = {
        f"{kind}, {schedule}": evaluator.make_plan(assignment, Provenance(planner="hand"), [schedule])
        for (kind, schedule), assignment in assignments.items()
    }
    return [Case(name, kind, plan, seconds_of(plan)) for kind, plan in plans.items()]


def seconds_of(plan: Plan) -> float:
    """What the simulator says of a plan."""
    return simulate(plan).prediction.iteration_time_s


def calibrated_s(plan: Plan, other: Plan, trace: Trace) -> float:
    """The same with costs that a trace of another plan measured."""
    return seconds_of(calibrated_plan(plan, calibrate([measurements(other, [trace])])))


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
    """One of two ranks: trains all plans; rank 0 prints the measured seconds of each, and leaves its last trace."""
    rank = join(folder)
    keep_freed_memory()  # as `drlpp run` does
    name, captured = "", None
    traces = []
    for case in pickle.loads((folder / "cases.pickle").read_bytes()):
        if case.model != name or captured is None:
            name, captured = case.model, capture(load_model(case.model), device="cpu", kernels="cpu")
        report = train_captured(captured, case.plan, RunOptions(steps=STEPS), lambda line: None)
        if rank == 0:
            print(json.dumps(report.iteration_time_s), flush=True)
            traces.append(report.trace)
        for parameter in captured.module.parameters():
            parameter.grad = None
    if rank == 0:
        (folder / "traces.pickle").write_bytes(pickle.dumps(traces))
    dist.barrier()
    dist.destroy_process_group()


def launch(role: str, chosen: list[Case]) -> tuple[list[str], list[Trace]]:
    """Runs a role in two processes; returns the lines of rank 0, and a trace of each case."""
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
        kept = Path(name) / "traces.pickle"
        return lines, pickle.loads(kept.read_bytes()) if kept.exists() else []


def main() -> None:
    """Profiles, plans, trains, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--text", type=Path, help="write the table here, and no section")
    parser.add_argument("--link", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.link or arguments.train:
        measure_link(arguments.link) if arguments.link else train(arguments.train)
        return
    began = time.time()
    bandwidth, latency_s = json.loads(launch("link", [])[0][-1])
    chosen = [case for name in arguments.models for case in cases(name, cluster(bandwidth, latency_s))]
    lines, traces = launch("train", chosen)
    measured = [json.loads(line) for line in lines]
    rows, errors = [], {"profile": [], "calibrated": []}
    for i, (case, seconds) in enumerate(zip(chosen, measured, strict=True)):
        other = i ^ 1  # the model's other plan
        better_s = calibrated_s(case.plan, chosen[other].plan, traces[other])
        errors["profile"].append(case.predicted_s / seconds - 1)
        errors["calibrated"].append(better_s / seconds - 1)
        times = [f"{s * 1e3:.0f}" for s in (case.predicted_s, better_s, seconds)]
        rows.append([case.model, case.kind, *times, *(f"{e[-1]:+.1%}" for e in errors.values())])
    header = ["model", "plan", "profile ms", "calibrated ms", "measured ms", "error of profile", "error calibrated"]
    told = {
        key: f"{statistics.mean(abs(e) for e in found):.1%} (largest {max(found, key=abs):+.1%})"
        for key, found in errors.items()
    }
    summary = (
        f"{len(chosen)} plans on two processes with one thread each, {NUM_MICROBATCHES} micro-batches, median of "
        f"{STEPS - 1} steps, link of {bandwidth / 1e9:.2f} GB/s and {latency_s * 1e6:.0f} us, {machine()}, "
        f"{time.time() - began:.0f} s in all.\n\nMean absolute error from a profile **{told['profile']}**, with costs "
        f"calibrated from a trace of the model's other plan **{told['calibrated']}**; Spearman "
        f"{float(spearmanr([c.predicted_s for c in chosen], measured).statistic):.3f}.\n"
    )
    print(summary)
    text = summary + "\n" + markdown(header, rows)
    if arguments.text:
        arguments.text.write_text(text)
    else:
        write_section("real-time-truth", text)


if __name__ == "__main__":
    main()
