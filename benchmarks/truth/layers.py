"""Layers of transformers on one GPU: Zorse and Cephalo (sums of kernel times), Sailor (seconds of eager layers)."""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from drlpp.cluster import Cluster, Host, Link, device_preset
from drlpp.cost.problem_times import problem_times
from drlpp.graph import OpGraph
from drlpp.graph.generate.transformers import Transformer, transformer_graph
from drlpp.problem import PlanningProblem
from truth.rows import Findings, Pair, Row, UnreadableError, device_named, number, whole

ZORSE_DEVICES = {
    "p100": "p100-pcie-16gb",
    "p40": "p40-24gb",
    "v100x16": "v100-sxm2-16gb",
    "v100x32": "v100-sxm2-32gb",
    "v100-pciex16": "v100-pcie-16gb",
    "t4": "t4-16gb",
    "a10g": "a10g-24gb",
    "a6000": "rtx-a6000-48gb",
    "l4": "l4-24gb",
    "l40s": "l40s-48gb",
    "a100x40": "a100-sxm4-40gb",
    "a100x80": "a100-sxm4-80gb",
    "h100-nvl": "h100-nvl-94gb",
    "w6800": "w6800-32gb",
}
_BEFORE_AMPERE = ("p100", "p40", "v100x16", "v100x32", "v100-pciex16", "t4", "w6800")
_ZORSE_SHAPES = {
    # hidden, heads, width of the feed-forward part
    "gpt_1.3b": (2048, 128, 8192),
    "gpt_2.7b": (2560, 80, 10240),
    "gpt_6.7b": (4096, 128, 16384),
    "gpt_175b": (12288, 96, 49152),
    "llama_tiny": (2048, 32, 5632),
    "llama_3b": (3200, 32, 8640),
    "llama_7b": (4096, 32, 11008),
    "llama_13b": (5120, 40, 13824),
    "llama_33b": (6656, 52, 17920),
    "llama_65b": (8192, 64, 22016),
    "mistral_7b": (4096, 32, 14336),
    "bert_base": (768, 12, 3072),
    "bert_large": (1024, 16, 4096),
    "bert_xlarge": (1536, 24, 6144),
    "vit_default": (768, 12, 3072),
    "vit_g": (1664, 16, 8192),
    "vit_g_small": (1664, 16, 8192),
    "vit_e": (1792, 16, 15360),
}
_VIT_TOKENS = 577
"""Patches of 16 pixels of an image of 384, and the class token."""


@dataclasses.dataclass(frozen=True, slots=True)
class LayerRow:
    """One measured layer: seconds of its forward and of its backward pass."""

    set: str
    device: str
    shape: Transformer
    eager: bool
    forward_s: float
    backward_s: float
    ref: str


def zorse_shape(model: str, seq: int, batch: int, dtype: str, gpu: str) -> Transformer:
    """The layer that Zorse ran."""
    name = model.removeprefix("deepspeed").replace("llamav2", "llama")
    if name not in _ZORSE_SHAPES:
        raise UnreadableError(f"the shape of {model} is not known")
    hidden, heads, ffn = _ZORSE_SHAPES[name]
    llama = name.startswith(("llama", "mistral"))
    flash = llama and gpu not in _BEFORE_AMPERE and dtype != "float32"
    return Transformer(
        layers=1,
        hidden=hidden,
        heads=heads,
        ffn=ffn,
        vocab=0,
        kv_heads=8 if name.startswith("mistral") else 0,
        seq=_VIT_TOKENS if name.startswith("vit") else seq,
        batch=batch,
        dtype=dtype,
        autocast=dtype != "float32",
        cast_once=True,
        attention="flash" if flash else "fused" if llama and dtype != "float32" else "eager",
        causal=llama or name.startswith("gpt"),
        gated=llama,
        rotary=llama,
        dropout=not llama,
    )


def zorse(data: Path, findings: Findings) -> list[LayerRow]:
    """The layers of Zorse and Cephalo."""

    def read(line: int, row: Row) -> LayerRow:
        gpu, seconds = row["gpu"], [number(row, f"{part}_ms") / 1e3 for part in ("forward", "backward")]
        device = device_named(gpu, ZORSE_DEVICES)
        shape = zorse_shape(row["model"], whole(row, "seq"), whole(row, "batch"), row["dtype"], gpu)
        if min(seconds) <= 0:
            raise UnreadableError("times that are no positive numbers")
        layer_graph(shape)  # a shape that makes no sense is left out here
        ref = f"zorse-cephalo/layer_times.csv:{line}"
        return LayerRow("zorse-cephalo layers", device, shape, False, seconds[0], seconds[1], ref)

    return findings.each(data / "zorse-cephalo" / "layer_times.csv", "zorse-cephalo layers", read)


@functools.lru_cache(maxsize=4096)
def layer_graph(shape: Transformer) -> OpGraph:
    """The graph of a shape."""
    return transformer_graph(shape)


def predict_layers(rows: Iterable[LayerRow]) -> list[tuple[float, float]]:
    """Forward and backward seconds of each row, from the op times of a problem with that layer."""
    by_shape: dict[tuple[Transformer, bool], list[tuple[int, str]]] = defaultdict(list)
    for i, row in enumerate(rows):
        by_shape[row.shape, row.eager].append((i, row.device))
    out: dict[int, tuple[float, float]] = {}
    for (shape, eager), numbered in by_shape.items():
        names = list(dict.fromkeys(device for _, device in numbered))
        kinds = [device_preset(n) for n in names]
        if not eager:
            kinds = [dataclasses.replace(kind, host_op_s=0.0) for kind in kinds]
        host = Host(name="h", devices=tuple(names), link=Link(bandwidth=1e10))
        times = problem_times(PlanningProblem.build(layer_graph(shape), Cluster("layers", tuple(kinds), (host,))))
        forward, total = times.forward_s.sum(axis=1), times.total_s.sum(axis=1)
        for i, device in numbered:
            k = names.index(device)
            out[i] = (float(forward[k]), float(total[k] - forward[k]))
    return [out[i] for i in range(len(out))]


def run(data: Path, findings: Findings) -> None:
    """Adds forward and backward of every layer, and how fast one GPU is relative to another."""
    rows = zorse(data, findings)
    predictions = predict_layers(rows)
    for row, (forward_s, backward_s) in zip(rows, predictions, strict=True):
        name = f"{row.set}, {row.device}, {row.shape.dtype}"
        findings.add(Pair(f"{name}, forward", "time", forward_s, row.forward_s, ref=row.ref))
        findings.add(Pair(f"{name}, backward", "time", backward_s, row.backward_s, ref=row.ref))
    _ratios(rows, predictions, findings)


def _ratios(rows: list[LayerRow], predictions: list[tuple[float, float]], findings: Findings) -> None:
    """Of any two GPUs that ran the same layer: the ratio of their times, the median over the layers."""
    cases: dict[tuple[object, ...], dict[str, tuple[float, float]]] = defaultdict(dict)
    for row, (forward_s, backward_s) in zip(rows, predictions, strict=True):
        s = row.shape
        key = (s.hidden, s.ffn, s.seq, s.batch, s.dtype)
        cases[key][row.device] = (forward_s + backward_s, row.forward_s + row.backward_s)
    ratios: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for key, devices in cases.items():
        names = sorted(devices)
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                pair = (devices[a][0] / devices[b][0], devices[a][1] / devices[b][1])
                ratios[str(key[-1]), a, b].append(pair)
    for (dtype, a, b), pairs in sorted(ratios.items()):
        predicted, measured = np.median(np.array(pairs), axis=0).tolist()
        findings.add(Pair(f"zorse-cephalo ratios of two GPUs, {dtype}", "time", predicted, measured, ref=f"{a} / {b}"))
