from __future__ import annotations

import numpy as np

from drlpp.cluster import load_cluster
from drlpp.graph.generate.synthetic import random_graph
from drlpp.problem import PlanningProblem
from drlpp.report import graph_picture
from drlpp.report.graph_picture import stage_picture
from drlpp.report.stages import stage_rows
from hand_plans import make_plan


def test_boxes_carry_device_time_and_memory(plan):
    picture = stage_picture(plan, stage_rows(plan))
    assert [b["lines"][0]["text"] for b in picture["boxes"]] == [
        "Stage 0 · a100 #0", "Stage 1 · a100 #1", "Stage 2 · v100 #2", "Stage 3 · v100 #3-4",
    ]  # fmt: skip
    assert [len(b["stripes"]) for b in picture["boxes"]] == [1, 1, 1, 2]
    assert "2 ops · F " in picture["boxes"][1]["lines"][2]["text"]


def test_edges_carry_bytes_and_say_which_cross_the_network(plan):
    edges = {e["title"].split(":")[0]: e for e in stage_picture(plan, stage_rows(plan))["edges"]}
    assert set(edges) == {f"stage {a} to stage {b}" for a, b in ((0, 1), (0, 2), (1, 3), (2, 3))}
    assert edges["stage 0 to stage 1"]["label"] == "1 MB"
    assert not edges["stage 0 to stage 1"]["network"]
    assert edges["stage 0 to stage 2"]["network"]


def test_of_very_many_edges_the_largest_are_shown(monkeypatch):
    graph = random_graph(np.random.default_rng(0), 40, skips=0.9)
    problem = PlanningProblem.build(graph, load_cluster("mixed-a100-v100-t4"))
    plan = make_plan(problem, [min(i // 5, 7) for i in range(40)], [(i,) for i in range(8)], "hand")
    everything = stage_picture(plan, stage_rows(plan))
    monkeypatch.setattr(graph_picture, "MAX_EDGES", 6)
    some = stage_picture(plan, stage_rows(plan))
    assert len(some["edges"]) == 6 < len(everything["edges"])
    assert f"The 6 largest of {len(everything['edges'])} edges are shown." in some["caption"]
