"""The form of a plan file (the newest version), as a schema that is checked before a plan is built."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from drlpp.errors import PlanError
from drlpp.parsing import check_form

_STRICT = ConfigDict(extra="forbid", strict=True)
_MOST_MICROBATCHES = 10**9
Number = Annotated[float, Field(allow_inf_nan=False)]


@with_config(_STRICT)
class GraphEntry(TypedDict):
    """The operator graph; its content has a schema of its own (`drlpp.graph.schema`)."""

    source: str
    hash: str
    content: dict[str, Any]


@with_config(_STRICT)
class TrainingEntry(TypedDict):
    """What a step consists of, but for the number of micro-batches."""

    optimizer: NotRequired[str]
    precision: NotRequired[Literal["fp32", "tf32", "bf16", "fp16"]]
    main_parameters: NotRequired[bool]


@with_config(_STRICT)
class ShardingEntry(TypedDict):
    """What the devices of a stage divide among themselves."""

    tensor: NotRequired[int]
    sequence: NotRequired[bool]
    optimizer: NotRequired[Literal["none", "zero1"]]


@with_config(_STRICT)
class StageEntry(TypedDict):
    """A stage: its ops by the names of the source, and a group of devices for each replica."""

    index: int
    ops: list[str]
    replicas: list[list[int]]
    shares: NotRequired[list[int]]
    sharding: NotRequired[ShardingEntry]
    recompute: NotRequired[Literal[False, True, "block"]]


@with_config(_STRICT)
class PredictionEntry(TypedDict):
    """What the simulator said of the plan."""

    iteration_time_s: Number
    bottleneck_s: Number
    throughput_samples_per_s: Number
    peak_memory_bytes: list[Number]
    bubble_fraction: list[Number]


@with_config(_STRICT)
class ProvenanceEntry(TypedDict):
    """Who made the plan and how."""

    planner: str
    seed: NotRequired[int]
    budget_s: NotRequired[float | None]
    version: NotRequired[str]
    parameters: NotRequired[dict[str, Any]]
    notes: NotRequired[dict[str, str]]


@with_config(_STRICT)
class PlanFile(TypedDict):
    """The whole file."""

    schema_version: int
    format: Literal["drlpp-plan"]
    graph: GraphEntry
    cluster: dict[str, Any]
    training: NotRequired[TrainingEntry]
    num_microbatches: Annotated[int, Field(ge=1, le=_MOST_MICROBATCHES)]
    stages: list[StageEntry]
    schedule: dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], list[str]]
    schedule_name: NotRequired[str]
    prediction: NotRequired[PredictionEntry | None]
    provenance: ProvenanceEntry


_ENTRIES = (PlanFile, GraphEntry, TrainingEntry, ShardingEntry, StageEntry, PredictionEntry, ProvenanceEntry)
_KEYS = [key for entry in _ENTRIES for key in entry.__annotations__]


@functools.cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(PlanFile)


def check_plan_file(data: dict[str, Any], where: str) -> None:
    """Checks the form of the newest version. Raises PlanError that names the place, the value and the rule."""
    check_form(_adapter(), data, where, PlanError, _KEYS)
