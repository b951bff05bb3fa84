from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from drlpp.capture.calls import Argument, Call, call_of, distinct_bytes, is_getitem, kind_of
from drlpp.capture.export import export_module


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.linear(x).split([1, 3], dim=1)
        c = self.linear(x) * 2.0
        return (torch.cat([a, b, a], dim=1)).sum() + c.mul_(c).sum()


@pytest.fixture(scope="module")
def nodes() -> dict[str, fx.Node]:
    return {n.name: n for n in export_module(Net(), (torch.ones(2, 4),), {}).module.graph.nodes}


def call(node: fx.Node) -> Call:
    return call_of(
        node, requires_grad=lambda n: n.op != "placeholder", is_param=lambda n: n.op == "get_attr", grad_enabled=True
    )


def test_arguments(nodes):
    linear = call(nodes["linear"])
    assert linear.args == (Argument(0), Argument(1), Argument(2))
    assert [s.shape for s in linear.tensors] == [(2, 4), (4, 4), (4,)]
    assert [s.requires_grad for s in linear.tensors] == [False, True, True]
    assert [s.is_param for s in linear.tensors] == [False, True, True]
    assert linear.sources[0] is nodes["x"]


def test_a_tensor_given_twice_is_one_argument(nodes):
    cat = call(nodes["cat"])
    assert cat.args == ([Argument(0), Argument(1), Argument(0)], 1)
    changing = call(nodes["mul_"])
    assert changing.args == (Argument(0), Argument(0))
    assert changing.tensors[0].changed


def test_equal_calls_have_equal_keys(nodes):
    assert call(nodes["linear"]).key == call(nodes["linear_1"]).key
    assert call(nodes["linear"]).key != call(nodes["mul"]).key


def test_gradients_are_part_of_the_key(nodes):
    without = call_of(nodes["linear"], requires_grad=lambda n: True, is_param=lambda n: False, grad_enabled=False)
    assert not any(s.requires_grad for s in without.tensors)
    assert without.key != call(nodes["linear"]).key


def test_calls_run_on_any_tensors(nodes):
    mul = call(nodes["mul"])
    assert mul.run((torch.full((2, 4), 3.0),)).tolist() == [[6.0] * 4] * 2


def test_kinds(nodes):
    assert kind_of(nodes["linear"]) == "aten.linear"
    assert kind_of(nodes["getitem"]) == "getitem"
    assert is_getitem(nodes["getitem"])
    assert not is_getitem(nodes["linear"])


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.Conv2d(3, 6, 3), "aten.conv2d.3x3"),
        (nn.Conv2d(3, 6, 5, padding=2), "aten.conv2d.5x5"),
        (nn.Conv2d(3, 6, 1), "aten.conv2d"),
        (nn.Conv2d(3, 6, 3, stride=2), "aten.conv2d"),
        (nn.Conv2d(3, 6, 3, dilation=2), "aten.conv2d"),
        (nn.Conv2d(3, 6, 3, groups=3), "aten.conv2d.grouped"),
        (nn.Conv2d(3, 6, 3).to(memory_format=torch.channels_last), "aten.conv2d.channels_last"),
        (nn.Conv2d(3, 6, 3, groups=3).to(memory_format=torch.channels_last), "aten.conv2d.grouped"),
        (nn.Conv2d(3, 6, (1, 5)), "aten.conv2d"),
        (nn.Conv2d(3, 6, 3, padding="same"), "aten.conv2d.3x3"),
        (nn.Conv1d(3, 6, 3), "aten.conv1d"),
    ],
)
def test_kinds_of_convolutions_tell_those_with_fast_algorithms(layer, kind):
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).sum()

    x = torch.ones((1, 3, 8) if isinstance(layer, nn.Conv1d) else (1, 3, 8, 8))
    calls = [n for n in export_module(Sum(), (x,), {}).module.graph.nodes if n.op == "call_function"]
    assert kind_of(calls[0]) == kind


def test_broadcast_dimensions_count_once():
    assert distinct_bytes(torch.ones(5, 1).expand(5, 1000)) == 5 * 4
    assert distinct_bytes(torch.ones(5, 3)[:, :2]) == 10 * 4
