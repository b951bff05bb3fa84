from __future__ import annotations

import re

from drlpp.export.graphviz import op_dot, stage_dot
from exported_models import plan_by_modules


def test_stages_and_their_messages(branches):
    plan = plan_by_modules(branches, ["left", "right", "add"], [(0,), (1,), (2,), (3,)])
    text = stage_dot(plan)
    assert set(re.findall(r"s(\d) -> s(\d)", text)) == {("0", "1"), ("0", "2"), ("1", "3"), ("2", "3")}
    assert text.count("color=") == 4
    assert "stage 1: 2 ops\\nd #1" in text
    assert text.count("{") == text.count("}") == 1


def test_ops_are_in_the_box_of_their_stage(layered_plan):
    text = op_dot(layered_plan)
    boxes = re.findall(r"subgraph cluster_(\d+) \{(.*?)\n  \}", text, re.S)
    for stage, (index, body) in zip(layered_plan.stages, boxes, strict=True):
        assert int(index) == stage.index
        assert re.findall(r'^    "([^"]+)";$', body, re.M) == list(stage.ops)
    arcs = {(e.src, e.dst) for e in layered_plan.graph.edges}
    assert len(re.findall(r" -> ", text)) == len(arcs)
