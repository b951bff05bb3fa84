"""A backward pass in two halves that share work: input gradients now (I), weight gradients later (W).

I differentiates to the stage's inputs only. On the way it keeps the gradients that arrive at the *frontier*: nodes of
the graph of autograd that lead to an input themselves and have a child that leads to parameters only (a linear layer,
a convolution). W goes on from each of them to those parameters. Source: Qi et al., "Zero Bubble Pipeline Parallelism"
(ICLR 2024), section 4.

Where a parameter can be reached from a frontier node in both ways (one weight used by several layers), going on from
there would count a path twice; W then starts from the outputs again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

Gradients = list[torch.Tensor | None]


@dataclasses.dataclass
class _Start:
    """Where W begins: edges of the graph with the gradients that arrived there, and the parameters it goes on to."""

    edges: list[GradientEdge]
    gradients: list[torch.Tensor]
    parameters: list[int]


@dataclasses.dataclass
class Later:
    """What W of one micro-batch needs."""

    starts: list[_Start]


def input_gradients(
    outputs: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor],
    inputs: Sequence[torch.Tensor],
    parameters: Sequence[torch.Tensor],
) -> tuple[Gradients, Later]:
    """I: the gradients of the inputs (None where none arrives), and what `weight_gradients` needs later."""
    graph = _Reach(outputs, inputs, parameters)
    edges = [get_gradient_edge(output) for output in outputs]
    leading = [k for k, edge in enumerate(edges) if graph.to_input(edge.node)]
    aside = [k for k in range(len(edges)) if k not in leading]
    whole = list(range(len(parameters)))
    if not leading or graph.ambiguous:
        start = _Start(edges, list(gradients), whole)
        found: Gradients = [None] * len(inputs)
        if leading:
            found = list(_grad(edges, inputs, gradients))
        return found, Later([start])

    starts: list[_Start] = []
    if aside:
        starts.append(_Start([edges[k] for k in aside], [gradients[k] for k in aside], whole))
    handles = []
    for node, reached in graph.frontier:

        def keep(arrived: tuple[torch.Tensor | None, ...], node: Node = node, reached: list[int] = reached) -> None:
            there = [(GradientEdge(node, i), g) for i, g in enumerate(arrived) if g is not None]
            starts.append(_Start([e for e, _ in there], [g for _, g in there], reached))

        handles.append(node.register_prehook(keep))
    try:
        found = list(_grad([edges[k] for k in leading], inputs, [gradients[k] for k in leading]))
    finally:
        for handle in handles:
            handle.remove()
    return found, Later(starts)


def weight_gradients(later: Later, parameters: Sequence[torch.Tensor]) -> Gradients:
    """W: the gradients of the parameters; None where none arrives."""
    total: Gradients = [None] * len(parameters)
    for start in later.starts:
        if not start.edges or not start.parameters:
            continue
        parts = _grad(start.edges, [parameters[k] for k in start.parameters], start.gradients)
        for k, part in zip(start.parameters, parts, strict=True):
            if part is not None:
                so_far = total[k]
                total[k] = part if so_far is None else so_far + part
    return total


def _grad(
    edges: Sequence[GradientEdge], inputs: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]
) -> Sequence[torch.Tensor | None]:
    return torch.autograd.grad(edges, inputs, gradients, retain_graph=True, allow_unused=True)


def _node(tensor: torch.Tensor) -> Node:
    return get_gradient_edge(tensor).node


class _Reach:
    """Which nodes of a graph of autograd lead to inputs, and to which parameters (as bits)."""

    def __init__(
        self, outputs: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], parameters: Sequence[torch.Tensor]
    ) -> None:
        leaves = {_node(x) for x in inputs}
        bit = {_node(p): 1 << k for k, p in enumerate(parameters)}
        self._to_input: dict[Node, bool] = {}
        to_parameters: dict[Node, int] = {}
        order: list[Node] = []
        stack = [(_node(output), False) for output in outputs]
        seen: set[Node] = set()
        while stack:  # children before parents
            node, left = stack.pop()
            if left:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack += [(child, False) for child, _ in node.next_functions if child is not None]
        self.frontier: list[tuple[Node, list[int]]] = []
        self.ambiguous = False
        for node in order:
            children = [child for child, _ in node.next_functions if child is not None]
            self._to_input[node] = node in leaves or any(self._to_input[c] for c in children)
            direct = through = 0
            for c in children:
                if self._to_input[c]:
                    through |= to_parameters[c]
                else:
                    direct |= to_parameters[c]
            to_parameters[node] = bit.get(node, 0) | direct | through
            if self._to_input[node] and direct:
                self.ambiguous |= bool(direct & through)
                self.frontier.append((node, [k for k in range(len(parameters)) if direct >> k & 1]))

    def to_input(self, node: Node) -> bool:
        """The node leads to an input."""
        return self._to_input[node]
