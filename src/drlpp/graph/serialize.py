"""JSON form of operator graphs (``schema_version`` 3) and their hash. Defaults are left out: files stay small."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drlpp.errors import GraphError
from drlpp.files import write_atomically
from drlpp.graph.op_graph import NO_WORK, Edge, Op, OpGraph, OpTimes, Work
from drlpp.graph.schema import SCHEMA_VERSION, check_graph_file
from drlpp.graph.splits import MemberTimes, Part, Split

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
            if work != NO_WORK:
                entry[part] = _without_defaults(work.amounts, Work().amounts)
        works = [(part, getattr(op, part).fixed_amounts) for part in _WORK]
        if fixed := {part: _without_defaults(amounts, (0.0,) * 4) for part, amounts in works if any(amounts)}:
            entry["fixed"] = fixed
        if op.params:
            entry["params"] = list(op.params)
        if op.buffers:
            entry["buffers"] = list(op.buffers)
        if op.saved:
            entry["saved"] = list(op.saved)
        if op.output_bytes:
            entry["output_bytes"] = op.output_bytes
        if op.times:
            entry["times"] = {k: [t.forward_s, t.input_grad_s, t.weight_grad_s] for k, t in op.times.items()}
        if op.kv_bytes_per_token:
            entry["kv_bytes_per_token"] = op.kv_bytes_per_token
        if op.in_order:
            entry["in_order"] = True
        if op.splits:
            entry["splits"] = [_split_to_dict(split) for split in op.splits]
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
    given: dict[str, Any] = {"given_stages": dict(graph.given_stages)} if graph.given_stages else {}
    if graph.buffer_bytes:
        given["buffer_bytes"] = dict(graph.buffer_bytes)
    if graph.frozen:
        given["frozen"] = sorted(graph.frozen)
    if graph.tensor_fixed_bytes:
        given["tensor_fixed_bytes"] = dict(graph.tensor_fixed_bytes)
    if graph.compute_dtype != graph.dtype:
        given["compute_dtype"] = graph.compute_dtype
    if graph.low_tensors is not None:
        given["low_tensors"] = list(graph.low_tensors)
    if graph.tokens_per_sample != 1:
        given["tokens_per_sample"] = graph.tokens_per_sample
    if graph.slowdown:
        given["slowdown"] = list(graph.slowdown)
    if graph.batch_axis != "unknown":
        given["batch_axis"] = graph.batch_axis
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


def _split_to_dict(split: Split) -> dict[str, Any]:
    entry: dict[str, Any] = {"axis": split.axis, "size": split.size}
    for key, parts in (("reads", split.reads), ("gives", split.gives)):
        if parts:
            entry[key] = {p.tensor: [p.dim, *p.sections] for p in parts}
    if split.keeps:
        entry["keeps"] = list(split.keeps)
    if split.times:
        entry["times"] = {str(t.degree): list(t[1:]) for t in split.times}
    return entry


def _without_defaults(amounts: Sequence[float], defaults: Sequence[float]) -> list[float]:
    """The amounts up to the last that is not the default; the first two are always there."""
    last = max([1, *(i for i, amount in enumerate(amounts) if amount != defaults[i])])
    return list(amounts[: last + 1])


def graph_hash(graph: OpGraph) -> str:
    """SHA-256 over everything that decides a plan (not the name, the source or a split that the source carries)."""
    content = {k: v for k, v in graph_to_dict(graph).items() if k not in ("name", "source", "given_stages")}
    content["schema_version"] = 1  # the hash of a graph without what came later is that of the first version
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def graph_from_dict(data: object, where: str = "graph") -> OpGraph:
    """Reads the form that `graph_to_dict` writes. Raises GraphError with `where` in the message."""
    given = check_graph_file(data, where)
    values = {key: given[key] for key in given if key not in ("schema_version", "format", "ops", "edges")}
    if "low_tensors" in values:
        values["low_tensors"] = tuple(values["low_tensors"])
    values["slowdown"] = tuple(values.get("slowdown", ()))
    values["frozen"] = frozenset(values.get("frozen", ()))
    try:
        return OpGraph(
            ops=tuple(_op_from_dict(entry) for entry in given["ops"]),
            edges=tuple(Edge(**entry) for entry in given["edges"]),
            **values,
        )
    except GraphError as error:
        raise GraphError(f"{where}: {error}") from error


def _op_from_dict(entry: Mapping[str, Any]) -> Op:
    values = dict(entry)
    fixed = values.pop("fixed", {})
    for part in _WORK:
        if part in values:
            values[part] = Work.of(*values[part]).with_fixed(*fixed.get(part, ()))
    if "splits" in values:
        values["splits"] = tuple(_split_from_dict(split) for split in values["splits"])
    for key in ("members", "params", "buffers", "saved"):
        if key in values:
            values[key] = tuple(values[key])
    if "times" in values:
        values["times"] = {k: OpTimes(*t) for k, t in values["times"].items()}
    return Op(**values)


def _split_from_dict(entry: Mapping[str, Any]) -> Split:
    reads, gives = (
        tuple(Part(tensor, dim, tuple(sections)) for tensor, (dim, *sections) in entry.get(key, {}).items())
        for key in ("reads", "gives")
    )
    times = tuple(MemberTimes(int(degree), *seconds) for degree, seconds in entry.get("times", {}).items())
    return Split(entry["axis"], entry["size"], reads, gives, tuple(entry.get("keeps", ())), times)


def save_graph(graph: OpGraph, path: Path) -> None:
    """Writes the graph as JSON, atomically."""
    write_atomically(path, json.dumps(graph_to_dict(graph)) + "\n")
