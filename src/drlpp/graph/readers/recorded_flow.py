"""Which forward calls of a recorded step are ops, and which op reads what of which other.

With the identities of tensors (`dataflow`), edges follow memory. Memory that a collective wrote is not made by an op:
it holds parameters and buffers that a wrapper keeps equal on all ranks, and what only moves such memory is dropped. A
view of a parameter is not an op either: the ops that read the view have the parameter, or a piece of it.

Without identities (`chain`), each op depends on the one before. What comes before the first op with a backward pass,
with FLOP or with weights is taken to prepare the input, and dropped; the seed of the gradient is no op. The output of
an op that no gradient comes back to has the form of what the next op reads. Where a wrapper keeps the parameters of
several ops in one, the call that takes them apart stays, and has them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from drlpp.graph.readers.recorded import DTYPES, RecordedCall, RecordedTensor
from drlpp.graph.readers.recorded_step import RecordedStep
from drlpp.graph.readers.recorded_weights import data_of, weights_of

_SEED = "aten::ones_like"
"""What makes the gradient of the loss, right before the backward pass."""


@dataclasses.dataclass(frozen=True)
class Flow:
    """The ops of a step and what they read.

    Attributes:
        kept: positions of the forward calls that are ops, in order.
        reads: op -> (op that made a tensor that it reads, number of the output).
        made: key of a tensor -> op that made it, number of the output.
        whole_of: key of a view of a parameter -> the parameter, or the piece of it that the view shows.
        outputs: op -> its outputs.
    """

    kept: tuple[int, ...]
    reads: Mapping[int, tuple[tuple[int, int], ...]]
    made: Mapping[int, tuple[int, int]]
    whole_of: Mapping[int, RecordedTensor]
    outputs: Mapping[int, tuple[RecordedTensor, ...]]


def chain(step: RecordedStep) -> Flow:
    """Each op depends on the one before."""
    model = [i for i in step.forward if not step.wrapping[i] or step.grads.get(i)]
    first = next((k for k, i in enumerate(model) if _is_of_model(step, i)), 0)
    if model and step.calls[model[-1]].name == _SEED:
        model.pop()
    kept = tuple(model[first:])
    before = dict(zip(kept[1:], kept[:-1], strict=True))
    outputs: dict[int, tuple[RecordedTensor, ...]] = {}
    read_next: tuple[RecordedTensor, ...] = ()
    for i in reversed(kept):
        outputs[i] = step.outputs(i) or read_next
        floats = [t for t in data_of(step.calls[i]) if t.dtype in DTYPES and t.shape]
        read_next = tuple(floats[:1]) or read_next  # counters and indices stand between them
    return Flow(kept, {i: ((before[i], 0),) if i in before else () for i in kept}, {}, {}, outputs)


def _is_of_model(step: RecordedStep, i: int) -> bool:
    return bool(step.backward.get(i) or weights_of(step.calls[i])) or step.flop(i) > 0


def dataflow(step: RecordedStep) -> Flow:
    """Edges follow the tensors."""
    return _Dataflow(step).flow()


class _Dataflow:
    def __init__(self, step: RecordedStep) -> None:
        self._step = step
        self._made: dict[int, tuple[int, int]] = {}
        self._written: dict[int, tuple[int, int]] = {}  # storage -> last op that wrote to it in place
        self._foreign: set[int] = set()  # storages that a wrapper filled
        self._whole_of: dict[int, RecordedTensor] = {}
        self._reads: dict[int, tuple[tuple[int, int], ...]] = {}

    def flow(self) -> Flow:
        for i in self._step.forward:
            call = self._step.calls[i]
            if self._is_view_of_parameter(i):
                self._add_views(call)
            elif self._is_foreign(i):
                self._take_away(call)
            else:
                self._add(i)
        needed: set[int] = set()
        for i in reversed(self._reads):
            if i in needed or self._step.backward.get(i):
                needed.add(i)
                needed.update(src for src, _ in self._reads[i])
        kept = tuple(i for i in self._reads if i in needed)
        return Flow(kept, self._reads, self._made, self._whole_of, {i: self._step.outputs(i) for i in kept})

    def _is_foreign(self, i: int) -> bool:
        if self._step.wrapping[i]:
            return True
        if self._step.backward.get(i):
            return False
        return any(t.storage in self._foreign for t in self._step.calls[i].inputs)

    def _take_away(self, call: RecordedCall) -> None:
        """What a wrapper wrote is no longer what an op made."""
        tensors = [*call.outputs, *(t for t in call.inputs if t.storage in call.written)]
        for t in tensors:
            if t.storage >= 0:
                self._foreign.add(t.storage)
            self._made.pop(t.key, None)
            self._written.pop(t.storage, None)

    def _is_view_of_parameter(self, i: int) -> bool:
        call = self._step.calls[i]
        if not call.outputs or not call.inputs or call.written or not self._step.backward.get(i):
            return False
        storages = {t.storage for t in call.inputs}
        if any(t.key in self._made or t.storage in self._written for t in call.inputs):
            return False
        shows = all(t.storage >= 0 and t.storage in storages for t in call.outputs)
        return shows and (bool(self._step.grads.get(i)) or any(t.key in self._whole_of for t in call.inputs))

    def _add_views(self, call: RecordedCall) -> None:
        of_storage = {t.storage: t for t in call.inputs}
        for t in call.outputs:
            base = of_storage[t.storage]
            whole = self._whole_of.get(base.key, base)
            self._whole_of[t.key] = t if t.bytes < whole.bytes else whole  # an expanded view repeats it

    def _add(self, i: int) -> None:
        call = self._step.calls[i]
        sources = [max(self._made.get(t.key, (-1, 0)), self._written.get(t.storage, (-1, 0))) for t in call.inputs]
        self._reads[i] = tuple(dict.fromkeys(s for s in sources if s[0] >= 0))
        for k, t in enumerate(call.outputs):
            self._made[t.key] = (i, k)
            if call.written:
                self._written[t.storage] = (i, k)
