"""Recorded calls of a training step -> operator graph: what the readers of PyTorch's two kinds of traces share.

An op of ours is an outermost operator call of the forward pass (``aten::linear``, not the ``aten::addmm`` inside it). A
call of the backward pass belongs to the forward call whose autograd sequence number it carries; gradient accumulation
belongs to the backward call before it, which is how the autograd engine orders it, and tells the op's parameters.

Only the last forward pass that a backward pass follows is read, on the thread that ran it. Operators of the optimizer,
and those that no differentiated operator depends on, are left out: metrics, the seed of the gradient.

Loss of information: which tensors autograd kept is not recorded, so every differentiated op is taken to keep its
outputs (an upper bound for most models). The backward time of an op with parameters is split in equal halves between
input and weight gradient. Regions compiled by ``torch.compile`` hide their operators. A graph of a trace can be
planned, simulated and exported, but not run: the trace has no code.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections import defaultdict
from collections.abc import Sequence

from drlpp.errors import GraphError
from drlpp.graph.op_graph import REFERENCE, Edge, Op, OpGraph, OpTimes, Work
from drlpp.graph.readers.recorded_flop import known_flop

ELEMENT_BYTES = {
    "float": 4,
    "double": 8,
    "c10::Half": 2,
    "c10::BFloat16": 2,
    "long int": 8,
    "long": 8,
    "int": 4,
    "short": 2,
    "short int": 2,
    "signed char": 1,
    "unsigned char": 1,
    "bool": 1,
    "c10::Float8_e4m3fn": 1,
    "c10::Float8_e5m2": 1,
    "c10::complex<float>": 8,
    "c10::complex<double>": 16,
}
"""Bytes of an element by its type, as the traces name it."""
_DTYPES = {"float": "float32", "double": "float64", "c10::Half": "float16", "c10::BFloat16": "bfloat16"}
_ENGINE = "autograd::engine::evaluate_function: "
_ACCUMULATE = "AccumulateGrad"
_OPTIMIZER = "Optimizer."


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTensor:
    """A tensor that a call read or wrote.

    Attributes:
        dtype: key of `ELEMENT_BYTES`; others count as four bytes.
        key, storage: identity of the tensor and of its memory; -1 where the trace does not tell.
    """

    shape: tuple[int, ...]
    dtype: str
    key: int = -1
    storage: int = -1

    @property
    def bytes(self) -> float:
        size = float(ELEMENT_BYTES.get(self.dtype, 4))
        for extent in self.shape:
            size *= extent
        return size


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCall:
    """A call in a trace.

    Attributes:
        id: of the trace, so that a person finds it again.
        parent: position of the call that it is nested in; -1 for none.
        sequence: autograd sequence number; -1 for none.
        seconds: measured, with everything nested in it; None if the trace has no times.
        module: path of the module that called it, if known.
        mutates: it writes to one of its inputs.
    """

    id: int
    name: str
    parent: int
    thread: int
    sequence: int = -1
    inputs: tuple[RecordedTensor, ...] = ()
    outputs: tuple[RecordedTensor, ...] = ()
    seconds: float | None = None
    module: str = ""
    mutates: bool = False

    @property
    def is_engine(self) -> bool:
        """The autograd engine runs a function here."""
        return self.name.startswith(_ENGINE)

    @property
    def is_optimizer(self) -> bool:
        """PyTorch's marker around a step (or the zeroing of gradients) of an optimizer."""
        return self.name.startswith(_OPTIMIZER)

    @property
    def is_operator(self) -> bool:
        """It is an operator such as ``aten::linear`` (and not a marker or an annotation)."""
        namespace, _, operator = self.name.partition("::")
        return namespace.isidentifier() and operator.isidentifier() and "Backward" not in operator


def graph_of_calls(
    calls: Sequence[RecordedCall], name: str, where: str, *, has_dataflow: bool, measured_on: str = ""
) -> OpGraph:
    """Builds the operator graph.

    Args:
        calls: in order of their start; parents before what is nested in them.
        has_dataflow: tensors have keys, so edges follow them; else each op depends on the one before.
        measured_on: device preset that `RecordedCall.seconds` were measured on.

    Raises:
        GraphError: the trace holds no forward and backward pass.
    """
    return _Step(calls, where).graph(name, has_dataflow, measured_on)


class _Step:
    """The last training step of a trace: its forward calls, and what belongs to each."""

    def __init__(self, calls: Sequence[RecordedCall], where: str) -> None:
        self.calls = calls
        self.children: list[list[int]] = [[] for _ in calls]
        root: list[int] = []  # outermost engine call, optimizer step or operator; the call itself if there is none
        for i, call in enumerate(calls):
            above = root[call.parent] if call.parent >= 0 else -1
            if call.parent >= 0:
                self.children[call.parent].append(i)
            closed = above >= 0 and (calls[above].is_engine or calls[above].is_optimizer)
            inside = closed or (above >= 0 and calls[above].is_operator and not call.is_engine)
            root.append(above if inside else i)
        self._match(root, where)

    def _match(self, root: list[int], where: str) -> None:
        calls = self.calls
        forward: dict[int, list[tuple[int, int]]] = defaultdict(list)  # thread -> (sequence, root), in order
        for i, call in enumerate(calls):
            if call.sequence >= 0 and calls[root[i]].is_operator:
                forward[call.thread].append((call.sequence, root[i]))
        sequence_of: dict[int, int] = {}  # engine call -> sequence number
        for i, call in enumerate(calls):
            if call.sequence >= 0 and calls[root[i]].is_engine:
                sequence_of.setdefault(root[i], call.sequence)
        if not forward or not sequence_of:
            what = "forward" if not forward else "backward"
            raise GraphError(
                f"{where}: no operator of a {what} pass with a sequence number: record forward and backward together, "
                "in eager mode, with gradients on"
            )
        wanted = set(sequence_of.values())
        thread = max(forward, key=lambda t: sum(s in wanted for s, _ in forward[t]))
        numbered = sorted(forward[thread], key=lambda pair: pair[0])  # stable: the last call of a number owns it
        numbers = [s for s, _ in numbered]
        owner: dict[int, int] = {}
        for e, s in sequence_of.items():
            at = bisect.bisect_right(numbers, s) - 1
            if at >= 0 and numbered[at][1] < e:
                owner[e] = numbered[at][1]
        if not owner:
            raise GraphError(f"{where}: no backward call belongs to a forward call: record both in one trace")

        last = max(owner)
        start = max((f for f in owner.values() if f < last), default=0)  # a forward call of the last step
        first_backward = min(e for e in owner if e > start)
        before = max((e for e in owner if e < start), default=-1)
        self.forward = [
            i
            for i in range(before + 1, first_backward)
            if root[i] == i and calls[i].is_operator and calls[i].thread == thread
        ]
        inside = set(self.forward)
        self.backward: dict[int, list[int]] = defaultdict(list)  # forward call -> its engine calls
        self.grads: dict[int, list[RecordedTensor]] = defaultdict(list)  # forward call -> its parameters' gradients
        self.made: dict[int, tuple[int, int]] = {}  # key of a tensor -> forward call that made it, number of the output
        current = -1
        for e in range(first_backward, len(calls)):
            if root[e] != e or not calls[e].is_engine:
                continue
            current = owner[e] if owner.get(e, -1) in inside else current
            if current < 0:
                continue
            self.backward[current].append(e)
            if _ACCUMULATE in calls[e].name:
                self.grads[current] += [t for c in self.children[e] for t in calls[c].inputs[:1]]

    def outputs(self, i: int) -> tuple[RecordedTensor, ...]:
        """The outputs of a forward call; where they are not recorded, the gradient that comes back has their form."""
        if self.calls[i].outputs or not self.backward.get(i):
            return self.calls[i].outputs
        function = self.children[self.backward[i][0]]
        return self.calls[function[0]].inputs if function else ()

    def flop(self, i: int, outputs: tuple[RecordedTensor, ...] | None = None) -> float:
        """FLOP of a call, from the outermost calls of which they are known."""
        call = self.calls[i]
        shapes = [t.shape for t in call.inputs], [t.shape for t in (call.outputs if outputs is None else outputs)]
        known = known_flop(call.name, *shapes)
        return sum(self.flop(c) for c in self.children[i]) if known is None else known

    def moved(self, i: int) -> float:
        """Bytes that the outermost operators in a call read and write; views move nothing."""
        call = self.calls[i]
        if not call.is_operator:
            return sum(self.moved(c) for c in self.children[i])
        read = {t.storage for t in call.inputs if t.storage >= 0}
        if read and not call.mutates and all(t.storage in read for t in call.outputs):
            return 0.0
        return sum(t.bytes for t in call.inputs) + sum(t.bytes for t in call.outputs)

    def seconds(self, indices: Sequence[int]) -> float:
        return sum(self.calls[i].seconds or 0.0 for i in indices)

    def graph(self, name: str, has_dataflow: bool, measured_on: str) -> OpGraph:
        reads = self._reads() if has_dataflow else self._chain()
        kept = self._needed(reads)
        names = {i: f"{self.calls[i].name.partition('::')[2]}_{self.calls[i].id}" for i in kept}
        tensor_bytes: dict[str, float] = {}
        for i in kept:
            for k, tensor in enumerate(self.outputs(i)):
                tensor_bytes[f"{names[i]}:{k}"] = tensor.bytes
            tensor_bytes.setdefault(f"{names[i]}:0", 0.0)
        edges = {
            (names[src], names[i], f"{names[src]}:{k}"): bool(self.backward.get(src) and self.backward.get(i))
            for i in kept
            for src, k in reads[i]
        }
        param_bytes: dict[str, float] = {}
        ops = [self._op(i, names[i], param_bytes, tensor_bytes, measured_on) for i in kept]
        return OpGraph(
            name=name,
            ops=tuple(ops),
            edges=tuple(Edge(src=a, dst=b, tensor=t, requires_grad=g) for (a, b, t), g in edges.items()),
            tensor_bytes=tensor_bytes,
            param_bytes=param_bytes,
            samples_per_microbatch=self._samples(kept),
            dtype=self._dtype(kept),
            measured_on=measured_on,
        )

    def _reads(self) -> dict[int, list[tuple[int, int]]]:
        """Forward call -> (call that made a tensor that it reads, number of the output)."""
        made = self.made
        written: dict[int, tuple[int, int]] = {}  # storage -> last call that wrote to it in place
        reads: dict[int, list[tuple[int, int]]] = {}
        for i in self.forward:
            call = self.calls[i]
            sources = [max(made.get(t.key, (-1, 0)), written.get(t.storage, (-1, 0))) for t in call.inputs]
            reads[i] = list(dict.fromkeys(s for s in sources if s[0] >= 0))
            for k, t in enumerate(call.outputs):
                made[t.key] = (i, k)
                if call.mutates:
                    written[t.storage] = (i, k)
        return reads

    def _chain(self) -> dict[int, list[tuple[int, int]]]:
        before = dict(zip(self.forward[1:], self.forward[:-1], strict=True))
        return {i: [(before[i], 0)] if i in before else [] for i in self.forward}

    def _needed(self, reads: dict[int, list[tuple[int, int]]]) -> list[int]:
        """The forward calls that have a backward pass, and all that these depend on; in order."""
        needed: set[int] = set()
        for i in reversed(self.forward):
            if i in needed or self.backward.get(i):
                needed.add(i)
                needed.update(src for src, _ in reads[i])
        return [i for i in self.forward if i in needed]

    def _op(
        self, i: int, name: str, param_bytes: dict[str, float], tensor_bytes: dict[str, float], measured_on: str
    ) -> Op:
        call, back = self.calls[i], self.backward.get(i, [])
        params = self._params(i, name, param_bytes)
        outputs = self.outputs(i)
        work = Work(self.flop(i, outputs), self.moved(i) and sum(t.bytes for t in (*call.inputs, *outputs)))
        share = 0.5 if params else 1.0
        backward = Work(share * sum(self.flop(e) for e in back), share * sum(self.moved(e) for e in back))
        times = {}
        if call.seconds is not None:
            seconds = share * self.seconds(back)
            times = {REFERENCE: OpTimes(call.seconds, seconds, seconds if params else 0.0)}
        return Op(
            name=name,
            kind=call.name.replace("::", "."),
            module=call.module,
            forward=work,
            input_grad=backward,
            weight_grad=backward if params else Work(),
            params=params,
            saved=tuple(f"{name}:{k}" for k in range(len(outputs))) if back else (),
            output_bytes=sum(t.bytes for t in outputs),
            times=times,
        )

    def _params(self, i: int, name: str, param_bytes: dict[str, float]) -> tuple[str, ...]:
        """Names of the parameters: inputs of the form of a gradient that is accumulated right after the op's."""
        inputs = [t for t in reversed(self.calls[i].inputs) if t.key not in self.made]
        params = []
        for k, grad in enumerate(self.grads.get(i, ())):
            match = next((t for t in inputs if t.shape == grad.shape and t.dtype == grad.dtype), None)
            if match is not None:
                inputs.remove(match)
            params.append(f"tensor {match.key}" if match is not None and match.key >= 0 else f"{name} parameter {k}")
            param_bytes[params[-1]] = grad.bytes
        shared = [f"tensor {t.key}" for t in inputs if f"tensor {t.key}" in param_bytes]
        return tuple(dict.fromkeys([*params, *shared]))

    def _samples(self, kept: list[int]) -> int:
        """First extent of the first input that is not a parameter."""
        first = kept[0]
        grads = [g.shape for g in self.grads.get(first, ())]
        shapes = [t.shape for t in self.calls[first].inputs if t.shape and t.shape not in grads]
        return max(1, shapes[0][0]) if shapes else 1

    def _dtype(self, kept: list[int]) -> str:
        """Element type of most of the inputs' bytes."""
        total: dict[str, float] = defaultdict(float)
        for i in kept:
            for t in self.calls[i].inputs:
                if t.dtype in _DTYPES:
                    total[_DTYPES[t.dtype]] += t.bytes
        return max(total, key=lambda d: total[d], default="float32")
