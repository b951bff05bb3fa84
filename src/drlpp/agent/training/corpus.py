"""The corpus that the policy is pre-trained on: drawn graphs x drawn clusters, split by family and by cluster kind.

A family of graphs and a kind of cluster belong to one split, so that validation and test say how the policy does on
families and clusters that it has never seen. Memory, micro-batches and optimizer vary too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from drlpp.cluster import Cluster
from drlpp.cluster.generate import CLUSTER_KINDS
from drlpp.cost.optimizer_state import op_resident_bytes
from drlpp.graph import OpGraph
from drlpp.graph.generate.families import FAMILIES
from drlpp.plan import Objective
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
_TIGHT = 0.25
"""Part of the problems whose memory is scaled so that it matters."""
_MAX_MICROBATCHES = 64


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
