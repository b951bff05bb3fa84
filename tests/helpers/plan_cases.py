"""Legal plans for captured models, by hand or at random, and the job that runs one and compares."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drlpp.capture import CapturedModel, capture, capture_module, load_model
from drlpp.cluster import Cluster, cluster_from_dict
from drlpp.graph import OpGraph
from drlpp.graph.blocks import Recompute
from drlpp.plan import Action, Plan, Provenance, Schedule, Stage, StageSettings, dependencies, validate
from drlpp.plan.stage import Sharding
from drlpp.runtime.launch.job import Precision, RunOptions, RunReport
from drlpp.runtime.launch.training import train_captured
from drlpp.training import TrainingSetup
from small_models import ALL
from transformer_models import TRANSFORMERS


def captured_model(name: str) -> CapturedModel:
    """A small model with values of its own."""
    torch.manual_seed(1)
    return captured_of(_small_model, name)


def _small_model(name: str) -> tuple[torch.nn.Module, Any]:
    return (ALL | TRANSFORMERS)[name]()


def captured_of(make: Callable[..., tuple[Any, ...]], *args: Hashable) -> CapturedModel:
    """The model of a function that is not random; each process captures it once, and copies that."""
    return copy.deepcopy(_captured_once(make, *args))


@functools.cache
def _captured_once(make: Callable[..., tuple[Any, ...]], *args: Hashable) -> CapturedModel:
    return capture_module(*make(*args))


def local_cluster(num_devices: int, per_host: int = 2) -> Cluster:
    """Hosts of a few devices with slow ports between them."""
    return cluster_from_dict(
        {
            "schema_version": 1,
            "name": f"local-{num_devices}",
            "device_types": {"cpu": {"speed": 1.0, "memory": "4GB"}},
            "hosts": [
                {
                    "name": f"h{i}",
                    "devices": ["cpu"] * min(per_host, num_devices - i),
                    "link": {"bandwidth": "10GB/s", "latency": "5us"},
                    "network": {"bandwidth": "1GB/s", "latency": "30us"},
                }
                for i in range(0, num_devices, per_host)
            ],
        },
        "cluster",
    )


def make_plan(
    graph: OpGraph,
    stage_of_op: Sequence[int],
    devices: Sequence[Sequence[int | tuple[int, ...]]],
    *,
    num_microbatches: int,
    seed: int = 0,
    split: float = 0.0,
    recompute: Sequence[int] = (),
    blocks: Sequence[int] = (),
    optimizer: str = "momentum",
    num_devices: int = 4,
    backward_first: float = 0.5,
    zero1: bool = False,
    shares: Sequence[Sequence[int]] = (),
) -> Plan:
    """A plan with a random legal schedule.

    Args:
        devices: per stage, its replicas: each a device or a group of devices.
        split: part of the backward passes that is split into I and W.
        recompute, blocks: stages that compute again, whole or block by block.
        backward_first: probability that a ready backward action is preferred.
        shares: per stage, of its replicas; empty: all are equal.
    """
    stages = tuple(
        Stage(
            index=s,
            ops=tuple(op.name for op, k in zip(graph.ops, stage_of_op, strict=True) if k == s),
            replicas=groups,
            sharding=Sharding(tensor=len(groups[0])),
            settings=StageSettings(
                recompute=Recompute.BLOCK if s in blocks else Recompute(s in recompute),
                shares=tuple(shares[s]) if shares else (),
            ),
        )
        for s, groups in enumerate(tuple((d,) if isinstance(d, int) else d for d in each) for each in devices)
    )
    plan = Plan(
        graph=graph,
        cluster=local_cluster(num_devices, num_devices if any(s.sharding.tensor > 1 for s in stages) else 2),
        training=TrainingSetup(num_microbatches=num_microbatches, optimizer=optimizer, zero1=zero1),
        stages=stages,
        schedule={},
        schedule_name="random",
        provenance=Provenance(planner="test"),
    )
    plan = dataclasses.replace(plan, schedule=random_schedule(plan, np.random.default_rng(seed), split, backward_first))
    validate(plan)
    return plan


def random_schedule(plan: Plan, rng: np.random.Generator, split: float, backward_first: float) -> Schedule:
    """Lists actions in a random order in which they can run."""
    forward, backward = dependencies(plan)
    todo = {(s.index, m): "F" for s in plan.stages for m in range(plan.num_microbatches)}
    done: set[tuple[int, str, int]] = set()
    order: dict[int, list[Action]] = defaultdict(list)
    while todo:
        ready = []
        for (s, m), kind in todo.items():
            needs = forward[s] if kind == "F" else backward[s] if kind == "B" else []
            if all((t, kind, m) in done for t in needs):
                ready.append((s, m, kind))
        late = [r for r in ready if r[2] != "F"]
        if late and rng.random() < backward_first:
            ready = late
        s, m, kind = ready[int(rng.integers(len(ready)))]
        device = plan.stages[s].device(m)
        if kind == "F":
            order[device].append(Action(s, "F", m))
            todo[s, m] = "B"
        elif kind == "B" and rng.random() < split:
            order[device].append(Action(s, "I", m))
            todo[s, m] = "W"
        else:
            order[device].append(Action(s, "W" if kind == "W" else "B", m))
            del todo[s, m]
        done.add((s, kind, m))
    groups = {g[0]: g for stage in plan.stages for g in stage.replicas}
    return {d: tuple(order[first]) for first in sorted(order) for d in groups[first]}


def staged(graph: OpGraph, marks: Mapping[str, int]) -> list[int]:
    """Stage per op: what `marks` says, else the latest stage of its predecessors."""
    labels: list[int] = []
    for op, before in zip(graph.ops, graph.predecessors, strict=True):
        labels.append(marks.get(op.name, max((labels[p] for p in before), default=0)))
    return labels


def random_partition(graph: OpGraph, rng: np.random.Generator, num_stages: int) -> list[int]:
    """Random monotone labels without gaps: neighbours in the graph need not be neighbours in the pipeline."""
    labels: list[int] = []
    jump = 1.5 * num_stages / graph.num_ops
    for predecessors in graph.predecessors:
        low = max((labels[p] for p in predecessors), default=0)
        step = int(rng.integers(1, 3)) if rng.random() < jump else 0
        labels.append(min(num_stages - 1, low + step))
    used = sorted(set(labels))
    return [used.index(k) for k in labels]


def random_plan(
    graph: OpGraph,
    seed: int,
    *,
    replicas: float = 0.25,
    split: float = 0.3,
    recompute: float = 0.25,
    num_devices: int = 4,
    num_microbatches: int | None = None,
    zero1: float = 0.0,
    shares: float = 0.0,
) -> Plan:
    """A random legal plan on up to `num_devices` devices; the number of micro-batches is random too, unless given."""
    rng = np.random.default_rng(seed)
    labels = random_partition(graph, rng, int(rng.integers(2, 8)))
    devices = []
    for _ in range(max(labels) + 1):
        count = int(rng.integers(2, 5)) if rng.random() < replicas else 1
        devices.append(tuple(int(d) for d in rng.permutation(num_devices)[:count]))
    drawn = int(rng.integers(1, 7))
    part = split if rng.random() < 0.5 else 0.0
    again = [s for s in range(len(devices)) if rng.random() < recompute]
    plan = make_plan(
        graph,
        labels,
        devices,
        num_microbatches=drawn if num_microbatches is None else num_microbatches,
        num_devices=num_devices,
        seed=seed,
        split=part,
        recompute=again,
        blocks=again[::2],
        optimizer=str(rng.choice(["sgd", "momentum", "adamw"])),
        backward_first=float(rng.choice([0.1, 0.5, 0.9])),
        shares=random_shares(seed, list(map(len, devices)), shares),
    )
    training = dataclasses.replace(plan.training, zero1=bool(rng.random() < zero1))
    return dataclasses.replace(plan, training=training)


def random_shares(seed: int, replicas: Sequence[int], probability: float) -> list[list[int]]:
    """Shares for some of the stages that have so many replicas."""
    rng = np.random.default_rng((seed, 1))
    drawn = [[int(x) for x in rng.choice([1, 1, 2, 3, 5], size=count)] for count in replicas]
    return [each if rng.random() < probability else [] for each in drawn]


def random_grouped_plan(graph: OpGraph, seed: int, shares: float = 0.0) -> Plan:
    """A random legal plan on four devices, some or all of which are in groups."""
    rng = np.random.default_rng(seed)
    d = [int(k) for k in rng.permutation(4)]
    groupings: list[list[tuple[int, ...]]] = [
        [(d[0], d[1]), (d[2], d[3])],
        [(d[0], d[1]), (d[2],), (d[3],)],
        [(d[0], d[1], d[2], d[3])],
    ]
    groups = groupings[int(rng.integers(3))]
    labels = random_partition(graph, rng, int(rng.integers(1, 5)))
    devices = []
    for _ in range(max(labels) + 1):
        size = len(groups[int(rng.integers(len(groups)))])
        alike = [g for g in groups if len(g) == size]
        devices.append([alike[i] for i in rng.permutation(len(alike))[: int(rng.integers(1, len(alike) + 1))]])
    return make_plan(
        graph,
        labels,
        devices,
        num_microbatches=int(rng.integers(1, 6)),
        seed=seed,
        split=float(rng.choice([0.0, 0.4])),
        recompute=[s for s in range(len(devices)) if rng.random() < 0.25],
        optimizer=str(rng.choice(["sgd", "momentum"])),
        zero1=bool(rng.random() < 0.5),
        shares=random_shares(seed, list(map(len, devices)), shares),
    )


def train_job(
    model: str, plan: Plan, steps: int, one_queue_per_pair: bool = False, precision: Precision = "fp32"
) -> RunReport:
    """Runs a plan on the pool and compares it with one process. Called on every rank."""
    options = RunOptions(steps=steps, verify=True, seed=3, learning_rate=0.05, precision=precision)
    return train_captured(
        captured_model(model), plan, options, lambda line: None, one_queue_per_pair=one_queue_per_pair
    )


def source_plan(name: str, marks: dict[str, int], devices: list[tuple[int, ...]], folder: Path, **more: Any) -> Plan:
    """A plan of a model that is built from a file."""
    file = folder / "model.py"
    file.write_text(f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom small_models import *\n")
    graph = capture(load_model(f"{file}:{name}")).graph
    return make_plan(graph, staged(graph, marks), devices, **{"num_microbatches": 4} | more)
