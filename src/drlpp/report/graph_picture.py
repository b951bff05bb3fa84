"""The stage graph of a plan as boxes, edges and labels, ready for the page's SVG."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from drlpp.plan import Plan
from drlpp.report.layout import BOX_HEIGHT, BOX_WIDTH, layout_graph
from drlpp.report.stages import StageRow
from drlpp.units import format_bytes, format_time

MAX_EDGES = 200
"""Edges that the picture shows; of more, those with the most bytes."""
_NUM_COLORS = 8
_LINE_CHARACTERS = 27
_DEVICE_CHARACTERS = 13
_LEAST_SCALE = 0.75


def color_of(device: int) -> int:
    """Index of a device's colour in the palette; devices also carry their number, never colour alone."""
    return device % _NUM_COLORS


def stage_picture(plan: Plan, rows: Sequence[StageRow]) -> dict[str, Any]:
    """Boxes, edges and the caption, with positions in pixels."""
    sizes: dict[tuple[int, int], float] = defaultdict(float)
    for message in plan.stage_graph.messages:
        for dst in message.dsts:
            sizes[min(message.src, dst), max(message.src, dst)] += message.bytes
    shown = sorted(sorted(sizes, key=lambda e: -sizes[e])[:MAX_EDGES])
    layout = layout_graph(plan.num_stages, shown)
    largest = max((sizes[e] for e in shown), default=0.0) or 1.0
    edges = []
    for placed in layout.edges:
        size = sizes[placed.src, placed.dst]
        network = _crosses_hosts(plan, placed.src, placed.dst)
        where = "over the network" if network else "inside a host"
        edges.append(
            {
                "path": placed.path,
                "network": network,
                "width": f"{1.2 + 3.0 * (size / largest) ** 0.5:.1f}",
                "label": format_bytes(size) if size else "",
                "label_x": f"{placed.label_x:.1f}",
                "label_y": f"{placed.label_y + 4:.1f}",
                "title": f"stage {placed.src} to stage {placed.dst}: {format_bytes(size)} per micro-batch, {where}",
            }
        )
    return {
        "boxes": [_box(row, x, y) for row, (x, y) in zip(rows, layout.boxes, strict=True)],
        "edges": edges,
        "width": f"{layout.width:.0f}",
        "least_width": f"{_LEAST_SCALE * layout.width:.0f}",
        "height": f"{layout.height:.0f}",
        "box_width": BOX_WIDTH,
        "box_height": BOX_HEIGHT,
        "caption": _caption(len(sizes), any(e["network"] for e in edges)),
    }


def _caption(num_edges: int, any_network: bool) -> str:
    text = (
        "Coloured by device. Numbers on edges are the bytes per micro-batch of the tensors that go forward; gradients "
        "come back the same way."
    )
    if any_network:
        text += " Blue edges cross the network between hosts."
    if num_edges > MAX_EDGES:
        text += f" The {MAX_EDGES} largest of {num_edges} edges are shown."
    return text


def _crosses_hosts(plan: Plan, src: int, dst: int) -> bool:
    host, a, b = plan.cluster.host_index, plan.stages[src], plan.stages[dst]
    return any(host[a.device(m)] != host[b.device(m)] for m in range(plan.num_microbatches))


def _box(row: StageRow, x: float, y: float) -> dict[str, Any]:
    height = (BOX_HEIGHT - 18) / len(row.devices)
    first = row.degrees or f"{row.num_ops} op{'s' if row.num_ops != 1 else ''}"
    lines = [
        {"y": 20, "cls": "title", "text": f"Stage {row.index} · {_device_text(row)}"},
        {"y": 37, "cls": "", "text": _first_and_last(row.modules)},
        {
            "y": 53,
            "cls": "dim",
            "text": f"{first} · F {format_time(row.forward_s)} · B {format_time(row.backward_s)}",
        },
        {"y": 68, "cls": "dim", "text": f"{format_bytes(row.memory_bytes)} · {format_bytes(row.param_bytes)} params"},
    ]
    return {
        "x": f"{x:.1f}",
        "y": f"{y:.1f}",
        "lines": lines,
        "stripes": [
            {"y": f"{9 + i * height:.2f}", "height": f"{height:.2f}", "color": color_of(d)}
            for i, d in enumerate(row.devices)
        ],
        "title": f"stage {row.index}: {row.modules}; {row.device_text}",
    }


def _device_text(row: StageRow) -> str:
    """Type and numbers of the devices; of a long text, the type is cut first."""
    kind, _, numbers = row.device_text.partition(" ")
    numbers = _shorten(numbers, _DEVICE_CHARACTERS)
    room = _DEVICE_CHARACTERS - len(numbers) - 1
    return f"{_shorten(kind, room)} {numbers}" if room > 1 else numbers


def _first_and_last(modules: str) -> str:
    """What fits on a line of ``a, b, c; part of d``: all of it, or its first and its last module."""
    if len(modules) <= _LINE_CHARACTERS:
        return modules
    parts = modules.split("; part of ")[0].split(", ")
    if len(parts) == 1:
        return _shorten(modules)
    half = (_LINE_CHARACTERS - 3) // 2
    first = _outer(parts[0], half)
    return f"{first} – {_outer(parts[-1], _LINE_CHARACTERS - 3 - len(first))}"


def _outer(module: str, limit: int) -> str:
    """The longest beginning of a module's path that fits."""
    while len(module) > limit and "." in module:
        module = module.rpartition(".")[0]
    return _shorten(module, limit)


def _shorten(text: str, limit: int = _LINE_CHARACTERS) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip(" ,;") + "…"
