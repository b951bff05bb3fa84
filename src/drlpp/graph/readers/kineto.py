"""Reader of Kineto traces (``torch.profiler.profile(record_shapes=True)``, then ``export_chrome_trace``).

Times are measured: on a GPU the kernels that an operator launched, else the duration of its call on the CPU (with the
profiler's overhead). With ``with_stack=True`` ops carry the modules that called them, by class and number.

Loss of information: a Kineto trace says the shapes of inputs, but not which tensors they are. The ops therefore form a
chain in order of execution; branches and the transfers of skip connections are lost. Record an execution trace in the
same run to keep them (`readers.chakra`). Shapes of outputs are those of the gradients that come back; outputs without a
gradient count as empty. A parameter that several ops share counts at each. See `readers.recorded` for the rest.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from drlpp.errors import GraphError
from drlpp.graph.op_graph import OpGraph
from drlpp.graph.readers.recorded import ELEMENT_BYTES, RecordedCall, RecordedTensor, graph_of_calls

_GPU_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
_MODULE = "nn.Module: "
CPU_PRESET = "cpu-core"
PRESET_OF_GPU = (
    ("b200", "b200-sxm-180gb"),
    ("h200", "h200-sxm-141gb"),
    ("h100 pcie", "h100-pcie-80gb"),
    ("h100", "h100-sxm5-80gb"),
    ("a100-sxm4-80gb", "a100-sxm4-80gb"),
    ("a100-sxm", "a100-sxm4-40gb"),
    ("a100", "a100-pcie-80gb"),
    ("l40s", "l40s-48gb"),
    (" l4", "l4-24gb"),
    (" a10", "a10-24gb"),
    ("rtx 4090", "rtx4090-24gb"),
    ("rtx 3090", "rtx3090-24gb"),
    ("2080 ti", "rtx2080ti-11gb"),
    ("1080 ti", "gtx1080ti-11gb"),
    ("t4", "t4-16gb"),
    ("v100-sxm2-32gb", "v100-sxm2-32gb"),
    ("v100-pcie", "v100-pcie-16gb"),
    ("v100", "v100-sxm2-16gb"),
    ("p100", "p100-pcie-16gb"),
    ("mi300x", "mi300x-192gb"),
    ("mi250x", "mi250x-gcd-64gb"),
)
"""What a GPU's name contains (in lower case) -> device of the database, first match first."""


def preset_of_gpu(name: str) -> str:
    """The device of the database that a GPU is, by the name that CUDA gives it; empty if none is known."""
    return next((preset for words, preset in PRESET_OF_GPU if words in f" {name}".lower()), "")


def looks_like_kineto(data: Mapping[str, Any]) -> bool:
    """The parsed JSON is a trace of PyTorch's profiler."""
    events = data.get("traceEvents")
    return isinstance(events, list) and any(isinstance(e, dict) and e.get("cat") == "cpu_op" for e in events)


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
    events, on_gpu = _events(data, where)
    calls = [
        RecordedCall(
            id=e.external_id,
            name=e.name,
            parent=e.parent,
            thread=e.thread,
            sequence=e.sequence,
            inputs=e.inputs,
            seconds=e.seconds,
            module=e.module,
        )
        for e in events
    ]
    if not any(c.inputs for c in calls):
        raise GraphError(f"{where}: the trace has no shapes: profile with record_shapes=True")
    return graph_of_calls(calls, name, where, has_dataflow=False, measured_on=_preset(data) if on_gpu else CPU_PRESET)


def measured_calls(data: Mapping[str, Any], where: str) -> MeasuredCalls:
    """The times of a Kineto trace by record-function id, for the execution trace of the same run.

    Raises:
        GraphError: no call has such an id.
    """
    events, on_gpu = _events(data, where)
    by_id = {e.record_function_id: (e.name, e.seconds, e.module) for e in events if e.record_function_id > 0}
    if not by_id:
        raise GraphError(
            f"{where}: no call has a record-function id: give the execution trace's observer to the profiler "
            "(execution_trace_observer=...)"
        )
    return MeasuredCalls(by_id, _preset(data) if on_gpu else CPU_PRESET)


@dataclasses.dataclass(slots=True)
class _Event:
    name: str
    thread: int
    start: float
    end: float
    external_id: int
    record_function_id: int
    sequence: int
    inputs: tuple[RecordedTensor, ...]
    parent: int = -1
    module: str = ""
    seconds: float = 0.0


def _events(data: Mapping[str, Any], where: str) -> tuple[list[_Event], bool]:
    """The operator calls in order of their start, with their times; and whether these are of a GPU."""
    raw = [e for e in data["traceEvents"] if isinstance(e, dict) and e.get("ph") == "X"]
    events = []
    for e in raw:
        if e.get("cat") not in ("cpu_op", "user_annotation"):
            continue
        arguments = e.get("args", {})
        start = float(e["ts"])
        events.append(
            _Event(
                name=str(e["name"]),
                thread=int(e["tid"]),
                start=start,
                end=start + float(e["dur"]),
                external_id=int(arguments.get("External id", 0)),
                record_function_id=int(arguments.get("Record function id", 0)),
                sequence=int(arguments.get("Sequence number", -1)),
                inputs=tuple(_tensors(arguments.get("Input Dims", ()), arguments.get("Input type", ()))),
            )
        )
    events.sort(key=lambda e: (e.start, -e.end))
    _nest(events, raw)
    gpu = [e for e in raw if e.get("cat") in _GPU_WORK]
    if gpu:
        _sum_gpu_work(events, gpu)
    else:
        for event in events:
            event.seconds = (event.end - event.start) / 1e6
    return events, bool(gpu)


def _nest(events: list[_Event], raw: Iterable[Mapping[str, Any]]) -> None:
    """Sets the parent and the module of every event: what encloses it in time on its thread."""
    marks: list[tuple[int, float, float, int, str]] = [(e.thread, e.start, -e.end, k, "") for k, e in enumerate(events)]
    for e in raw:
        if e.get("cat") == "python_function" and str(e["name"]).startswith(_MODULE):
            start = float(e["ts"])
            module = str(e["name"]).removeprefix(_MODULE)
            marks.append((int(e["tid"]), start, -(start + float(e["dur"])), -1, module))
    stack: list[tuple[float, int, str]] = []
    thread = None
    for tid, start, minus_end, k, module in sorted(marks):
        if tid != thread:
            stack, thread = [], tid
        while stack and stack[-1][0] <= start:
            stack.pop()
        above = stack[-1] if stack else (0.0, -1, "")
        if k < 0:
            stack.append((-minus_end, above[1], f"{above[2]}.{module}" if above[2] else module))
        else:
            events[k].parent, events[k].module = above[1], above[2]
            stack.append((-minus_end, k, above[2]))


def _sum_gpu_work(events: Sequence[_Event], gpu: Iterable[Mapping[str, Any]]) -> None:
    """Seconds of a call: the durations of the kernels and copies that it, or a call nested in it, launched."""
    launched: dict[int, float] = defaultdict(float)
    for e in gpu:
        launched[int(e.get("args", {}).get("External id", 0))] += float(e["dur"]) / 1e6
    for event in events:
        event.seconds = launched.get(event.external_id, 0.0) if event.external_id else 0.0
    for event in reversed(events):
        if event.parent >= 0:
            events[event.parent].seconds += event.seconds


def _tensors(shapes: Sequence[Any], kinds: Sequence[str]) -> Iterable[RecordedTensor]:
    for shape, kind in zip(shapes, kinds, strict=False):
        if kind in ELEMENT_BYTES:
            yield RecordedTensor(shape=tuple(int(x) for x in shape), dtype=kind)
        elif kind == "TensorList":
            for one in shape:
                yield RecordedTensor(shape=tuple(int(x) for x in one), dtype="float")


def _preset(data: Mapping[str, Any]) -> str:
    devices = data.get("deviceProperties") or [{}]
    return preset_of_gpu(str(devices[0].get("name", "")))
