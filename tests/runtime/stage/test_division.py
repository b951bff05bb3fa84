"""What has to be moved follows from the splits; what a member cannot do is refused before it runs."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from drlpp.capture.cuts import PARTIAL, Cut
from drlpp.errors import PlanError
from drlpp.runtime.stage.division import DividedCalls, GroupDivision, Ways, fits, local_shape
from drlpp.runtime.stage.moves import Members
from drlpp.runtime.stage.randomness import RandomContext

aten = torch.ops.aten


def test_shapes_of_parts() -> None:
    assert local_shape((4, 12), Cut(1), 2) == (4, 6)
    assert local_shape((4, 12), PARTIAL, 2) == local_shape((4, 12), None, 2) == (4, 12)
    assert fits((4, 12), Cut(1, (4,)), 2)
    assert not fits((4, 12), Cut(1, (3,)), 2)
    assert not fits((4, 10), Cut(1, (4,)), 2)
    assert fits((5,), None, 2)


def graph_of(*shape: int) -> tuple[fx.Graph, fx.Node]:
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.zeros(shape)
    return graph, x


def calls(ways: Ways, copies: dict[fx.Node, fx.Node]) -> DividedCalls:
    graph = fx.Graph()
    for node in list(copies):
        copies[node] = graph.placeholder(node.name)
    return DividedCalls(GroupDivision(Members(None, 2, 0), ways, {}, ()), graph, nn.Module(), copies, RandomContext(0))


def test_a_part_of_another_shape_is_refused() -> None:
    graph, x = graph_of(4, 6)
    node = graph.call_function(aten.mean.dim, (x, [1]))
    node.meta["val"] = torch.zeros(4)
    wrong = Ways({node.name: {x: Cut(1)}}, {node.name: Cut(0)})
    with pytest.raises(PlanError, match=r"op 'mean_dim' cannot be divided among 2 devices as planned: .*not \[2\]"):
        calls(wrong, {x: x}).add(node, records=True)


def test_tuples_are_not_moved() -> None:
    graph, x = graph_of(4, 6)
    parts = graph.call_function(aten.chunk.default, (x, 2))
    parts.meta["val"] = torch.zeros(4, 6).chunk(2)
    divided = calls(Ways({parts.name: {x: Cut(1)}}, {parts.name: Cut(1)}), {x: x})
    copied = divided.add(parts, records=True)
    assert copied is not None
    divided._copies[parts] = copied  # type: ignore[index]
    with pytest.raises(PlanError, match="op 'chunk_default' gives several tensors"):
        divided.operand(parts, None, divided=False, records=True)
