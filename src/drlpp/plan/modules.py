"""Which modules of the model each stage of a plan covers: what people read, and what other engines split along.

Works on the dotted module paths that ops carry (`Op.module`). Left out: modules that run no op.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Iterable

from drlpp.graph import OpGraph
from drlpp.plan.plan import Plan

_NUMBERED = re.compile(r"(.*?)(\d+)$")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageModules:
    """The modules of one stage, in order of execution.

    Attributes:
        whole: the largest modules whose every op is in this stage.
        split: modules of which some direct ops are in this stage, while other ops of theirs are elsewhere; the empty
            string is the model itself.
        num_unnamed_ops: ops of this stage that name no module while others do, or in a graph without modules.
    """

    whole: tuple[str, ...]
    split: tuple[str, ...]
    num_unnamed_ops: int


def stage_modules(plan: Plan) -> tuple[StageModules, ...]:
    """The modules that each stage covers. Raises PlanError if the partition is not complete."""
    stages = plan.stage_of_op.tolist()
    whole: list[dict[str, None]] = [{} for _ in plan.stages]
    split: list[dict[str, None]] = [{} for _ in plan.stages]
    unnamed = [0] * plan.num_stages
    owner = module_owners(plan.graph, stages)
    for op, stage in zip(plan.graph.ops, stages, strict=True):
        if not op.module:
            unnamed[stage] += 1
            continue
        largest = next((p for p in prefixes(op.module) if owner[p] is not None), None)
        if largest is None:
            split[stage][op.module] = None
        else:
            whole[stage][largest] = None
    return tuple(
        StageModules(whole=tuple(w), split=tuple(s), num_unnamed_ops=n)
        for w, s, n in zip(whole, split, unnamed, strict=True)
    )


def module_owners(graph: OpGraph, stage_of_op: list[int]) -> dict[str, int | None]:
    """Module path -> the one stage that has all of its ops, or None if they are spread over several."""
    where: dict[str, set[int]] = defaultdict(set)
    for op, stage in zip(graph.ops, stage_of_op, strict=True):
        for prefix in prefixes(op.module):
            where[prefix].add(stage)
    return {path: next(iter(found)) if len(found) == 1 else None for path, found in where.items()}


def prefixes(module: str) -> list[str]:
    """``a.b.c`` -> ``['a', 'a.b', 'a.b.c']``; nothing for the empty path."""
    parts = module.split(".") if module else []
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def layer_list(graph: OpGraph) -> str | None:
    """Path of the model's list of layers (entries like ``layers.0``); empty if the model itself is the list.

    Of the heaviest list and those that hold more than half of its parameters, the one with the most entries; None if
    there is no list of two.
    """
    entries: dict[str, set[str]] = defaultdict(set)
    weight: dict[str, float] = defaultdict(float)
    for op, params in zip(graph.ops, graph.op_param_bytes.tolist(), strict=True):
        for path in prefixes(op.module):
            owner, _, last = path.rpartition(".")
            if last.isdigit():
                entries[owner].add(path)
                weight[owner] += params
    candidates = [path for path in entries if len(entries[path]) > 1]
    most = max((weight[path] for path in candidates), default=0.0)
    heavy = [path for path in candidates if weight[path] == most or weight[path] > most / 2]
    return max(heavy, key=lambda path: (len(entries[path]), weight[path]), default=None)


def is_entry(module: str, layers: str) -> bool:
    """A module is an entry of the list `layers`, or inside one."""
    return module.startswith(f"{layers}.") if layers else module.partition(".")[0].isdigit()


def unit_around(module: str, layers: str) -> str | None:
    """The entry of the list `layers` that a module is in, or the largest module beside the list; None for neither."""
    return next((p for p in prefixes(module) if p != layers and not layers.startswith(f"{p}.")), None)


def joined_spans(graph: OpGraph) -> list[tuple[int, int]]:
    """First and last position of what a module's own ops hold together where only calls of modules move tensors.

    An op that a module runs itself, between calls of its parts (the sum of a residual connection), runs where its
    inputs are. So the module stays on one device from its beginning, or from the input if that comes later, to the op.
    """
    begins: dict[str, int] = {"": 0}
    for i, op in enumerate(graph.ops):
        for path in prefixes(op.module):
            begins.setdefault(path, i)
    return [(max(src, begins[graph.ops[dst].module]), dst) for src, dst in graph.edge_ends.tolist()]


def wrapper_prefix(modules: Iterable[str]) -> str:
    """``model.`` if all modules are below a module ``model``, and so on down; else nothing. Lists do not count."""
    left = set(modules)
    wrapper = ""
    while left:
        firsts = {m.removeprefix(wrapper).partition(".")[0] for m in left}
        below = all("." in m.removeprefix(wrapper) for m in left)
        children = {m.removeprefix(wrapper).split(".")[1] for m in left} if below else {"0"}
        if len(firsts) > 1 or not below or all(c.isdigit() for c in children):
            break
        wrapper += f"{firsts.pop()}."
    return wrapper


def top_level_unit(graph: OpGraph) -> Callable[[str], str | None]:
    """A function from the path of a module to the top-level module, or entry of a top-level list, that it is in.

    Names are those of engines that have the list of layers at the top: a wrapper around the model is taken off, and so
    is the module that holds the list (``model.layers.0`` is ``layers.0``); the embedding beside the list in models of
    transformers has the name that torchtitan gives it. None for the model itself and modules above the list.
    """
    wrapper = wrapper_prefix(op.module for op in graph.ops if op.module and op.params)
    layers = layer_list(graph) or ""
    holder = layers.removeprefix(wrapper).rpartition(".")[0] if layers.startswith(wrapper) else ""
    inside = f"{wrapper}{holder}." if holder else wrapper

    def unit(module: str) -> str | None:
        if not module or not module.startswith(wrapper) or inside.startswith(f"{module}."):
            return None
        if holder and module.startswith(inside):
            parts = module.removeprefix(inside).split(".")
            parts[0] = _TORCHTITAN_NAMES.get(parts[0], parts[0])
        else:
            parts = module.removeprefix(wrapper).split(".")
        return ".".join(parts[: 2 if parts[1:] and parts[1].isdigit() else 1])

    return unit


_TORCHTITAN_NAMES = {"embed_tokens": "tok_embeddings"}
"""Modules beside the list of layers: name in transformers -> name in torchtitan."""


def summarize_modules(modules: Iterable[str]) -> str:
    """Joins runs of numbered names: ``blocks.0, blocks.1, blocks.2, head`` -> ``blocks.0-2, head``."""
    out: list[str] = []
    run: tuple[str, int, int] | None = None

    def flush() -> None:
        if run is not None:
            stem, first, last = run
            out.append(f"{stem}{first}" if first == last else f"{stem}{first}-{last}")

    for name in modules:
        match = _NUMBERED.match(name)
        stem, number = (match.group(1), int(match.group(2))) if match else (name, -1)
        if run is not None and match and run[0] == stem and number == run[2] + 1:
            run = (stem, run[1], number)
            continue
        flush()
        run = None
        if match:
            run = (stem, number, number)
        else:
            out.append(name)
    flush()
    return ", ".join(out)
