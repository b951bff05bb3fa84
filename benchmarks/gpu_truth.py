"""How well costs and memory are predicted for a GPU: ``python benchmarks/gpu_truth.py``, on a machine that has one.

Each model is cut into four stages of about equal work, all on the one GPU, and trained by the real runtime. Two
predictions are compared with what was measured: from the database (analytic costs, nothing measured) and from
`drlpp profile --device cuda`. Compared are the time of the step, the part of it that each stage takes (events of the
GPU), and the largest allocated memory between two actions; within them kernels have working memory of their own, which
the peak of all contains and the memory model does not. Writes the section ``gpu-truth`` of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from drlpp.capture import capture, database_name, load_model, profile
from drlpp.cluster import Cluster, cluster_from_dict
from drlpp.cost.problem_times import problem_times
from drlpp.graph import OpGraph, save_graph
from drlpp.plan import Assignment, Plan, Provenance, Trace
from drlpp.problem import PlanningProblem
from drlpp.runtime.launch.training import RunOptions, train_captured
from drlpp.sim import Evaluator, simulate
from tables import machine, markdown, write_section

MODELS = (
    "timm:resnet50?batch_size=64",
    "timm:convnext_tiny?batch_size=64",
    "timm:vit_base_patch16_224?batch_size=64",
    "timm:inception_v3?batch_size=64",
    "transformers:GPT2LMHeadModel?batch_size=8&seq_len=1024",
    "transformers:BertForMaskedLM?batch_size=16&seq_len=512",
)
STAGES, MICROBATCHES, STEPS = 4, 4, 5


def cluster(preset: str) -> Cluster:
    """The one GPU."""
    host = {"name": "here", "devices": [preset], "network": {"bandwidth": 1e10, "latency": 3e-5}}
    return cluster_from_dict({"schema_version": 1, "name": "one GPU", "hosts": [host]})


def plan_of(graph: OpGraph, here: Cluster, labels: np.ndarray | None) -> tuple[Plan, np.ndarray]:
    """The plan in stages of equal work (or with the given stage of each op), and these labels."""
    problem = PlanningProblem.build(graph, here, num_microbatches=MICROBATCHES)
    if labels is None:
        work = problem_times(problem).total_s.mean(axis=0)
        labels = np.minimum(STAGES - 1, (np.cumsum(work) / work.sum() * STAGES).astype(np.int64))
        labels = np.maximum.accumulate(np.unique(labels, return_inverse=True)[1])
    assignment = Assignment.compact(labels, dict.fromkeys(range(int(labels.max()) + 1), (0,)))
    return Evaluator(problem).make_plan(assignment, Provenance(planner="hand"), ["list"]), labels


def stage_seconds(trace: Trace) -> np.ndarray:
    """Seconds of the actions of each stage."""
    total: dict[int, float] = defaultdict(float)
    for event in trace.events:
        if event.stream == "compute" and event.stage >= 0:
            total[event.stage] += event.end_s - event.start_s
    return np.array([total[s] for s in sorted(total)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--graphs", type=Path, help="keep the profiled graphs in this folder")
    arguments = parser.parse_args()
    gpu = torch.cuda.get_device_name()
    preset = database_name("cuda")
    here = cluster(preset)
    with tempfile.NamedTemporaryFile() as store:
        torch.cuda.set_device(0)
        dist.init_process_group("nccl", init_method=f"file://{store.name}", rank=0, world_size=1)
        rows, errors, peak = [], defaultdict(list), []
        for name in arguments.models:
            began = time.time()
            captured = capture(load_model(name), device="cpu")
            measured = profile(captured, device="cuda", measured_on=preset)
            took = time.time() - began
            if arguments.graphs is not None:
                save_graph(measured.graph, arguments.graphs / f"{captured.graph.name}.json")
            plan, labels = plan_of(measured.graph, here, None)
            analytic, _ = plan_of(captured.graph, here, labels)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            report = train_captured(captured, plan, RunOptions(steps=STEPS), lambda line: None)
            parts = stage_seconds(report.trace) / stage_seconds(report.trace).sum()
            shown = []
            for kind, predicted in (("database", analytic), ("profile", plan)):
                simulated = simulate(predicted)
                seconds = simulated.prediction.iteration_time_s / report.iteration_time_s - 1
                expected = stage_seconds(simulated.trace)
                share = float(np.abs(expected / expected.sum() - parts).sum() / 2)
                errors[kind].append((seconds, share))
                shown += [f"{seconds:+.1%}", f"{share:.1%}"]
            between = max(size for _, size in report.trace.memory[0])
            memory = simulated.prediction.peak_memory_bytes[0] / between - 1
            peak.append(memory)
            sizes = [report.iteration_time_s * 1e3, between / 1e9, report.peak_memory_bytes[0] / 1e9]
            shown = [*(f"{size:.2f}" for size in sizes), *shown, f"{memory:+.1%}"]
            rows.append([name, *shown, f"{measured.scale:.2f}", f"{took:.0f}"])
            print(" | ".join(rows[-1]), flush=True)
            del captured, measured, report
        dist.destroy_process_group()
    header = [
        "model", "measured ms", "GB between actions", "GB at most", "database: time", "stages", "profile: time",
        "stages", "memory", "step / sum of ops", "seconds to profile",
    ]  # fmt: skip
    lines = [
        f"{kind}: mean absolute error of the step **{np.mean([abs(t) for t, _ in found]):.1%}** (largest "
        f"{max((t for t, _ in found), key=abs):+.1%}), work of the step that is in the wrong stage "
        f"{np.mean([s for _, s in found]):.1%}."
        for kind, found in errors.items()
    ]
    text = (
        f"One {gpu}, {STAGES} stages on it, {MICROBATCHES} micro-batches, float32, median of {STEPS - 1} steps, "
        f"{machine()}.\n\nPredicted / measured - 1. "
        + " ".join(line[0].upper() + line[1:] for line in lines)
        + f" Peak memory: mean absolute error {np.mean(np.abs(peak)):.1%}, largest {max(peak, key=abs):+.1%}.\n"
    )
    print(text)
    write_section("gpu-truth", text + "\n" + markdown(header, rows))


if __name__ == "__main__":
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    main()
