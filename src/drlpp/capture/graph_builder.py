"""An exported model -> `OpGraph`: groups of fx nodes become ops, with their work, tensors and parameters.

Tensors are named after the fx node that produces them. Memory has one name however many views show it: a tensor that
several ops keep for the backward pass is counted once. Parameters and buffers are not activations: they
lie on the device for good.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from drlpp.capture.attention_cache import kv_bytes_per_token, tokens_per_sample
from drlpp.capture.autocast_types import low_nodes
from drlpp.capture.calls import Call, call_of, distinct_bytes, is_getitem, kind_of
from drlpp.capture.changed_state import needs_order
from drlpp.capture.export import ExportedModel, module_path, traced_in
from drlpp.capture.failures import TraceError
from drlpp.capture.groups import group_nodes, is_op
from drlpp.capture.splitting import OpDivision, Splitter, connected
from drlpp.capture.unread import unread_parameters, with_unread
from drlpp.capture.work import CallWork, Kernels, count_work
from drlpp.graph import Edge, Op, OpGraph, Split
from drlpp.graph.op_graph import total_work
from drlpp.torch_private import tree_leaves

log = logging.getLogger(__name__)
BuiltGraph = tuple[OpGraph, dict[str, str], frozenset[str]]
"""The graph, fx node name -> op name, and the fx nodes at which gradients end."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Memory:
    """A piece of memory: the fx node that allocates it, its bytes, whether it lives longer than a micro-batch."""

    owner: fx.Node
    index: int
    bytes: float
    permanent: bool


@dataclasses.dataclass(frozen=True, slots=True)
class _Value:
    """A tensor during the pass: its gradient flag and its memory."""

    requires_grad: bool
    memory: _Memory


@dataclasses.dataclass(frozen=True)
class NodeCosts:
    """What is known about every fx node that computes.

    Attributes:
        calls: fx node -> its call (none for taking an element of a tuple).
        work: fx node -> costs of the call.
        values: fx node -> its tensors (several for a tuple).
    """

    calls: Mapping[fx.Node, Call]
    work: Mapping[fx.Node, CallWork]
    values: Mapping[fx.Node, tuple[_Value, ...]]

    @property
    def views(self) -> set[fx.Node]:
        """Nodes that only show memory of their one input in another way, and not more of it."""
        out = set()
        for node, work in self.work.items():
            val = node.meta.get("val")
            inputs = node.all_input_nodes
            if isinstance(val, torch.Tensor) and len(inputs) == 1 and not (work.forward.flop or work.forward.bytes):
                base = inputs[0].meta.get("val")
                shares = all(r.shares_argument is not None for r in work.results)
                if shares and isinstance(base, torch.Tensor) and val.numel() <= base.numel():
                    out.add(node)
        return out

    def without_gradient(self) -> frozenset[str]:
        """Names of nodes whose value has no gradient although an argument has one."""
        return frozenset(
            node.name
            for node, own in self.values.items()
            if not any(v.requires_grad for v in own)
            and any(v.requires_grad for source in node.all_input_nodes for v in self.values[source])
        )


def node_costs(module: fx.GraphModule, no_grad: Collection[str], kernels: Kernels = "gpu") -> NodeCosts:
    """Walks an exported graph once and counts every call (equal calls once).

    Args:
        module: a tidied graph (`drlpp.capture.export`).
        no_grad: names of the fx nodes that run without gradient recording.
        kernels: see `drlpp.capture.work`.

    Raises:
        CaptureError: an operator cannot be run on fake tensors.
    """
    params = dict(module.named_parameters())
    counted: dict[str, CallWork] = {}
    calls: dict[fx.Node, Call] = {}
    work: dict[fx.Node, CallWork] = {}
    values: dict[fx.Node, tuple[_Value, ...]] = {}
    for node in module.graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            param = params.get(str(node.target)) if node.op == "get_attr" else None
            val = node.meta.get("val")
            size = distinct_bytes(val) if isinstance(val, torch.Tensor) else 0
            memory = _Memory(node, 0, size, permanent=node.op == "get_attr")
            values[node] = (_Value(param is not None and param.requires_grad, memory),)
        elif node.op == "call_function":
            if is_getitem(node):
                values[node] = _element(node, values)
                continue
            call = _call(node, values, params, node.name not in no_grad)
            if call.key not in counted:
                try:
                    counted[call.key] = count_work(call, kernels)
                except Exception as error:
                    raise TraceError(
                        f"op {node.name!r} ({kind_of(node)}) of module {module_path(node)!r} cannot be analysed: "
                        f"{type(error).__name__}: {' '.join(str(error).split())[:200]}: an operator needs a shape rule "
                        "(torch.library.register_fake) and its backward pass one too",
                        traced_in(node),
                    ) from error
            calls[node], work[node] = call, counted[call.key]
            values[node] = _results(node, call, counted[call.key], values)
    return NodeCosts(calls, work, values)


def _call(
    node: fx.Node,
    values: Mapping[fx.Node, tuple[_Value, ...]],
    params: Mapping[str, torch.nn.Parameter],
    grad_enabled: bool,
) -> Call:
    return call_of(
        node,
        requires_grad=lambda n: values[n][0].requires_grad,
        is_param=lambda n: n.op == "get_attr" and str(n.target) in params,
        grad_enabled=grad_enabled,
    )


def _element(node: fx.Node, values: Mapping[fx.Node, tuple[_Value, ...]]) -> tuple[_Value, ...]:
    """The values of ``tuple[index]``: flat values are numbered over all leaves of the tuple."""
    arguments: tuple[Any, ...] = node.args
    source, index = arguments
    before = source.meta["val"][:index]
    start = sum(isinstance(x, torch.Tensor) for x in tree_leaves(before))
    count = sum(isinstance(x, torch.Tensor) for x in tree_leaves(node.meta.get("val")))
    return values[source][start : start + count]


def _results(
    node: fx.Node, call: Call, work: CallWork, values: dict[fx.Node, tuple[_Value, ...]]
) -> tuple[_Value, ...]:
    out = []
    for i, result in enumerate(work.results):
        if result.shares_argument is None:
            out.append(_Value(result.requires_grad, _Memory(node, i, result.bytes, permanent=False)))
        else:
            source = call.sources[result.shares_argument]
            out.append(_Value(result.requires_grad, values[source][0].memory))
    for spec, source in zip(call.tensors, call.sources, strict=True):
        if spec.changed and any(r.requires_grad for r in work.results):
            _require_gradient(values, values[source][0])
    return tuple(out)


def _require_gradient(values: dict[fx.Node, tuple[_Value, ...]], changed: _Value) -> None:
    """A tensor without a gradient was changed in place by one with: all that show its memory have one from now on."""
    if changed.requires_grad:
        return
    for node, shown in values.items():
        if any(v.memory == changed.memory for v in shown):
            values[node] = tuple(
                dataclasses.replace(v, requires_grad=True) if v.memory == changed.memory else v for v in shown
            )


def build_graph(exported: ExportedModel, *, name: str, source: str, kernels: Kernels) -> BuiltGraph:
    """The operator graph of an exported model, fx node name -> op name, and the fx nodes at which gradients end.

    Raises:
        CaptureError: an operator cannot be analysed.
    """
    costs = node_costs(exported.module, exported.no_grad, kernels)
    _name_unpriced(name, costs)
    groups = group_nodes(exported.module, exported.autocast, costs.views)
    graph, op_of_node = _Builder(exported, costs, groups).build(name, source)
    return graph, op_of_node, costs.without_gradient()


def _name_unpriced(name: str, costs: NodeCosts) -> None:
    """One warning that names the kernels without a FLOP formula, with their share of the bytes."""
    unpriced: Counter[str] = Counter()
    total = 0.0
    for work in costs.work.values():
        unpriced.update(work.unpriced)
        total += work.forward.bytes + work.input_grad.bytes + work.weight_grad.bytes
    if unpriced:
        log.warning(
            "%s: no FLOP formula for %s, with %.1f %% of the bytes: counted as one FLOP per element; register one with "
            "torch.utils.flop_counter.register_flop_formula",
            name,
            ", ".join(operator for operator, _ in unpriced.most_common()),
            100 * unpriced.total() / total,
        )


class _Builder:
    def __init__(self, exported: ExportedModel, costs: NodeCosts, groups: Sequence[tuple[fx.Node, ...]]) -> None:
        self._exported = exported
        self._costs = costs
        self._groups = groups
        self._group_of = {n: i for i, group in enumerate(groups) for n in group}
        self._params = dict(exported.module.named_parameters())
        self._unread = unread_parameters(exported)
        self._tensor_bytes: dict[str, float] = {}
        self._buffer_bytes: dict[str, float] = {}
        self._memory_names = self._name_memory()

    def build(self, name: str, source: str) -> tuple[OpGraph, dict[str, str]]:
        names = [self._main(group).name for group in self._groups]
        ops = tuple(self._op(n, group) for n, group in zip(names, self._groups, strict=True))
        ops = with_unread(ops, self._unread)
        edges = tuple(self._edges(names))
        ops = tuple(
            dataclasses.replace(op, splits=tuple(splits)) if splits else op
            for op, splits in zip(ops, self._splits(ops, edges), strict=True)
        )
        params = {p: (self._params | self._unread)[p] for op in ops for p in op.params}
        graph = OpGraph(
            name=name,
            ops=ops,
            edges=edges,
            tensor_bytes=self._tensor_bytes,
            param_bytes={name: float(p.nbytes) for name, p in params.items()},
            buffer_bytes=self._buffer_bytes,
            frozen=frozenset(n for n, p in params.items() if n in self._unread or not p.requires_grad),
            source=source,
            samples_per_microbatch=_num_samples(self._exported.example_inputs),
            tokens_per_sample=tokens_per_sample(self._group_of),
            dtype=self._dtype(),
            low_tensors=self._low_tensors(),
        )
        return graph, {n.name: names[i] for n, i in self._group_of.items()}

    def _crosses(self, node: fx.Node) -> bool:
        own = self._group_of[node]
        return isinstance(node.meta.get("val"), torch.Tensor) and any(
            is_op(u) and self._group_of[u] != own for u in node.users
        )

    def _name_memory(self) -> dict[_Memory, str]:
        """Memory -> the fx node whose name it gets: one that is sent if it is all of the memory, else the first."""
        shown_by: dict[_Memory, list[fx.Node]] = {}
        for node, values in self._costs.values.items():
            if len(values) == 1 and isinstance(node.meta.get("val"), torch.Tensor):
                shown_by.setdefault(values[0].memory, []).append(node)
        out = {}
        for memory, nodes in shown_by.items():
            whole = [n for n in nodes if distinct_bytes(n.meta["val"]) == memory.bytes]
            sent = [n for n in whole if is_op(n) and self._crosses(n)]
            out[memory] = (sent or whole)[0].name if whole else f"{memory.owner.name}:{memory.index}"
        return out

    def _main(self, group: Sequence[fx.Node]) -> fx.Node:
        """The node of a group that does most."""
        work = self._costs.work

        def amount(node: fx.Node) -> tuple[float, float]:
            return (work[node].forward.flop, work[node].forward.bytes) if node in work else (-1.0, -1.0)

        return max(group, key=amount)

    def _op(self, name: str, group: Sequence[fx.Node]) -> Op:
        main = self._main(group)
        works = [self._costs.work[n] for n in group if n in self._costs.work]
        return Op(
            name=name,
            kind=kind_of(main),
            module=module_path(main),
            members=tuple(n.name for n in group),
            forward=total_work(w.forward for w in works),
            input_grad=total_work(w.input_grad for w in works),
            weight_grad=total_work(w.weight_grad for w in works),
            params=tuple(dict.fromkeys(p for n in group for p in self._read_params(n))),
            buffers=tuple(dict.fromkeys(b for n in group for b in self._read_buffers(n))),
            saved=tuple(dict.fromkeys(t for n in group for t in self._saved(n))),
            output_bytes=float(sum(n.meta["val"].nbytes for n in group if self._crosses(n))),
            kv_bytes_per_token=kv_bytes_per_token(group),
            in_order=needs_order(group, self._params),
        )

    def _read_params(self, node: fx.Node) -> list[str]:
        return [str(p.target) for p in node.all_input_nodes if p.op == "get_attr" and str(p.target) in self._params]

    def _read_buffers(self, node: fx.Node) -> list[str]:
        read = [b for b in node.all_input_nodes if b.op == "get_attr" and str(b.target) not in self._params]
        found = {str(b.target): self._costs.values[b][0].memory.bytes for b in read if b in self._costs.values}
        sizes = {name: float(size) for name, size in found.items() if size}
        self._buffer_bytes.update(sizes)
        return list(sizes)

    def _saved(self, node: fx.Node) -> list[str]:
        return [name for name, _ in self._kept(node)]

    def _kept(self, node: fx.Node) -> list[tuple[str, fx.Node | None]]:
        """Names of what a node keeps, each with the node whose tensor it is; None if it is none of the graph."""
        out: list[tuple[str, fx.Node | None]] = []
        work, call = self._costs.work.get(node), self._costs.calls.get(node)
        if work is None or call is None:
            return out
        for saved in work.saved:
            shown: fx.Node | None = None
            if saved.kind == "own":
                key, size = f"{node.name}:saved{saved.index}", saved.bytes
            else:
                if saved.kind == "argument":
                    shown = call.sources[saved.index]
                    memory = self._costs.values[shown][0].memory
                else:
                    shown, memory = node, self._costs.values[node][saved.index].memory
                if memory.permanent:
                    continue
                key, size = self._memory_names.get(memory, f"{memory.owner.name}:{memory.index}"), memory.bytes
            self._tensor_bytes[key] = size
            out.append((key, shown))
        return out

    def _splits(self, ops: Sequence[Op], edges: Sequence[Edge]) -> list[list[Split]]:
        values = self._costs.values
        splitter = Splitter(
            self._exported.module.graph,
            {n for n, of_node in values.items() if any(v.requires_grad for v in of_node)},
            _num_samples(self._exported.example_inputs),
        )
        index = {op.name: i for i, op in enumerate(ops)}
        products = {i for i, op in enumerate(ops) if op.forward.outputs}
        found = [
            [self._with_kept(group, division) for division in splitter.divisions(group)]
            if i in products or any(v.requires_grad for n in group for v in values[n])
            else []
            for i, group in enumerate(self._groups)
        ]
        return connected(found, {e.tensor: index[e.src] for e in edges}, products)

    def _with_kept(self, group: Sequence[fx.Node], division: OpDivision) -> Split:
        """The split of a division, with the tensors of which a member keeps its part."""
        part: dict[str, bool] = {}
        for node in group:
            for name, shown in self._kept(node):
                part[name] = part.get(name, True) and division.keeps_part(node, shown)
        return dataclasses.replace(division.split, keeps=tuple(name for name, own in part.items() if own))

    def _edges(self, names: Sequence[str]) -> list[Edge]:
        edges = []
        for i, group in enumerate(self._groups):
            for node in group:
                if not self._crosses(node):
                    continue
                self._tensor_bytes[node.name] = float(node.meta["val"].nbytes)
                consumers = sorted({self._group_of[u] for u in node.users if is_op(u)} - {i})
                requires_grad = self._costs.values[node][0].requires_grad
                edges += [
                    Edge(src=names[i], dst=names[j], tensor=node.name, requires_grad=requires_grad) for j in consumers
                ]
        return edges

    def _low_tensors(self) -> tuple[str, ...] | None:
        """Tensors of low precision in mixed precision, of a float32 model."""
        if self._dtype() != "float32":
            return None
        low = low_nodes(self._exported.module, self._exported.no_autocast)
        return tuple(t for t in self._tensor_bytes if t.partition(":")[0] in low and ":saved" not in t)

    def _dtype(self) -> str:
        sizes: Counter[str] = Counter()
        for p in self._params.values():
            sizes[str(p.dtype).removeprefix("torch.")] += p.nbytes
        return sizes.most_common(1)[0][0] if sizes else "float32"


def _num_samples(inputs: Mapping[str, Any]) -> int:
    return next((int(t.shape[0]) for t in inputs.values() if t.dim() and t.shape[0]), 1)
