"""JSON form of operator graphs (``schema_version`` 1). Defaults are left out to keep the files small."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drlpp.errors import GraphError
from drlpp.files import write_atomically
from drlpp.graph.op_graph import Edge, Op, OpGraph, OpTimes, Work

SCHEMA_VERSION = 1
_WORK = ("forward", "input_grad", "weight_grad")


def graph_to_dict(graph: OpGraph) -> dict[str, Any]:
    """The JSON-ready form of a graph; `graph_from_dict` is its inverse."""
    ops = []
    for op in graph.ops:
        entry: dict[str, Any] = {"name": op.name, "kind": op.kind}
        if op.module:
            entry["module"] = op.module
        if op.members != (op.name,):
            entry["members"] = list(op.members)
        for part in _WORK:
            work: Work = getattr(op, part)
            if work.flop or work.bytes:
                entry[part] = [work.flop, work.bytes]
        if op.params:
            entry["params"] = list(op.params)
        if op.saved:
            entry["saved"] = list(op.saved)
        if op.output_bytes:
            entry["output_bytes"] = op.output_bytes
        if op.times:
            entry["times"] = {k: [t.forward_s, t.input_grad_s, t.weight_grad_s] for k, t in op.times.items()}
        ops.append(entry)
    edges = []
    for e in graph.edges:
        entry = {"src": e.src, "dst": e.dst, "tensor": e.tensor}
        if not e.requires_grad:
            entry["requires_grad"] = False
        if e.phase != "forward":
            entry["phase"] = e.phase
        if e.transfer_s is not None:
            entry["transfer_s"] = e.transfer_s
        edges.append(entry)
    given = {"given_stages": dict(graph.given_stages)} if graph.given_stages else {}
    return given | {
        "schema_version": SCHEMA_VERSION,
        "format": "drlpp-graph",
        "name": graph.name,
        "source": graph.source,
        "samples_per_microbatch": graph.samples_per_microbatch,
        "dtype": graph.dtype,
        "measured_on": graph.measured_on,
        "ops": ops,
        "edges": edges,
        "tensor_bytes": dict(graph.tensor_bytes),
        "param_bytes": dict(graph.param_bytes),
    }


def graph_from_dict(data: Mapping[str, Any], where: str = "graph") -> OpGraph:
    """Reads the form that `graph_to_dict` writes. Raises GraphError with `where` in the message."""
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise GraphError(f"{where}: schema_version is {version!r}: this release reads version {SCHEMA_VERSION}")
    known = {"schema_version", "format", "name", "source", "samples_per_microbatch", "dtype", "measured_on"}
    known |= {"ops", "edges", "tensor_bytes", "param_bytes", "given_stages"}
    if unknown := sorted(set(data) - known):
        raise GraphError(f"{where}: unknown key {unknown[0]!r}: known keys are {', '.join(sorted(known))}")
    try:
        ops = tuple(_op_from_dict(entry) for entry in data["ops"])
        edges = tuple(Edge(**entry) for entry in data["edges"])
        return OpGraph(
            name=data["name"],
            ops=ops,
            edges=edges,
            tensor_bytes=data["tensor_bytes"],
            param_bytes=data.get("param_bytes", {}),
            source=data.get("source", ""),
            samples_per_microbatch=data.get("samples_per_microbatch", 1),
            dtype=data.get("dtype", "float32"),
            measured_on=data.get("measured_on", ""),
            given_stages=data.get("given_stages", {}),
        )
    except KeyError as error:
        raise GraphError(f"{where}: key {error.args[0]!r} is missing") from error
    except GraphError as error:
        raise GraphError(f"{where}: {error}") from error
    except (TypeError, AttributeError) as error:
        raise GraphError(f"{where}: an entry has the wrong form: {error}") from error


def _op_from_dict(entry: Mapping[str, Any]) -> Op:
    values = dict(entry)
    for part in _WORK:
        if part in values:
            values[part] = Work(*values[part])
    for key in ("members", "params", "saved"):
        if key in values:
            values[key] = tuple(values[key])
    if "times" in values:
        values["times"] = {k: OpTimes(*t) for k, t in values["times"].items()}
    return Op(**values)


def save_graph(graph: OpGraph, path: Path) -> None:
    """Writes the graph as JSON, atomically."""
    write_atomically(path, json.dumps(graph_to_dict(graph)) + "\n")
