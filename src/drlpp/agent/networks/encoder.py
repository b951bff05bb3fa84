"""The graph encoder: embeddings of ops by message passing in both directions, of device classes, and of the whole.

Each layer is two GINE convolutions (Hu et al., ICLR 2020, "Strategies for Pre-training Graph Neural Networks"; here
with the mean of messages), one along the edges and one against them, with a residual connection and layer norm.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from drlpp.agent.view.features import (
    NUM_DEVICE_FEATURES,
    NUM_EDGE_FEATURES,
    NUM_OP_FEATURES,
    NUM_PROBLEM_FEATURES,
    ProblemView,
)


@dataclasses.dataclass(frozen=True)
class Encoding:
    """Embeddings of a problem.

    Attributes:
        ops: ``[n, H]``.
        ops_sum: ``[n + 1, H]`` prefix sums in the graph's own order, for means over windows.
        classes: ``[C, H]`` device classes.
        summary: ``[H]`` the whole problem.
    """

    ops: Tensor
    ops_sum: Tensor
    classes: Tensor
    summary: Tensor

    def window_mean(self, start: Tensor, end: Tensor) -> Tensor:
        """Mean op embedding between positions (with a fractional part) of any shape ``[...]``: ``[..., H]``."""
        high, low = self._at(torch.maximum(end, start + 1.0)), self._at(start)
        return (high - low) / torch.clamp(end - start, min=1.0).unsqueeze(-1)

    def _at(self, position: Tensor) -> Tensor:
        last = self.ops_sum.shape[0] - 1
        position = torch.clamp(position, 0.0, float(last))
        floor = torch.clamp(position.long(), max=last - 1)
        part = (position - floor).unsqueeze(-1)
        return self.ops_sum[floor] * (1.0 - part) + self.ops_sum[floor + 1] * part


class GraphEncoder(nn.Module):
    """Encodes a problem.

    Args:
        width: H.
        num_layers: rounds of message passing in both directions; 0 uses each op's own features only.

    Shapes: see `ProblemView` and `Encoding`.
    """

    def __init__(self, width: int, num_layers: int) -> None:
        super().__init__()
        self.op_in = mlp(NUM_OP_FEATURES, width, width)
        self.along = nn.ModuleList(EdgeConvolution(width) for _ in range(num_layers))
        self.against = nn.ModuleList(EdgeConvolution(width) for _ in range(num_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(num_layers))
        self.device_in = mlp(NUM_DEVICE_FEATURES, width, width)
        self.problem_in = nn.Linear(NUM_PROBLEM_FEATURES, width)
        self.summary_out = mlp(4 * width, width, width)

    def forward(self, view: ProblemView) -> Encoding:
        x = self.op_in(view.op_features)
        arcs, edges = view.arcs, view.edge_features
        for along, against, norm in zip(self.along, self.against, self.norms, strict=True):
            x = norm(x + along(x, arcs, edges) + against(x, arcs.flip(0), edges))
        classes = self.device_in(view.device_features)
        summary = self.summary_out(
            torch.cat([x.mean(0), x.amax(0), classes.mean(0), self.problem_in(view.problem_features)])
        )
        ops_sum = torch.cat([x.new_zeros(1, x.shape[1]), torch.cumsum(x, dim=0)])
        return Encoding(x, ops_sum, classes, summary)


class EdgeConvolution(nn.Module):
    """GINE with the mean of messages: ``x'_i = nn((1 + eps) x_i + mean over j -> i of ReLU(x_j + lin(e_ji)))``.

    It computes what `torch_geometric.nn.GINEConv(aggr="mean")` computes, to the bit and from the same weights. PyTorch
    Geometric takes two seconds of processor time to import, which every plan would pay for this one layer.

    Shapes: ops ``[n, H]``, arcs ``[2, E]`` (from, to), edge features ``[E, NUM_EDGE_FEATURES]`` -> ``[n, H]``.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.nn = mlp(width, width, width)
        self.lin = nn.Linear(NUM_EDGE_FEATURES, width)
        self.eps: Tensor
        self.register_buffer("eps", torch.zeros(1))

    def forward(self, x: Tensor, arcs: Tensor, edge_features: Tensor) -> Tensor:
        source, target = arcs
        messages = torch.relu(x[source] + self.lin(edge_features))
        received = torch.zeros_like(x).index_add_(0, target, messages)
        number = torch.bincount(target, minlength=x.shape[0]).clamp(min=1).unsqueeze(1)
        out: Tensor = self.nn(received / number.to(x.dtype) + (1 + self.eps) * x)
        return out


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear, ReLU, linear."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
