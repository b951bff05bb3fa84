"""Reader of PyTorch execution traces (``torch.profiler.ExecutionTraceObserver``; JSON in the Chakra schema).

The trace names every tensor, so the graph has the edges of the model, branches and skip connections included. It has no
times: costs are FLOP and bytes from the recorded shapes. With a Kineto trace of the same run beside it
(``et.json+kineto.json``), the calls are matched by their record-function id and the times are the measured ones.

Loss of information: see `readers.recorded_graph`; tensors made outside of recorded operators (inputs, buffers) are not
edges, and the device of a tensor is dropped. Schema: https://github.com/mlcommons/chakra, as PyTorch writes it
(``torch/csrc/profiler/standalone/execution_trace_observer.cpp``), versions ``1.0.2-chakra.0.0.4`` and later, and
``1.0.1``, which PyTorch 2.0 and 2.1 write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from drlpp.errors import GraphError
from drlpp.graph.op_graph import OpGraph
from drlpp.graph.readers.interrupted_calls import parents
from drlpp.graph.readers.kineto import MeasuredCalls
from drlpp.graph.readers.recorded import RecordedCall, RecordedTensor
from drlpp.graph.readers.recorded_graph import graph_of_calls

_RECORD_FUNCTION_ID = "rf_id"
_FLAT_SCHEMA = "1.0.1"
"""The schema whose nodes have attributes, shapes and types as fields of their own."""
_CHAKRA = re.compile(r"(\d+)\.(\d+)\.(\d+)-chakra\.")
_OLDEST = (1, 0, 2)


def looks_like_chakra(data: Mapping[str, Any]) -> bool:
    """The parsed JSON is an execution trace, of whatever schema."""
    return "schema" in data and isinstance(data.get("nodes"), list) and "edges" not in data


def read_chakra(
    data: Mapping[str, Any], name: str, where: str = "file", measured: MeasuredCalls | None = None
) -> OpGraph:
    """Builds the graph from the parsed JSON.

    Args:
        measured: times of the same run, from its Kineto trace.

    Raises:
        GraphError: the schema or an entry is not one that is read, the trace has no forward and backward pass, or
            `measured` is of another run.
    """
    flat = _is_flat(str(data["schema"]), where)
    raw = [_from_flat(node) for node in data["nodes"]] if flat else data["nodes"]
    nodes = sorted(raw, key=lambda node: int(node["id"]))  # ids grow in order of the start
    attributes = [_attributes(node) for node in nodes]
    for node, its in zip(nodes, attributes, strict=True):
        _check(node, its, where)
    above = parents(nodes, [int(its["tid"]) for its in attributes], [int(its["seq_id"]) for its in attributes])
    helpers = frozenset() if measured is None else _helper_threads(nodes, attributes, measured)
    calls = [
        _call(node, its, parent, where, None if its["tid"] in helpers else measured)
        for node, its, parent in zip(nodes, attributes, above, strict=True)
    ]
    return graph_of_calls(
        calls, name, where, has_dataflow=True, measured_on=measured.measured_on if measured is not None else ""
    )


def _is_flat(schema: str, where: str) -> bool:
    if schema == _FLAT_SCHEMA:
        return True
    version = _CHAKRA.match(schema)
    if version is None or tuple(int(x) for x in version.groups()) < _OLDEST:
        raise GraphError(
            f"{where}: execution trace of schema {schema!r}: schemas {_FLAT_SCHEMA} and "
            f"{'.'.join(map(str, _OLDEST))}-chakra and later are read: record it anew with PyTorch 2.0 or later"
        )
    return False


def _from_flat(node: Mapping[str, Any]) -> dict[str, Any]:
    """A node of schema 1.0.1 in the form of the later ones."""
    attributes = ("rf_id", "fw_parent", "seq_id", "scope", "tid", "fw_tid", "op_schema")
    return {
        "id": node["id"],
        "name": node["name"],
        "ctrl_deps": node["parent"],
        "attrs": [{"name": key, "value": node[key]} for key in attributes if key in node],
        **{
            f"{side}s": {
                "values": node[f"{side}s"],
                "shapes": node[f"{side}_shapes"],
                "types": node[f"{side}_types"],
            }
            for side in ("input", "output")
        },
    }


def _helper_threads(
    nodes: Sequence[Mapping[str, Any]], attributes: Sequence[Mapping[str, Any]], measured: MeasuredCalls
) -> frozenset[Any]:
    """Threads that an operator computes with: the Kineto trace has none of their calls, and none reads a tensor.

    What they take is in the time of the operator.
    """
    threads: set[Any] = set()
    others: set[Any] = set()
    for node, its in zip(nodes, attributes, strict=True):
        if "::" in str(node.get("name")):
            threads.add(its.get("tid"))
            if its.get(_RECORD_FUNCTION_ID) in measured.by_id or any(_tensors(node["inputs"])):
                others.add(its.get("tid"))
    return frozenset(threads - others)


def _attributes(node: Mapping[str, Any]) -> dict[str, Any]:
    return {a["name"]: a.get("value") for a in node.get("attrs", ())}


def _check(node: Mapping[str, Any], attributes: Mapping[str, Any], where: str) -> None:
    for key in ("seq_id", "tid", _RECORD_FUNCTION_ID):
        if key not in attributes:
            raise GraphError(
                f"{where}: node {node['id']} ({node.get('name')!r}) has no attribute {key!r}: record the trace with "
                "PyTorch's ExecutionTraceObserver (2.1 or later)"
            )


def _call(
    node: Mapping[str, Any],
    attributes: Mapping[str, Any],
    parent: int,
    where: str,
    measured: MeasuredCalls | None,
) -> RecordedCall:
    seconds, module = None, ""
    if measured is not None:
        seconds, module = measured.find(int(attributes[_RECORD_FUNCTION_ID]), str(node["name"]), where)
    return RecordedCall(
        id=int(node["id"]),
        name=str(node["name"]),
        parent=parent,
        thread=int(attributes["tid"]),
        sequence=int(attributes["seq_id"]),
        inputs=tuple(_tensors(node["inputs"])),
        outputs=tuple(_tensors(node["outputs"])),
        seconds=seconds,
        module=module,
        written=_written(node["inputs"], str(attributes.get("op_schema") or "")),
    )


def _written(inputs: Mapping[str, Any], schema: str) -> frozenset[int]:
    """Storages of the inputs that the schema marks as changed: ``add_(Tensor(a!) self, ...)``."""
    arguments = _arguments(schema)
    if not any("!" in a for a in arguments):
        return frozenset()
    each = zip(arguments, inputs["values"], inputs["shapes"], inputs["types"], strict=False)
    changed = (_tensors_of(value, shape, kind) for a, value, shape, kind in each if "!" in a)
    return frozenset(t.storage for tensors in changed for t in tensors)


def _arguments(schema: str) -> list[str]:
    """The declarations of an operator's arguments, in order; the ``*`` before keywords is none."""
    inside = schema.partition("->")[0].partition("(")[2].rpartition(")")[0]
    return [p for p in _split(inside) if p.strip() not in ("", "*")]


def _split(text: str) -> list[str]:
    """Splits at the commas that are in no bracket."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _tensors(values: Mapping[str, Any]) -> Iterator[RecordedTensor]:
    each: Sequence[Sequence[Any]] = [values[key] for key in ("values", "shapes", "types")]
    for value, shape, kind in zip(*each, strict=True):
        yield from _tensors_of(value, shape, kind)


def _tensors_of(value: Any, shape: Any, kind: str) -> Iterator[RecordedTensor]:
    if kind.startswith("Tensor("):
        if "nullptr" not in kind:
            yield RecordedTensor(
                shape=tuple(int(x) for x in shape),
                dtype=kind.removeprefix("Tensor(").removesuffix(")"),
                key=int(value[0]),
                storage=int(value[1]),
            )
    elif kind.startswith("GenericList[") and "Tensor(" in kind:
        kinds = _split(kind.removeprefix("GenericList[")[:-1])
        for one_value, one_shape, one_kind in zip(value, shape, kinds, strict=True):
            yield from _tensors_of(one_value, one_shape, one_kind)
