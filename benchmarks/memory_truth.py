"""Memory truth: the predicted peak memory of each rank beside what its tensors really take on the CPU.

    python benchmarks/memory_truth.py

Captured models are trained for two steps under three plans each, by the real runtime in up to four processes, while
`drlpp.runtime.memory` follows the storage of every tensor. The measured peak is the largest sum between two actions of
the second step: parameters, gradients, optimizer state, saved activations and messages, as in the simulator's memory
model. Temporary memory inside an action is in neither. Writes the table between the markers ``memory-truth`` of
docs/benchmarks.md.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection

import numpy as np
import torch
import torch.distributed as dist
from tables import machine, markdown, write_section

from drlpp.capture import CapturedModel, capture, load_model
from drlpp.cluster import Cluster, cluster_from_dict
from drlpp.plan import Assignment, Plan, Provenance
from drlpp.problem import PlanningProblem
from drlpp.runtime.pipeline import used_devices
from drlpp.runtime.training import RunOptions, train_captured
from drlpp.sim import Evaluator
from drlpp.units import format_bytes

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
]
NUM_MICROBATCHES = 6


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


def plans(captured: CapturedModel) -> dict[str, Plan]:
    """Two stages under 1F1B; a random DAG of stages, some on one device; a replicated stage."""
    graph = captured.graph
    problem = PlanningProblem.build(graph, cluster(), num_microbatches=NUM_MICROBATCHES)
    work = problem.times.total_s.mean(axis=0)
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
        "replicated, 1F1B": evaluator.make_plan(
            halves({0: (0, 1), 1: (2,)}), Provenance(planner="hand"), ["1f1b"]
        ),
    }


def rank_main(rank: int, store: str, captured: CapturedModel, plan: Plan, pipe: Connection) -> None:
    """One rank; the first one sends the peaks."""
    torch.set_num_threads(1)
    size = len(used_devices(plan))
    dist.init_process_group("gloo", store=dist.FileStore(store, size), rank=rank, world_size=size)
    report = train_captured(captured, plan, RunOptions(steps=2, track_memory=True), lambda line: None)
    if rank == 0:
        pipe.send(report.peak_memory_bytes)
    dist.barrier()
    dist.destroy_process_group()


def measure(captured: CapturedModel, plan: Plan) -> tuple[float, ...]:
    """Peak bytes of each device."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=rank_main, args=(r, f"{folder}/store", captured, plan, theirs))
            for r in range(len(used_devices(plan)))
        ]
        for process in processes:
            process.start()
        while not ours.poll(0.2):
            if any(p.exitcode for p in processes):
                sys.exit("a rank failed")
        peaks: tuple[float, ...] = ours.recv()
        for process in processes:
            process.join()
    return peaks


def main() -> None:
    """Captures, trains, and writes the table."""
    began = time.time()
    rows, errors = [], []
    for name in sys.argv[1:] or MODELS:
        captured = capture(load_model(name), device="cpu")
        for kind, plan in plans(captured).items():
            measured = measure(captured, plan)
            predicted = plan.prediction.peak_memory_bytes if plan.prediction else ()
            for device in used_devices(plan):
                error = predicted[device] / measured[device] - 1
                errors.append(error)
                rows.append(
                    [name, kind, str(device), format_bytes(predicted[device]), format_bytes(measured[device]), f"{error:+.1%}"]
                )
                print(*rows[-1], sep=" | ", flush=True)
    header = ["model", "plan", "rank", "predicted", "measured", "error"]
    summary = (
        f"{len(rows)} ranks of {len(rows) and len({r[0] for r in rows})} models under three plans, {NUM_MICROBATCHES} "
        f"micro-batches, momentum, {machine()}, {time.time() - began:.0f} s in all.\n\n"
        f"Mean absolute error **{statistics.mean(abs(e) for e in errors):.2%}**, largest "
        f"{max(errors, key=abs):+.1%}; {sum(abs(e) <= 0.06 for e in errors)} of {len(errors)} ranks are within 6 %.\n"
    )
    print(summary)
    write_section("memory-truth", summary + "\n" + markdown(header, rows))


if __name__ == "__main__":
    main()
