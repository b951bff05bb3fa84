"""Plan files: what is written is read again, and bad files are refused in one line."""

import dataclasses

import pytest

from chain_plans import chain_plan
from drlpp.errors import PlanError
from drlpp.graph import Op, OpGraph
from drlpp.plan import (
    Prediction,
    Stage,
    load_plan,
    plan_from_dict,
    plan_to_dict,
    save_plan,
)
from mutations import edited


def test_file_round_trip(tmp_path):
    prediction = Prediction(
        iteration_time_s=1.0,
        bottleneck_s=0.5,
        throughput_samples_per_s=2.0,
        peak_memory_bytes=(1.0, 2.0),
        bubble_fraction=(0.1, 0.2),
    )
    plan = dataclasses.replace(chain_plan(), prediction=prediction)
    save_plan(plan, tmp_path / "p.json")
    assert load_plan(tmp_path / "p.json") == plan


def test_files_list_the_names_of_the_source():
    graph = OpGraph(
        name="g",
        ops=(Op(name="a", kind="k", members=("x", "y")), Op(name="b", kind="k")),
        edges=(),
        tensor_bytes={},
    )
    plan = dataclasses.replace(chain_plan(), graph=graph, stages=(Stage(index=0, ops=("a", "b"), replicas=((0,),)),))
    data = plan_to_dict(plan)
    assert data["stages"][0]["ops"] == ["x", "y", "b"]
    assert plan_from_dict(data).stages[0].ops == ("a", "b")
    data["stages"][0]["ops"] = ["x", "b"]
    with pytest.raises(PlanError, match="'x' but not 'y': these must stay together"):
        plan_from_dict(data)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["schema_version"], 9, "schema_version 9"),
        (["format"], "other", "format is 'other'"),
        (["speed"], 1, "unknown key 'speed'"),
        (["stages"], None, "key 'stages' is missing"),
        (["graph", "hash"], "0", "graph.hash does not match"),
        (["graph", "content", "ops", 0, "kind"], "x", "graph.hash does not match"),
        (["stages", 0, "ops", 0], "op9", "no such op"),
        (["stages", 0, "replicas"], [[9]], "p.json: stage 0 is on device 9"),
        (["schedule", "0", 0], "zero", "'zero' is not an action"),
        (["num_microbatches"], 0, "at least 1"),
        (["training", "optimizer"], "magic", "'magic' is not known"),
        (["cluster", "hosts"], [], "hosts"),
        (["provenance", "mood"], "good", "unknown key .provenance.mood."),
    ],
)
def test_bad_files_are_refused(path, value, message):
    with pytest.raises((PlanError, ValueError), match=message) as caught:
        plan_from_dict(edited(plan_to_dict(chain_plan()), path, value), "p.json")
    assert str(caught.value).startswith("p.json")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(PlanError, match="cannot read plan file"):
        load_plan(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(PlanError, match="not JSON"):
        load_plan(tmp_path / "bad.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(PlanError, match="found a list"):
        load_plan(tmp_path / "list.json")
