"""Recorded calls of a training step -> operator graph: what the readers of PyTorch's two kinds of traces share.

An op of ours is an outermost operator call of the forward pass (``aten::linear``, not the ``aten::addmm`` inside it).
Operators of the optimizer, what wraps the model (`recorded_wrappers`), and operators that no differentiated operator
depends on are left out: metrics, the seed of the gradient. Views of a parameter are that parameter.

Loss of information: which tensors autograd kept is not recorded, so every differentiated op is taken to keep its
outputs (an upper bound for most models). The backward time of an op with parameters is split in equal halves between
input and weight gradient. Regions compiled by ``torch.compile`` hide their operators. A graph of a trace can be
planned, simulated and exported, but not run: the trace has no code.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

from drlpp.errors import GraphError
from drlpp.graph.op_graph import NO_WORK, REFERENCE, Edge, Op, OpGraph, OpTimes, Work
from drlpp.graph.readers.recorded import DTYPES, RecordedCall
from drlpp.graph.readers.recorded_flow import Flow, chain, dataflow
from drlpp.graph.readers.recorded_step import RecordedStep
from drlpp.graph.readers.updated_tables import updated_tables

log = logging.getLogger(__name__)

_DATA_POSITION = {"aten::embedding": 1, "aten::addmm": 1, "aten::baddbmm": 1}
"""Which input of an operator holds samples, where it is not the first."""


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
        self._tensor_bytes: dict[str, float] = {}

    def graph(self, name: str, measured_on: str) -> OpGraph:
        step, kept, names = self._step, self._flow.kept, self._names
        for i in kept:
            for k, tensor in enumerate(step.outputs(i)):
                self._tensor_bytes[f"{names[i]}:{k}"] = tensor.bytes
            self._tensor_bytes.setdefault(f"{names[i]}:0", 0.0)
        edges = {
            (names[src], names[i], f"{names[src]}:{k}"): bool(step.backward.get(src) and step.backward.get(i))
            for i in kept
            for src, k in self._flow.reads[i]
        }
        ops = tuple(self._op(i) for i in kept)
        return OpGraph(
            name=name,
            ops=ops,
            edges=tuple(Edge(src=a, dst=b, tensor=t, requires_grad=g) for (a, b, t), g in edges.items()),
            tensor_bytes=self._tensor_bytes,
            param_bytes=self._param_bytes,
            samples_per_microbatch=self._samples(),
            dtype=self._dtype(),
            measured_on=measured_on,
        )

    def _op(self, i: int) -> Op:
        step, name = self._step, self._names[i]
        call, back = step.calls[i], step.backward.get(i, [])
        params = self._params(i, name)
        outputs = step.outputs(i)
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
            params=params,
            saved=tuple(f"{name}:{k}" for k in range(len(outputs))) if back else (),
            output_bytes=sum(t.bytes for t in outputs),
            times=times,
        )

    def _params(self, i: int, name: str) -> tuple[str, ...]:
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

    def _samples(self) -> int:
        """First extent of what the first op with a backward pass reads beside its parameters."""
        step = self._step
        for i in self._flow.kept:
            call = step.calls[i]
            grads = [g.shape for g in step.grads.get(i, ())]
            inputs = call.inputs[_DATA_POSITION.get(call.name, 0) :] or call.inputs
            data = [t for t in inputs if t.shape and t.shape not in grads and t.key not in self._flow.whole_of]
            if data and step.backward.get(i):
                return max(1, data[0].shape[0])
        return 1

    def _dtype(self) -> str:
        """Element type of most of the inputs' bytes."""
        total: dict[str, float] = defaultdict(float)
        for i in self._flow.kept:
            for t in self._step.calls[i].inputs:
                if t.dtype in DTYPES:
                    total[DTYPES[t.dtype]] += t.bytes
        return max(total, key=lambda d: total[d], default="float32")
