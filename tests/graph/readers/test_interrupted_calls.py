"""Traces of models that compute parts again in the backward pass, against those of the same models that do not."""

import warnings

import pytest
import torch
from torch import nn
from torch.profiler import ExecutionTraceObserver, ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from drlpp.graph.readers import read_graph
from drlpp.graph.readers.interrupted_calls import parents


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


class Stack(nn.Module):
    """Blocks, each computed again in the backward pass in the given way; None for not at all."""

    def __init__(self, reentrant):
        super().__init__()
        self.first, self.blocks, self.reentrant = nn.Linear(8, 8), nn.ModuleList(Block() for _ in range(3)), reentrant

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant)
        return x.square().mean()


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """Way, kind of trace -> graph."""
    folder, found = tmp_path_factory.mktemp("traces"), {}
    for way in (None, False, True):
        model, x = Stack(way), torch.randn(4, 8)
        model(x).backward()
        observer = ExecutionTraceObserver().register_callback(str(folder / "et.json"))
        with (
            warnings.catch_warnings(action="ignore"),
            profile(activities=[ProfilerActivity.CPU], record_shapes=True, execution_trace_observer=observer) as prof,
        ):
            model(x).backward()
        prof.export_chrome_trace(str(folder / "kineto.json"))
        for kind in ("et.json", "kineto.json"):
            found[way, kind] = read_graph(folder / kind)
        found[way, "both"] = read_graph(f"{folder}/et.json+{folder}/kineto.json")
    return found


def work(graph):
    """Of each op: bytes of its parameters, FLOP of its forward and its backward pass."""
    return [
        (sum(graph.param_bytes[p] for p in op.params), op.forward.flop, op.input_grad.flop + op.weight_grad.flop)
        for op in graph.ops
    ]


@pytest.mark.parametrize("kind", ["et.json", "kineto.json", "both"])
def test_what_is_computed_again_is_no_work_of_the_backward_pass(graphs, kind):
    assert work(graphs[False, kind]) == work(graphs[None, kind])


def test_times_of_an_interrupted_trace_are_those_of_its_calls(graphs):
    """An op with a backward pass was measured to have one, wherever the observer put its calls."""
    graph = graphs[False, "both"]
    linear = [op for op in graph.ops if op.kind == "aten.linear"]
    assert len(linear) == 7
    assert all(op.times["reference"].weight_grad_s > 0 for op in linear)


@pytest.mark.parametrize("kind", ["et.json", "kineto.json", "both"])
def test_a_checkpoint_with_a_backward_pass_of_its_own_is_one_op(graphs, kind):
    graph, plain = graphs[True, kind], graphs[None, kind]
    assert sum(graph.param_bytes.values()) == sum(plain.param_bytes.values())
    for place in (1, 2):
        assert sum(w[place] for w in work(graph)) == sum(w[place] for w in work(plain))
    assert sum(op.kind == "CheckpointFunction" for op in graph.ops) == 3


def node(number, parent, name, sequence=-1):
    return {"id": number, "ctrl_deps": parent, "name": name}, sequence


def test_what_follows_an_interrupted_call_lies_in_the_function_that_was_at_work():
    nodes, sequences = zip(
        node(1, 1, "[process]"),
        node(2, 1, "autograd::engine::evaluate_function: MmBackward0"),
        node(3, 2, "MmBackward0", 5),
        node(4, 3, "aten::relu", 9),
        node(6, 5, "aten::view", 10),  # in call 5, which was interrupted
        node(7, 5, "aten::mm"),
        node(8, 3, "autograd::engine::evaluate_function: AddBackward0"),
        node(9, 8, "AddBackward0", 4),
        strict=True,
    )
    assert parents(nodes, [1] * 8, sequences) == [-1, 0, 1, 2, 2, 2, 0, 6]


def test_a_call_whose_parent_is_missing_in_the_forward_pass_stands_alone():
    nodes, sequences = zip(node(1, 1, "[process]"), node(3, 2, "aten::mm", 1), node(4, 3, "aten::t"), strict=True)
    assert parents(nodes, [1] * 3, sequences) == [-1, -1, 1]
