"""Tables that are updated inside their backward pass: parameters that never get a gradient.

Fused embedding lookups (fbgemm, torchrec) apply the optimizer where the gradient is made, so no accumulation of a
gradient tells that they are parameters. They are found by what the operators' schemas say: memory that the op reads in
the forward pass and that its backward pass changes in place. fbgemm's own schemas leave that out, so its lookups are
known by name: their tables are the leading one-dimensional tensors, on the host, on the device or in both.
"""

from __future__ import annotations

from collections.abc import Mapping

from drlpp.graph.readers.recorded import DTYPES, RecordedTensor
from drlpp.graph.readers.recorded_step import RecordedStep

_FUSED_LOOKUP = ("fbgemm::split_embedding_codegen_lookup_", "fbgemm::ssd_embedding_codegen_lookup_")


def updated_tables(step: RecordedStep, i: int, made: Mapping[int, tuple[int, int]]) -> list[RecordedTensor]:
    """The tables of a forward call; none if it has no backward pass or gets gradients for its parameters."""
    back = step.backward.get(i)
    call = step.calls[i]
    if not back or step.grads.get(i):
        return []
    if call.name.startswith(_FUSED_LOOKUP):
        return _leading_tables(call.inputs)
    nested = [step.calls[c] for c in step.nested(i)]
    read = {t.storage for c in nested or [call] for t in c.inputs}
    written = {s for e in back for c in step.nested(e) for s in step.calls[c].written}
    tables = [
        t
        for t in call.inputs
        if t.storage in read & written and t.key not in made and t.dtype in DTYPES and t.bytes > 0
    ]
    return list({t.storage: t for t in tables}.values())


def _leading_tables(inputs: tuple[RecordedTensor, ...]) -> list[RecordedTensor]:
    tables = []
    for t in inputs:
        if t.dtype not in DTYPES:
            break
        if len(t.shape) == 1 and t.bytes > 0:
            tables.append(t)
    return tables
