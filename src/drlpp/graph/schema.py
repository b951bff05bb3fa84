"""The form of a graph file (``schema_version`` 3), as a schema that is checked before a graph is built.

Version 1 had no splits of ops, version 2 no buffers and no frozen parameters: both are read as they are.

Values are checked and not changed, so that the hash of what is read is that of what was written.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, Strict, TypeAdapter, with_config
from typing_extensions import TypedDict

from drlpp.errors import GraphError
from drlpp.parsing import check_form, kind_of

SCHEMA_VERSION = 3
_STRICT = ConfigDict(extra="forbid", strict=True)

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
WorkAmounts = Annotated[list[Amount], Field(min_length=2, max_length=5)]
"""FLOP, bytes, kernels, outputs of products, streamed bytes (`drlpp.graph.Work.amounts`); the last three may miss."""
FixedAmounts = Annotated[list[Amount], Field(min_length=2, max_length=4)]
"""The fixed parts of FLOP, bytes, outputs and streamed bytes; the last two may miss."""
TimesTriple = Annotated[tuple[Amount, Amount, Amount], Strict(False)]
"""Seconds of forward, input gradient and weight gradient; JSON has lists only, which a strict tuple would refuse."""
PartEntries = dict[str, Annotated[list[int], Field(min_length=1)]]
"""Tensor -> the dimension that is cut (-1: a partial sum), and the lengths of its sections if it has several."""


@with_config(_STRICT)
class SplitEntry(TypedDict):
    """A way to divide an op (`drlpp.graph.Split`)."""

    axis: str
    size: int
    reads: NotRequired[PartEntries]
    gives: NotRequired[PartEntries]
    keeps: NotRequired[list[str]]
    times: NotRequired[dict[Annotated[str, Field(pattern="^[0-9]+$")], TimesTriple]]


@with_config(_STRICT)
class OpEntry(TypedDict):
    """An op; what is left out has the default of `drlpp.graph.Op`. `fixed` is the fixed part of the work of a pass."""

    name: str
    kind: str
    module: NotRequired[str]
    members: NotRequired[list[str]]
    forward: NotRequired[WorkAmounts]
    input_grad: NotRequired[WorkAmounts]
    weight_grad: NotRequired[WorkAmounts]
    fixed: NotRequired[dict[Literal["forward", "input_grad", "weight_grad"], FixedAmounts]]
    params: NotRequired[list[str]]
    buffers: NotRequired[list[str]]
    in_order: NotRequired[bool]
    saved: NotRequired[list[str]]
    output_bytes: NotRequired[Amount]
    times: NotRequired[dict[str, TimesTriple]]
    kv_bytes_per_token: NotRequired[Amount]
    splits: NotRequired[list[SplitEntry]]


@with_config(_STRICT)
class EdgeEntry(TypedDict):
    """An edge; what is left out has the default of `drlpp.graph.Edge`."""

    src: str
    dst: str
    tensor: str
    requires_grad: NotRequired[bool]
    phase: NotRequired[Literal["forward", "backward"]]
    transfer_s: NotRequired[Amount]


@with_config(_STRICT)
class GraphFile(TypedDict):
    """The whole file."""

    schema_version: int
    format: NotRequired[Literal["drlpp-graph"]]
    name: str
    source: NotRequired[str]
    samples_per_microbatch: NotRequired[int]
    tokens_per_sample: NotRequired[int]
    dtype: NotRequired[str]
    compute_dtype: NotRequired[str]
    low_tensors: NotRequired[list[str]]
    measured_on: NotRequired[str]
    slowdown: NotRequired[list[float]]
    ops: list[OpEntry]
    edges: list[EdgeEntry]
    tensor_bytes: dict[str, Amount]
    param_bytes: NotRequired[dict[str, Amount]]
    buffer_bytes: NotRequired[dict[str, Amount]]
    frozen: NotRequired[list[str]]
    tensor_fixed_bytes: NotRequired[dict[str, Amount]]
    batch_axis: NotRequired[Literal["unknown", "linear", "none"]]
    given_stages: NotRequired[dict[str, int]]


_KEYS = [key for entry in (GraphFile, OpEntry, SplitEntry, EdgeEntry) for key in entry.__annotations__]


@functools.cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(GraphFile)


def check_graph_file(data: object, where: str) -> Mapping[str, Any]:
    """The parsed JSON, if it is a graph of ours. Raises GraphError that names the place, the value and the rule."""
    if not isinstance(data, Mapping):
        raise GraphError(f"{where}: found {kind_of(data)}: a graph is a JSON object")
    version = data.get("schema_version")
    if isinstance(version, bool) or version not in range(1, SCHEMA_VERSION + 1):
        raise GraphError(
            f"{where}: schema_version is {version!r}: this release reads the versions 1 to {SCHEMA_VERSION}"
        )
    check_form(_adapter(), data, where, GraphError, _KEYS)
    return data
