"""Reader of Kineto traces (``torch.profiler.profile(record_shapes=True)``, then ``export_chrome_trace``).

Times are measured: on a GPU those of the kernels that an operator launched (`kineto_kernels`), else the duration of its
call on the CPU (with the profiler's overhead). With ``with_stack=True`` ops carry the modules that called them, by
class and number. Traces of PyTorch 1.8 and later are read, whose categories and arguments have changed their names.

Loss of information: a Kineto trace says the shapes of inputs, but not which tensors they are. The ops therefore form a
chain in order of execution; branches and the transfers of skip connections are lost. Record an execution trace in the
same run to keep them (`readers.chakra`). Shapes of outputs are those of the gradients that come back; outputs without a
gradient count as empty. A parameter that several ops share counts at each. See `readers.recorded_graph` for the rest.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from drlpp.cluster.devices import CPU_PRESET, preset_of_gpu
from drlpp.errors import GraphError
from drlpp.graph.op_graph import OpGraph
from drlpp.graph.readers.kineto_events import Call, nest, trace_events
from drlpp.graph.readers.kineto_kernels import add_gpu_seconds
from drlpp.graph.readers.recorded import ELEMENT_BYTES, RecordedCall, RecordedTensor
from drlpp.graph.readers.recorded_graph import graph_of_calls

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class MeasuredCalls:
    """Times of the calls of a run.

    Attributes:
        by_id: record-function id -> (name, seconds, module).
        measured_on: device preset, or empty.
    """

    by_id: Mapping[int, tuple[str, float, str]]
    measured_on: str

    def find(self, record_function_id: int, name: str, where: str) -> tuple[float | None, str]:
        """Seconds and module of a call. Raises GraphError if the Kineto trace has another operator there, or none."""
        found, seconds, module = self.by_id.get(record_function_id, ("", 0.0, ""))
        if found == name:
            return seconds, module
        if "::" not in name:  # a marker of the execution trace
            return None, ""
        raise GraphError(
            f"{where}: call {record_function_id} is {name!r} in the execution trace and {found or 'absent'!r} in the "
            "Kineto trace: give two traces of the same run"
        )


def read_kineto(data: Mapping[str, Any], name: str, where: str = "file") -> OpGraph:
    """Builds the graph from the parsed JSON.

    Raises:
        GraphError: shapes were not recorded, or the trace has no forward and backward pass.
    """
    calls, on_gpu = _calls(data, where)
    recorded = [
        RecordedCall(
            id=c.external_id,
            name=c.name,
            parent=c.parent,
            thread=c.thread,
            sequence=c.sequence,
            inputs=tuple(_tensors(c.input_shapes, c.input_types)),
            seconds=c.seconds,
            module=c.module,
        )
        for c in calls
    ]
    if not any(c.inputs for c in recorded):
        raise GraphError(f"{where}: the trace has no shapes: profile with record_shapes=True")
    return graph_of_calls(
        recorded, name, where, has_dataflow=False, measured_on=_preset(data) if on_gpu else CPU_PRESET
    )


def measured_calls(data: Mapping[str, Any], where: str) -> MeasuredCalls:
    """The times of a Kineto trace by record-function id, for the execution trace of the same run.

    Raises:
        GraphError: no call has such an id.
    """
    calls, on_gpu = _calls(data, where)
    by_id = {c.record_function_id: (c.name, c.seconds, c.module) for c in calls if c.record_function_id > 0}
    if not by_id:
        raise GraphError(
            f"{where}: no call has a record-function id: give the execution trace's observer to the profiler "
            "(execution_trace_observer=...)"
        )
    return MeasuredCalls(by_id, _preset(data) if on_gpu else CPU_PRESET)


def _calls(data: Mapping[str, Any], where: str) -> tuple[list[Call], bool]:
    """The operator calls in order of their start, with their times; and whether these are of a GPU.

    Raises:
        GraphError: there is no operator call.
    """
    events = trace_events(data)
    calls = nest(events)
    if not calls:
        raise GraphError(f"{where}: the trace has no operators of the CPU: profile with CPU and GPU activities")
    gpu = [e for e in events if e.is_gpu_work]
    if gpu:
        add_gpu_seconds(calls, gpu, [e for e in events if e.is_launch], where)
    else:
        for call in calls:
            call.seconds = (call.end - call.start) / 1e6
        if data.get("deviceProperties"):
            log.warning(
                "%s: recorded on a machine with %s, but no kernel is in the trace: times are those of calls on the "
                "CPU. If the model was on the GPU, profile with CPU and GPU activities",
                where,
                _device_name(data) or "a GPU",
            )
    return calls, bool(gpu)


def _tensors(shapes: Sequence[Any], kinds: Sequence[str]) -> Iterable[RecordedTensor]:
    for shape, kind in zip(shapes, kinds, strict=False):
        if kind in ELEMENT_BYTES:
            yield RecordedTensor(shape=tuple(int(x) for x in shape), dtype=kind)
        elif kind == "TensorList":
            for one in shape:
                yield RecordedTensor(shape=tuple(int(x) for x in one), dtype="float")


def _preset(data: Mapping[str, Any]) -> str:
    return preset_of_gpu(_device_name(data))


def _device_name(data: Mapping[str, Any]) -> str:
    devices = data.get("deviceProperties") or [{}]
    return str(devices[0].get("name", ""))
