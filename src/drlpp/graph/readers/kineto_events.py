"""Events of a Kineto trace under one set of names, and how calls on the CPU are nested.

Since 1.8, PyTorch has renamed categories (``Operator`` is ``cpu_op`` now, ``Runtime`` ``cuda_runtime``) and arguments
(``external id``, ``Input dims``), and has added drivers of other devices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

CPU_OP = ("cpu_op", "Operator")
_ANNOTATION = ("user_annotation", "Annotation")
_LAUNCH = (
    "cuda_runtime",
    "cuda_driver",
    "Runtime",
    "xpu_runtime",
    "mtia_runtime",
    "glow_runtime",
    "privateuse1_runtime",
    "privateuse1_driver",
)
_GPU_WORK = ("kernel", "gpu_memcpy", "gpu_memset", "Kernel", "Memcpy", "Memset", "hpu_op", "mtia_ccp_events")
_PYTHON = ("python_function",)
_MODULE = "nn.Module: "
_RENAMED = {"external id": "External id", "Input dims": "Input Dims"}


@dataclasses.dataclass(frozen=True, slots=True)
class TraceEvent:
    """A complete event: its category and name, the thread that it ran on, start and end (us), arguments."""

    category: str
    name: str
    thread: tuple[str, str]
    start: float
    end: float
    arguments: Mapping[str, Any]

    @property
    def is_gpu_work(self) -> bool:
        """A kernel, a copy or a fill on a device."""
        return self.category in _GPU_WORK

    @property
    def is_launch(self) -> bool:
        """A call of the device's driver or runtime."""
        return self.category in _LAUNCH

    @property
    def correlation(self) -> int | None:
        """Number that work on the device shares with the call that launched it."""
        value = self.arguments.get("correlation")
        return None if value is None else int(value)

    @property
    def external_id(self) -> int:
        return int(self.arguments.get("External id", 0))


@dataclasses.dataclass(slots=True)
class Call:
    """A call of an operator, or an annotation, on a CPU thread; times in us.

    `parent` is the position of the call that encloses it (-1 for none), `module` the path of the modules around it,
    `seconds` what it is measured to take with all that is nested in it.
    """

    name: str
    thread: int
    start: float
    end: float
    external_id: int
    record_function_id: int
    sequence: int
    input_shapes: Sequence[Any]
    input_types: Sequence[str]
    place: tuple[str, str]
    parent: int = -1
    module: str = ""
    seconds: float = 0.0


def is_profile(data: Mapping[str, Any]) -> bool:
    """The parsed JSON has events of PyTorch's profiler: on the CPU, or on a device alone."""
    known, events = {*CPU_OP, *_LAUNCH, *_GPU_WORK}, data.get("traceEvents")
    return isinstance(events, list) and any(isinstance(e, dict) and e.get("cat") in known for e in events)


def trace_events(data: Mapping[str, Any]) -> list[TraceEvent]:
    """The complete events (``"ph": "X"``) of the categories that matter, with arguments by their newest names."""
    known = {*CPU_OP, *_ANNOTATION, *_LAUNCH, *_GPU_WORK, *_PYTHON}
    out = []
    for e in data["traceEvents"]:
        if not isinstance(e, dict) or e.get("ph") != "X" or e.get("cat") not in known:
            continue
        start = float(e["ts"])
        arguments = {_RENAMED.get(key, key): value for key, value in (e.get("args") or {}).items()}
        thread = (str(e.get("pid", "")), str(e["tid"]))
        out.append(TraceEvent(e["cat"], str(e["name"]), thread, start, start + float(e.get("dur", 0)), arguments))
    return out


def nest(events: Sequence[TraceEvent]) -> list[Call]:
    """The calls in order of their start, each with what encloses it in time on its thread: call and modules."""
    numbers: dict[tuple[str, str], int] = {}
    found = sorted(
        (e for e in events if e.category in CPU_OP or e.category in _ANNOTATION), key=lambda e: (e.start, -e.end)
    )
    calls = [_call(e, numbers.setdefault(e.thread, len(numbers))) for e in found]
    marks: list[tuple[tuple[str, str], float, float, int, str]] = [
        (c.place, c.start, -c.end, k, "") for k, c in enumerate(calls)
    ]
    for e in events:
        if e.category in _PYTHON and e.name.startswith(_MODULE):
            marks.append((e.thread, e.start, -e.end, -1, e.name.removeprefix(_MODULE)))
    stack: list[tuple[float, int, str]] = []  # end, call, modules
    thread = None
    for place, start, minus_end, k, module in sorted(marks):
        if place != thread:
            stack, thread = [], place
        while stack and not _encloses(stack[-1][0], start, -minus_end):
            stack.pop()
        above = stack[-1] if stack else (0.0, -1, "")
        if k < 0:
            stack.append((-minus_end, above[1], f"{above[2]}.{module}" if above[2] else module))
        else:
            calls[k].parent, calls[k].module = above[1], above[2]
            stack.append((-minus_end, k, above[2]))
    return calls


def _encloses(end_above: float, start: float, end: float) -> bool:
    """An event that starts inside another lies in it. Rounded times of neighbours may overlap a little."""
    return end_above > start and (end <= end_above or end_above - start > end - end_above)


def _call(e: TraceEvent, thread: int) -> Call:
    return Call(
        name=e.name,
        thread=thread,
        start=e.start,
        end=e.end,
        external_id=e.external_id,
        record_function_id=int(e.arguments.get("Record function id", 0)),
        sequence=int(e.arguments.get("Sequence number", -1)),
        input_shapes=e.arguments.get("Input Dims", ()),
        input_types=e.arguments.get("Input type", ()),
        place=e.thread,
    )
