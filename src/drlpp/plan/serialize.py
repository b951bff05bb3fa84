"""Plan files: JSON with ``schema_version`` 2; `plan.migrations` reads older ones. Ops are named as in the source."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drlpp.cluster import cluster_from_dict, cluster_to_dict
from drlpp.errors import InputError, PlanError
from drlpp.files import read_text, write_atomically
from drlpp.graph import OpGraph, graph_from_dict, graph_hash, graph_to_dict
from drlpp.graph.blocks import Recompute
from drlpp.parsing import parse_json
from drlpp.plan.action import parse_action
from drlpp.plan.migrations import FORMAT, SCHEMA_VERSION, migrated
from drlpp.plan.plan import Plan, Prediction, Provenance
from drlpp.plan.schema import check_plan_file
from drlpp.plan.settings import StageSettings
from drlpp.plan.stage import Sharding, Stage
from drlpp.training import TrainingSetup

_CHOICES: dict[bool | str, Recompute] = {False: Recompute.NONE, True: Recompute.STAGE, "block": Recompute.BLOCK}
"""What a plan file says of recomputation."""
_BY_CHOICE = {choice: word for word, choice in _CHOICES.items()}


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """The JSON-ready form of a plan; `plan_from_dict` is its inverse."""
    graph = plan.graph
    stages = []
    for stage in plan.stages:
        members = [m for name in stage.ops for m in graph.ops[graph.index[name]].members]
        stages.append(
            {
                "index": stage.index,
                "ops": members,
                "replicas": [list(group) for group in stage.replicas],
                **({"shares": list(stage.settings.shares)} if stage.settings.shares else {}),
                "sharding": {
                    **dataclasses.asdict(stage.sharding),
                    "optimizer": "zero1" if plan.training.zero1 else "none",
                },
                "recompute": _BY_CHOICE[stage.settings.recompute],
            }
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
        "format": FORMAT,
        "graph": {"source": graph.source, "hash": graph_hash(graph), "content": graph_to_dict(graph)},
        "cluster": cluster_to_dict(plan.cluster),
        "training": {
            "optimizer": plan.training.optimizer,
            "precision": plan.training.precision,
            "main_parameters": plan.training.main_parameters,
        },
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
            "parameters": dict(plan.provenance.parameters),
            "notes": dict(plan.provenance.notes),
        },
    }


def plan_from_dict(data: object, where: str = "plan") -> Plan:
    """Reads the form that `plan_to_dict` writes, of this version or an older one.

    Raises:
        PlanError: wrong version, unknown or missing keys, values of a wrong form, or a graph that does not match its
            hash.
        InputError: another part of it is not usable; the message begins with `where` too.
    """
    given = migrated(data, where)
    check_plan_file(given, where)
    graph = graph_from_dict(given["graph"]["content"], f"{where}: graph.content")
    if given["graph"]["hash"] != graph_hash(graph):
        raise PlanError(f"{where}: graph.hash does not match the graph: the file was edited; plan again")
    cluster = cluster_from_dict(given["cluster"], f"{where}: cluster")
    try:
        stages = tuple(_stage(graph, entry) for entry in given["stages"])
        return Plan(
            graph=graph,
            cluster=cluster,
            training=TrainingSetup(
                num_microbatches=given["num_microbatches"],
                zero1=_zero1(given["stages"]),
                **given.get("training", {}),
            ),
            stages=stages,
            schedule={int(rank): tuple(map(parse_action, actions)) for rank, actions in given["schedule"].items()},
            schedule_name=given.get("schedule_name", "custom"),
            provenance=Provenance(**given["provenance"]),
            prediction=_prediction(given.get("prediction")),
        )
    except InputError as error:
        raise type(error)(f"{where}: {error}") from error


def _prediction(entry: Mapping[str, Any] | None) -> Prediction | None:
    if entry is None:
        return None
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return Prediction(**values)


def _stage(graph: OpGraph, entry: Mapping[str, Any]) -> Stage:
    members = set(entry["ops"])
    names: list[str] = []
    for member in entry["ops"]:
        i = graph.member_index.get(member)
        if i is None:
            raise PlanError(f"stage {entry['index']} lists op {member!r}: graph {graph.name!r} has no such op")
        op = graph.ops[i]
        if not names or names[-1] != op.name:
            names.append(op.name)
        if absent := [m for m in op.members if m not in members]:
            raise PlanError(f"stage {entry['index']} has {member!r} but not {absent[0]!r}: these must stay together")
    sharding = entry.get("sharding", {})
    return Stage(
        index=entry["index"],
        ops=tuple(dict.fromkeys(names)),
        replicas=tuple(map(tuple, entry["replicas"])),
        sharding=Sharding(tensor=sharding.get("tensor", 1), sequence=sharding.get("sequence", False)),
        settings=StageSettings(
            recompute=_CHOICES[entry.get("recompute", False)], shares=tuple(entry.get("shares", ()))
        ),
    )


def _zero1(stages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether replicas divide the optimizer states. Raises PlanError if they do so in some stages only."""
    of_stage = [entry.get("sharding", {}).get("optimizer", "none") == "zero1" for entry in stages]
    replicated = [flag for flag, entry in zip(of_stage, stages, strict=True) if len(entry["replicas"]) > 1]
    if len(set(replicated)) > 1:
        raise PlanError("stages with replicas have sharding.optimizer 'zero1' and 'none': give all of them the same")
    return any(replicated or of_stage)


def save_plan(plan: Plan, path: Path) -> None:
    """Writes a plan file, atomically."""
    write_atomically(path, json.dumps(plan_to_dict(plan), indent=1) + "\n")


def load_plan(path: Path | str) -> Plan:
    """Reads a plan file. Raises PlanError with file, place, value and rule in one line."""
    try:
        text = read_text(Path(path), "plan file")
    except InputError as error:
        raise PlanError(str(error)) from error
    return plan_from_dict(parse_json(text, str(path), PlanError), str(path))
