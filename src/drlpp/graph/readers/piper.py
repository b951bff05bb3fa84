"""Reader of the inputs of "Piper: Multidimensional Planner for DNN Parallelization" (NeurIPS 2021).

JSON with ``nodes``, each with implementations (TMPCs) by tensor-parallel degree, and ``edges`` with bytes. Taken is the
first implementation (``vanilla``) of every degree. ``timePerSample`` is the forward and backward time in seconds, as in
the program of the paper, which adds it to bytes over ``bandwidth``; a third counts as forward. That of a degree has the
collectives of the layer in it. ``memoryUsageA`` is the activation memory per micro-batch in flight. What a member holds
is taken for a whole and a divided part, so that degree 1 and the largest are met.

Loss of information: other implementations (plans say what is computed again), ``memoryUsageB`` (follows from
parameters and optimizer), ``syncTimeFw`` and ``syncTimeBw`` (a group receives and sends whole values at borders of a
stage), and the file's own devices and bandwidth, which the cluster gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from drlpp.errors import GraphError
from drlpp.graph.op_graph import REFERENCE, Edge, Op, OpGraph, OpTimes
from drlpp.graph.splits import MemberTimes, Part, Split
from drlpp.graph.topology import topological_order

Costs = Mapping[int, Mapping[str, Any]]
"""Degree -> implementation; 1 first."""


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

    tensors: dict[str, float] = {}
    edges = []
    for e in data["edges"]:
        tensor = f"{names[e['sourceId']]}"
        size = float(e.get("communicationCost", 0.0))
        if tensors.setdefault(tensor, size) != size:  # one producer, several sizes: several tensors
            tensor = f"{tensor} to {names[e['destId']]}"
            tensors[tensor] = size
        edges.append(Edge(src=names[e["sourceId"]], dst=names[e["destId"]], tensor=tensor))
    ops, params = [], dict[str, float]()
    for k in order:
        costs = _vanilla(entries[ids[k]], f"{where}: node {ids[k]}")
        ops.append(_op(names[ids[k]], costs, edges, tensors, params))
    return OpGraph(name=name, ops=tuple(ops), edges=tuple(edges), tensor_bytes=tensors, param_bytes=params)


def _op(name: str, costs: Costs, edges: Sequence[Edge], tensors: dict[str, float], params: dict[str, float]) -> Op:
    """The op of a node. What it holds goes into `tensors` and `params`: what a group divides, and what not."""
    params |= _parts(f"whole {name}", name, costs, "parameterSize")
    held = tuple(p for p in (name, f"whole {name}") if p in params)
    kept = _parts(f"saved {name}", f"divided {name}", costs, "memoryUsageA") or {f"saved {name}": 0.0}
    tensors |= kept
    divided = f"divided {name}"
    read = dict.fromkeys(e.tensor for e in edges if e.dst == name)
    given = dict.fromkeys(e.tensor for e in edges if e.src == name)
    splits = []
    if measured := [MemberTimes(t, *_times(cost, learns=bool(held))) for t, cost in costs.items() if t > 1]:
        inner = [Part(name, 0)] if name in held else []
        splits.append(
            Split(
                axis="measured",
                size=math.lcm(*(times.degree for times in measured)),
                reads=(*(Part(tensor, 0) for tensor in read), *inner),
                gives=tuple(Part(tensor, 0) for tensor in given),
                keeps=(divided,) if divided in kept else (),
                times=tuple(measured),
            )
        )
    return Op(
        name=name,
        kind="layer",
        params=held,
        saved=tuple(kept),
        times={REFERENCE: OpTimes(*_times(costs[1], learns=bool(held)))},
        splits=tuple(splits),
    )


def _times(cost: Mapping[str, Any], *, learns: bool) -> tuple[float, float, float]:
    """Seconds of the forward pass, a third, and of the gradients of inputs and parameters."""
    seconds = float(cost["timePerSample"])
    backward = seconds * 2 / 3
    return seconds / 3, backward / 2 if learns else backward, backward / 2 if learns else 0.0


def _parts(whole: str, divided: str, costs: Costs, key: str) -> dict[str, float]:
    """What an amount has for all members and what they divide, so that degree 1 and the largest are met."""
    one, most = (float(costs[t].get(key, 0.0)) for t in (1, max(costs)))
    shared = 0.0 if max(costs) == 1 else min(one, max(0.0, (one - most) / (1 - 1 / max(costs))))
    if key == "parameterSize" and max(costs) == 1:
        shared = one  # under the name of the op
    return {name: size for name, size in ((whole, one - shared), (divided, shared)) if size}


def _vanilla(node: Mapping[str, Any], where: str) -> Costs:
    """Degree -> the first implementation of a node."""
    found: dict[int, Mapping[str, Any]] = {}
    for degree, choices in node.get("TMPCs", {}).items():
        if not degree.isdecimal() or int(degree) < 1:
            raise GraphError(f"{where} has TMPCs of degree {degree!r}: a number of devices is needed")
        if choices and "timePerSample" not in choices[0]:
            raise GraphError(f"{where}: the first TMPC of degree {degree} has no timePerSample")
        if choices:
            found[int(degree)] = choices[0]
    if 1 not in found:
        raise GraphError(f"{where} has no TMPC of tensor-parallel degree '1': one is needed")
    return dict(sorted(found.items()))
