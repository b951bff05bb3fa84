"""Reader of the inputs of "Piper: Multidimensional Planner for DNN Parallelization" (NeurIPS 2021).

JSON with ``nodes``, each with implementations (TMPCs) by tensor-parallel degree, and ``edges`` with bytes. Taken is the
first implementation (``vanilla``) of degree 1. ``timePerSample`` is the forward and backward time in seconds, as in
the program of the paper, which adds it to bytes over ``bandwidth``; a third counts as forward. ``memoryUsageA`` is
the activation memory per micro-batch in flight.

Loss of information: other degrees and implementations, ``memoryUsageB`` (follows from parameters and optimizer), and
the file's own devices and bandwidth, which the cluster gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drlpp.errors import GraphError
from drlpp.graph.op_graph import REFERENCE, Edge, Op, OpGraph, OpTimes
from drlpp.graph.topology import topological_order


def read_piper(data: Mapping[str, Any], name: str, where: str = "file") -> OpGraph:
    """Builds the graph from the parsed JSON; ops keep the file's names where these are unique, else the ids."""
    entries: dict[Any, Mapping[str, Any]] = {}
    for node in data["nodes"]:
        if node.get("id") is None or node["id"] in entries:
            raise GraphError(f"{where}: node id {node.get('id')!r} is missing or appears twice: ids must be unique")
        entries[node["id"]] = node
    given = [n.get("name") for n in entries.values()]
    unique = len(set(given)) == len(given) and all(given)
    names = {i: str(n["name"]) if unique else str(i) for i, n in entries.items()}
    ids = list(entries)
    position = {i: k for k, i in enumerate(ids)}
    for edge in data["edges"]:
        for key in ("sourceId", "destId"):
            if edge.get(key) not in position:
                raise GraphError(f"{where}: edge {dict(edge)} has unknown {key}: it must be the id of a node")
    arcs = [(position[e["sourceId"]], position[e["destId"]]) for e in data["edges"]]
    try:
        order = topological_order(len(ids), arcs, [names[i] for i in ids])
    except GraphError as error:
        raise GraphError(f"{where}: {error}") from error

    ops, tensors, params = [], {}, {}
    for k in order:
        op_name = names[ids[k]]
        cost = _vanilla(entries[ids[k]], f"{where}: node {ids[k]}")
        seconds = float(cost["timePerSample"])
        saved = f"saved {op_name}"
        tensors[saved] = float(cost.get("memoryUsageA", 0.0))
        if size := float(cost.get("parameterSize", 0.0)):
            params[op_name] = size
        backward = seconds * 2 / 3
        ops.append(
            Op(
                name=op_name,
                kind="layer",
                params=(op_name,) if size else (),
                saved=(saved,),
                times={
                    REFERENCE: OpTimes(seconds / 3, backward / 2 if size else backward, backward / 2 if size else 0.0)
                },
            )
        )
    edges = []
    for e in data["edges"]:
        tensor = f"{names[e['sourceId']]}"
        size = float(e.get("communicationCost", 0.0))
        if tensors.setdefault(tensor, size) != size:  # one producer, several sizes: several tensors
            tensor = f"{tensor} to {names[e['destId']]}"
            tensors[tensor] = size
        edges.append(Edge(src=names[e["sourceId"]], dst=names[e["destId"]], tensor=tensor))
    return OpGraph(name=name, ops=tuple(ops), edges=tuple(edges), tensor_bytes=tensors, param_bytes=params)


def _vanilla(node: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    choices = node.get("TMPCs", {}).get("1")
    if not choices:
        raise GraphError(f"{where} has no TMPC of tensor-parallel degree '1': one is needed")
    if "timePerSample" not in choices[0]:
        raise GraphError(f"{where}: the first TMPC has no timePerSample")
    cost: Mapping[str, Any] = choices[0]
    return cost
