"""Reader of PipeDream's profiles (``graph.txt``; Narayanan et al., SOSP 2019).

A vertex line is ``node11 -- MaxPool2d(...) -- forward_compute_time=2.2, backward_compute_time=2.8,
activation_size=205520896.0, parameter_size=0.0`` (milliseconds per mini-batch, bytes), an edge line
``<tab>node4 -- node5``. An activation size may be a list ``[a; b]`` of tensors, which are taken together.
A vertex may end in `` -- stage_id=1``, the stage that PipeDream's optimizer gave it; one without it joins its first
successor, or else its last predecessor.

Vertices ``Input*`` without predecessors are the model's inputs: every stage can read them and loading them is not part
of a plan, so they cost nothing here (PipeDream's optimiser drops them too).

The profile's mini-batch becomes one micro-batch, counted as one sample since the file does not tell. The backward time
of an op with parameters counts half as input gradient and half as weight gradient.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from drlpp.errors import GraphError
from drlpp.graph.op_graph import REFERENCE, Edge, Op, OpGraph, OpTimes
from drlpp.graph.topology import topological_order

_FIELDS = ("forward_compute_time", "backward_compute_time", "activation_size", "parameter_size")
_KIND = re.compile(r"\w+")


def looks_like_pipedream(text: str) -> bool:
    """The first line that is not empty is a vertex line."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return " -- " in first and "forward_compute_time=" in first


def read_pipedream(text: str, name: str, where: str = "graph.txt") -> OpGraph:
    """Parses the text of a profile. Raises GraphError with file and line."""
    vertices: dict[str, tuple[str, dict[str, float]]] = {}
    stages: dict[str, int] = {}
    arcs: dict[tuple[str, str], int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        parts = [p.strip() for p in line.split(" -- ")]
        if line.startswith("\t"):
            if len(parts) != 2:
                raise GraphError(f"{where} line {number}: {line.strip()!r} is not an edge: write 'node1 -- node2'")
            arcs[parts[0], parts[1]] = number
        else:
            if len(parts) < 3:
                raise GraphError(
                    f"{where} line {number}: {line.strip()!r} is not a vertex: write 'node1 -- kind -- costs'"
                )
            if parts[0] in vertices:
                raise GraphError(f"{where} line {number}: vertex {parts[0]!r} appears twice: names must be unique")
            vertices[parts[0]] = (parts[1], _costs(parts[2], f"{where} line {number}"))
            if len(parts) > 3:
                stages[parts[0]] = _stage(parts[3], f"{where} line {number}")
    names = list(vertices)
    for (a, b), number in arcs.items():
        for end in (a, b):
            if end not in vertices:
                raise GraphError(f"{where} line {number}: edge {a!r} -- {b!r} names unknown vertex {end!r}")
    position = {n: i for i, n in enumerate(names)}
    try:
        order = topological_order(len(names), [(position[a], position[b]) for a, b in arcs], names)
    except GraphError as error:
        raise GraphError(f"{where}: {error}") from error

    has_predecessor = {position[b] for _, b in arcs}
    ops, params, tensors = [], {}, {}
    for i in order:
        vertex = names[i]
        kind, costs = vertices[vertex]
        if kind.startswith("Input") and i not in has_predecessor:
            costs = dict.fromkeys(_FIELDS, 0.0)
        forward, backward = costs["forward_compute_time"] / 1e3, costs["backward_compute_time"] / 1e3
        size = costs["parameter_size"]
        tensors[vertex] = costs["activation_size"]
        if size:
            params[vertex] = size
        weight = backward / 2 if size else 0.0
        match = _KIND.match(kind)
        ops.append(
            Op(
                name=vertex,
                kind=match.group() if match else kind,
                params=(vertex,) if size else (),
                saved=(vertex,),
                output_bytes=costs["activation_size"],
                times={REFERENCE: OpTimes(forward, backward - weight, weight)},
            )
        )
    edges = tuple(Edge(src=a, dst=b, tensor=a) for a, b in arcs)
    return OpGraph(
        name=name,
        ops=tuple(ops),
        edges=edges,
        tensor_bytes=tensors,
        param_bytes=params,
        given_stages=_completed(stages, [op.name for op in ops], list(arcs)) if stages else {},
    )


def _stage(text: str, where: str) -> int:
    key, _, value = text.partition("=")
    if key.strip() != "stage_id" or not value.strip().isdigit():
        raise GraphError(f"{where}: {text!r} is not the stage of a vertex: write stage_id=NUMBER, from 0 on")
    return int(value)


def _completed(stages: Mapping[str, int], order: Sequence[str], arcs: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Stages of all vertices, given those of some; `order` is topological."""
    out = dict(stages)
    after: dict[str, list[str]] = {name: [] for name in order}
    before: dict[str, list[str]] = {name: [] for name in order}
    for a, b in arcs:
        after[a].append(b)
        before[b].append(a)
    for name in reversed(order):
        known = [out[b] for b in after[name] if b in out]
        if name not in out and known:
            out[name] = min(known)
    for name in order:
        out.setdefault(name, max((out[a] for a in before[name]), default=0))
    return out


def _costs(text: str, where: str) -> dict[str, float]:
    fields = dict(part.split("=", 1) for part in text.split(", ") if "=" in part)
    out = {}
    for key in _FIELDS:
        if key not in fields:
            raise GraphError(f"{where}: {key} is missing: a vertex has {', '.join(_FIELDS)}")
        try:
            out[key] = sum(float(x) for x in fields[key].strip("[] ").split(";"))
        except ValueError as error:
            raise GraphError(f"{where}: {key}={fields[key]!r} is not a number") from error
        if not out[key] >= 0:
            raise GraphError(f"{where}: {key} is {out[key]}: costs must not be negative")
    return out
