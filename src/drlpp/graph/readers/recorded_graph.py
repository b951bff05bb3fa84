"""Recorded calls of a training step -> operator graph: what the readers of PyTorch's two kinds of traces share.

An op of ours is an outermost operator call of the forward pass (``aten::linear``, not the ``aten::addmm`` inside it).
Operators of the optimizer, what wraps the model (`recorded_wrappers`), and operators that no differentiated operator
depends on are left out: metrics, the seed of the gradient. Views of a parameter are that parameter. Weights without a
gradient are frozen parameters (`recorded_weights`).

Loss of information: which tensors autograd kept is not recorded, so every differentiated op is taken to keep its
outputs (an upper bound for most models). The backward time of an op with parameters is split in equal halves between
input and weight gradient. Regions compiled by ``torch.compile`` hide their operators. A graph of a trace can be
planned, simulated and exported, but not run: the trace has no code.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence

from drlpp.errors import GraphError
from drlpp.graph.op_graph import NO_WORK, REFERENCE, Edge, Op, OpGraph, OpTimes, Work
from drlpp.graph.readers.recorded import DTYPES, RecordedCall, RecordedTensor
from drlpp.graph.readers.recorded_flow import Flow, chain, dataflow
from drlpp.graph.readers.recorded_step import RecordedStep
from drlpp.graph.readers.recorded_weights import data_of, weights_of
from drlpp.graph.readers.updated_tables import updated_tables

log = logging.getLogger(__name__)

_BOTH_GRADIENTS = 1.5
"""A backward pass with so many times the FLOP of the forward pass computes the gradient of the weight too."""
_SHARED_BY = 0.2
_FITTING = 0.8
"""The number of samples is the first extent of so many of the ops with parameters, and divides that of so many."""


def graph_of_calls(
    calls: Sequence[RecordedCall], name: str, where: str, *, has_dataflow: bool, measured_on: str = ""
) -> OpGraph:
    """Builds the operator graph.

    Args:
        calls: in order of their start; parents before what is nested in them.
        has_dataflow: tensors have keys, so edges follow them; else each op depends on the one before.
        measured_on: device preset that `RecordedCall.seconds` were measured on.

    Raises:
        GraphError: the trace holds no forward and backward pass, or no measured time of one of them.
    """
    step = RecordedStep(calls, where)
    flow = dataflow(step) if has_dataflow else chain(step)
    if not flow.kept:
        raise GraphError(f"{where}: the last step has no operator with a backward pass: record one with a loss")
    if not step.accumulates:
        log.warning(
            "%s: the step accumulates no gradient (torch.autograd.grad, torch.func): the weights of linear, "
            "convolutional, embedding, recurrent and normalising operators are taken for the parameters",
            where,
        )
    graph = _Builder(step, flow).graph(name, measured_on)
    _name_unpriced(graph, where)
    if all(op.times for op in graph.ops):
        _check_times(graph, where)
    return graph


def _name_unpriced(graph: OpGraph, where: str) -> None:
    """One warning that names operators of other libraries without a FLOP formula, with their share of the bytes."""
    unpriced: dict[str, float] = defaultdict(float)
    for op in graph.ops:
        if not op.kind.startswith("aten.") and not op.forward.flop:
            unpriced[op.kind] += op.forward.bytes
    if unpriced and not all(op.times for op in graph.ops):
        log.warning(
            "%s: no FLOP formula for %s, with %.1f %% of the bytes: counted by their bytes alone",
            where,
            ", ".join(sorted(unpriced, key=lambda kind: -unpriced[kind])),
            100 * sum(unpriced.values()) / (sum(op.forward.bytes for op in graph.ops) or 1.0),
        )


def _check_times(graph: OpGraph, where: str) -> None:
    """A pass without any measured time was not found in the trace; it does not take no time."""
    times = [op.times[REFERENCE] for op in graph.ops]
    passes = {
        "forward": sum(t.forward_s for t in times),
        "backward": sum(t.input_grad_s + t.weight_grad_s for t in times),
    }
    for which, seconds in passes.items():
        if not seconds > 0:
            raise GraphError(
                f"{where}: no time of the {which} pass is in the trace: record CPU and GPU activities together, and "
                "synchronise the device before the profiler stops"
            )
    lost = [op for op, t in zip(graph.ops, times, strict=True) if op.forward.flop > 0 and not t.forward_s > 0]
    if lost:
        share = sum(op.forward.flop for op in lost) / sum(op.forward.flop for op in graph.ops)
        raise GraphError(
            f"{where}: {len(lost)} operators with {share:.1%} of the forward FLOP have no kernel in the trace (first "
            f"{lost[0].name!r}): record a whole step and synchronise the device before the profiler stops"
        )


class _Builder:
    def __init__(self, step: RecordedStep, flow: Flow) -> None:
        self._step = step
        self._flow = flow
        self._names = {i: f"{step.calls[i].name.rpartition('::')[2]}_{step.calls[i].id}" for i in flow.kept}
        self._param_bytes: dict[str, float] = {}
        self._params = {i: self._trained(i, name) for i, name in self._names.items()}
        self._add_other_weights()
        self._frozen: dict[str, float] = {}
        self._frozen_of = {i: self._frozen_weights(i, name) for i, name in self._names.items()}
        if self._frozen:
            self._frozen_of = {
                i: self._frozen_weights(i, name, is_partly_frozen=True) for i, name in self._names.items()
            }

    def graph(self, name: str, measured_on: str) -> OpGraph:
        kept, names = self._flow.kept, self._names
        tensor_bytes: dict[str, float] = {}
        for i in kept:
            for k, tensor in enumerate(self._flow.outputs[i]):
                tensor_bytes[f"{names[i]}:{k}"] = tensor.bytes
            tensor_bytes.setdefault(f"{names[i]}:0", 0.0)
        edges = {
            (names[src], names[i], f"{names[src]}:{k}"): bool(
                self._step.backward.get(src) and self._step.backward.get(i)
            )
            for i in kept
            for src, k in self._flow.reads[i]
        }
        ops = tuple(self._op(i) for i in kept)
        return OpGraph(
            name=name,
            ops=ops,
            edges=tuple(Edge(src=a, dst=b, tensor=t, requires_grad=g) for (a, b, t), g in edges.items()),
            tensor_bytes=tensor_bytes,
            param_bytes={**self._param_bytes, **self._frozen},
            frozen=frozenset(self._frozen),
            samples_per_microbatch=self._samples(),
            dtype=self._dtype(),
            measured_on=measured_on,
        )

    def _op(self, i: int) -> Op:
        step, name = self._step, self._names[i]
        call, back = step.calls[i], step.backward.get(i, [])
        params = self._params[i]
        outputs = self._flow.outputs[i]
        work = Work(step.flop(i, outputs), step.moved(i) and sum(t.bytes for t in (*call.inputs, *outputs)))
        share = 0.5 if params else 1.0
        backward = Work(share * sum(step.flop(e) for e in back), share * sum(step.moved(e) for e in back))
        times = {}
        if call.seconds is not None:
            seconds = share * step.seconds(back)
            times = {REFERENCE: OpTimes(step.seconds([i]), seconds, seconds if params else 0.0)}
        return Op(
            name=name,
            kind=call.name.replace("::", "."),
            module=call.module,
            forward=work,
            input_grad=backward,
            weight_grad=backward if params else NO_WORK,
            params=(*params, *self._frozen_of[i]),
            saved=tuple(f"{name}:{k}" for k in range(len(outputs))) if back else (),
            output_bytes=sum(t.bytes for t in outputs),
            times=times,
        )

    def _trained(self, i: int, name: str) -> tuple[str, ...]:
        """Names of the parameters: inputs of the form of a gradient that is accumulated right after the op's, pieces of
        a parameter, and tables that the op's backward pass updates itself."""
        inputs = [t for t in reversed(self._step.calls[i].inputs) if t.key not in self._flow.made]
        params = []
        for k, grad in enumerate(self._step.grads.get(i, ())):
            match = next((t for t in inputs if t.shape == grad.shape and t.dtype == grad.dtype), None)
            if match is not None:
                inputs.remove(match)
            params.append(f"tensor {match.key}" if match is not None and match.key >= 0 else f"{name} parameter {k}")
            self._param_bytes[params[-1]] = grad.bytes
        for t in inputs:
            whole = self._flow.whole_of.get(t.key)
            if whole is not None:
                params.append(f"tensor {whole.key}")
                self._param_bytes[params[-1]] = whole.bytes
            elif f"tensor {t.key}" in self._param_bytes:
                params.append(f"tensor {t.key}")
        for k, table in enumerate(updated_tables(self._step, i, self._flow.made)):
            params.append(f"tensor {table.key}" if table.key >= 0 else f"{name} table {k}")
            self._param_bytes[params[-1]] = table.bytes
        return tuple(dict.fromkeys(params))

    def _unnamed_weights(self, i: int) -> list[RecordedTensor]:
        """Weights of an op that no gradient has told of, and that no op made."""
        left = list(weights_of(self._step.calls[i]))
        for grad in self._step.grads.get(i, ()):
            match = next((t for t in left if (t.shape, t.dtype) == (grad.shape, grad.dtype)), None)
            if match is not None:
                left.remove(match)
        return [t for t in left if t.key not in self._flow.made and t.key not in self._flow.whole_of]

    def _add_other_weights(self) -> None:
        """Trained weights of ops that are no owner of their gradients: shared ones, and all if none is accumulated."""
        for i, name in self._names.items():
            for k, t in enumerate(self._unnamed_weights(i) if self._step.backward.get(i) else ()):
                weight = _weight_name(t, name, k)
                if not self._step.accumulates:
                    self._param_bytes[weight] = t.bytes
                if weight in self._param_bytes:
                    self._params[i] = tuple(dict.fromkeys((*self._params[i], weight)))

    def _frozen_weights(self, i: int, name: str, *, is_partly_frozen: bool = False) -> tuple[str, ...]:
        """Names of the op's weights without a gradient.

        Args:
            is_partly_frozen: the model has frozen weights, so those of a norm without a gradient are some too.
        """
        names = []
        for k, t in enumerate(self._unnamed_weights(i)):
            weight = _weight_name(t, name, k)
            if weight in self._param_bytes or not (t.key >= 0 or self._is_without_gradient(i, is_partly_frozen)):
                continue
            names.append(weight)
            self._frozen[weight] = t.bytes
        return tuple(dict.fromkeys(names))

    def _is_without_gradient(self, i: int, is_partly_frozen: bool) -> bool:
        """Whether the backward pass of an op leaves out the gradients of its weights, where tensors have no identity.

        Else the gradient went on, to an op that computes the weight or that shares it.
        """
        back = self._step.backward.get(i)
        if not back:
            return True
        forward = self._step.flop(i, self._flow.outputs[i])
        if forward > 0:
            return sum(self._step.flop(e) for e in back) < _BOTH_GRADIENTS * forward
        return is_partly_frozen and self._step.calls[i].name.endswith("_norm")

    def _samples(self) -> int:
        """The first extent that ops with parameters share.

        That of the first op is it, if it fits: flattened tokens and windows are its multiples. Else the first op reads
        something else, such as indices of unequal numbers; then it is the least that a fifth of these ops read.
        """
        step = self._step
        having = (i for i in self._flow.kept if step.grads.get(i) or weights_of(step.calls[i]))
        owners = Counter(x for i in having for x in self._extents(i)[:1])
        of_all = (i for i in self._flow.kept if step.backward.get(i) and self._extents(i))
        first = next(of_all, None)
        if first is None:
            return 1
        found = self._extents(first)[0]
        total = sum(owners.values())
        shared = [x for x, number in owners.items() if number >= _SHARED_BY * total]
        fitting = sum(number for x, number in owners.items() if x % found == 0)
        is_start = step.calls[first].name == "aten::embedding"
        if not shared or (fitting >= _FITTING * total and (found in shared or is_start)):
            return found
        return min(shared)

    def _extents(self, i: int) -> list[int]:
        """First extents of what an op reads beside its parameters."""
        call = self._step.calls[i]
        grads = [g.shape for g in self._step.grads.get(i, ())]
        data = (t for t in data_of(call) if t.shape and t.shape not in grads and t.key not in self._flow.whole_of)
        return [t.shape[0] for t in data if t.bytes > 0]

    def _dtype(self) -> str:
        """Element type of most of the inputs' bytes."""
        total: dict[str, float] = defaultdict(float)
        for i in self._flow.kept:
            for t in self._step.calls[i].inputs:
                if t.dtype in DTYPES:
                    total[DTYPES[t.dtype]] += t.bytes
        return max(total, key=lambda d: total[d], default="float32")


def _weight_name(tensor: RecordedTensor, op: str, number: int) -> str:
    return f"tensor {tensor.key}" if tensor.key >= 0 else f"{op} weight {number}"
