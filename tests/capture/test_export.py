from __future__ import annotations

import pytest
import torch
from torch import nn

from capture_models import inputs_of
from drlpp.capture.export import export_module, module_path
from drlpp.errors import CaptureError


class Modes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            scale = x.abs().mean()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.linear(x)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            y = y + self.linear(x).detach()
        return (y.float() * scale).sum()


def test_modes_become_notes_on_nodes():
    exported = export_module(Modes(), (torch.randn(2, 3),), {})
    nodes = {n.name: n for n in exported.module.graph.nodes}
    kinds = {name: str(nodes[name].target) for name in exported.no_grad}
    assert {"aten.abs.default", "aten.mean.default"} <= set(kinds.values())
    linears = [n for n, node in nodes.items() if "linear.default" in str(node.target)]
    assert len(linears) == 2
    assert [n in exported.no_grad for n in linears] == [False, True]
    assert all(exported.autocast[n][:2] == ("cpu", torch.bfloat16) for n in linears)
    assert not any("autocast" in str(n.target) or "grad_enabled" in str(n.target) for n in nodes.values())


def test_parameters_keep_their_names_and_ties():
    module, inputs, loss_fn = inputs_of("encoder-decoder")
    exported = export_module(module, (), inputs, loss_fn)
    names = dict(exported.module.named_parameters())
    assert names["embedding.weight"] is module.embedding.weight
    assert "head.weight" not in names
    assert exported.aliases == {"head.weight": "embedding.weight"}
    assert set(names) == {n for n, _ in module.named_parameters()}


def test_every_attribute_is_read_once():
    module, inputs, loss_fn = inputs_of("encoder-decoder")
    targets = [n.target for n in export_module(module, (), inputs, loss_fn).module.graph.nodes if n.op == "get_attr"]
    assert len(targets) == len(set(targets))


def test_an_input_given_twice_stays_two_inputs():
    class Product(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (a * b).sum()

    x = torch.ones(2, requires_grad=True)
    exported = export_module(Product(), (x, x), {})
    assert list(exported.example_inputs) == ["a", "b"]
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    assert float(exported.module(a, b)) == 11.0


def test_inputs_that_are_no_tensors_are_fixed():
    class Power(nn.Module):
        def forward(self, x: torch.Tensor, options: dict[str, int], flag: bool) -> torch.Tensor:
            return (x ** options["n"]).sum() if flag else x.sum()

    exported = export_module(Power(), (torch.tensor([2.0]), {"n": 3}, True), {})
    assert list(exported.example_inputs) == ["x"]
    assert float(exported.module(torch.tensor([3.0]))) == 27.0


def test_unused_inputs_are_left_out():
    class Ignores(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x.sum()

    assert list(export_module(Ignores(), (torch.ones(1), torch.ones(1)), {}).example_inputs) == ["x"]


def test_the_whole_graph_computes_the_same_as_the_module():
    module, (images, labels), loss_fn = inputs_of("branchy")
    expected = loss_fn(module.train()(images), labels)
    module.load_state_dict(module.state_dict())
    exported = export_module(module, (images, labels), {}, loss_fn)
    torch.testing.assert_close(exported.module(images, labels), expected)


def test_module_paths_are_those_of_the_users_module():
    module, inputs, loss_fn = inputs_of("branchy")
    paths = {
        module_path(n) for n in export_module(module, inputs, {}, loss_fn).module.graph.nodes if n.op == "call_function"
    }
    assert {"stem.0", "left.1", "head"} <= paths


def test_random_distributions_do_not_check_their_arguments():
    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x + torch.distributions.Normal(x.mean(), torch.ones(())).sample()).sum()

    export_module(Noisy(), (torch.ones(2),), {})
    with pytest.raises(ValueError, match="constraint"):
        torch.distributions.Normal(torch.tensor(0.0), torch.tensor(-1.0))


def test_control_flow_in_the_graph_is_refused():
    class Conditional(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y + 1, (x,)).sum()

    with pytest.raises(CaptureError, match="plain tensor operators"):
        export_module(Conditional(), (torch.ones(2),), {})


@pytest.mark.parametrize("trained", [True, False])
def test_states_of_an_lstm_have_the_shape_that_they_have(trained):
    class LastState(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(6, 8, num_layers=2, bidirectional=True).requires_grad_(trained)
            self.head = nn.Linear(8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.lstm(x)[1][0]).sum()

    model, inputs = LastState(), (torch.randn(5, 3, 6),)
    exported = export_module(model, inputs, {})
    (states,) = [n for n in exported.module.graph.nodes if "getitem" in n.name and n.users]
    assert states.meta["val"].shape == model.lstm(*inputs)[1][0].shape
