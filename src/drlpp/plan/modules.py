"""Which modules of the model each stage of a plan covers: what people read, and what other engines split along.

Works on the dotted module paths that ops carry (`Op.module`). Left out: modules that run no op.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable

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
    """Path of the list of modules with the most parameters (entries like ``layers.0``), or None if there is none."""
    entries: dict[str, set[str]] = defaultdict(set)
    weight: dict[str, float] = defaultdict(float)
    for op, params in zip(graph.ops, graph.op_param_bytes.tolist(), strict=True):
        found = next((p for p in prefixes(op.module) if p.rpartition(".")[2].isdigit() and "." in p), None)
        if found is not None:
            path = found.rpartition(".")[0]
            entries[path].add(found)
            weight[path] += params
    candidates = [path for path in entries if len(entries[path]) > 1]
    return max(candidates, key=lambda path: (weight[path], len(entries[path])), default=None)


def unit_around(module: str, layers: str) -> str | None:
    """The entry of the list `layers` that a module is in, or the largest module beside the list; None for neither."""
    return next((p for p in prefixes(module) if p != layers and not layers.startswith(f"{p}.")), None)


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
