"""Training steps of timm's image models on one GPU, mixed precision.

Models are captured once, in float32 at the batch of the row, and kept under ``out/truth``; what is not captured within
the time that is given counts as left out, and the next run goes on. The problem trains them in mixed precision, as
autocast does.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
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
CAPTURE_SECONDS = 600.0
"""Time for captures in one run."""
_DEVICE = "rtx3090-24gb"
_LAYOUTS = {"nchw": "channels first", "nhwc": "channels last"}


def graph_of(spec: str, until: float) -> OpGraph:
    """The graph of a model, kept or captured now."""
    path = KEPT / f"{spec.replace(':', '_').replace('?', '_').replace('&', '_')}.json"
    if path.is_file():
        data = json.loads(path.read_text())
        if "left_out" in data:
            raise UnreadableError(str(data["left_out"]))
        return graph_from_dict(data)
    if time.monotonic() > until:
        raise UnreadableError("not captured yet: run again")
    try:
        graph = capture(load_model(spec), check=False).graph
    except DrlppError as error:
        reason = "the installed timm does not have it" if "has no model" in str(error) else "cannot be captured"
        KEPT.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"left_out": reason}))
        raise UnreadableError(reason) from error
    KEPT.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(graph_to_dict(graph)))
    return graph


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
    until = time.monotonic() + CAPTURE_SECONDS
    for line, row in _spread(list(findings.rows(data / "timm" / "train_amp_rtx3090.csv"))):
        for layout in _LAYOUTS:
            pair = findings.express("timm training", functools.partial(_pair, line, row, layout, until))
            if pair:
                findings.add(pair)


def _pair(line: int, row: Row, layout: str, until: float) -> Pair:
    batch, measured = whole(row, f"batch_{layout}"), number(row, f"step_ms_{layout}") / 1e3
    if not batch or not measured:
        raise UnreadableError("not measured in this layout")
    graph = graph_of(f"timm:{row['model']}?batch_size={batch}&image_size={whole(row, 'img_size')}", until)
    if layout == "nhwc":
        graph = in_channels_last(graph)
    ref = f"timm/train_amp_rtx3090.csv:{line}"
    return Pair(f"timm training, {_LAYOUTS[layout]}", "time", step_seconds(graph), measured, ref=ref)
