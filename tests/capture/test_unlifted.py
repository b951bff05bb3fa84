"""What torch.export lifts to inputs is read as attributes again."""

import time

import pytest
import torch
from torch import nn

from drlpp.capture import capture_module
from drlpp.capture.unlifted import set_attribute, unlifted


class Net(nn.Module):
    """A parameter, a buffer that is changed, one that is not saved, a constant and a region without gradients."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("scale", torch.ones(3), persistent=False)

    def forward(self, x, *, twice=False):
        self.count.add_(1)
        with torch.no_grad():
            shift = self.inner.weight.sum() + torch.tensor([1.0, 2.0, 3.0])
        y = self.inner(x) * self.scale + shift
        return (y * 2 if twice else y), y.mean()


def test_the_graph_reads_attributes_and_takes_what_the_user_gives():
    net, x = Net(), torch.randn(2, 3)
    program = torch.export.export(net, (x,), {"twice": True}, strict=False)
    module = unlifted(program)
    nodes = list(module.graph.nodes)
    assert [n.name for n in nodes if n.op == "placeholder"] == ["x", "twice"]
    read = {n.target for n in nodes if n.op == "get_attr"}
    assert {"inner.weight", "inner.bias", "count", "scale"} <= read
    assert module.inner.weight is net.inner.weight
    (output,) = (n for n in nodes if n.op == "output")
    assert len(output.args[0]) == 2
    module.graph.lint()


def test_modules_on_the_way_are_made():
    root = nn.Module()
    set_attribute(root, "a.b.weight", nn.Parameter(torch.ones(2)))
    set_attribute(root, "a.table", torch.ones(3))
    assert [n for n, _ in root.named_parameters()] == ["a.b.weight"]
    assert [n for n, _ in root.named_buffers()] == ["a.table"]


@pytest.mark.slow
def test_the_time_of_a_capture_grows_with_the_layers_and_not_with_their_square():
    def seconds(layers):
        net = nn.Sequential(*[nn.Linear(4, 4) for _ in range(layers)])
        start = time.process_time()
        capture_module(net, torch.randn(2, 4), lambda y: y.square().mean())
        return time.process_time() - start

    seconds(2)  # loads what torch.export needs
    assert seconds(400) < 12 * seconds(100)
