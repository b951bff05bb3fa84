"""Functional tests of Megatron-LM as runs: GPT and BERT are the test, and T5 calibrates the time of the host.

Megatron-Core's modules are slower for the host than those of 2021, more so in the deterministic mode of these tests,
which fills every new tensor. The models of T5 here wait for their host all the time, so the seconds of their steps over
their kernels are its time per kernel. T5 is no test: its encoder and decoder are no chain of layers.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from pathlib import Path
from statistics import mean, median

from drlpp.graph import Op
from drlpp.graph.blocks import Recompute
from drlpp.graph.generate.transformers import Attention, Transformer
from truth.clusters import DEVICES
from truth.layers import layer_graph
from truth.rows import Findings, Row, UnreadableError, device_named, number, whole
from truth.runs import Run

HOST_S = {
    ("a100-sxm4-80gb", "local"): 1.70e-4,
    ("a100-sxm4-80gb", "transformer_engine"): 1.84e-4,
    ("h100-sxm5-80gb", "local"): 1.04e-4,
    ("h100-sxm5-80gb", "transformer_engine"): 1.23e-4,
}
"""Seconds of the host per kernel in Megatron-Core, from `host_seconds`.

By the GPU of the node, and by whose modules ran: Megatron's own, or those of Transformer Engine.
"""
_VOCABULARY = {"gpt": 50304, "bert": 30592, "t5": 30592}
"""Of the tokenizers that the tests use, padded; for rows that state none."""
_GPUS = 8
"""Where a test does not say: the node of Megatron's CI."""
_OLDER_PLATFORM = "dracooci"
"""Platforms of older containers, which have no deterministic kernel of attention."""
_NOT_EXPRESSED = {
    "context-parallel-size": "context parallelism",
    "num-experts": "mixture of experts",
    "fp8-format": "FP8",
    "cuda-graph-impl": "CUDA graphs of parts of a step",
    "use-megatron-fsdp": "sharded parameters (FSDP)",
    "pipeline-model-parallel-layout": "layout of stages as text",
}
"""Columns that must be empty or 1, and what they stand for."""


_OTHER_KINDS = {
    "modelopt_distill": "two models (distillation)",
    "_mla": "multi-latent attention",
    "defer_embedding_wgrad": "weight gradients of the head wait for the end of the step",
}
"""Parts of a test's name that stand for what no column says and no plan expresses."""
_FUSED_LOSS = "cross_entropy_loss_fusion"
"""Part of the name of tests whose loss keeps the logits in float32 beside their exponentials."""


def megatron_run(line: int, row: Row) -> Run:
    """A row of ``megatron-lm-ci/runs.csv``."""
    model = row["test"].partition("/")[0]
    if model not in ("gpt", "bert"):
        raise UnreadableError(f"model {model}")
    for part, reason in _OTHER_KINDS.items():
        if part in row["test"]:
            raise UnreadableError(reason)
    for column, reason in _NOT_EXPRESSED.items():
        if row.get(column, "") not in ("", "1"):
            raise UnreadableError(reason)
    device = device_named(row["gpu"], DEVICES)
    per_host = whole(row, "gpus_per_node", _GPUS)
    gpus = whole(row, "nodes", max(1, _GPUS // per_host)) * per_host
    tensor, pipeline = (whole(row, f"{part}-model-parallel-size", 1) for part in ("tensor", "pipeline"))
    replicas, batch = gpus // (pipeline * tensor), whole(row, "global-batch-size")
    micro_batch = whole(row, "micro-batch-size")
    layers, chunks = whole(row, "num-layers"), _chunks(row, pipeline)
    split = _uneven_split(row, layers, pipeline)
    if tensor > per_host:
        raise UnreadableError("tensor parallelism over hosts")
    if not (replicas and micro_batch and batch and layers and whole(row, "hidden-size")):
        raise UnreadableError("number of GPUs, shape or micro-batch not stated")
    if batch % (micro_batch * replicas):
        raise UnreadableError("micro-batches do not divide")
    if not split and layers % (pipeline * chunks):
        raise UnreadableError("layers do not divide by the stages, and their split is not stated")
    noisy = device.startswith("gb200") and gpus == per_host
    return Run(
        set="megatron-lm-ci",
        ref=f"megatron-lm-ci/runs.csv:{line}",
        device=device,
        per_host=per_host,
        shape=_shape(row, model, layers, micro_batch),
        num_microbatches=batch // micro_batch,
        pipeline=pipeline,
        chunks=chunks,
        replicas=replicas,
        sharded_optimizer=row["use-distributed-optimizer"] == "True",
        recompute=Recompute.BLOCK if row["recompute-granularity"] == "full" else Recompute.NONE,
        seconds=number(row, "iter_s_median"),
        memory_bytes=number(row, "max_mem_bytes"),
        out_of_memory=None,
        layers_per_stage=split,
        host_s=_host_s(device, row),
        last_rank_tells=True,
        second_logits=_FUSED_LOSS in row["test"],
        part=(", tensor parallel" if tensor > 1 else "") + (", one node (noisy, says the source)" if noisy else ""),
    )


def _modules(row: Row) -> str:
    return "local" if row["transformer-impl"] == "local" else "transformer_engine"


def _host_s(device: str, row: Row) -> float:
    """Of a node's own kind; of nodes without T5, the mean of the others."""
    known = {d: seconds for (d, modules), seconds in HOST_S.items() if modules == _modules(row)}
    return known.get(device, mean(known.values()))


def _shape(row: Row, model: str, layers: int, micro_batch: int) -> Transformer:
    hidden = whole(row, "hidden-size")
    return Transformer(
        layers=layers,
        hidden=hidden,
        heads=whole(row, "num-attention-heads"),
        kv_heads=whole(row, "num-query-groups"),
        head_dim=whole(row, "kv-channels"),
        ffn=whole(row, "ffn-hidden-size") or 4 * hidden,
        vocab=whole(row, "vocab-size") or _VOCABULARY[model],
        seq=whole(row, "seq-length"),
        batch=micro_batch,
        dtype="float16" if row["fp16"] == "True" else "bfloat16",
        attention=_attention(row),
        causal=model == "gpt",
        gated=row["swiglu"] == "True",
        dropout=True,
        fused=True,
        tensor=whole(row, "tensor-model-parallel-size", 1),
        sequence=row["sequence-parallel"] == "True" and whole(row, "tensor-model-parallel-size", 1) > 1,
        tied=row["untie-embeddings-and-output-weights"] != "True",
    )


def _attention(row: Row) -> Attention:
    older = row["platform"].startswith("dgxa100_" + _OLDER_PLATFORM) and row["attention-backend"] != "flash"
    older = older and row["deterministic-mode"] == "True"
    eager = row["attention-backend"] in ("unfused", "local") or row["transformer-impl"] == "local"
    return "fused" if eager or older else "flash"


def _chunks(row: Row, pipeline: int) -> int:
    if per_stage := whole(row, "num-layers-per-virtual-pipeline-stage"):
        return max(1, whole(row, "num-layers") // (pipeline * per_stage))
    return whole(row, "num-virtual-stages-per-pipeline-rank", 1)


def _uneven_split(row: Row, layers: int, pipeline: int) -> tuple[int, ...]:
    """Layers of each stage where the first or the last has its own number; else nothing."""
    first, last = (whole(row, f"decoder-{end}-pipeline-num-layers") for end in ("first", "last"))
    between = pipeline - bool(first) - bool(last)
    if not (first or last) or between < 1:
        return ()
    share = (layers - first - last) // between
    return (*([first] if first else []), *([share] * between), *([last] if last else []))


def host_seconds(data: Path) -> dict[tuple[str, str], float]:
    """GPU and modules -> median seconds per kernel of the steps of T5 on one stage: what `HOST_S` was read from."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)

    def read(_: int, row: Row) -> None:
        alone = all(whole(row, f"{part}-model-parallel-size", 1) == 1 for part in ("tensor", "pipeline"))
        if row["test"].startswith("t5/") and alone:
            seconds = number(row, "iter_s_median") / _t5_kernels(_attention(row))
            found[device_named(row["gpu"], DEVICES), _modules(row)].append(seconds)

    Findings().each(data / "megatron-lm-ci" / "runs.csv", "megatron-lm-ci steps", read)
    return {key: median(seconds) for key, seconds in found.items()}


@functools.cache
def _t5_kernels(attention: Attention) -> float:
    """Kernels of a step of the tests' T5: 12 layers of encoder, and 12 of decoder with a second attention each."""

    def layers(vocab: int) -> tuple[Op, ...]:
        shape = Transformer(
            layers=12, hidden=768, heads=12, ffn=3072, vocab=vocab, seq=512, batch=4, attention=attention,
            dropout=True, fused=True, tied=True,
        )  # fmt: skip
        return layer_graph(shape).ops

    def kernels(ops: list[Op]) -> float:
        return sum(w.kernels for op in ops for w in (op.forward, op.input_grad, op.weight_grad))

    decoder = layers(_VOCABULARY["t5"])
    cross = [op for op in decoder if "attention" in op.name or op.name.endswith("norm1")]
    return kernels([*layers(0), *decoder, *cross])
