"""Runs of papers and project pages: Korthikanti et al. (through Calculon), Megatron's README, TorchTitan and others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from drlpp.graph.blocks import Recompute
from drlpp.graph.generate.transformers import Transformer
from truth.rows import Findings, Row, UnreadableError, number, whole
from truth.runs import Run

_PER_HOST = 8
_KORTHIKANTI_VOCABULARY = 51200
_README_SEQ, _README_VOCABULARY = 4096, 131072
_BRIDGE = "most in FP8, with context or expert parallelism: not read by row"
_README_SIZES = (4, 2, 1)
"""Micro-batch sizes. The README states none, so it is the fastest that fits, as for runs that show what is reached."""


def korthikanti_runs(data: Path, findings: Findings) -> list[Run]:
    """Times of Table 5, and memory of Figure 1 for the same models: without anything, and with both techniques."""
    models: dict[str, Row] = {}

    def timed(line: int, row: Row) -> Run:
        models[row["model"]] = row
        ref = f"calculon/korthikanti_table5.csv:{line}"
        return _korthikanti(row, ref, number(row, "iter_s"), 0.0, row["recompute"])

    def held(line: int, memory: Row) -> list[Run]:
        ref, columns = f"calculon/korthikanti_fig1_memory.csv:{line}", ("none", "seq_parallel_selective")
        if memory["model"] not in models:
            raise UnreadableError(f"the shape of {memory['model']} is not in the table of times")
        return [
            _korthikanti(
                models[memory["model"]],
                ref,
                0.0,
                (number(memory, "params_opt_gib") + number(memory, f"act_{column}_gib")) * 2**30,
                choice,
            )
            for column, choice in zip(columns, ("none", "selective + sequence"), strict=True)
        ]

    folder = data / "calculon"
    runs = findings.each(folder / "korthikanti_table5.csv", "calculon steps", timed)
    memories = findings.each(folder / "korthikanti_fig1_memory.csv", "calculon steps", held)
    return [*runs, *(run for pair in memories for run in pair)]


def _korthikanti(row: Row, ref: str, seconds: float, memory_bytes: float, recompute: str) -> Run:
    both = recompute.startswith("selective")
    pipeline, chunks, replicas = whole(row, "pp", 1), whole(row, "interleave", 1), whole(row, "dp", 1)
    shape = Transformer(
        layers=whole(row, "layers"),
        hidden=whole(row, "hidden"),
        heads=whole(row, "heads"),
        ffn=4 * whole(row, "hidden"),
        vocab=_KORTHIKANTI_VOCABULARY,
        seq=whole(row, "seq"),
        batch=whole(row, "micro_batch"),
        dtype=row["dtype"],
        attention="fused",
        dropout=True,
        fused=True,
        tied=True,
        selective=both,
        tensor=whole(row, "tp", 1),
        sequence=both,
    )
    return Run(
        set="calculon",
        ref=ref,
        device="a100-sxm4-80gb",
        per_host=_PER_HOST,
        shape=shape,
        num_microbatches=whole(row, "global_batch") // whole(row, "micro_batch"),
        pipeline=pipeline,
        chunks=chunks,
        replicas=replicas,
        sharded_optimizer=False,
        recompute=Recompute.BLOCK if recompute == "full" else Recompute.NONE,
        seconds=seconds,
        memory_bytes=memory_bytes,
        out_of_memory=None,
    )


def readme_runs(data: Path, findings: Findings) -> list[tuple[Run, ...]]:
    """Of each model of Megatron's README, its run at every size of micro-batch that divides."""

    def read(line: int, row: Row) -> tuple[Run, ...]:
        batch, samples = whole(row, "global_batch"), whole(row, "global_batch") // whole(row, "dp")
        run, sizes = _readme(line, row), [s for s in _README_SIZES if samples % s == 0]
        shapes = [dataclasses.replace(run.shape, batch=size) for size in sizes]
        return tuple(dataclasses.replace(run, shape=s, num_microbatches=batch // s.batch) for s in shapes)

    return findings.each(data / "megatron-lm-ci" / "readme_model_table.csv", "megatron-readme steps", read)


def _readme(line: int, row: Row) -> Run:
    layers, hidden, batch, seq = (
        whole(row, "layers"), whole(row, "hidden"), whole(row, "global_batch"), _README_SEQ,
    )  # fmt: skip
    flop = 72.0 * batch * seq * layers * hidden**2
    flop *= 1 + seq / (6 * hidden) + _README_VOCABULARY / (12 * hidden * layers)  # as Megatron counts it
    tensor = whole(row, "tp", 1)
    shape: dict[str, Any] = {"dtype": "bfloat16", "fused": True, "tensor": tensor, "sequence": tensor > 1}
    return Run(
        set="megatron-readme",
        ref=f"megatron-lm-ci/readme_model_table.csv:{line}",
        device="h100-sxm5-80gb",
        per_host=_PER_HOST,
        shape=Transformer(
            layers=layers,
            hidden=hidden,
            heads=whole(row, "heads"),
            ffn=4 * hidden,
            vocab=_README_VOCABULARY,
            seq=seq,
            **shape,
        ),
        num_microbatches=batch,
        pipeline=whole(row, "pp", 1),
        chunks=1,
        replicas=whole(row, "dp"),
        sharded_optimizer=True,
        recompute=Recompute.NONE,
        seconds=flop / (number(row, "tflops_per_gpu") * 1e12 * whole(row, "gpus")),
        memory_bytes=0.0,
        out_of_memory=None,
    )


def leave_out(data: Path, findings: Findings) -> None:
    """Counts the rows of sets whose runs divide parameters over replicas (FSDP), or are in FP8."""
    reasons = {
        "llm-foundry/mpt_fsdp.csv": ("llm-foundry", "sharded parameters (FSDP)"),
        "megatron-bridge/throughput.csv": ("megatron-bridge", _BRIDGE),
        "megatron-bridge/nemo_2407_h100.csv": ("megatron-bridge", _BRIDGE),
        "galvatron/memory_llama2_7b.csv": ("galvatron memory", "sharded parameters (FSDP)"),
        "galvatron/forward_llama2_7b.csv": ("galvatron forward", "GPU not stated"),
    }
    for file, (name, reason) in reasons.items():
        findings.leave_out(name, reason, sum(1 for _ in findings.rows(data / file)))
    for _, row in findings.rows(data / "torchtitan" / "throughput.csv"):
        fast = row.get("precision", "").startswith("fp8")
        findings.leave_out("torchtitan", "FP8" if fast else "sharded parameters (FSDP)")
