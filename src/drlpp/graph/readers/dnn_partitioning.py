"""Reader of the inputs of "Efficient Algorithms for Device Placement of DNN Graph Operators" (NeurIPS 2020).

JSON with ``nodes`` and ``edges``; latencies and transfer costs in milliseconds, sizes in bytes. An op of ours is a
colour class (nodes that must share a device), forward and backward nodes together; its members are the node ids. Edges
keep their transfer times. An edge between backward nodes becomes one of the backward phase; in files that list these
edges in the direction of the forward pass (the layer graphs) it stays as it is. Classes that would form a cycle are
merged, since no legal partition separates them.

Loss of information: CPU latencies and ``supportedOnFpga`` are dropped (all devices are accelerators; published optima
may have ops on the CPUs, whose transfers are free), and a node's ``size`` counts as memory per micro-batch in flight.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from drlpp.errors import GraphError
from drlpp.graph.op_graph import REFERENCE, Edge, Op, OpGraph, OpTimes
from drlpp.graph.topology import topological_order


def read_dnn_partitioning(data: Mapping[str, Any], name: str, where: str = "file") -> OpGraph:
    """Builds the graph from the parsed JSON. Raises GraphError with the node or edge that is wrong."""
    nodes: dict[Any, Mapping[str, Any]] = {}
    for node in data["nodes"]:
        for key in ("id", "fpgaLatency"):
            if key not in node:
                raise GraphError(f"{where}: a node has no {key!r}: {str(dict(node))[:80]}")
        if node["id"] in nodes:
            raise GraphError(f"{where}: node {node['id']} appears twice: ids must be unique")
        nodes[node["id"]] = node
    for edge in data["edges"]:
        for key in ("sourceId", "destId"):
            if edge.get(key) not in nodes:
                raise GraphError(f"{where}: edge {dict(edge)} has unknown {key}: it must be the id of a node")
    _check_acyclic(nodes, data["edges"], where)

    group = _merged_groups(nodes, data["edges"], where)
    members: dict[int, list[Any]] = defaultdict(list)
    for i in nodes:
        members[group[i]].append(i)
    names = {g: str(ids[0]) for g, ids in members.items()}
    ops = []
    for g in sorted(members):
        ids = members[g]
        seconds = [0.0, 0.0]
        for i in ids:
            seconds[_is_backward(nodes[i])] += float(nodes[i]["fpgaLatency"]) / 1e3
        ops.append(
            Op(
                name=names[g],
                kind="colour class" if len(ids) > 1 else "operator",
                members=tuple(str(i) for i in ids),
                saved=tuple(f"size {i}" for i in ids if nodes[i].get("size")),
                times={REFERENCE: OpTimes(seconds[0], seconds[1])},
            )
        )
    edges, tensors = [], {f"size {i}": float(n["size"]) for i, n in nodes.items() if n.get("size")}
    first_cost: dict[Any, float] = {}
    for edge in data["edges"]:
        u, v = edge["sourceId"], edge["destId"]
        cost = first_cost.setdefault(u, float(edge.get("cost", 0.0)) / 1e3)
        tensors.setdefault(str(u), float(edge.get("size", 0.0)))
        if group[u] != group[v]:
            edges.append(
                Edge(
                    src=names[group[u]],
                    dst=names[group[v]],
                    tensor=str(u),
                    requires_grad=False,
                    phase="forward" if group[u] < group[v] else "backward",
                    transfer_s=cost,
                )
            )
    return OpGraph(name=name, ops=tuple(ops), edges=tuple(edges), tensor_bytes=tensors)


def _is_backward(node: Mapping[str, Any]) -> bool:
    return bool(node.get("isBackwardNode", False))


def _check_acyclic(nodes: Mapping[Any, Any], edges: list[Mapping[str, Any]], where: str) -> None:
    position = {i: k for k, i in enumerate(nodes)}
    try:
        topological_order(
            len(nodes), [(position[e["sourceId"]], position[e["destId"]]) for e in edges], [str(i) for i in nodes]
        )
    except GraphError as error:
        raise GraphError(f"{where}: {error}") from error


def _merged_groups(
    nodes: Mapping[Any, Mapping[str, Any]], edges: list[Mapping[str, Any]], where: str
) -> dict[Any, int]:
    """Node id -> number of its colour class, numbered in a topological order of the forward direction."""
    colour = {
        i: ("colour", n["colorClass"]) if n.get("colorClass") is not None else ("node", i) for i, n in nodes.items()
    }
    forward_arcs: list[tuple[Any, Any]] = []
    backward_arcs: list[tuple[Any, Any]] = []
    for e in edges:
        u, v = e["sourceId"], e["destId"]
        phases = (_is_backward(nodes[u]), _is_backward(nodes[v]))
        if phases == (True, False):
            raise GraphError(f"{where}: edge {u} -> {v} goes from a backward node to a forward node: turn it around")
        if colour[u] != colour[v] and phases[0] == phases[1]:
            (backward_arcs if phases[0] else forward_arcs).append((colour[u], colour[v]))
    classes = list(dict.fromkeys(colour.values()))
    number = {c: k for k, c in enumerate(classes)}
    forward, backward = (_numbered(arcs, number) for arcs in (forward_arcs, backward_arcs))
    arcs, component = max(
        (
            _condensed(len(classes), forward + [(b, a) for a, b in backward]),
            _condensed(len(classes), forward + backward),
        ),
        key=lambda found: max(found[1]),  # the direction of the backward edges that merges fewer classes
    )
    order = topological_order(max(component) + 1, arcs)
    position = {k: n for n, k in enumerate(order)}
    return {i: position[component[number[c]]] for i, c in colour.items()}


def _numbered(arcs: list[tuple[Any, Any]], number: Mapping[Any, int]) -> list[tuple[int, int]]:
    return [(number[a], number[b]) for a, b in arcs]


def _condensed(num_classes: int, arcs: list[tuple[int, int]]) -> tuple[set[tuple[int, int]], list[int]]:
    """Arcs between strongly connected components (numbered by their first class), and the component of each class."""
    ends = ([a for a, _ in arcs], [b for _, b in arcs])
    matrix = coo_matrix(([1] * len(arcs), ends), shape=(num_classes, num_classes))
    _, label = connected_components(matrix, directed=True, connection="strong")
    first: dict[int, int] = {}
    component = [first.setdefault(k, len(first)) for k in label.tolist()]
    between = {(component[a], component[b]) for a, b in arcs}
    return {(a, b) for a, b in between if a != b}, component
