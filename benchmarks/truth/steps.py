"""Training steps of transformers on equal GPUs, pipeline and data parallel: vTrain's runs and Megatron's own tests."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from drlpp.cluster import Cluster
from drlpp.cost import all_reduce_s
from drlpp.graph import OpGraph, OpTimes
from drlpp.graph.blocks import Recompute
from drlpp.graph.generate.transformers import COLLECTIVES, Transformer
from drlpp.plan import Assignment, StageSettings
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluation, Evaluator
from truth import published_runs
from truth.clusters import DEVICES, dgx_cluster
from truth.layers import layer_graph
from truth.megatron import megatron_run
from truth.rows import Findings, Pair, Row, UnreadableError, device_named, number, whole
from truth.runs import Run

_VOCABULARY = {"GPT": 50304, "BERT": 30592}
"""Of the tokenizers that Megatron's tests use, padded; for rows that state none."""
_PER_HOST = 8
"""GPUs of a node of vTrain's."""
_ONE_DEVICE = ("vtrain", "calculon", "megatron-readme")
"""Sets whose runs are all on one kind of device."""
_DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


def tp1_run(line: int, row: Row) -> Run:
    """A row of ``truth_tp1.csv``."""
    device = device_named(row["gpu"], DEVICES)
    replicas, micro_batch = whole(row, "dp"), whole(row, "micro_batch")
    if not replicas and (gpus := whole(row, "gpus")):
        replicas = gpus // whole(row, "pp", 1)
    if not replicas or not micro_batch or not whole(row, "layers") or not whole(row, "hidden"):
        raise UnreadableError("number of GPUs, shape or micro-batch not stated")
    per_step = whole(row, "global_batch") / micro_batch
    if per_step != int(per_step) or per_step < replicas:
        raise UnreadableError("micro-batches do not divide")
    layers, pipeline, chunks = whole(row, "layers"), whole(row, "pp", 1), whole(row, "virtual_stages", 1)
    if layers % (pipeline * chunks):
        raise UnreadableError("layers do not divide by the stages, and their split is not stated")
    vtrain = row["dataset"] == "vtrain"
    shape = Transformer(
        layers=layers,
        hidden=whole(row, "hidden"),
        heads=whole(row, "heads"),
        kv_heads=whole(row, "kv_heads"),
        ffn=whole(row, "ffn") or 4 * whole(row, "hidden"),
        vocab=whole(row, "vocab") or _VOCABULARY.get(row["model"], 50304),
        seq=whole(row, "seq"),
        batch=micro_batch,
        dtype=_dtype(row["precision"]),
        attention="fused" if vtrain or row["model"] == "BERT" else "flash",
        causal=row["model"] != "BERT",
        dropout=True,
        fused=True,
        tied=True,
    )
    return Run(
        set=row["dataset"],
        ref=f"truth_tp1.csv:{line}",
        device=device,
        per_host=whole(row, "gpus_per_node", 8),
        shape=shape,
        num_microbatches=int(per_step),
        pipeline=pipeline,
        chunks=chunks,
        replicas=replicas,
        sharded_optimizer=row["zero"] == "1",
        recompute=Recompute.BLOCK if "full" in row["recompute"] else Recompute.NONE,
        seconds=number(row, "iter_s"),
        memory_bytes=number(row, "mem_gb") * 1e9,
        out_of_memory=row["oom"] == "1" if row["oom"] else None,
    )


def _dtype(precision: str) -> str:
    if precision and precision not in _DTYPES:
        raise UnreadableError(f"precision {precision}")
    return _DTYPES[precision or "bf16"]


def vtrain_run(table: str, line: int, row: Row) -> Run:
    """A row of vTrain's own tables."""
    if whole(row, "tp") > _PER_HOST:
        raise UnreadableError("tensor parallelism over hosts")
    shape = Transformer(
        layers=whole(row, "layers"),
        hidden=whole(row, "hidden"),
        heads=whole(row, "heads"),
        ffn=4 * whole(row, "hidden"),
        vocab=50257,
        seq=whole(row, "seq"),
        batch=whole(row, "micro_batch"),
        dtype="float16",
        attention="fused",
        dropout=True,
        fused=True,
        tied=True,
        tensor=whole(row, "tp", 1),
    )
    return Run(
        set="vtrain",
        ref=f"vtrain/{table}:{line}",
        device="a100-sxm4-80gb",
        per_host=_PER_HOST,
        shape=shape,
        num_microbatches=whole(row, "global_batch") // whole(row, "micro_batch"),
        pipeline=whole(row, "pp"),
        chunks=1,
        replicas=whole(row, "dp"),
        sharded_optimizer=False,
        recompute=Recompute.BLOCK,
        part=", tensor parallel" if shape.tensor > 1 else "",
        seconds=number(row, "iter_ms") / 1e3,
        memory_bytes=0.0,
        out_of_memory=None,
        network=100e9,
    )


def read_runs(data: Path, findings: Findings) -> list[Run]:
    """All runs that can be expressed; a run that stands in two tables once."""
    read: list[Run] = []
    for table in ("ground_truth_single_node.csv", "ground_truth_multi_node.csv"):
        read += findings.each(data / "vtrain" / table, "vtrain steps", functools.partial(vtrain_run, table))
    own = data / "megatron-lm-ci" / "runs.csv"
    read += findings.each(own, "megatron-lm-ci steps", megatron_run)
    for line, row in findings.rows(data / "truth_tp1.csv"):
        if row.get("dataset") != "megatron-lm-ci" or not own.is_file():  # the same rows, with more columns
            run = findings.express(f"{row.get('dataset')} steps", functools.partial(tp1_run, line, row))
            read += [run] if run else []
    found: dict[object, Run] = {}
    for run in read:
        key = (run.shape, run.pipeline, run.replicas, run.num_microbatches, round(run.seconds, 5))
        if run.set != "vtrain":
            found[*key, run.ref] = run
        elif key not in found:
            found[key] = run
    return list(found.values())


def layer_stages(graph: OpGraph, layers_per_stage: Sequence[int]) -> np.ndarray:
    """``[num_ops]`` stage of each op: so many layers each, the embedding in the first and the head in the last."""
    border = np.cumsum(layers_per_stage)
    last = len(layers_per_stage) - 1
    out, current = [], 0
    for op in graph.ops:
        if op.module.startswith("layers."):
            current = int(np.searchsorted(border, int(op.module.split(".")[1]), side="right"))
        elif op.name in ("norm", "head_gather", "head", "loss"):
            current = last
        out.append(current)
    return np.array(out)


def with_exchanges(graph: OpGraph, device: str, members: int) -> OpGraph:
    """The graph of one of the members of a group inside a host, with the seconds of what they exchange."""
    group = dgx_cluster(device, members, members)
    kind, everybody = group.device_types[0].name, range(members)
    ops = []
    for op in graph.ops:
        if op.kind in COLLECTIVES:
            whole = op.output_bytes * (members if op.kind == "group.reduce_scatter" else 1)
            sums = all_reduce_s(group, everybody, whole)
            part_s = sums if op.kind == "group.all_reduce" else sums / 2
            op = dataclasses.replace(op, times={kind: OpTimes(part_s, part_s)})
        ops.append(op)
    return dataclasses.replace(graph, ops=tuple(ops))


def with_second_logits(graph: OpGraph, shape: Transformer) -> OpGraph:
    """The graph with a loss that keeps another copy of the logits in float32."""
    kept = graph.tensor_bytes["loss:kept"] + 4.0 * shape.tokens * shape.member_vocab
    return dataclasses.replace(graph, tensor_bytes=dict(graph.tensor_bytes) | {"loss:kept": kept})


@functools.lru_cache(maxsize=2048)
def _problem(
    shape: Transformer, cluster: Cluster, number: int, *, megatron: bool, zero1: bool, second_logits: bool
) -> PlanningProblem:
    graph = with_second_logits(layer_graph(shape), shape) if second_logits else layer_graph(shape)
    if shape.tensor > 1:
        graph = with_exchanges(graph, cluster.device_types[0].name, shape.tensor)
    problem = PlanningProblem.build(
        graph, cluster, num_microbatches=number, optimizer="adamw", main_parameters=megatron
    )
    return dataclasses.replace(problem, training=dataclasses.replace(problem.training, zero1=zero1))


def evaluate(run: Run) -> Evaluation:
    """The run's plan, as the evaluator sees it."""
    groups, tensor = run.pipeline * run.replicas, run.shape.tensor
    cluster = dgx_cluster(run.device, groups, run.per_host // tensor, run.network, run.host_s, members=tensor)
    problem = _problem(
        run.shape, cluster, run.num_microbatches, megatron=run.megatron, zero1=run.sharded_optimizer,
        second_logits=run.second_logits,
    )  # fmt: skip
    evaluator = Evaluator(problem)
    stages = run.pipeline * run.chunks
    assignment = Assignment(
        layer_stages(problem.graph, run.layers_per_stage or [run.shape.layers // stages] * stages),
        tuple(
            tuple(range((s % run.pipeline) * run.replicas, (s % run.pipeline + 1) * run.replicas))
            for s in range(stages)
        ),
        settings=(StageSettings(run.recompute),) * stages,
    )
    return evaluator.evaluate(assignment, ["interleaved-1f1b", "1f1b"] if run.chunks > 1 else ["1f1b"])


def run(data: Path, findings: Findings) -> None:
    """Adds time and memory of every run."""
    for r in [*read_runs(data, findings), *published_runs.korthikanti_runs(data, findings)]:
        evaluation = findings.express(f"{r.set} steps", functools.partial(evaluate, r))
        if evaluation:
            add(r, evaluation, findings)
    for sizes in published_runs.readme_runs(data, findings):
        found = [(r, findings.express(f"{r.set} steps", functools.partial(evaluate, r))) for r in sizes]
        if evaluated := [(r, e) for r, e in found if e]:
            add(*min(evaluated, key=lambda x: (x[1].over_memory_bytes, x[1].iteration_time_s)), findings)
    published_runs.leave_out(data, findings)


def add(r: Run, evaluation: Evaluation, findings: Findings) -> None:
    """Adds what a run states beside what is predicted of it."""
    if not (r.seconds or r.memory_bytes or r.out_of_memory is not None):
        findings.leave_out(f"{r.set} steps", "neither time nor memory stated")
    if r.seconds:
        device = "" if r.set in _ONE_DEVICE else f", {r.device}"
        findings.add(
            Pair(f"{r.set} steps{device}{r.part}", "time", evaluation.iteration_time_s, r.seconds, r.job, r.ref)
        )
    peak = float(evaluation.peak_memory_bytes[-1] if r.last_rank_tells else evaluation.peak_memory_bytes.max())
    name = f"{r.set} steps" + (", tensor parallel" if r.shape.tensor > 1 and r.set not in _ONE_DEVICE else "")
    if r.memory_bytes:
        findings.add(Pair(name, "memory", peak, r.memory_bytes, r.job, r.ref))
    if r.out_of_memory is not None:
        findings.add(Pair(name, "out of memory", float(not evaluation.feasible), float(r.out_of_memory), r.job, r.ref))
