"""Plan files: JSON with ``schema_version`` 1. Names of ops are those of the source. See docs/plan-format.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drlpp.cluster import cluster_from_dict, cluster_to_dict
from drlpp.errors import InputError, PlanError
from drlpp.files import read_text, write_atomically
from drlpp.graph import OpGraph, graph_from_dict, graph_to_dict
from drlpp.plan.action import parse_action
from drlpp.plan.plan import Plan, Prediction, Provenance, Stage
from drlpp.training import TrainingSetup

SCHEMA_VERSION = 1
_KEYS = {"schema_version", "format", "graph", "cluster", "training", "num_microbatches", "stages", "schedule"}
_KEYS |= {"schedule_name", "prediction", "provenance"}


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """The JSON-ready form of a plan; `plan_from_dict` is its inverse."""
    graph = plan.graph
    stages = []
    for stage in plan.stages:
        members = [m for name in stage.ops for m in graph.ops[graph.index[name]].members]
        stages.append(
            {"index": stage.index, "ops": members, "devices": list(stage.devices), "recompute": stage.recompute}
        )
    prediction = None
    if plan.prediction is not None:
        p = plan.prediction
        prediction = {
            "iteration_time_s": p.iteration_time_s,
            "bottleneck_s": p.bottleneck_s,
            "throughput_samples_per_s": p.throughput_samples_per_s,
            "peak_memory_bytes": list(p.peak_memory_bytes),
            "bubble_fraction": list(p.bubble_fraction),
        }
    return {
        "schema_version": SCHEMA_VERSION,
        "format": "drlpp-plan",
        "graph": {"source": graph.source, "hash": graph.hash, "content": graph_to_dict(graph)},
        "cluster": cluster_to_dict(plan.cluster),
        "training": {"optimizer": plan.training.optimizer},
        "num_microbatches": plan.num_microbatches,
        "stages": stages,
        "schedule": {str(rank): [str(a) for a in actions] for rank, actions in sorted(plan.schedule.items())},
        "schedule_name": plan.schedule_name,
        "prediction": prediction,
        "provenance": {
            "planner": plan.provenance.planner,
            "seed": plan.provenance.seed,
            "budget_s": plan.provenance.budget_s,
            "version": plan.provenance.version,
            "notes": dict(plan.provenance.notes),
        },
    }


def plan_from_dict(data: Mapping[str, Any], where: str = "plan") -> Plan:
    """Reads the form that `plan_to_dict` writes.

    Raises:
        PlanError: wrong version, unknown or missing keys, or a graph that does not match its hash.
    """
    if not isinstance(data, Mapping):
        raise PlanError(f"{where}: found {type(data).__name__}: a plan is a JSON object")
    version = data.get("schema_version")
    if version != SCHEMA_VERSION or data.get("format") != "drlpp-plan":
        raise PlanError(
            f"{where}: format is {data.get('format')!r}, schema_version {version!r}: this release reads "
            f"'drlpp-plan' files of version {SCHEMA_VERSION} (made by `drlpp plan`)"
        )
    if unknown := sorted(set(data) - _KEYS):
        raise PlanError(f"{where}: unknown key {unknown[0]!r}: known keys are {', '.join(sorted(_KEYS))}")
    try:
        graph = graph_from_dict(data["graph"]["content"], f"{where}: graph")
        if data["graph"]["hash"] != graph.hash:
            raise PlanError(f"{where}: graph.hash does not match the graph: the file was edited; plan again")
        prediction = data.get("prediction")
        return Plan(
            graph=graph,
            cluster=cluster_from_dict(data["cluster"], f"{where}: cluster"),
            training=TrainingSetup(num_microbatches=data["num_microbatches"], **data.get("training", {})),
            stages=tuple(_stage(graph, entry, where) for entry in data["stages"]),
            schedule={int(rank): tuple(map(parse_action, actions)) for rank, actions in data["schedule"].items()},
            schedule_name=data.get("schedule_name", "custom"),
            provenance=Provenance(**data["provenance"]),
            prediction=None
            if prediction is None
            else Prediction(
                **{
                    **prediction,
                    "peak_memory_bytes": tuple(prediction["peak_memory_bytes"]),
                    "bubble_fraction": tuple(prediction["bubble_fraction"]),
                }
            ),
        )
    except KeyError as error:
        raise PlanError(f"{where}: key {error.args[0]!r} is missing") from error
    except InputError as error:
        raise error if str(error).startswith(where) else type(error)(f"{where}: {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise PlanError(f"{where}: an entry has the wrong form: {error}") from error


def _stage(graph: OpGraph, entry: Mapping[str, Any], where: str) -> Stage:
    members = set(entry["ops"])
    names: list[str] = []
    for member in entry["ops"]:
        i = graph.member_index.get(member)
        if i is None:
            raise PlanError(f"{where}: stage {entry['index']} lists op {member!r}: graph {graph.name!r} has no such op")
        op = graph.ops[i]
        if not names or names[-1] != op.name:
            names.append(op.name)
        if absent := [m for m in op.members if m not in members]:
            raise PlanError(
                f"{where}: stage {entry['index']} has {member!r} but not {absent[0]!r}: these must stay together"
            )
    return Stage(
        index=entry["index"],
        ops=tuple(dict.fromkeys(names)),
        devices=tuple(entry["devices"]),
        recompute=bool(entry.get("recompute", False)),
    )


def save_plan(plan: Plan, path: Path) -> None:
    """Writes a plan file, atomically."""
    write_atomically(path, json.dumps(plan_to_dict(plan), indent=1) + "\n")


def load_plan(path: Path) -> Plan:
    """Reads a plan file. Raises PlanError with file, place, value and rule in one line."""
    try:
        data = json.loads(read_text(path, "plan file"))
    except json.JSONDecodeError as error:
        raise PlanError(f"{path} line {error.lineno}: not JSON: {error.msg}") from error
    except PlanError:
        raise
    except InputError as error:
        raise PlanError(str(error)) from error
    return plan_from_dict(data, str(path))
