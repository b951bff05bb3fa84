"""Memory truth: the predicted peak memory of each rank beside what its tensors really take on the CPU.

    python benchmarks/memory_truth.py

Captured models are trained for two steps under three plans each, by the real runtime in up to four processes, while
`drlpp.runtime.observe.tensor_memory` follows the storage of every tensor. The measured peak is the largest sum before
or after an action of the second step: parameters, gradients, optimizer state, saved activations and messages, as in the
simulator's memory model. Temporary memory inside an action is in neither. The models are captured for CPUs, where they
run. Writes the table between the markers ``memory-truth`` of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from drlpp.capture import CapturedModel, capture, load_model
from drlpp.cluster import Cluster, cluster_from_dict
from drlpp.cost.problem_times import problem_times
from drlpp.plan import Assignment, Plan, Provenance
from drlpp.problem import PlanningProblem
from drlpp.runtime.launch.job import RunOptions, autocast_precision
from drlpp.runtime.launch.training import train_captured
from drlpp.sim import Evaluator
from drlpp.units import format_bytes
from tables import machine, markdown, write_section

MODELS = [
    "timm:resnet18?batch_size=2",
    "timm:mobilenetv3_small_100?batch_size=4",
    "timm:convnext_atto?batch_size=2",
    "timm:vit_tiny_patch16_224?batch_size=2",
    "timm:efficientnet_b0?batch_size=2",
    "timm:densenet121?batch_size=1",
    "timm:inception_v3?batch_size=1",
    "transformers:GPT2LMHeadModel?n_layer=4&n_embd=256&n_head=4",
    "transformers:BertForMaskedLM?num_hidden_layers=4&hidden_size=256&num_attention_heads=4",
    "transformers:T5ForConditionalGeneration?num_layers=3&d_model=256",
    "timm:resnet18?batch_size=2 in bf16",
    "timm:vit_tiny_patch16_224?batch_size=2 in bf16",
    "transformers:GPT2LMHeadModel?n_layer=4&n_embd=256&n_head=4 in bf16",
]
"""Specifications of models, and the precision of those that are not trained in float32."""
Line = tuple[str, str, int, float, float]
"""Model, plan, device, predicted bytes, measured bytes."""
NUM_MICROBATCHES = 6
WORLD = 3


def cluster() -> Cluster:
    """Four CPU ranks."""
    return cluster_from_dict(
        {
            "schema_version": 1,
            "name": "4 ranks",
            "device_types": {"cpu": {"speed": 1.0, "memory": "64GB"}},
            "hosts": [{"name": "here", "devices": ["cpu"] * 4, "link": {"bandwidth": "5GB/s", "latency": "50us"}}],
        }
    )


def plans(captured: CapturedModel, precision: str) -> dict[str, Plan]:
    """Two stages under 1F1B; a random DAG of stages, some on one device; a replicated stage."""
    problem = PlanningProblem.build(
        captured.graph, cluster(), num_microbatches=NUM_MICROBATCHES, precision=precision or None
    )
    graph = problem.graph
    work = problem_times(problem).total_s.mean(axis=0)
    share = np.cumsum(work) / work.sum()
    rng = np.random.default_rng(5)
    labels = np.zeros(graph.num_ops, dtype=np.int64)
    for op, before in enumerate(graph.predecessors):
        low = max((int(labels[p]) for p in before), default=0)
        labels[op] = min(4, low + int(rng.random() < 8 / graph.num_ops))
    evaluator = Evaluator(problem)

    def halves(devices: dict[int, tuple[int, ...]]) -> Assignment:
        return Assignment.compact((share > 0.5).astype(np.int64), devices)

    return {
        "two stages, 1F1B": evaluator.make_plan(halves({0: (0,), 1: (1,)}), Provenance(planner="hand"), ["1f1b"]),
        "random DAG, list": evaluator.make_plan(
            Assignment.compact(labels, {0: (0,), 1: (1,), 2: (0,), 3: (2,), 4: (1,)}),
            Provenance(planner="random"),
            ["list"],
        ),
        "replicated, 1F1B": evaluator.make_plan(halves({0: (0, 1), 1: (2,)}), Provenance(planner="hand"), ["1f1b"]),
    }


def worker(folder: Path, names: list[str]) -> None:
    """One rank: trains all models under all plans; rank 0 writes a line for each rank of each plan."""
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=WORLD)
    for name in names:
        spec, _, precision = name.partition(" in ")
        captured = capture(load_model(spec), device="cpu", kernels="cpu")
        for kind, plan in plans(captured, precision).items():
            options = RunOptions(steps=2, track_memory=True, precision=autocast_precision(plan))
            report = train_captured(captured, plan, options, lambda line: None)
            if rank == 0:
                predicted = plan.prediction.peak_memory_bytes if plan.prediction else ()
                for device in plan.used_devices:
                    line = json.dumps([name, kind, device, predicted[device], report.peak_memory_bytes[device]])
                    print(line, flush=True)
            for parameter in captured.module.parameters():
                parameter.grad = None
    dist.barrier()
    dist.destroy_process_group()


def measure(names: list[str]) -> list[Line]:
    """A line for every rank of every run."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(WORLD), "GLOO_SOCKET_IFNAME": "lo"}
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, "--worker", folder, *names],
                env={**environment, "RANK": str(r)},
                stdout=subprocess.PIPE if r == 0 else subprocess.DEVNULL,
                text=True,
            )
            for r in range(WORLD)
        ]
        lines = []
        for line in processes[0].stdout or ():
            print(line, end="", flush=True)
            lines.append(tuple(json.loads(line)))
        if any(code != 0 for code in [p.wait() for p in processes]):
            sys.exit("a rank failed")
        return lines


def main() -> None:
    """Captures, trains, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--keep", type=Path, help="file of measured lines: models that it has are not run again")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker, arguments.models)
        return
    began = time.time()
    kept = arguments.keep.read_text().splitlines() if arguments.keep and arguments.keep.exists() else []
    lines: list[Line] = [tuple(json.loads(line)) for line in kept]
    if missing := [name for name in arguments.models if name not in {name for name, *_ in lines}]:
        lines += measure(missing)
    if arguments.keep:
        arguments.keep.write_text("".join(json.dumps(line) + "\n" for line in lines))
    errors = [predicted / measured - 1 for *_, predicted, measured in lines]
    largest: dict[tuple[str, str], tuple[float, float]] = {}  # of each plan: predicted and measured peak of its ranks
    for name, kind, _, predicted, measured in lines:
        before = largest.get((name, kind), (0.0, 0.0))
        largest[name, kind] = max(before[0], predicted), max(before[1], measured)
    of_plans = [predicted / measured - 1 for predicted, measured in largest.values()]
    rows = [
        [name, kind, str(device), format_bytes(predicted), format_bytes(measured), f"{predicted / measured - 1:+.1%}"]
        for name, kind, device, predicted, measured in lines
    ]
    header = ["model", "plan", "rank", "predicted", "measured", "error"]

    def within(some: list[float]) -> str:
        return f"{sum(abs(e) <= 0.06 for e in some)} of {len(some)} are within 6 %"

    summary = (
        f"{len(rows)} ranks of {len({name for name, *_ in lines})} models under three plans, {NUM_MICROBATCHES} "
        f"micro-batches, momentum, {machine()}, {time.time() - began:.0f} s in all, {len(kept)} of the ranks measured "
        f"before.\n\n"
        f"Ranks: mean absolute error **{statistics.mean(abs(e) for e in errors):.2%}**, largest "
        f"{max(errors, key=abs):+.1%}; {within(errors)}. Plans (the rank that needs most): mean "
        f"**{statistics.mean(abs(e) for e in of_plans):.2%}**, largest {max(of_plans, key=abs):+.1%}; "
        f"{within(of_plans)}.\n"
    )
    print(summary)
    write_section("memory-truth", summary + "\n" + markdown(header, rows))


if __name__ == "__main__":
    main()
