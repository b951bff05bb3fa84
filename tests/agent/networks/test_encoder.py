"""The graph encoder."""

import warnings

import pytest
import torch

from agent_problems import small_problem
from drlpp.agent.networks.encoder import EdgeConvolution, GraphEncoder, mlp
from drlpp.agent.view.features import problem_view


def test_shapes(view):
    e = GraphEncoder(8, 2)(view)
    assert e.ops.shape == (24, 8)
    assert e.ops_sum.shape == (25, 8)
    assert e.classes.shape == (3, 8)
    assert e.summary.shape == (8,)


def test_the_mean_of_a_window(view):
    e = GraphEncoder(8, 1)(view)
    mean = e.window_mean(torch.tensor([2.0]), torch.tensor([6.0]))
    torch.testing.assert_close(mean[0], e.ops[2:6].mean(0), rtol=1e-4, atol=1e-5)


def test_messages_go_along_and_against_the_edges(view):
    encoder = GraphEncoder(8, 1)
    before = encoder(view).ops
    arc = view.arcs[:, 0]
    for changed, reached in ((arc[0], arc[1]), (arc[1], arc[0])):
        features = view.op_features.clone()
        features[changed] += 1.0
        object.__setattr__(view, "op_features", features)
        assert not torch.allclose(encoder(view).ops[reached], before[reached])
        features[changed] -= 1.0


def test_without_layers_an_op_sees_itself_only(view):
    encoder = GraphEncoder(8, 0)
    before = encoder(view).ops
    features = view.op_features.clone()
    features[0] += 1.0
    object.__setattr__(view, "op_features", features)
    torch.testing.assert_close(encoder(view).ops[1:], before[1:])


def test_the_same_weights_serve_any_size():
    encoder = GraphEncoder(8, 2)
    for n in (2, 5, 60):
        assert encoder(problem_view(small_problem(0, n))).ops.shape == (n, 8)


@pytest.mark.slow
@pytest.mark.parametrize(("num_ops", "num_edges"), [(1, 0), (5, 8), (60, 300)])
def test_the_convolution_is_that_of_pytorch_geometric(num_ops, num_edges):
    with warnings.catch_warnings():  # its import scripts classes, which torch calls deprecated
        warnings.simplefilter("ignore")
        from torch_geometric.nn import GINEConv
    generator = torch.Generator().manual_seed(0)
    own, theirs = EdgeConvolution(16), GINEConv(mlp(16, 16, 16), edge_dim=2, aggr="mean")
    theirs.load_state_dict(own.state_dict())
    x, edges = torch.randn(num_ops, 16, generator=generator), torch.randn(num_edges, 2, generator=generator)
    arcs = torch.randint(num_ops, (2, num_edges), generator=generator)
    assert torch.equal(own(x, arcs, edges), theirs(x, arcs, edges))
