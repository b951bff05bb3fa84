"""Plans on unequal devices: HARP's runs (pipeline and data parallel, no tensor parallelism) and Sailor's."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import Cluster, DeviceType, Host, Link, device_preset
from drlpp.cost.optimizer_state import op_resident_bytes
from drlpp.cost.problem_times import problem_times
from drlpp.graph import Edge, Op, OpGraph, OpTimes
from drlpp.graph.blocks import Recompute
from drlpp.graph.generate.transformers import Transformer
from drlpp.plan import Assignment, StageSettings
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator
from truth.layers import layer_graph
from truth.rows import Findings, Pair, Row, UnreadableError, number, whole

_SLOW_PART = 585 / 1410
"""HARP's V100* is an A100 at 585 MHz of its 1410."""
_HARP_NETWORK = {"V100*": 9e-4, "A100": 1e-4, "A100b": 1e-4}
"""Seconds of each cluster's share of the latency between clusters, which have 0.625 GB/s."""


_Stage = tuple[str, int, int, int]
"""Device kind, count, first and last entry."""
_Stages = list[dict[str, list[dict[str, list[str]]]]]
"""Of a plan of Sailor's: layers and replicas of each stage."""


def harp_devices() -> dict[str, DeviceType]:
    """The kinds of HARP's table; compiled programs, so no host time."""
    a100 = dataclasses.replace(device_preset("a100-sxm4-40gb"), host_op_s=0.0)
    slow = tuple((dtype, peak * _SLOW_PART) for dtype, peak in a100.peak_flops)
    return {
        "A100": a100,
        "A100b": dataclasses.replace(a100, name="a100b"),
        "V100*": dataclasses.replace(a100, name="slowed-a100", peak_flops=slow),
    }


def harp_stages(text: str) -> list[_Stage]:
    """Device kind, count, first and last entry of each stage."""
    found = []
    for part in text.split(";"):
        devices, _, layers = part.strip().partition(":")
        kind, _, count = devices.rpartition("x")
        if not kind:
            raise UnreadableError("GPU type not stated")
        first, _, last = layers.partition("-")
        if not last.isdigit():
            raise UnreadableError("split not stated by layers")
        if kind not in _HARP_NETWORK:
            raise UnreadableError(f"GPU {kind} is not known")
        found.append((kind, int(count), int(first), int(last)))
    return found


def harp(data: Path, findings: Findings) -> None:
    """Iteration times, and memory by stage where it is given for every stage."""

    def read(line: int, row: Row) -> None:
        stages = harp_stages(row["stages"])
        schedule = "eager-1f1b" if row["schedule"].startswith("H-") else "1f1b"
        problem, assignment = _harp_problem(row, stages)
        time_s = Evaluator(problem).evaluate(assignment, [schedule]).iteration_time_s
        job, ref = f"harp {row['cluster']} {row['layers']}x{row['hidden']}", f"harp/measured_runs.csv:{line}"
        findings.add(Pair("harp", "time", time_s, number(row, "iter_s"), job, ref))
        memory = [m for m in row["mem_gb_per_stage"].split(";") if m]
        if len(memory) == len(stages) and not any(m.startswith("max") for m in memory):
            for s, measured in enumerate(memory):
                peak = _harp_peak_bytes(row, stages, s, assignment, schedule)
                findings.add(Pair("harp", "memory", peak, float(measured) * 1e9, ref=ref))

    findings.each(data / "harp" / "measured_runs.csv", "harp", read)


def _harp_graph(row: Row, devices: int) -> OpGraph:
    """What one of so many devices computes, which divide the samples of every micro-batch."""
    samples = whole(row, "global_batch") // whole(row, "micro_batches")
    return layer_graph(
        Transformer(
            layers=whole(row, "layers"),
            hidden=whole(row, "hidden"),
            heads=whole(row, "heads"),
            ffn=4 * whole(row, "hidden"),
            vocab=whole(row, "vocab"),
            seq=whole(row, "seq"),
            batch=max(1, samples // devices),
            dtype="float16",
            attention="fused",
            fused=True,
        )
    )


def _harp_problem(row: Row, stages: list[_Stage]) -> tuple[PlanningProblem, Assignment]:
    """The devices of a stage compute every micro-batch together: they are one device with the times of their part.

    Stages on one kind are on one host. Left out: the sum of gradients inside a stage (below 1 % of a step).
    """
    graph, kinds = _harp_graph(row, 1), harp_devices()
    names = [f"{kind} x{count} of stage {s}" for s, (kind, count, _, _) in enumerate(stages)]
    of_set = [_harp_seconds(row, kinds[kind], count) for kind, count, _, _ in stages]
    ops = tuple(
        dataclasses.replace(
            op, times={n: OpTimes(*seconds[:, i].tolist()) for n, seconds in zip(names, of_set, strict=True)}
        )
        for i, op in enumerate(graph.ops)
    )
    by_kind: dict[str, list[int]] = defaultdict(list)
    for s, (kind, *_) in enumerate(stages):
        by_kind[kind].append(s)
    hosts = tuple(
        Host(
            name=kind,
            devices=tuple(names[s] for s in on_it),
            link=Link(bandwidth=25e9, latency_s=1e-5),
            network=Link(bandwidth=0.625e9, latency_s=_HARP_NETWORK[kind]),
        )
        for kind, on_it in by_kind.items()
    )
    types = tuple(dataclasses.replace(kinds[kind], name=n) for n, (kind, *_) in zip(names, stages, strict=True))
    problem = _harp_training(dataclasses.replace(graph, ops=ops), Cluster("harp", types, hosts), row)
    order = [s for on_it in by_kind.values() for s in on_it]
    stage_of_op = np.array([_stage_of_entry(_entry(op, whole(row, "layers")), stages) for op in graph.ops])
    devices = tuple((order.index(s),) for s in range(len(stages)))
    return problem, Assignment(stage_of_op, devices, (StageSettings(Recompute.BLOCK),) * len(stages))


def _harp_training(graph: OpGraph, cluster: Cluster, row: Row) -> PlanningProblem:
    return PlanningProblem.build(
        graph, cluster, num_microbatches=whole(row, "micro_batches"), optimizer="adamw", main_parameters=True
    )


def _harp_seconds(row: Row, kind: DeviceType, count: int) -> NDArray[np.float64]:
    """``[3, num_ops]`` seconds of forward, input and weight gradient of so many devices on a micro-batch."""
    graph = _harp_graph(row, count)
    host = Host(name="h", devices=(kind.name,), link=Link(bandwidth=25e9))
    times = problem_times(_harp_training(graph, Cluster("one", (kind,), (host,)), row))
    samples = whole(row, "global_batch") / whole(row, "micro_batches")
    part = samples / count / graph.samples_per_microbatch
    return np.maximum(0.0, np.stack([times.forward_s[0], times.input_grad_s[0], times.weight_grad_s[0]]) * part)


def _harp_peak_bytes(row: Row, stages: list[_Stage], s: int, assignment: Assignment, schedule: str) -> float:
    """Peak memory of one device of a stage.

    Alpa scatters the sums of gradients, so that the devices divide main parameters and states; it keeps gradients in
    the type of the parameters, float16, where the recipe of main parameters has float32.
    """
    kinds, count = harp_devices(), stages[s][1]
    hosts = tuple(
        Host(name=f"h{i}", devices=(kinds[kind].name,), network=Link(bandwidth=0.625e9))
        for i, (kind, *_) in enumerate(stages)
    )
    problem = _harp_training(_harp_graph(row, count), Cluster("harp", tuple(kinds.values()), hosts), row)
    alone = dataclasses.replace(assignment, devices=tuple((i,) for i in range(len(stages))))
    peak = float(Evaluator(problem).evaluate(alone, [schedule]).peak_memory_bytes[s])
    zero1 = dataclasses.replace(problem.training, zero1=True)
    others = op_resident_bytes(problem.graph, zero1) - op_resident_bytes(problem.graph, zero1, count)
    return peak - float((others + problem.graph.op_trained_bytes)[assignment.stage_of_op == s].sum())


def _entry(op: Op, layers: int) -> int:
    """Place in the finest list: the embedding, two halves of each layer, the head."""
    if not op.module.startswith("layers."):
        return 0 if op.name.startswith("embedding") else 2 * layers + 1
    half = "mlp" in op.name or "norm2" in op.name
    return 1 + 2 * int(op.module.split(".")[1]) + half


def _stage_of_entry(entry: int, stages: list[_Stage]) -> int:
    return next(s for s, (_, _, first, last) in enumerate(stages) if first <= entry <= last)


def sailor(data: Path, findings: Findings) -> None:
    """Plans of tensor-parallel groups, each taken as one device with the layer times given for it."""
    folder = data / "sailor"

    def layer(_: int, r: Row) -> tuple[tuple[str, str, str, str, int], Row]:
        return (r["model"], r["gpu"], r["micro_batch"], r["tp"], whole(r, "layer")), r

    def size(_: int, r: Row) -> tuple[tuple[str, str, int], Row]:
        return (r["model"], r["tp"], whole(r, "layer")), r

    def speed(_: int, r: Row) -> tuple[tuple[str, int], float]:
        return (r["gpu"], whole(r, "gpus_per_node")), number(r, "max_bytes_per_s") if r["kind"] == "inter" else 0.0

    times = dict(findings.each(folder / "layer_times.csv", "sailor layers", layer))
    sizes = dict(findings.each(folder / "layer_memory.csv", "sailor layers", size))
    speeds = {k: v for k, v in findings.each(folder / "network_fits.csv", "sailor networks", speed) if v}
    placed = _placements(folder / "measured_plans.jsonl", findings)

    def plan(line: int, row: Row) -> None:
        if row["id"] not in placed:
            raise UnreadableError("placement not stated")
        evaluator, assignment = _sailor_problem(row, placed[row["id"]], times, sizes, speeds)
        evaluation = evaluator.evaluate(assignment, ["1f1b"])
        job = f"sailor {row['site']} {row['model']} {row['node_types']} x{row['nodes']} batch {row['global_batch']}"
        ref = f"sailor/measured_plans.csv:{line}" + (" (flagged)" if row["flags"] else "")
        findings.add(Pair("sailor", "time", evaluation.iteration_time_s, number(row, "iter_s"), job, ref))

    findings.each(folder / "measured_plans.csv", "sailor", plan)


def _placements(file: Path, findings: Findings) -> dict[str, _Stages]:
    """Name of each plan -> its stages, their replicas and nodes."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    read = (findings.express("sailor placements", functools.partial(_placement, text)) for text in lines)
    return dict(plan for plan in read if plan)


def _placement(text: str) -> tuple[str, _Stages]:
    try:
        plan = json.loads(text)
        return plan["id"], plan["stages"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UnreadableError("no JSON with id and stages") from None


def _waits(
    stages: _Stages, nodes: list[list[str]], rates: dict[str, float], message_bytes: Callable[[int], float]
) -> dict[tuple[int, str], float]:
    """Layer at a border of stages, and kind of device -> seconds of a message, which both sides wait for.

    Sends and receives of Sailor's runs block, as in Megatron's pipelines: neither side computes meanwhile.
    """
    found: dict[tuple[int, str], float] = defaultdict(float)
    last = -1
    for stage, senders, receivers in zip(stages[:-1], nodes[:-1], nodes[1:], strict=True):
        last += len(stage["layers"])
        longest: dict[tuple[int, str], float] = defaultdict(float)
        for r in range(math.lcm(len(senders), len(receivers))):
            ends = (last, senders[r % len(senders)]), (last + 1, receivers[r % len(receivers)])
            seconds = message_bytes(last) / min(rates[kind] for _, kind in ends)
            for end in ends:
                longest[end] = max(longest[end], seconds)
        for end, seconds in longest.items():
            found[end] += seconds
    return found


def _sailor_problem(
    row: Row,
    stages: _Stages,
    times: dict[tuple[str, str, str, str, int], Row],
    sizes: dict[tuple[str, str, int], Row],
    speeds: dict[tuple[str, int], float],
) -> tuple[Evaluator, Assignment]:
    tp, micro_batch = row["tp"], row["micro_batch"]
    nodes = [[r["nodes"][0] for r in stage["replicas"]] for stage in stages]
    kinds = list(dict.fromkeys(n for group in nodes for n in group))
    layers = sum(len(stage["layers"]) for stage in stages)
    per_replica = max(1, whole(row, "micro_batches"))
    rates = {k: speeds.get((k, int(tp))) or speeds.get((k, 4), 0.0) for k in kinds}
    if not all(rates.values()):
        raise UnreadableError("network of a device is missing")

    def message_bytes(layer: int) -> float:
        size = sizes.get((row["model"], tp, layer))
        return number(size, "act_output_bytes") * int(micro_batch) if size else 0.0

    waits = _waits(stages, nodes, rates, message_bytes)
    ops, edges, tensors, params = [], [], {}, {}
    for i in range(layers):
        rows = {k: times.get((row["model"], k, micro_batch, tp, i)) for k in kinds}
        size = sizes.get((row["model"], tp, i))
        if size is None or any(r is None for r in rows.values()):
            raise UnreadableError("layer times of a device or a size are missing")
        name = f"layer{i}"
        measured = {
            k: OpTimes(
                number(r, "forward_s") + waits[i, k],
                number(r, "backward_s") + waits[i, k],
                number(r, "update_s") / per_replica,
            )
            for k, r in rows.items()
            if r is not None
        }
        tensors[name] = 1.0  # the devices wait for messages, see above
        params[name] = number(size, "params_bytes") * int(tp)
        ops.append(Op(name=name, kind="layer", params=(name,), times=measured))
        if i:
            edges.append(Edge(src=f"layer{i - 1}", dst=name, tensor=f"layer{i - 1}"))
    graph = OpGraph(
        name=row["id"], ops=tuple(ops), edges=tuple(edges), tensor_bytes=tensors, param_bytes=params,
        samples_per_microbatch=int(micro_batch),
    )  # fmt: skip
    hosts, devices = [], []
    for group in nodes:
        devices.append(tuple(range(len(hosts), len(hosts) + len(group))))
        for kind in group:
            port = Link(bandwidth=rates[kind], latency_s=1e-5)
            hosts.append(Host(name=f"h{len(hosts)}", devices=(kind,), network=port))
    types = tuple(DeviceType(name=k, memory_bytes=10**12, speed=1.0, speed_is_given=True) for k in kinds)
    replicas = max(len(group) for group in nodes)
    problem = PlanningProblem.build(
        graph, Cluster("sailor", types, tuple(hosts)), num_microbatches=per_replica * replicas, optimizer="adamw"
    )
    stage_of_op = np.repeat(np.arange(len(stages)), [len(stage["layers"]) for stage in stages])
    return Evaluator(problem), Assignment(stage_of_op, tuple(devices))


def run(data: Path, findings: Findings) -> None:
    """Adds the runs of both."""
    harp(data, findings)
    sailor(data, findings)
