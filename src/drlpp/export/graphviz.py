"""Graphviz: the stage graph, or all ops in boxes of stages, in the dot language. Colours are those of devices."""

from __future__ import annotations

import json
from collections import defaultdict

from drlpp.plan import Plan
from drlpp.units import format_bytes

_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a7a00", "#5e6670")
"""Safe for colour-blind readers: Okabe and Ito, Color Universal Design, 2008; the last two are darker here."""


def stage_dot(plan: Plan) -> str:
    """Stages, with the bytes per micro-batch that go between them."""
    sizes: dict[tuple[int, int], float] = defaultdict(float)
    for message in plan.stage_graph.messages:
        for dst in message.dsts:
            sizes[message.src, dst] += message.bytes
    lines = [
        f"  s{stage.index} [label={_quoted(_stage_label(plan, stage.index))}, color={_color(plan, stage.index)}];"
        for stage in plan.stages
    ]
    lines += [f"  s{a} -> s{b} [label={_quoted(format_bytes(size))}];" for (a, b), size in sorted(sizes.items())]
    return _graph(plan, lines)


def op_dot(plan: Plan) -> str:
    """Every op, in a box per stage."""
    lines = []
    for stage in plan.stages:
        lines.append(f"  subgraph cluster_{stage.index} {{")
        lines.append(f"    label={_quoted(_stage_label(plan, stage.index))}; color={_color(plan, stage.index)};")
        lines += [f"    {_quoted(name)};" for name in stage.ops]
        lines.append("  }")
    arcs = dict.fromkeys((e.src, e.dst) for e in plan.graph.edges)
    lines += [f"  {_quoted(src)} -> {_quoted(dst)};" for src, dst in arcs]
    return _graph(plan, lines)


def _graph(plan: Plan, lines: list[str]) -> str:
    head = [f"digraph {_quoted(plan.graph.name)} {{", "  node [shape=box, style=rounded, penwidth=2];"]
    return "\n".join([*head, *lines, "}"]) + "\n"


def _stage_label(plan: Plan, index: int) -> str:
    stage = plan.stages[index]
    kinds = "/".join(dict.fromkeys(plan.cluster.devices[d].type.name for d in stage.devices))
    devices = ", ".join(f"#{d}" for d in stage.devices)
    return f"stage {index}: {len(stage.ops)} ops\n{kinds} {devices}"


def _color(plan: Plan, index: int) -> str:
    return _quoted(_COLORS[plan.stages[index].devices[0] % len(_COLORS)])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
