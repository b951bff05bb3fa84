"""Reader of PyTorch execution traces (``torch.profiler.ExecutionTraceObserver``; JSON in the Chakra schema).

The trace names every tensor, so the graph has the edges of the model, branches and skip connections included. It has no
times: costs are FLOP and bytes from the recorded shapes. With a Kineto trace of the same run beside it
(``et.json+kineto.json``), the calls are matched by their record-function id and the times are the measured ones.

Loss of information: see `readers.recorded`; tensors made outside of recorded operators (inputs, buffers) are not edges,
and the device of a tensor is dropped. Schema: https://github.com/mlcommons/chakra, as PyTorch writes it
(``torch/csrc/profiler/standalone/execution_trace_observer.cpp``), versions ``1.0.2-chakra.0.0.4`` and later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from drlpp.errors import GraphError
from drlpp.graph.op_graph import OpGraph
from drlpp.graph.readers.kineto import MeasuredCalls
from drlpp.graph.readers.recorded import RecordedCall, RecordedTensor, graph_of_calls

_RECORD_FUNCTION_ID = "rf_id"


def looks_like_chakra(data: Mapping[str, Any]) -> bool:
    """The parsed JSON is an execution trace."""
    return "chakra" in str(data.get("schema", "")) and isinstance(data.get("nodes"), list)


def read_chakra(
    data: Mapping[str, Any], name: str, where: str = "file", measured: MeasuredCalls | None = None
) -> OpGraph:
    """Builds the graph from the parsed JSON.

    Args:
        measured: times of the same run, from its Kineto trace.

    Raises:
        GraphError: an entry is not of the schema, the trace has no forward and backward pass, or `measured` is of
            another run.
    """
    nodes = sorted(data["nodes"], key=lambda node: int(node["id"]))  # ids grow in order of the start
    position = {node["id"]: k for k, node in enumerate(nodes)}
    calls = [_call(node, position, where, measured) for node in nodes]
    return graph_of_calls(
        calls, name, where, has_dataflow=True, measured_on=measured.measured_on if measured is not None else ""
    )


def _call(
    node: Mapping[str, Any], position: Mapping[int, int], where: str, measured: MeasuredCalls | None
) -> RecordedCall:
    attributes = {a["name"]: a.get("value") for a in node.get("attrs", ())}
    for key in ("seq_id", "tid", _RECORD_FUNCTION_ID):
        if key not in attributes:
            raise GraphError(
                f"{where}: node {node['id']} ({node.get('name')!r}) has no attribute {key!r}: record the trace with "
                "PyTorch's ExecutionTraceObserver (2.1 or later)"
            )
    seconds, module = None, ""
    if measured is not None:
        seconds, module = measured.find(int(attributes[_RECORD_FUNCTION_ID]), str(node["name"]), where)
    return RecordedCall(
        id=int(node["id"]),
        name=str(node["name"]),
        parent=_parent(node, position),
        thread=int(attributes["tid"]),
        sequence=int(attributes["seq_id"]),
        inputs=tuple(_tensors(node["inputs"])),
        outputs=tuple(_tensors(node["outputs"])),
        seconds=seconds,
        module=module,
        mutates="!" in str(attributes.get("op_schema") or "").partition("->")[0],
    )


def _parent(node: Mapping[str, Any], position: Mapping[int, int]) -> int:
    above = int(node["ctrl_deps"])
    return position.get(above, -1) if above != node["id"] else -1  # the root of a trace is its own parent


def _tensors(values: Mapping[str, Any]) -> Iterator[RecordedTensor]:
    for value, shape, kind in zip(values["values"], values["shapes"], values["types"], strict=True):
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
        kinds = kind.removeprefix("GenericList[").removesuffix("]").split(",")
        for one_value, one_shape, one_kind in zip(value, shape, kinds, strict=True):
            yield from _tensors_of(one_value, one_shape, one_kind)
