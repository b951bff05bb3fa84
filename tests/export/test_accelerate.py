from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from drlpp.capture import capture_module
from drlpp.errors import PlanError
from drlpp.export.accelerate import accelerate
from drlpp.graph.generate.synthetic import chain_graph
from exported_models import (
    LanguageModel,
    capture_language_model,
    cluster,
    plan_by_labels,
    plan_by_modules,
)


class Feed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(x))


class Feeds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(Feed(), Feed())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Join(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 1)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.head(a + b)


class JoinedBranches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.join = Join()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.join(self.left(x), self.right(x))


def device_of(name: str, device_map: dict[str, int]) -> int:
    """The documented rule: the longest name in the map that the tensor's name begins with."""
    matches = [key for key in device_map if name == key or name.startswith(f"{key}.")]
    return device_map[max(matches, key=len)]


def expected_devices(plan) -> dict[str, int]:
    out: dict[str, int] = {}
    for stage in plan.stages:
        for name in stage.ops:
            for param in plan.graph.ops[plan.graph.index[name]].params:
                out.setdefault(param, stage.devices[0])
    return out


def test_every_parameter_is_where_its_stage_is(layered_plan):
    device_map = json.loads(accelerate(layered_plan))
    expected = expected_devices(layered_plan)
    assert set(expected) == set(LanguageModel().state_dict())
    assert {name: device_of(name, device_map) for name in expected} == expected
    assert device_map["layers.2"] == 0


def test_layers_may_be_split_where_no_residual_connection_spans_the_cut(language_model):
    graph = capture_module(Feeds(), [torch.ones(4, 8)], lambda out: out.square().mean()).graph
    plan = plan_by_modules(graph, ["layers.1.down"], [(0,), (1,)])
    device_map = json.loads(accelerate(plan))
    assert device_map == {"layers.0": 0, "layers.1.up": 0, "layers.1.down": 1}
    residual = plan_by_modules(language_model, ["layers.2.down"], [(0,), (1,)])
    with pytest.raises(PlanError, match=r"'layers\.2', split between devices, itself reads '.*' of device 0 in 'add"):
        accelerate(residual)


def test_branches_are_welcome_where_a_module_joins_them(branches):
    plan = plan_by_modules(branches, ["left", "right"], [(0,), (1,), (2,)])
    with pytest.raises(PlanError, match="'the model', split between devices, itself reads 'relu' of device 1"):
        accelerate(plan)
    joined = capture_module(JoinedBranches(), [torch.ones(4, 8)], lambda out: out.square().mean()).graph
    device_map = json.loads(accelerate(plan_by_modules(joined, ["left", "right", "join"], [(0,), (1,), (2,), (3,)])))
    assert device_map == {"stem": 0, "left": 1, "right": 2, "join": 3}


def test_the_package_itself_accepts_the_map(layered_plan):
    modeling = pytest.importorskip("accelerate.utils.modeling", reason="accelerate is not installed")
    modeling.check_device_map(LanguageModel(), json.loads(accelerate(layered_plan)))


def test_shared_parameters_stay_with_their_first_reader():
    plan = plan_by_modules(capture_language_model(shared=True), ["layers.3"], [(0,), (1,)])
    device_map = json.loads(accelerate(plan))
    assert device_of("embed.weight", device_map) == 0
    assert device_map["norm"] == 1


def test_replicas_are_refused(language_model):
    with pytest.raises(PlanError, match="stage 1 is on devices 1, 2"):
        accelerate(plan_by_modules(language_model, ["layers.3"], [(0,), (1, 2)]))


def test_devices_are_counted_on_their_host(language_model):
    plan = plan_by_modules(language_model, ["layers.3"], [(3,), (2,)], on=cluster(2, 2))
    device_map = json.loads(accelerate(plan))
    assert (device_map["embed"], device_map["head"]) == (1, 0)


def test_several_hosts_are_refused(language_model):
    plan = plan_by_modules(language_model, ["layers.3"], [(0,), (2,)], on=cluster(2, 2))
    with pytest.raises(PlanError, match="works on one host, but the plan uses hosts h0, h1"):
        accelerate(plan)


def test_graphs_without_modules_are_refused():
    with pytest.raises(PlanError, match="names none: capture a PyTorch model"):
        accelerate(plan_by_labels(chain_graph(4), [0, 0, 1, 1], [(0,), (1,)]))


def test_modules_with_parameters_stay_whole():
    from drlpp.graph import Edge, Op, OpGraph

    ops = (Op(name="a", kind="x", module="m", params=("m.w",)), Op(name="b", kind="x", module="m"))
    edges = (Edge(src="a", dst="b", tensor="t"),)
    graph = OpGraph(name="g", ops=ops, edges=edges, tensor_bytes={"t": 1.0}, param_bytes={"m.w": 4.0})
    with pytest.raises(PlanError, match="'m' runs on devices 0, 1"):
        accelerate(plan_by_labels(graph, [0, 1], [(0,), (1,)]))
