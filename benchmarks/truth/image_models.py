"""Training steps of timm's image models on one GPU, mixed precision.

Models are captured once, in float32 at the batch of the row, and kept under ``out/truth``: by as many processes as the
machine has cores, since a capture takes three CPU seconds and the table has hundreds. What is not captured within the
time that is given counts as left out, and the next run goes on. The problem trains models in mixed precision, as
autocast does.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from drlpp.capture import capture, load_model
from drlpp.cluster import Cluster, Host, device_preset
from drlpp.cost.optimizer_state import optimizer_s_per_byte
from drlpp.cost.problem_times import problem_times
from drlpp.errors import DrlppError
from drlpp.files import write_atomically
from drlpp.graph import Op, OpGraph, graph_from_dict, graph_to_dict
from drlpp.problem import PlanningProblem
from truth.rows import Findings, Pair, Row, UnreadableError, number, whole

KEPT = Path(__file__).parents[2] / "out" / "truth"
CAPTURE_SECONDS = 3600.0
"""Time for captures in one run."""
_DEVICE = "rtx3090-24gb"
_LAYOUTS = {"nchw": "channels first", "nhwc": "channels last"}


def _file_of(spec: str) -> Path:
    return KEPT / f"{spec.replace(':', '_').replace('?', '_').replace('&', '_')}.json"


def keep_graph(spec: str, until: float) -> None:
    """Captures a model and keeps its graph, or why there is none; does nothing after a moment (`time.monotonic`)."""
    if time.monotonic() > until:
        return
    try:
        found = graph_to_dict(capture(load_model(spec), check=False).graph)
    except (DrlppError, RuntimeError, MemoryError) as error:  # a table may have sizes that no model or machine takes
        missing = "has no model" in str(error)
        found = {"left_out": "the installed timm does not have it" if missing else "cannot be captured"}
    write_atomically(_file_of(spec), json.dumps(found))


def keep_graphs(specs: Sequence[str], until: float) -> None:
    """Captures what is not kept yet, in the order that is given, on all cores."""
    KEPT.mkdir(parents=True, exist_ok=True)
    missing = [spec for spec in dict.fromkeys(specs) if not _file_of(spec).is_file()]
    if not missing:
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(missing), os.cpu_count() or 1), mp_context=spawn) as pool:
        for _ in pool.map(keep_graph, missing, itertools.repeat(until)):
            pass


def graph_of(spec: str) -> OpGraph:
    """The graph of a model that is kept."""
    if not _file_of(spec).is_file():
        raise UnreadableError("not captured yet: run again")
    data = json.loads(_file_of(spec).read_text())
    if "left_out" in data:
        raise UnreadableError(str(data["left_out"]))
    return graph_from_dict(data)


def in_channels_last(graph: OpGraph) -> OpGraph:
    """The graph as a capture of the model in channels last names its dense convolutions."""

    def renamed(op: Op) -> Op:
        dense = op.kind.startswith("aten.conv2d") and not op.kind.endswith(".grouped")
        return dataclasses.replace(op, kind="aten.conv2d.channels_last") if dense else op

    return dataclasses.replace(graph, ops=tuple(renamed(op) for op in graph.ops))


def step_seconds(graph: OpGraph) -> float:
    """Forward, backward and optimizer step on one GPU."""
    kind = device_preset(_DEVICE)
    cluster = Cluster("one", (kind,), (Host(name="h", devices=(kind.name,)),))
    problem = PlanningProblem.build(graph, cluster, num_microbatches=1, optimizer="momentum", precision="fp16")
    update_s = float(optimizer_s_per_byte(problem)[0] * problem.graph.op_trained_bytes.sum())
    return float(problem_times(problem).total_s.sum()) + update_s


def _spread(rows: list[tuple[int, Row]]) -> list[tuple[int, Row]]:
    """The rows in an order in which any beginning is spread over the whole table."""
    return [row for start in range(8) for row in rows[start::8]]


def run(data: Path, findings: Findings) -> None:
    """Adds a pair per model and memory layout."""
    rows = _spread(list(findings.rows(data / "timm" / "train_amp_rtx3090.csv")))
    cases = [(line, row, layout) for line, row in rows for layout in _LAYOUTS]
    read = [findings.express("timm training", functools.partial(_measured, row, layout)) for _, row, layout in cases]
    keep_graphs([spec for spec, _ in filter(None, read)], time.monotonic() + CAPTURE_SECONDS)
    for (line, _, layout), found in zip(cases, read, strict=True):
        if found:
            pair = findings.express("timm training", functools.partial(_pair, line, layout, *found))
            if pair:
                findings.add(pair)


def _measured(row: Row, layout: str) -> tuple[str, float]:
    """The model of a row, and the seconds of its step in a layout."""
    batch, seconds = whole(row, f"batch_{layout}"), number(row, f"step_ms_{layout}") / 1e3
    if not batch or not seconds:
        raise UnreadableError("not measured in this layout")
    return f"timm:{row['model']}?batch_size={batch}&image_size={whole(row, 'img_size')}", seconds


def _pair(line: int, layout: str, spec: str, measured: float) -> Pair:
    graph = graph_of(spec)
    if layout == "nhwc":
        graph = in_channels_last(graph)
    ref = f"timm/train_amp_rtx3090.csv:{line}"
    return Pair(f"timm training, {_LAYOUTS[layout]}", "time", step_seconds(graph), measured, ref=ref)
