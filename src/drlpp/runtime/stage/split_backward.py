"""A backward pass in two halves that share work: input gradients now (I), weight gradients later (W).

I differentiates to the stage's inputs. On the way it keeps the gradients that arrive at the *frontier*: nodes of the
graph of autograd that lead to an input themselves and have a child that leads to parameters only (a linear layer, a
convolution). W goes on from each of them to those parameters, adds what it finds to `.grad`, and lets go of the
gradient before the next one, so that memory is used again while it is in the cache. Source: Qi et al., "Zero Bubble
Pipeline Parallelism" (ICLR 2024), section 4.

Nodes whose parameters are all vectors (norms) find their gradients by the way while they make that of the input, and
would have to run a second time in W: I takes these parameters along.

Where a parameter can be reached from a frontier node in both ways (one weight used by several layers), going on from
there would count a path twice; W then starts from the outputs again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge


@dataclasses.dataclass
class _Start:
    """Where W begins: edges of the graph with the gradients that arrived there, and the parameters it goes on to."""

    edges: Sequence[GradientEdge]
    gradients: Sequence[torch.Tensor]
    parameters: Sequence[torch.Tensor]


@dataclasses.dataclass
class Later:
    """What W of one micro-batch needs."""

    starts: list[_Start]


def input_gradients(
    outputs: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor],
    inputs: Sequence[torch.Tensor],
    parameters: Sequence[torch.Tensor],
) -> Later:
    """I: adds the gradients of the inputs, and of parameters that come for nothing, to their `.grad`.

    Returns:
        What `weight_gradients` needs later.
    """
    graph = _Reach(outputs, inputs, parameters)
    edges = [get_gradient_edge(output) for output in outputs]
    leading = [k for k, edge in enumerate(edges) if graph.to_input[edge.node]]
    aside = [k for k in range(len(edges)) if k not in leading]
    if not leading or graph.ambiguous:
        if leading and inputs:
            _backward(edges, gradients, inputs)
        return Later([_Start(edges, gradients, parameters)])

    starts: list[_Start] = []
    if aside:
        starts.append(_Start([edges[k] for k in aside], [gradients[k] for k in aside], parameters))
    handles = []
    for node, reached in graph.frontier:

        def keep(arrived: tuple[torch.Tensor | None, ...], node: Node = node, reached: int = reached) -> None:
            there = [(GradientEdge(node, i), g) for i, g in enumerate(arrived) if g is not None]
            starts.append(_Start([e for e, _ in there], [g for _, g in there], _chosen(parameters, reached)))

        handles.append(node.register_prehook(keep))
    try:
        along = _chosen(parameters, graph.along)
        _backward([edges[k] for k in leading], [gradients[k] for k in leading], [*inputs, *along])
    finally:
        for handle in handles:
            handle.remove()
    return Later(starts)


def weight_gradients(later: Later) -> None:
    """W: adds the gradients of the other parameters to their `.grad`."""
    while later.starts:
        start = later.starts.pop()
        if start.edges and start.parameters:
            _backward(start.edges, start.gradients, start.parameters)


def _backward(edges: Sequence[GradientEdge], gradients: Sequence[torch.Tensor], leaves: Sequence[torch.Tensor]) -> None:
    torch.autograd.backward(edges, gradients, inputs=leaves, retain_graph=True)


def _node(tensor: torch.Tensor) -> Node:
    return get_gradient_edge(tensor).node


def _chosen(parameters: Sequence[torch.Tensor], bits: int) -> list[torch.Tensor]:
    return [p for k, p in enumerate(parameters) if bits >> k & 1]


class _Reach:
    """Which nodes of a graph of autograd lead to inputs, and to which parameters (as bits).

    Attributes:
        to_input: the node leads to an input.
        frontier: nodes that W starts from, with the parameters that it goes on to.
        along: parameters whose gradients I finds.
        ambiguous: a parameter of the frontier is reached in both ways.
    """

    def __init__(
        self, outputs: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], parameters: Sequence[torch.Tensor]
    ) -> None:
        leaves = {_node(x) for x in inputs}
        bit = {_node(p): 1 << k for k, p in enumerate(parameters)}
        to_input: dict[Node, bool] = dict.fromkeys(leaves, True)
        to_parameters: dict[Node, int] = dict.fromkeys(leaves, 0)
        children: dict[Node, list[Node]] = {}
        both_ways: list[tuple[Node, int, int]] = []
        stack = [_node(output) for output in outputs]
        while stack:  # children before parents
            node = stack[-1]
            if node in to_parameters:
                stack.pop()
            elif node not in children:
                below = children[node] = [child for child, _ in node.next_functions if child is not None]
                stack += [child for child in below if child not in to_parameters]
            else:
                stack.pop()
                direct, through, leads = 0, 0, False
                for child in children[node]:
                    if to_input[child]:
                        through |= to_parameters[child]
                        leads = True
                    else:
                        direct |= to_parameters[child]
                to_input[node] = leads
                to_parameters[node] = bit.get(node, 0) | direct | through
                if leads and direct:
                    both_ways.append((node, direct, through))
        matrices = sum(1 << k for k, p in enumerate(parameters) if p.dim() > 1)
        reached = later = 0
        for _, direct, _ in both_ways:
            reached |= direct
            later |= direct if direct & matrices else 0
        self.to_input = to_input
        self.along = reached & ~later
        self.frontier = [(node, direct & later) for node, direct, _ in both_ways if direct & later]
        self.ambiguous = any(direct & through & later for _, direct, through in both_ways)
