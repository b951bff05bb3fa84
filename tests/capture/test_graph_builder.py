from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from capture_models import NAMES, inputs_of
from drlpp.capture import capture_module
from drlpp.errors import CaptureError


def graph_of(module: nn.Module, *inputs: torch.Tensor):
    return capture_module(module, inputs).graph


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(F.relu(self.first(x))).square().mean()


def test_a_chain():
    graph = graph_of(Chain(), torch.ones(3, 4))
    assert [op.kind for op in graph.ops] == ["aten.linear", "aten.relu", "aten.linear", "aten.square", "aten.mean"]
    assert [op.module for op in graph.ops[:3]] == ["first", "", "second"]
    assert [(e.src, e.dst, e.tensor) for e in graph.edges[:2]] == [
        ("linear", "relu", "linear"),
        ("relu", "linear_1", "relu"),
    ]
    assert graph.tensor_bytes["linear"] == 3 * 6 * 4
    assert graph.param_bytes == {"first.weight": 96, "first.bias": 24, "second.weight": 48, "second.bias": 8}
    assert graph.samples_per_microbatch == 3
    assert graph.dtype == "float32"
    assert graph.ops[0].input_grad.flop == 0, "the input of the model needs no gradient"
    assert graph.ops[0].saved == ("x",)
    assert graph.ops[1].saved == ("relu",) == graph.ops[2].saved
    assert graph.ops[1].output_bytes == 72
    assert graph.ops[-1].output_bytes == 0


def test_every_node_belongs_to_one_op():
    for name in ("branchy", "in-place", "recurrent"):
        captured = capture_module(*inputs_of(name))
        members = [m for op in captured.graph.ops for m in op.members]
        nodes = [n.name for n in captured.module.graph.nodes if n.op == "call_function"]
        assert sorted(members) == sorted(nodes)
        assert {m: op.name for op in captured.graph.ops for m in op.members} == dict(captured.op_of_node)
        assert all(op.name in op.members for op in captured.graph.ops)


def test_tensors_without_a_gradient_are_marked():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mask = x > 0
            h = self.linear(x)
            with torch.no_grad():
                scale = h.mean() + 1
            return torch.where(mask, h.exp(), h.sin()).sum() * scale + h.detach().cos().sum()

    edges = {e.tensor: e.requires_grad for e in graph_of(Net(), torch.randn(2, 4)).edges}
    assert edges["linear"]
    assert edges["exp"]
    assert not edges["gt"]
    assert not edges["mean"]


def test_tied_parameters_have_one_name():
    captured = capture_module(*inputs_of("encoder-decoder"))
    assert "head.weight" not in captured.graph.param_bytes
    readers = [op for op in captured.graph.ops if "embedding.weight" in op.params]
    assert len(readers) == 3


def test_frozen_parameters_have_no_weight_gradient():
    module = Chain()
    module.second.requires_grad_(False)
    graph = graph_of(module, torch.ones(3, 4))
    assert graph.ops[2].weight_grad.flop == 0
    assert graph.ops[2].input_grad.flop > 0
    assert graph.ops[2].params == ("second.weight", "second.bias")
    assert graph.frozen == {"second.weight", "second.bias"}
    assert not graph_of(Chain(), torch.ones(3, 4)).frozen


def test_buffers_stay_with_the_ops_that_read_them():
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
    module.register_buffer("unread", torch.ones(100))
    graph = capture_module(module, (torch.ones(3, 4), torch.ones(3, 6)), nn.MSELoss()).graph
    sizes = {"1.running_mean": 24, "1.running_var": 24, "1.num_batches_tracked": 8}
    assert graph.buffer_bytes == sizes
    assert sum(len(op.buffers) for op in graph.ops) == len(sizes)
    assert set(graph.param_bytes).isdisjoint(sizes)


def test_branches_keep_their_edges():
    graph = capture_module(*inputs_of("branchy")).graph
    wide = [i for i, after in enumerate(graph.successors) if len(after) >= 4]
    assert len(wide) == 1, "the stem feeds three branches and the residual"
    assert any(len(before) == 3 for before in graph.predecessors), "the concatenation"


def test_two_sources():
    graph = capture_module(*inputs_of("two-towers")).graph
    kinds = [op.kind for op, before in zip(graph.ops, graph.predecessors, strict=True) if not before]
    assert {"aten.conv2d", "aten.embedding", "aten.exp"} <= set(kinds)


def test_memory_is_counted_once_however_it_is_shown():
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.linear(x).view(2, 2, 4).transpose(0, 1)
            return h.sin().sum() + h.cos().sum() + self.other(h.flatten(0, 1)).sum()

    graph = graph_of(Views(), torch.ones(4, 4))
    assert [op.saved for op in graph.ops if op.kind in ("aten.sin", "aten.cos")] == [("transpose",), ("transpose",)]
    assert {e.tensor for e in graph.edges if e.dst == "sin"} == {"transpose"}


def test_a_tensor_changed_in_place_by_one_with_a_gradient_has_one_from_then_on():
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scratch = torch.zeros(2, 4)
            scratch[:, 1:] = self.linear(x)[:, 1:]
            return scratch.exp().sum()

    graph = graph_of(Writes(), torch.ones(2, 4))
    (edge,) = [e for e in graph.edges if e.dst == "exp"]
    assert edge.requires_grad


def test_dtype_is_that_of_most_parameters():
    graph = graph_of(Chain().to(torch.float64), torch.ones(3, 4, dtype=torch.float64))
    assert graph.dtype == "float64"


def test_a_model_without_parameters():
    class Nothing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.exp().sum()

    graph = graph_of(Nothing(), torch.ones(2, 2))
    assert graph.param_bytes == {}
    assert all(op.input_grad.bytes == 0 for op in graph.ops)


@torch.library.custom_op("drlpp_test::odd", mutates_args=())
def odd(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


@odd.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def _no_backward(context: object, gradient: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("no shape\nrule here")


odd.register_autograd(_no_backward)


def test_an_operator_that_cannot_be_analysed_is_named():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return odd(x * self.scale).sum()

    with pytest.raises(CaptureError, match=r"'odd' \(drlpp_test\.odd\).*no shape rule here.*register_fake"):
        graph_of(Odd(), torch.ones(2))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "recurrent"])  # the workspace of an LSTM is estimated
def test_saved_bytes_are_those_of_the_whole_model(name):
    """Differential: all memory that autograd keeps in a real forward pass, without parameters and buffers."""
    captured = capture_module(*inputs_of(name))
    permanent = {t.untyped_storage().data_ptr() for t in captured.module.state_dict().values()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in permanent:
            kept[storage.data_ptr()] = storage  # stays alive, so that addresses are not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = captured.module(*captured.example_inputs.values())
    expected = sum(storage.nbytes() for storage in kept.values())
    assert sum(captured.graph.op_saved_bytes) == pytest.approx(expected, rel=0.02), loss
