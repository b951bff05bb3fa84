"""Every layout that one would try with Megatron-LM against what `drlpp plan` finds, in the same simulator.

    python benchmarks/megatron_sweep.py [--models llama-70b,llama-405b]

The sweep takes all products of tensor, pipeline and data-parallel degree that use all devices, micro-batch sizes,
virtual stages per rank and recomputation, each with equal numbers of layers per stage (embedding in the first, head in
the last; where the layers are not divisible, both count as layers, as `--account-for-embedding-in-pipeline-split` and
`--account-for-loss-in-pipeline-split` have it), sequence parallelism where ops are divided, ZeRO-1, tensor groups
inside the host, then replicas, then stages. `drlpp plan` has the budget in processor time. Sequences have 4,096 tokens.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import re
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from drlpp.bench.suites import find_suite
from drlpp.capture import capture_graph
from drlpp.cluster import load_cluster
from drlpp.cost.groups import lifted
from drlpp.errors import ScheduleError
from drlpp.graph import OpGraph
from drlpp.graph.blocks import Recompute
from drlpp.plan import Assignment, Plan, Provenance, StageSettings
from drlpp.planners.base import Budget
from drlpp.planners.variants import Variants
from drlpp.problem import PlanningProblem
from drlpp.report.headline import layout_text
from drlpp.sim import Evaluator
from drlpp.solving import solve
from drlpp.units import format_time
from tables import machine, markdown, write_section


class Job(NamedTuple):
    """A model on H100 hosts of eight.

    Attributes:
        model: the name of its problems in the suite `large` begins so.
        devices: number of them.
        batch: samples of a step.
        budget_s: of `drlpp plan`, in processor time.
    """

    model: str
    devices: int
    batch: int
    budget_s: float


JOBS = (Job("llama-70b", 64, 512, 30.0), Job("llama-405b", 512, 512, 10.0))
MICRO_BATCHES = (1, 2, 4)
VIRTUAL = (1, 2, 4, 5, 10)
PARALLELISM = ("pp", "dp", "tp", "sp", "zero1")


@dataclasses.dataclass(frozen=True)
class Layout:
    """One point of the sweep."""

    tensor: int
    pipeline: int
    virtual: int
    micro_batch: int
    recompute: Recompute
    seconds: float

    def cells(self) -> list[str]:
        """For a table."""
        return [*map(str, (self.tensor, self.pipeline, self.virtual, self.micro_batch)), self.recompute.name.lower()]


def layers(graph: OpGraph) -> tuple[np.ndarray, np.ndarray]:
    """``[num_ops]`` the decoder layer of each op, before the list the first and after it the last; and what counting
    embedding and head as layers adds to it: 0, 1, or 2."""
    found = [re.search(r"\blayers\.(\d+)\b", op.module) for op in graph.ops]
    number = np.array([int(match[1]) if match else -1 for match in found])
    first = int(np.flatnonzero(number >= 0)[0])
    before = np.arange(len(number)) < first
    filled = np.where(number >= 0, number, np.where(before, 0, number.max()))
    return filled.astype(np.int64), np.where(number >= 0, 1, np.where(before, 0, 2))


def sweep(problem: PlanningProblem) -> Iterator[tuple[Layout, Plan | None]]:
    """All layouts that fit, and the plan of each that is the best so far."""
    variants, best = Variants(problem), float("inf")
    layer, position = layers(problem.graph)
    number = int(layer.max()) + 1
    for size, grouping in itertools.product(range(len(variants.sizes)), range(len(variants.groupings))):
        made = variants.problem(size, grouping)
        evaluator, ranks = Evaluator(made), made.cluster.num_devices
        tensor = int(made.cluster.members.max())
        if (made.cluster.members != tensor).any():
            continue
        for pipeline, virtual, recompute in itertools.product(range(1, ranks + 1), VIRTUAL, Recompute):
            stages = pipeline * virtual
            ends = 0 if number % stages == 0 else 1
            if ranks % pipeline or (number + 2 * ends) % stages or (virtual > 1 and pipeline == 1):
                continue
            copies = ranks // pipeline
            places = tuple(tuple(s % pipeline * copies + r for r in range(copies)) for s in range(stages))
            labels = (layer + ends * position) // ((number + 2 * ends) // stages)
            assignment = Assignment(labels, places, (StageSettings(recompute),) * stages)
            schedule = "1f1b" if virtual == 1 else "interleaved-1f1b"
            try:
                evaluation = evaluator.evaluate(assignment, (schedule,))
            except ScheduleError:
                continue
            if not evaluation.feasible:
                continue
            micro = made.graph.samples_per_microbatch
            layout = Layout(tensor, pipeline, virtual, micro, recompute, evaluation.iteration_time_s)
            plan = None
            if layout.seconds < best:
                best = layout.seconds
                plan = evaluator.make_plan(assignment, Provenance(planner="sweep"), (schedule,))
                plan = lifted(plan, problem.cluster, variants.groupings[grouping])
            yield layout, plan


def compared(job: Job, planner: str) -> str:
    """Both, as text with tables."""
    case = next(c for c in find_suite("large").cases if c.name.startswith(job.model))
    graph = capture_graph(case.model, "gpu", batch_axis=True)
    cluster = load_cluster(f"generated:dgx-h100?devices={job.devices}")
    sizes = [m for m in MICRO_BATCHES if job.batch % m == 0 and graph.batch_axis != "none"]
    problem = PlanningProblem.build(
        graph,
        cluster,
        global_batch=job.batch,
        micro_batch_sizes=sizes,
        precision="bf16",
        optimizer="adamw",
    ).with_parallelism(PARALLELISM)
    best, found = None, []
    for layout, plan in sweep(problem):
        found.append(layout)
        best = plan or best
    clock = Budget(job.budget_s, time.process_time)
    result = solve(dataclasses.replace(problem), planner, budget=clock)
    took = f"drlpp plan, {job.budget_s:g} s (ended after {clock.elapsed_s:.1f} s)"
    rows = [
        [
            name,
            layout_text(p).rstrip(","),
            format_time(p.prediction.iteration_time_s),
            f"{p.model_flops_utilization:.1%}",
        ]
        for name, p in (("best of the sweep", best), (took, result.plan))
        if p is not None and p.prediction is not None
    ]
    found.sort(key=lambda layout: layout.seconds)
    ranked = [[*layout.cells(), format_time(layout.seconds)] for layout in found[:8]]
    return (
        f"{job.model} on {cluster.name}, {job.batch} sequences per step, {machine()}; {len(found)} layouts "
        f"fit.\n\n{markdown(['', 'layout', 'step', 'MFU'], rows)}\n\n"
        f"{markdown(['tensor', 'pipeline', 'virtual', 'micro-batch', 'recompute', 'step'], ranked)}"
    )


def main() -> None:
    """Runs both for all models, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(job.model for job in JOBS))
    parser.add_argument("--planner", default="drl")
    options = parser.parse_args()
    parts = []
    for job in JOBS:
        if job.model in options.models.split(","):
            parts.append(compared(job, options.planner))
            print(parts[-1], flush=True)
    write_section("megatron-sweep", "\n\n".join(parts))


if __name__ == "__main__":
    main()
