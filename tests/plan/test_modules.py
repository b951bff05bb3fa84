from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from drlpp.cluster import load_cluster
from drlpp.graph import Edge, Op, OpGraph
from drlpp.plan import Plan, Provenance, Stage
from drlpp.plan.modules import module_owners, prefixes, stage_modules, summarize_modules, top_level_unit
from drlpp.training import TrainingSetup


def plan_of(modules: list[str], labels: list[int]) -> Plan:
    """A chain of ops with these modules, in these stages."""
    ops = tuple(Op(name=f"op{i}", kind="x", module=m) for i, m in enumerate(modules))
    edges = tuple(Edge(src=f"op{i}", dst=f"op{i + 1}", tensor=f"t{i}") for i in range(len(ops) - 1))
    sizes = {f"t{i}": 1.0 for i in range(len(ops))}
    graph = OpGraph(name="g", ops=ops, edges=edges, tensor_bytes=sizes)
    stages = tuple(
        Stage(index=s, ops=tuple(o.name for o, at in zip(ops, labels, strict=True) if at == s), replicas=((s,),))
        for s in range(max(labels) + 1)
    )
    return Plan(
        graph=graph,
        cluster=load_cluster("local-4"),
        training=TrainingSetup(num_microbatches=1),
        stages=stages,
        schedule={},
        schedule_name="none",
        provenance=Provenance(planner="hand"),
    )


def test_the_largest_whole_modules_are_named():
    plan = plan_of(["stem.conv", "stem.bn", "layers.0.a", "layers.0.b", "layers.1.a", "head"], [0, 0, 0, 0, 1, 1])
    first, second = stage_modules(plan)
    assert first.whole == ("stem", "layers.0")
    assert second.whole == ("layers.1", "head")
    assert first.split == second.split == ()


def test_ops_of_a_module_that_is_elsewhere_too_are_a_part_of_it():
    plan = plan_of(["a.x", "a", "a.y", ""], [0, 0, 1, 1])
    first, second = stage_modules(plan)
    assert first.whole == ("a.x",)
    assert first.split == ("a",)
    assert second.whole == ("a.y",)
    assert second.num_unnamed_ops == 1


def test_owners():
    plan = plan_of(["a.x", "a.y", "b"], [0, 1, 1])
    assert module_owners(plan.graph, plan.stage_of_op.tolist()) == {"a": None, "a.x": 0, "a.y": 1, "b": 1}


def test_prefixes():
    assert prefixes("a.b.c") == ["a", "a.b", "a.b.c"]
    assert prefixes("") == []


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["blocks.0", "blocks.1", "blocks.2", "head"], "blocks.0-2, head"),
        (["blocks.0", "blocks.2"], "blocks.0, blocks.2"),
        (["conv1", "conv2", "bn2"], "conv1-2, bn2"),
        ([], ""),
    ],
)
def test_summary_joins_runs(names, text):
    assert summarize_modules(names) == text


def test_every_op_is_accounted_for():
    rng = np.random.default_rng(0)
    modules = [".".join(rng.choice(["a", "b", "0", "1"], rng.integers(0, 4))) for _ in range(60)]
    labels = np.sort(np.concatenate([[0, 1, 2], rng.integers(0, 3, 57)])).tolist()
    plan = plan_of(modules, labels)
    for stage, found in zip(plan.stages, stage_modules(plan), strict=True):
        for name in stage.ops:
            module = plan.graph.ops[plan.graph.index[name]].module
            covered = any(module == w or module.startswith(w + ".") for w in found.whole)
            assert covered or module in found.split or not module


def test_names_of_top_level_units():
    names = ["model.embed_tokens", "model.layers.0.a", "model.layers.1.a", "model.norm", "lm_head", ""]
    plan = plan_of(names, [0] * 6)
    ops = tuple(dataclasses.replace(op, params=(op.name,) if op.module else ()) for op in plan.graph.ops)
    unit = top_level_unit(dataclasses.replace(plan.graph, ops=ops, param_bytes={op.name: 1.0 for op in ops}))
    assert unit("model.embed_tokens") == "tok_embeddings"
    assert unit("model.layers.1.a.b") == "layers.1"
    assert unit("lm_head") == "lm_head"
    assert unit("model") is None
    assert unit("") is None
