"""Hugging Face accelerate: ``device_map``, module -> number of a device on its host; the longest matching name wins.

accelerate moves the inputs of a module to where the module is, so branches are no obstacle as long as a module joins
them; what a split module computes itself between its parts (the sum of a residual connection) is not moved. It runs
one module at a time and knows neither micro-batches nor schedules. Source: accelerate/hooks.py, accelerate/utils/
modeling.py (`check_device_map`).
"""

from __future__ import annotations

import json
from collections import defaultdict

from drlpp.errors import PlanError
from drlpp.export.pipelines import RUN_INSTEAD
from drlpp.plan import Plan
from drlpp.plan.modules import prefixes

_ENGINE = "accelerate"


def accelerate(plan: Plan) -> str:
    """The device map as JSON.

    Raises:
        PlanError: a stage is replicated, the devices are on several hosts, the graph names no modules, a module with
            parameters of its own runs on two devices, or a split module joins tensors of two devices itself.
    """
    _check_devices(plan)
    below: dict[str, set[int]] = defaultdict(set)
    runs_on: dict[str, set[int]] = defaultdict(set)
    owner_of_params: set[str] = set()
    placed: set[str] = set()
    leaves: dict[str, None] = {}
    for op, stage in zip(plan.graph.ops, plan.stage_of_op.tolist(), strict=True):
        device = plan.stages[stage].devices[0]
        runs_on[op.module].add(device)
        names = [op.module] if op.module else []
        for param in op.params:
            owner_of_params.add(param.rpartition(".")[0])
            if param not in placed:  # a shared parameter stays with its first reader
                placed.add(param)
                names.append(param)
        for name in names:
            leaves[name] = None
            for prefix in prefixes(name):
                below[prefix].add(device)
    if not any(runs_on.keys() - {""}):
        raise PlanError(f"{_ENGINE} places modules, but graph {plan.graph.name!r} names none: capture a PyTorch model")
    for module, devices in runs_on.items():
        if module and len(devices) > 1 and module in owner_of_params:
            raise PlanError(
                f"{_ENGINE} keeps a module on one device, but {module!r} runs on devices "
                f"{', '.join(map(str, sorted(devices)))}: {RUN_INSTEAD}"
            )
    _check_joins(plan, {module for module, devices in below.items() if len(devices) > 1} | {""})
    first = _first_device_of_host(plan)
    device_map: dict[str, int] = {}
    for leaf in leaves:
        whole = next((p for p in prefixes(leaf) if len(below[p]) == 1), None)
        if whole is not None:
            device_map[whole] = next(iter(below[whole])) - first
    return json.dumps(device_map, indent=1) + "\n"


def _check_joins(plan: Plan, split: set[str]) -> None:
    """Raises PlanError if an op of a split module itself reads a tensor of another device."""
    device = [plan.stages[stage].devices[0] for stage in plan.stage_of_op.tolist()]
    for src, dst in plan.graph.edge_ends.tolist():
        module = plan.graph.ops[dst].module
        if device[src] != device[dst] and module in split:
            raise PlanError(
                f"{_ENGINE} moves tensors only where a module is called, but {module or 'the model'!r}, split between "
                f"devices, itself reads {plan.graph.ops[src].name!r} of device {device[src]} in "
                f"{plan.graph.ops[dst].name!r} on device {device[dst]}: {RUN_INSTEAD}"
            )


def _first_device_of_host(plan: Plan) -> int:
    """accelerate counts the devices of its host; those of a cluster's host have successive ids."""
    host = plan.cluster.devices[plan.stages[0].devices[0]].host
    return next(d.id for d in plan.cluster.devices if d.host == host)


def _check_devices(plan: Plan) -> None:
    for stage in plan.stages:
        if len(stage.devices) > 1:
            raise PlanError(
                f"{_ENGINE} has each module on one device, but stage {stage.index} is on devices "
                f"{', '.join(map(str, stage.devices))} (replicas): {RUN_INSTEAD}"
            )
    hosts = sorted({plan.cluster.hosts[plan.cluster.devices[s.devices[0]].host].name for s in plan.stages})
    if len(hosts) > 1:
        raise PlanError(
            f"{_ENGINE} works on one host, but the plan uses hosts {', '.join(hosts)}: plan for one host, or use "
            "`drlpp run`"
        )
