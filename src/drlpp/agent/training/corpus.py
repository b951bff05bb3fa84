"""The corpus that the policy is pre-trained on: drawn graphs x drawn clusters, split by family and by cluster kind.

A family of graphs and a kind of cluster belong to one split, so that validation and test say how the policy does on
families and clusters that it has never seen. Memory, micro-batches and optimizer vary too.

There are two scales. Of the large one are large models and branchy graphs on up to 512 unequal devices, with groups of
devices that divide ops, ZeRO-1, shares, and a micro-batch size: one variant (`drlpp.planners.variants`) of each drawn
problem, as the planner is asked about them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from drlpp.cluster import Cluster
from drlpp.cluster.generate import CLUSTER_KINDS, pods
from drlpp.cost.optimizer_state import op_resident_bytes
from drlpp.graph import OpGraph
from drlpp.graph.generate.families import FAMILIES
from drlpp.graph.generate.large_models import clip, decoder, vision_language
from drlpp.graph.generate.synthetic import random_graph
from drlpp.plan import Objective
from drlpp.planners.variants import variants_of
from drlpp.problem import PlanningProblem

Split = Literal["train", "validation", "test"]

GRAPH_SPLITS: Mapping[Split, tuple[str, ...]] = {
    "train": ("transformer", "encoder-decoder", "vgg", "resnet", "densenet", "recommender", "random"),
    "validation": ("inception", "unet"),
    "test": ("nasnet", "two-tower"),
}
CLUSTER_SPLITS: Mapping[Split, tuple[str, ...]] = {
    "train": ("one-host", "two-tier", "mixed-hosts"),
    "validation": ("mixed-in-host",),
    "test": ("desktops", "uneven-hosts"),
}
LARGE_GRAPH_SPLITS: Mapping[Split, tuple[str, ...]] = {
    "train": ("decoder", "clip", "dag", "transformer", "densenet", "recommender"),
    "validation": ("vision-language", "unet"),
    "test": ("mixture", "nasnet"),
}
LARGE_CLUSTER_SPLITS: Mapping[Split, tuple[str, ...]] = {
    "train": ("racks",),
    "validation": ("mixed-racks",),
    "test": ("pods",),
}
_TIGHT = 0.25
"""Part of the problems whose memory is scaled so that it matters."""
_MAX_MICROBATCHES = 64
_WHOLE_SPACE = frozenset({"pp", "dp", "tp", "sp", "zero1"})
_EQUAL_GROUPS = 0.6
"""Part of the large problems in which all groups of devices have one size, or none is formed."""
_FEW, _MANY = 4, 256
"""Micro-batches of a large problem."""
_SIZES = 3
"""Of the micro-batch sizes that lead to as many, the smallest are drawn from."""
_MOST_GROUPS = 160
"""Devices and groups of a large problem."""
_ROOM = 0.6
"""Part of all memory that one copy of the model and a micro-batch take at most."""


TRAINING_MODELS = (
    "timm:resnet50?batch_size=16",
    "timm:resnet101?batch_size=8",
    "timm:resnet18?batch_size=32",
    "timm:resnext50_32x4d?batch_size=8",
    "timm:vgg16?batch_size=16",
    "timm:vgg11?batch_size=32",
    "timm:densenet121?batch_size=16",
    "timm:mobilenetv3_large_100?batch_size=32",
    "timm:vit_base_patch16_224?batch_size=8",
    "timm:vit_small_patch16_224?batch_size=16",
    "timm:mixer_b16_224?batch_size=8",
    "transformers:BertModel",
    "transformers:DistilBertForMaskedLM",
    "transformers:GPT2LMHeadModel",
    "transformers:GPT2LMHeadModel?n_layer=6&n_embd=512&n_head=8",
    "transformers:T5ForConditionalGeneration",
    "transformers:BartForConditionalGeneration",
)
"""Real models, of families of the training split; `drlpp train-policy` captures them."""


def draw_problem(
    rng: np.random.Generator, split: Split, captured: Sequence[OpGraph] = (), clusters: Sequence[str] = ()
) -> PlanningProblem:
    """Draws a problem.

    Args:
        captured: graphs of real models; where there are any, two in five draws take one.
        clusters: only these kinds of the split's clusters; empty for all of them.
    """
    if captured and rng.random() < 0.4:
        graph = captured[int(rng.integers(len(captured)))]
    else:
        graph = FAMILIES[str(rng.choice(GRAPH_SPLITS[split]))](rng)
    cluster = CLUSTER_KINDS[str(rng.choice(clusters or CLUSTER_SPLITS[split]))](rng)
    devices = cluster.num_devices
    microbatches = int(np.clip(round(devices * 2 ** rng.uniform(-0.5, 2.5)), 4, _MAX_MICROBATCHES))
    optimizer = str(rng.choice(["sgd", "momentum", "adamw"]))
    objective = Objective.STEADY_STATE if rng.random() < 0.1 else Objective.ITERATION_TIME
    problem = PlanningProblem.build(
        graph, cluster, num_microbatches=microbatches, optimizer=optimizer, objective=objective
    )
    if rng.random() < _TIGHT:
        problem = dataclasses.replace(problem, cluster=_tight(problem, rng.uniform(1.2, 4.0)))
    return problem


def draw_large_problem(rng: np.random.Generator, split: Split) -> PlanningProblem:
    """Draws a variant of a large problem; its devices have the memory for one copy of the model."""
    while True:
        graph = _LARGE_FAMILIES[str(rng.choice(LARGE_GRAPH_SPLITS[split]))](rng)
        cluster = _LARGE_CLUSTERS[str(rng.choice(LARGE_CLUSTER_SPLITS[split]))](rng)
        optimizer = str(rng.choice(["momentum", "adamw", "adamw"]))
        problem = PlanningProblem.build(
            graph,
            cluster,
            global_batch=graph.samples_per_microbatch * 2 ** int(rng.integers(5, 10)),
            optimizer=optimizer,
            precision="bf16",
        ).with_parallelism(_WHOLE_SPACE)
        variants = variants_of(problem)
        equal = rng.random() < _EQUAL_GROUPS
        number = variants.groupings.equal if equal else len(variants.groupings)
        sizes = [k for k, s in enumerate(variants.sizes) if _FEW <= problem.global_batch // s <= _MANY]
        if not sizes:
            continue
        variant = variants.problem(int(rng.choice(sizes[:_SIZES])), int(rng.integers(number)))
        held = op_resident_bytes(variant.graph, variant.training).sum() + variant.graph.op_saved_bytes.sum()
        room = _ROOM * float(variant.cluster.memory_bytes.sum())
        if variant.cluster.num_devices <= _MOST_GROUPS and held < room:
            return variant


def _drawn_decoder(rng: np.random.Generator, experts: int = 0) -> OpGraph:
    hidden = int(rng.choice([1024, 2048, 3072, 4096, 5120, 7168]))
    return decoder(
        layers=int(rng.integers(10, 65)),
        hidden=hidden,
        heads=hidden // 128,
        kv_heads=8,
        ffn=hidden * int(rng.choice([3, 4])),
        vocab=int(rng.choice([32000, 50304, 128256])),
        seq_len=int(rng.choice([1024, 2048, 4096])),
        experts=experts,
    )


def _drawn_vision_language(rng: np.random.Generator) -> OpGraph:
    hidden = int(rng.choice([2048, 4096, 8192]))
    return vision_language(1, int(rng.integers(12, 46)), int(rng.integers(16, 65)), hidden, hidden // 128)


_LARGE_FAMILIES: Mapping[str, Callable[[np.random.Generator], OpGraph]] = {
    **FAMILIES,
    "decoder": _drawn_decoder,
    "mixture": lambda rng: _drawn_decoder(rng, experts=8),
    "clip": lambda rng: clip(int(2 ** rng.integers(0, 4)), int(rng.integers(12, 49)), int(rng.integers(12, 33))),
    "vision-language": _drawn_vision_language,
    "dag": lambda rng: random_graph(rng, int(rng.integers(200, 1500))),
}


def _drawn_pods(rng: np.random.Generator) -> Cluster:
    kinds, mixed = int(rng.integers(2, 5)), int(rng.integers(2))
    return pods(8 * kinds * int(2 ** rng.integers(1, 5)), kinds, int(rng.integers(5 - kinds)), mixed)


_LARGE_CLUSTERS: Mapping[str, Callable[[np.random.Generator], Cluster]] = {**CLUSTER_KINDS, "pods": _drawn_pods}


def _tight(problem: PlanningProblem, slack: float) -> Cluster:
    """The cluster with memories such that all devices together have `slack` times what one copy needs."""
    graph, cluster = problem.graph, problem.cluster
    need = op_resident_bytes(graph, problem.training).sum() + graph.op_saved_bytes.sum()
    factor = slack * float(need) / float(cluster.memory_bytes.sum())
    types = tuple(
        dataclasses.replace(t, memory_bytes=max(1, round(t.memory_bytes * min(factor, 1.0))))
        for t in cluster.device_types
    )
    return dataclasses.replace(cluster, device_types=types)
