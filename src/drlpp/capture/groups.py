"""Which fx nodes must stay together, so that the model can be cut between any two groups and still train exactly.

1. A node whose value is not a tensor (a tuple, a list, a number) stays with its users.
2. The nodes that share memory with a tensor that is changed in place, and every reader before the last change, stay
   together (found in the operators' schemas). If that memory belongs to a buffer or to an input of the model, all of
   its readers do, because each device has a copy of its own.
3. Nodes that use the same running statistics of a batch norm stay together, and a node that only counts (``num_batches_
   tracked += 1``) stays with the other nodes of its module.
4. The readers of a parameter with a gradient hook stay together: the hook sees the whole gradient, once.
5. The nodes of one autocast region stay together.
6. A view stays with the node that makes the memory: it costs nothing, and a tensor is sent once. (Views of parameters
   stay with their only user.) This is a simplification, not a need.

Groups that wait for each other are merged. Nodes that switch the gradient mode are handled by the export; parameters
that several groups read are tied: their gradients have to be summed.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import fx

from drlpp.capture.interpret import attribute
from drlpp.capture.parameter_hooks import has_hooks
from drlpp.graph import topological_order


def is_op(node: fx.Node) -> bool:
    """Whether an fx node computes something (it is not an input, an attribute or the output)."""
    return node.op not in ("placeholder", "get_attr", "output")


def group_nodes(
    module: fx.GraphModule, autocast: Mapping[str, Any], views: Collection[fx.Node]
) -> list[tuple[fx.Node, ...]]:
    """The groups of the computing nodes of `module`, in a topological order; within a group in the order of the graph.

    Args:
        module: a tidied graph (`drlpp.capture.export`).
        autocast: fx node name -> autocast region.
        views: nodes that only describe memory of their input in another way.
    """
    nodes = [n for n in module.graph.nodes if is_op(n)]
    together = _Union(nodes)
    for node in nodes:
        if not isinstance(node.meta.get("val"), torch.Tensor):
            together.join([node, *(u for u in node.users if is_op(u))])
    _join_changed_memory(module.graph, together)
    _join_statistics(module.graph, together)
    for node in module.graph.nodes:
        if node.op == "get_attr" and has_hooks(attribute(module, str(node.target))):
            together.join([u for u in node.users if is_op(u)])
    regions: dict[Any, list[fx.Node]] = defaultdict(list)
    for node in nodes:
        if node.name in autocast:
            regions[autocast[node.name]].append(node)
    for region in regions.values():
        together.join(region)
    for node in nodes:
        if node in views:
            base = node.all_input_nodes[0]
            users = [u for u in node.users if is_op(u)]
            if is_op(base):
                together.join([base, node])
            elif users and base.op == "get_attr" and len({together.find(u) for u in users}) == 1:
                together.join([node, users[0]])
    return _ordered(nodes, together)


class _Union:
    """Disjoint sets of fx nodes."""

    def __init__(self, nodes: Sequence[fx.Node]) -> None:
        self._parent = {n: n for n in nodes}

    def find(self, node: fx.Node) -> fx.Node:
        root = self._parent.setdefault(node, node)
        while root is not self._parent[root]:
            self._parent[root] = self._parent[self._parent[root]]
            root = self._parent[root]
        return root

    def join(self, nodes: Sequence[fx.Node]) -> None:
        for node in nodes[1:]:
            a, b = self.find(nodes[0]), self.find(node)
            if a is not b:
                self._parent[b] = a


def schema_arguments(node: fx.Node) -> list[tuple[Any, list[fx.Node]]]:
    """(schema argument, fx nodes given for it) of a call of an ATen operator; empty for anything else."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return []
    out = []
    for i, argument in enumerate(schema.arguments):
        value = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
        values = value if isinstance(value, (list, tuple)) else [value]
        out.append((argument, [v for v in values if isinstance(v, fx.Node)]))
    return out


def _join_changed_memory(graph: fx.Graph, together: _Union) -> None:
    """Rule 2, and the counters of rule 3."""
    position = {n: i for i, n in enumerate(graph.nodes)}
    memory = _Union(list(graph.nodes))
    changes: dict[fx.Node, list[fx.Node]] = defaultdict(list)
    readers_of_module: dict[str, list[fx.Node]] = defaultdict(list)
    for node in graph.nodes:
        if node.op == "get_attr":
            readers_of_module[_owner(node)] += [u for u in node.users if is_op(u)]
        if node.target is operator.getitem:
            memory.join([node.all_input_nodes[0], node])
        for argument, values in schema_arguments(node):
            if argument.alias_info is not None:
                memory.join([node, *values])
                if argument.alias_info.is_write:
                    for value in values:
                        changes[value].append(node)
    members: dict[fx.Node, list[fx.Node]] = defaultdict(list)
    for node in graph.nodes:
        members[memory.find(node)].append(node)
    for sharing in members.values():
        changing = [c for n in sharing for c in changes.get(n, ())]
        if not changing:
            continue
        last = max(position[c] for c in changing)
        if any(not is_op(n) for n in sharing):
            last = len(position)
        readers = [u for n in sharing for u in n.users if is_op(u) and position[u] <= last]
        together.join([*changing, *(n for n in sharing if is_op(n)), *readers])
        if all(u in sharing for n in sharing for u in n.users):  # nothing reads it: it only counts
            for attribute in sharing:
                if attribute.op == "get_attr":
                    together.join([changing[0], *readers_of_module[_owner(attribute)]])


def _owner(attribute: fx.Node) -> str:
    """Path of the module that a parameter or buffer belongs to."""
    return str(attribute.target).rpartition(".")[0]


def _join_statistics(graph: fx.Graph, together: _Union) -> None:
    """Rule 3. The schema of batch norm does not say that it changes the running statistics."""
    for node in graph.nodes:
        for argument, values in schema_arguments(node):
            if argument.name in ("running_mean", "running_var"):
                together.join([node, *(u for v in values for u in v.users if is_op(u))])


def _ordered(nodes: Sequence[fx.Node], together: _Union) -> list[tuple[fx.Node, ...]]:
    """Merges groups that wait for each other and sorts the rest (smallest first member first)."""
    number: dict[fx.Node, int] = {}
    label = [number.setdefault(together.find(n), len(number)) for n in nodes]
    of = dict(zip(nodes, label, strict=True))
    arcs = [(of[p], of[n]) for n in nodes for p in n.all_input_nodes if is_op(p) and of[p] != of[n]]
    rows, columns = ([a for a, _ in arcs], [b for _, b in arcs])
    matrix = coo_matrix(([1] * len(arcs), (rows, columns)), shape=(len(number), len(number)))
    _, component = connected_components(matrix, directed=True, connection="strong")
    members: dict[int, list[fx.Node]] = {}
    for node in nodes:
        members.setdefault(int(component[of[node]]), []).append(node)
    index = {c: i for i, c in enumerate(members)}
    merged = {(index[int(component[a])], index[int(component[b])]) for a, b in arcs}
    order = topological_order(len(members), (arc for arc in merged if arc[0] != arc[1]))
    groups = list(members.values())
    return [tuple(groups[i]) for i in order]
