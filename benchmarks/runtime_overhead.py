"""What the runtime costs beside torch.distributed.pipelining, and what two processes gain over one.

    python benchmarks/runtime_overhead.py [--steps 20]

Two chains of layers on two processes under the same 1F1B schedule: one with next to no computation (the step time over
the number of actions is the overhead), one bound by computation (the speed-up over one process). Stock and own runtime
take turns, step by step, in the same processes; medians. Writes the table between the markers ``runtime-overhead`` of
docs/benchmarks.md.
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
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from drlpp.capture import capture_module
from drlpp.cluster import cluster_from_dict
from drlpp.plan import Assignment, Plan, Provenance
from drlpp.problem import PlanningProblem
from drlpp.runtime import build
from drlpp.sim import Evaluator
from tables import machine, markdown, write_section

WORLD = 2
NUM_MICROBATCHES = 8


class Chain(nn.Module):
    """Layers of one width; the loss is the mean square of the distance to the target."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(layers)))

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(self.layers(x), target)


SIZES = {"empty": (8, 4, 2), "compute-bound": (1024, 12, 64)}
"""Name -> width, layers, samples of a micro-batch."""


def make_plan(model: nn.Module, width: int, samples: int) -> Plan:
    """Two halves on two devices, under 1F1B."""
    captured = capture_module(model, (torch.randn(samples, width), torch.randn(samples, width)))
    cluster = cluster_from_dict(
        {
            "schema_version": 1,
            "name": "2 ranks",
            "device_types": {"cpu": {"speed": 1.0, "memory": "8GB"}},
            "hosts": [{"name": "here", "devices": ["cpu"] * 2, "link": {"bandwidth": "5GB/s", "latency": "50us"}}],
        }
    )
    problem = PlanningProblem.build(captured.graph, cluster, num_microbatches=NUM_MICROBATCHES)
    names = [op.name for op in captured.graph.ops]
    middle = [i for i, name in enumerate(names) if name.startswith("linear")]
    cut = middle[len(middle) // 2]
    labels = np.array([int(i >= cut) for i in range(len(names))])
    return Evaluator(problem).make_plan(Assignment(labels, ((0,), (1,))), Provenance(planner="hand"), ["1f1b"])


def own_step(model: nn.Module, width: int, samples: int, batch: dict[str, torch.Tensor]) -> Callable[[], object]:
    """A step of the own runtime."""
    plan = make_plan(model, width, samples)
    captured = capture_module(model, (torch.randn(samples, width), torch.randn(samples, width)))
    pipeline = build(captured, plan)
    return lambda: pipeline.step(batch)


def stock_step(model: Chain, batch: dict[str, torch.Tensor]) -> Callable[[], object]:
    """A step of torch.distributed.pipelining."""
    rank, middle = dist.get_rank(), len(model.layers) // 2
    half = model.layers[:middle] if rank == 0 else model.layers[middle:]
    stage = PipelineStage(half, rank, WORLD, torch.device("cpu"), group=dist.new_group(list(range(WORLD))))
    schedule = Schedule1F1B(stage, NUM_MICROBATCHES, loss_fn=nn.functional.mse_loss)

    def step() -> None:
        if rank == 0:
            schedule.step(batch["x"])
        else:
            schedule.step(target=batch["target"], losses=[])

    return step


def single_step(model: nn.Module, batch: dict[str, torch.Tensor]) -> Callable[[], object]:
    """The same micro-batches in one process."""

    def step() -> None:
        for x, t in zip(batch["x"].chunk(NUM_MICROBATCHES), batch["target"].chunk(NUM_MICROBATCHES), strict=True):
            (model(x, t) / NUM_MICROBATCHES).backward()

    return step


def seconds_of(step: Callable[[], object]) -> float:
    """From a barrier to the end of the slower rank."""
    dist.barrier()
    began = time.perf_counter()
    step()
    took = torch.tensor(time.perf_counter() - began)
    dist.all_reduce(took, dist.ReduceOp.MAX)
    return took.item()


def worker(folder: Path, steps: int) -> None:
    """One rank; rank 0 prints the medians."""
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=WORLD)
    for name, (width, layers, samples) in SIZES.items():
        torch.manual_seed(0)
        batch = {n: torch.randn(samples * NUM_MICROBATCHES, width) for n in ("x", "target")}
        models = [Chain(width, layers) for _ in range(3)]
        runs = {
            "drlpp": own_step(models[0], width, samples, batch),
            "torch.distributed.pipelining": stock_step(models[1], batch),
        }
        times: dict[str, list[float]] = {n: [] for n in (*runs, "one process")}
        alone = single_step(models[2], batch)
        for step in range(steps + 2):
            for label, run in runs.items():
                took = seconds_of(run)
                if step >= 2:
                    times[label].append(took)
            took = seconds_of(alone if rank == 0 else lambda: None)
            if step >= 2:
                times["one process"].append(took)
        if rank == 0:
            print(json.dumps([name, {label: statistics.median(t) for label, t in times.items()}]), flush=True)
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Runs both chains and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker, arguments.steps)
        return
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(WORLD), "GLOO_SOCKET_IFNAME": "lo"}
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, "--worker", folder, "--steps", str(arguments.steps)],
                env={**environment, "RANK": str(r)},
                stdout=subprocess.PIPE if r == 0 else subprocess.DEVNULL,
                text=True,
            )
            for r in range(WORLD)
        ]
        output, _ = processes[0].communicate()
        if any(code != 0 for code in [p.wait() for p in processes]):
            sys.exit("a rank failed")
    actions = 2 * NUM_MICROBATCHES
    rows = []
    for line in output.splitlines():
        name, medians = json.loads(line)
        for label, took in medians.items():
            per_action = f"{took / actions * 1e6:.0f}" if label != "one process" else "-"
            rows.append([name, label, f"{took * 1e3:.2f}", per_action, f"{medians['one process'] / took:.2f}"])
    summary = (
        f"2 processes with one thread each, {NUM_MICROBATCHES} micro-batches, 1F1B, median of {arguments.steps} steps "
        f"taken in turns, {machine()}. Ideal speed-up: {2 * NUM_MICROBATCHES / (NUM_MICROBATCHES + 1):.2f}.\n"
    )
    table = markdown(["chain", "runtime", "step ms", "us per action of a rank", "speed-up over one process"], rows)
    print(summary, table, sep="\n")
    write_section("runtime-overhead", summary + "\n" + table)


if __name__ == "__main__":
    main()
