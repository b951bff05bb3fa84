"""What the runtime costs beside torch.distributed.pipelining, and what two processes gain over one.

    python benchmarks/runtime_overhead.py [--steps 15]

Two chains of layers on two processes: one with next to no computation (the step time over the number of actions is the
overhead), one bound by computation (the speed-up over one process). All runs take turns, step by step, in the same
processes; medians. *Both halves alone* runs the two halves at the same time without any pipeline: what the two cores
give at most, since they share caches and memory. The second table compares split backward passes (I + W) with whole
ones (B), in CPU seconds. Both are written between the markers ``runtime-overhead`` of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import dataclasses
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
from drlpp.runtime.stage.split_backward import input_gradients, weight_gradients
from drlpp.sim import Evaluator
from tables import machine, markdown, write_section

WORLD = 2
WARM_UP = 2
STOCK, ALONE, HALVES = "torch.distributed.pipelining, 1f1b", "one process", "both halves alone"


@dataclasses.dataclass(frozen=True)
class Case:
    """A chain of layers and what runs it.

    Attributes:
        width, layers, samples: of the layers, their number, rows of a micro-batch.
        num_microbatches: of a step.
        schedules: that the own runtime runs; stock runs 1F1B.
    """

    width: int
    layers: int
    samples: int
    num_microbatches: int
    schedules: tuple[str, ...]


CASES = {
    "empty": Case(8, 4, 2, 8, ("1f1b",)),
    "compute-bound": Case(1024, 12, 64, 8, ("1f1b", "eager-1f1b", "zero-bubble")),
    "compute-bound, 16": Case(1024, 12, 64, 16, ("1f1b", "eager-1f1b", "zero-bubble")),
}
Step = Callable[[], object]
Batch = dict[str, torch.Tensor]


class Chain(nn.Module):
    """An embedding and layers of one width; the loss is the mean square of the distance to the target."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        width = case.width
        layers = (nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(case.layers))
        self.layers = nn.Sequential(nn.Embedding(case.samples, width), *layers)

    def forward(self, ids: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(self.layers(ids), target)

    def half(self, rank: int) -> nn.Sequential:
        """The embedding and half of the layers, or the other half."""
        middle = 1 + (len(self.layers) - 1) // 2
        return self.layers[:middle] if rank == 0 else self.layers[middle:]


def example(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """One micro-batch."""
    return torch.randperm(case.samples), torch.randn(case.samples, case.width)


def make_plan(model: nn.Module, case: Case, schedule: str) -> Plan:
    """Two halves on two devices."""
    captured = capture_module(model, example(case))
    cluster = cluster_from_dict(
        {
            "schema_version": 1,
            "name": "2 ranks",
            "device_types": {"cpu": {"speed": 1.0, "memory": "8GB"}},
            "hosts": [{"name": "here", "devices": ["cpu"] * 2, "link": {"bandwidth": "5GB/s", "latency": "50us"}}],
        }
    )
    problem = PlanningProblem.build(captured.graph, cluster, num_microbatches=case.num_microbatches)
    names = [op.name for op in captured.graph.ops]
    middle = [i for i, name in enumerate(names) if name.startswith("linear")]
    cut = middle[len(middle) // 2]
    labels = np.array([int(i >= cut) for i in range(len(names))])
    return Evaluator(problem).make_plan(Assignment(labels, ((0,), (1,))), Provenance(planner="hand"), [schedule])


def own_step(case: Case, batch: Batch, schedule: str) -> Step:
    """A step of the own runtime."""
    model = Chain(case)
    plan = make_plan(model, case, schedule)
    pipeline = build(capture_module(model, example(case)), plan)
    return lambda: pipeline.step(batch)


def stock_step(case: Case, batch: Batch) -> Step:
    """A step of torch.distributed.pipelining."""
    rank = dist.get_rank()
    half = Chain(case).half(rank)
    stage = PipelineStage(half, rank, WORLD, torch.device("cpu"), group=dist.new_group(list(range(WORLD))))
    schedule = Schedule1F1B(stage, case.num_microbatches, loss_fn=nn.functional.mse_loss)

    def step() -> None:
        if rank == 0:
            schedule.step(batch["ids"])
        else:
            schedule.step(target=batch["target"], losses=[])

    return step


def single_step(case: Case, batch: Batch) -> Step:
    """The same micro-batches in one process; the other waits."""
    model = Chain(case)
    pieces = [batch[name].chunk(case.num_microbatches) for name in ("ids", "target")]

    def step() -> None:
        for ids, target in zip(*pieces, strict=True):
            (model(ids, target) / case.num_microbatches).backward()

    return step if dist.get_rank() == 0 else lambda: None


def half_step(case: Case, batch: Batch) -> Step:
    """This rank's half of the model, without messages."""
    rank = dist.get_rank()
    half, gradient = Chain(case).half(rank), torch.randn(case.samples, case.width) / case.samples

    def step() -> None:
        for m in range(case.num_microbatches):
            rows = slice(m * case.samples, (m + 1) * case.samples)
            x = batch["ids"][rows] if rank == 0 else batch["target"][rows].requires_grad_()
            half(x).backward(gradient)

    return step


def seconds_of(step: Step) -> tuple[float, float]:
    """From a barrier to the end of the slower rank; the same in CPU seconds of its main thread."""
    dist.barrier()
    began, cpu = time.perf_counter(), time.thread_time()
    step()
    took = torch.tensor([time.perf_counter() - began, time.thread_time() - cpu])
    dist.all_reduce(took, dist.ReduceOp.MAX)
    return took[0].item(), took[1].item()


def worker(folder: Path, steps: int) -> None:
    """One rank; rank 0 prints the medians."""
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=WORLD)
    for name, case in CASES.items():
        torch.manual_seed(0)
        parts = [example(case) for _ in range(case.num_microbatches)]
        batch = {n: torch.cat([part[k] for part in parts]) for k, n in enumerate(("ids", "target"))}
        runs = {f"drlpp, {schedule}": own_step(case, batch, schedule) for schedule in case.schedules}
        runs |= {STOCK: stock_step(case, batch), ALONE: single_step(case, batch), HALVES: half_step(case, batch)}
        times: dict[str, list[tuple[float, float]]] = {label: [] for label in runs}
        for _ in range((10 if name == "empty" else 1) * steps + WARM_UP):
            for label, run in runs.items():
                times[label].append(seconds_of(run))
        if rank == 0:
            medians = {
                n: [statistics.median(t[k] for t in all_[WARM_UP:]) for k in (0, 1)] for n, all_ in times.items()
            }
            print(json.dumps([name, medians]), flush=True)
    dist.barrier()
    dist.destroy_process_group()


class Block(nn.Module):
    """One layer of a transformer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.projections, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, d = x.shape
        q, k, v = self.projections(self.before(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d)
        x = x + self.output(attended)
        return x + self.narrow(nn.functional.gelu(self.wide(self.between(x))))


class Residual(nn.Module):
    """Two convolutions with batch norm beside a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.relu(x + self.layers(x))


STAGES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "2 transformer layers, width 512, 2 x 256 tokens": (
        lambda: nn.Sequential(Block(512, 8), Block(512, 8)),
        (2, 256, 512),
    ),
    "4 transformer layers, width 256, 2 x 128 tokens": (
        lambda: nn.Sequential(*(Block(256, 4) for _ in range(4))),
        (2, 128, 256),
    ),
    "4 residual blocks, 64 channels, 8 x 28 x 28": (
        lambda: nn.Sequential(*(Residual(64) for _ in range(4))),
        (8, 64, 28, 28),
    ),
    "6 linear layers, width 1024, 64 rows": (
        lambda: nn.Sequential(*(nn.Sequential(nn.Linear(1024, 1024), nn.Tanh()) for _ in range(6))),
        (64, 1024),
    ),
}


def split_backward_rows(steps: int) -> list[list[str]]:
    """CPU milliseconds of B, I and W of each stage, and the median ratio of I + W to the B beside it."""
    rows = []
    for name, (make, shape) in STAGES.items():
        torch.manual_seed(0)
        module, x = make(), torch.randn(shape)
        parameters = list(module.parameters())
        measured = []
        for _ in range(steps + WARM_UP):
            leaf = x.clone().requires_grad_()
            output = module(leaf)
            gradient = torch.ones_like(output)
            marks = [time.thread_time()]
            torch.autograd.backward(output, gradient)
            marks.append(time.thread_time())
            leaf = x.clone().requires_grad_()
            output = module(leaf)
            marks.append(time.thread_time())
            later = input_gradients([output], [gradient], [leaf], parameters)
            marks.append(time.thread_time())
            weight_gradients(later)
            marks.append(time.thread_time())
            measured.append((marks[1] - marks[0], marks[3] - marks[2], marks[4] - marks[3]))
        b, i, w = (statistics.median(m[k] for m in measured[WARM_UP:]) * 1e3 for k in range(3))
        ratio = statistics.median((m[1] + m[2]) / m[0] for m in measured[WARM_UP:])
        rows.append([name, f"{b:.1f}", f"{i:.1f}", f"{w:.1f}", f"{ratio:.2f}"])
    return rows


def main() -> None:
    """Runs everything and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.worker:
        worker(arguments.worker, arguments.steps)
        return
    state = machine()
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
    rows = []
    for line in output.splitlines():
        name, medians = json.loads(line)
        m = CASES[name].num_microbatches
        alone = medians[ALONE][0]
        for label, (took, cpu) in medians.items():
            piped = label not in (ALONE, HALVES)
            per_action = [f"{t / (2 * m) * 1e6:.0f}" if piped and name == "empty" else "-" for t in (took, cpu)]
            rows.append([name.split(",")[0], str(m), label, f"{took * 1e3:.2f}", *per_action, f"{alone / took:.2f}"])
    ideals = sorted({c.num_microbatches for c in CASES.values()})
    summary = (
        f"2 processes with one thread each, median of {arguments.steps} steps (empty chain: {10 * arguments.steps}) "
        f"taken in turns, {state}. Ideal speed-up of 1F1B: "
        + ", ".join(f"{2 * m / (m + 1):.2f} with {m} micro-batches" for m in ideals)
        + ".\n"
    )
    columns = ["chain", "micro-batches", "runtime", "step ms", "us per action", "CPU us per action", "over one process"]
    split = markdown(["stage", "B ms", "I ms", "W ms", "(I + W) / B"], split_backward_rows(2 * arguments.steps))
    text = "\n".join(
        [summary, markdown(columns, rows), "", "Split backward passes, CPU time of one thread:", "", split]
    )
    print(text)
    write_section("runtime-overhead", text)


if __name__ == "__main__":
    main()
