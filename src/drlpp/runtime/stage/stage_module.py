"""Cuts a captured model into one module per stage, with explicit inputs and outputs by the names of values.

A value is the tensor of one fx node; what crosses between stages is found in the graph. The modules read the model's
own parameters and buffers under their original names, run every op in the gradient and autocast mode in which it was
captured, and seed ops that draw random numbers (`randomness.py`). That every partition can be cut so is the work of the
capture, which keeps together what must stay together.
"""

from __future__ import annotations

import dataclasses
import operator
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from drlpp.capture import CapturedModel
from drlpp.capture.calls import on_device
from drlpp.capture.changed_state import changed_memory, memory_of, written_values
from drlpp.capture.check import set_tensor
from drlpp.capture.parameter_hooks import has_hooks
from drlpp.capture.user_call import UserCall
from drlpp.errors import PlanError
from drlpp.graph.stages import Message
from drlpp.plan import Plan
from drlpp.runtime.stage.block_again import BlockAgain, parts_of_stage
from drlpp.runtime.stage.division import DividedCalls, GroupDivision
from drlpp.runtime.stage.randomness import RandomContext, SeededOp, is_random
from drlpp.runtime.transfers.channel import TensorSpec
from drlpp.torch_private import enter_autocast, exit_autocast, set_grad_enabled

_SEEDED = "drlpp_seeded"
_BLOCKS = "drlpp_blocks"
TensorSource = Callable[[str], torch.Tensor]
"""Name of a parameter or buffer -> the tensor that the stages of this rank share."""


@dataclasses.dataclass(frozen=True)
class StageModule:
    """One stage as a module.

    Attributes:
        index: of the stage.
        module: takes the values of `inputs` in order, returns those of `outputs` in order.
        inputs: names of the values that it reads: tensors of the micro-batch and values of other stages.
        outputs: names of the values that other stages read, and the loss where it is computed here.
        changed: buffers that its ops write -> the factor by which the pass of one micro-batch shrinks what was there
            before it adds something that does not depend on it (batch norm: 1 - momentum, counters: 1); None if the
            ops do something else. A parameter that its ops write is among them.
        changed_inputs: positions of inputs that its ops write.
        runs_user_code: operators of the user or hooks on parameters run in its backward pass, which then is not split.
    """

    index: int
    module: fx.GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    changed: Mapping[str, float | None]
    changed_inputs: frozenset[int] = frozenset()
    runs_user_code: bool = False


def stage_of_node(captured: CapturedModel, plan: Plan) -> Mapping[str, int]:
    """Name of every computing fx node -> its stage.

    Raises:
        PlanError: the plan was made for another graph than the one that was captured.
    """
    stages = plan.stage_of_op
    index = plan.graph.member_index
    out = {}
    for node in captured.module.graph.nodes:
        if _computes(node):
            if node.name not in index:
                raise PlanError(
                    f"the model has op {node.name!r}, which is not in the plan's graph {plan.graph.name!r}: the model "
                    "or a library changed since the plan was made; plan again"
                )
            out[node.name] = int(stages[index[node.name]])
    if absent := [m for m in index if m not in out]:
        raise PlanError(
            f"the plan's graph {plan.graph.name!r} has op {absent[0]!r}, which is not in the model: the model or a "
            "library changed since the plan was made; plan again"
        )
    return out


def value_messages(
    captured: CapturedModel, stage_of: Mapping[str, int], trained: Collection[str] | None = None
) -> tuple[Message, ...]:
    """The messages between the stages of a captured model; their tensors are names of fx nodes.

    `trained` is as in `values_with_gradient`.
    """
    needs_gradient = values_with_gradient(captured, trained)
    bundles: dict[tuple[int, tuple[int, ...], bool], list[fx.Node]] = defaultdict(list)
    for node in captured.module.graph.nodes:
        if _computes(node):
            src = stage_of[node.name]
            dsts = {stage_of[u.name] for u in node.users if _computes(u)} - {src}
            if dsts:
                bundles[src, tuple(sorted(dsts)), node.name in needs_gradient].append(node)
    return tuple(
        Message(
            src=src,
            dsts=dsts,
            phase="forward",
            requires_grad=gradient,
            bytes=float(sum(n.meta["val"].numel() * n.meta["val"].element_size() for n in nodes)),
            tensors=tuple(n.name for n in nodes),
            transfer_s=None,
        )
        for (src, dsts, gradient), nodes in sorted(bundles.items(), key=lambda item: item[0])
    )


def values_with_gradient(captured: CapturedModel, trained: Collection[str] | None = None) -> frozenset[str]:
    """Names of the fx nodes whose value gets a gradient: those between a trained parameter and the loss.

    Args:
        captured: the model.
        trained: names of the trained parameters; None: those that were trained when the model was captured.

    Where a derivative is known only in the middle of an operator, there may be one more than needed.
    """
    depends = depending_values(captured, trained)
    reaches: set[fx.Node] = set()
    read: set[fx.Node] = set()  # memory that is read further down on the way to the loss
    for node in reversed(captured.module.graph.nodes):
        if node in depends and (
            node.name == captured.loss
            or any(u in reaches for u in node.users)
            or any(memory_of(value) in read for value in written_values(node))
        ):
            reaches.add(node)
            read.update(memory_of(p) for p in node.all_input_nodes)
    return frozenset(n.name for n in reaches)


def depending_values(captured: CapturedModel, trained: Collection[str] | None = None) -> Collection[fx.Node]:
    """The nodes whose value depends on a trained parameter, from the beginning or once it is changed in place.

    `trained` is as in `values_with_gradient`.
    """
    depends: set[fx.Node] = set()
    written: set[fx.Node] = set()  # memory that something which depends was written into

    def shows_written(node: fx.Node) -> bool:
        memory = memory_of(node)
        return memory in written and (memory is node or _is_differentiable(node, captured))

    for node in captured.module.graph.nodes:
        if node.op == "get_attr":
            name = str(node.target)
            if find_tensor(captured.module, name).requires_grad if trained is None else name in trained:
                depends.add(node)
        elif _computes(node) and _is_differentiable(node, captured):
            if not any(p in depends or shows_written(p) for p in node.all_input_nodes):
                continue
            depends.add(node)
            written.update(m for value in written_values(node) if _computes(m := memory_of(value)))
    return depends.union(n for n in captured.module.graph.nodes if _computes(n) and shows_written(n))


def _is_differentiable(node: fx.Node, captured: CapturedModel) -> bool:
    value = node.meta.get("val")
    picks = node.target is operator.getitem
    made_by = node.args[0] if picks else node
    if isinstance(made_by, fx.Node) and isinstance(made_by.target, UserCall) and isinstance(value, torch.Tensor):
        index = node.args[1] if picks else 0
        if index in made_by.target.without_gradient:
            return False
    number = not isinstance(value, torch.Tensor) or value.is_floating_point() or value.is_complex()
    ends = node.name in captured.without_gradient or node.target is torch.ops.aten.detach.default
    return number and not ends and node.name not in captured.no_grad


def parameter_readers(
    captured: CapturedModel, stage_of: Mapping[str, int], trained: Collection[str] | None = None
) -> Mapping[str, tuple[int, ...]]:
    """Name of every parameter that gets a gradient -> stages that read it, sorted.

    `trained` is as in `values_with_gradient`.
    """
    reached = values_with_gradient(captured, trained)
    return {str(node.target): stages for node, stages in _readers(captured, stage_of) if node.name in reached}


def tensor_readers(captured: CapturedModel, stage_of: Mapping[str, int]) -> Mapping[str, tuple[int, ...]]:
    """Name of every parameter, buffer and constant -> stages that read it, sorted."""
    return {str(node.target): stages for node, stages in _readers(captured, stage_of)}


def _readers(captured: CapturedModel, stage_of: Mapping[str, int]) -> Iterator[tuple[fx.Node, tuple[int, ...]]]:
    for node in captured.module.graph.nodes:
        if node.op == "get_attr":
            yield node, tuple(sorted({stage_of[u.name] for u in node.users if _computes(u)}))


def sparse_parameters(captured: CapturedModel) -> frozenset[str]:
    """Names of the parameters whose gradients are sparse: all that read them are sparse embeddings."""
    return frozenset(
        str(node.target)
        for node in captured.module.graph.nodes
        if node.op == "get_attr" and node.users and all(_is_sparse_lookup(u) for u in node.users)
    )


def _is_sparse_lookup(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    if schema is None or "embedding" not in schema.name:
        return False
    place = next((i for i, a in enumerate(schema.arguments) if a.name == "sparse"), None)
    if place is None:
        return False
    return bool(node.args[place] if place < len(node.args) else node.kwargs.get("sparse", False))


def later_stages(captured: CapturedModel, stages_of: Mapping[str, tuple[int, ...]]) -> Mapping[str, int]:
    """Stages for the ops of another form of a model (in eval mode), near to what they read.

    Every op gets the first stage that is not before those of its inputs and, where there is one, holds the parameters
    and buffers that it reads.

    Args:
        captured: the other form.
        stages_of: name of a parameter or buffer -> stages that hold it, sorted.

    Returns:
        Name of every computing fx node -> its stage.
    """
    out: dict[str, int] = {}
    for node in captured.module.graph.nodes:
        if _computes(node):
            first = max((out[p.name] for p in node.all_input_nodes if p.name in out), default=0)
            held = [
                stages_of[str(p.target)]
                for p in node.all_input_nodes
                if p.op == "get_attr" and str(p.target) in stages_of
            ]
            there = sorted({s for stages in held for s in stages if s >= first and all(s in h for h in held)})
            some = sorted({s for stages in held for s in stages if s >= first})
            out[node.name] = there[0] if there else some[0] if some else first
    return out


def tensors_read(captured: CapturedModel, stage_of: Mapping[str, int], stages: Collection[int]) -> frozenset[str]:
    """Names of the parameters, buffers and constants that some stages read."""
    return frozenset(
        str(node.target)
        for node in captured.module.graph.nodes
        if node.op == "get_attr" and any(stage_of[u.name] in stages for u in node.users if _computes(u))
    )


def value_spec(captured: CapturedModel) -> Mapping[str, TensorSpec]:
    """Shape, element type and layout of the tensor of every fx node that gives one."""
    return {
        n.name: TensorSpec(tuple(val.shape), val.dtype, _memory_order(val))
        for n in captured.module.graph.nodes
        if isinstance(val := n.meta.get("val"), torch.Tensor)
    }


def _memory_order(tensor: torch.Tensor) -> tuple[int, ...]:
    """Dimensions from the outermost to the innermost in memory; empty if they are in order."""
    if tensor.is_contiguous():
        return ()
    return tuple(sorted(range(tensor.dim()), key=lambda i: -tensor.stride()[i]))


def cut_stage(
    captured: CapturedModel,
    stage_of: Mapping[str, int],
    index: int,
    tensors: TensorSource,
    context: RandomContext,
    device: torch.device,
    results: Collection[str] = (),
    *,
    division: GroupDivision | None = None,
    again: Mapping[str, str] | None = None,
) -> StageModule:
    """The module of one stage.

    Args:
        captured: the model.
        stage_of: see `stage_of_node`.
        index: of the stage.
        tensors: where parameters, buffers and constants come from.
        context: of the random ops of this rank.
        device: that the stage runs on; ops that make tensors make them there.
        results: names of values that are wanted besides the loss and what other stages read.
        division: what this rank does of it, if a group of ranks divides it. Inputs and outputs are whole.
        again: name of a node -> the path of the block that it belongs to, of blocks that run again in the backward
            pass. Not where ranks divide the stage.
    """
    mine = [n for n in captured.module.graph.nodes if _computes(n) and stage_of[n.name] == index]
    builder = _Builder(captured, tensors, context, device, division)
    inside = set(mine)
    for node in mine:
        builder.declare_inputs(node, inside)
    wanted = {captured.loss, *results}
    for part, changing in parts_of_stage(mine, again or {}):
        if changing is None:
            for node in part:
                builder.add(node)
        else:
            builder.add_block(part, _read_outside(part, wanted), changing, (again or {})[part[0].name])
    outputs = _read_outside(mine, wanted)
    changed = changed_memory(mine)
    inputs = tuple(builder.inputs)
    module = builder.finish(outputs, f"Stage{index}")
    return StageModule(
        index=index,
        module=module,
        inputs=inputs,
        outputs=tuple(n.name for n in outputs),
        changed={str(n.target): decay for n, decay in changed.items() if n.op == "get_attr"},
        changed_inputs=frozenset(inputs.index(n.name) for n in changed if n.op == "placeholder"),
        runs_user_code=any(isinstance(n.target, UserCall) for n in mine) or any(map(has_hooks, module.parameters())),
    )


def _read_outside(nodes: Sequence[fx.Node], wanted: Collection[str]) -> tuple[fx.Node, ...]:
    """Those of some nodes that others read, or whose value is wanted."""
    inside = set(nodes)
    return tuple(n for n in nodes if n.name in wanted or any(u not in inside for u in n.users if _computes(u)))


def find_tensor(module: nn.Module, name: str) -> torch.Tensor:
    """The parameter, buffer or constant of a captured module.

    Raises:
        PlanError: it is something else than a tensor.
    """
    owner, _, last = name.rpartition(".")
    value = getattr(module.get_submodule(owner), last)
    if not isinstance(value, torch.Tensor):
        raise PlanError(f"attribute {name!r} of the model is a {type(value).__name__}: only tensors can be placed")
    return value


class _Builder:
    """Copies nodes of a captured graph into the graph of a stage."""

    def __init__(
        self,
        captured: CapturedModel,
        tensors: TensorSource,
        context: RandomContext,
        device: torch.device,
        division: GroupDivision | None,
    ) -> None:
        self.inputs: list[str] = []
        self._captured = captured
        self._tensors = tensors
        self._context = context
        self._device = device
        self._root = nn.Module()
        self._seeded = nn.ModuleDict()
        self._blocks = nn.ModuleDict()
        self._graph = fx.Graph()
        self._copy_of: dict[fx.Node, fx.Node] = {}
        self._divided = None
        if division is not None:
            self._divided = DividedCalls(division, self._graph, self._root, self._copy_of, context)
        self._records_gradient = True
        self._autocast: tuple[tuple[Any, ...], fx.Node] | None = None

    def declare_inputs(self, node: fx.Node, mine: set[fx.Node]) -> None:
        """Makes placeholders of what a node reads from outside the stage, and reads of its parameters."""
        for source in node.all_input_nodes:
            if source in mine or source in self._copy_of or source.op == "get_attr":
                continue
            self.declare(source)

    def declare(self, source: fx.Node) -> None:
        """Makes a placeholder of a value."""
        copied = self._graph.placeholder(source.name)
        copied.meta = dict(source.meta)
        self._copy_of[source] = copied
        self.inputs.append(source.name)

    def add(self, node: fx.Node) -> None:
        """Copies a node, after switches of the modes that it runs in."""
        for source in node.all_input_nodes:
            self._read_tensor(source)
        self._switch_autocast(self._captured.autocast.get(node.name))
        records = node.name not in self._captured.no_grad
        self._switch_gradient(records)
        copied = None if self._divided is None else self._divided.add(node, records=records)
        if copied is None:
            copied = self._copied(node, lambda n: self._whole(n, records=records))
        copied.args, copied.kwargs = on_device(copied.args, self._device), on_device(copied.kwargs, self._device)
        self._copy_of[node] = copied

    def add_block(
        self, nodes: Sequence[fx.Node], outputs: tuple[fx.Node, ...], changing: Collection[fx.Node], path: str
    ) -> None:
        """Copies nodes as one module that runs again in the backward pass.

        Args:
            nodes: of a block.
            outputs: those that others read.
            changing: what the block reads that is changed in it or after it.
            path: of the block.
        """
        inside = set(nodes)
        entering = list(dict.fromkeys(p for n in nodes for p in n.all_input_nodes if p not in inside))
        inner = _Builder(self._captured, self._tensors, self._context, self._device, None)
        for source in entering:
            self._read_tensor(source)
            inner.declare(source)
        for node in nodes:
            inner.add(node)
        self._switch_autocast(None)
        self._switch_gradient(True)
        changed = frozenset(i for i, p in enumerate(entering) if p in changing)
        block = BlockAgain(inner.finish(outputs, "Block"), path, changed, self._context)
        name = str(len(self._blocks))
        self._blocks[name] = block
        self._root.add_module(_BLOCKS, self._blocks)
        made = self._graph.call_module(f"{_BLOCKS}.{name}", tuple(self._copy_of[p] for p in entering))
        for k, node in enumerate(outputs):
            self._copy_of[node] = self._graph.call_function(operator.getitem, (made, k))

    def _read_tensor(self, source: fx.Node) -> None:
        """Makes a read of a parameter, buffer or constant, if a source is one."""
        if source.op == "get_attr" and source not in self._copy_of:
            name = str(source.target)
            set_tensor(self._root, name, self._tensors(name))
            self._copy_of[source] = self._graph.get_attr(name)

    def _copied(self, node: fx.Node, operand: Callable[[fx.Node], fx.Node]) -> fx.Node:
        if not is_random(node):
            return self._graph.node_copy(node, operand)
        self._seeded[node.name] = SeededOp(node.target, node.name, self._context)  # type: ignore[arg-type]
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), operand)
        self._root.add_module(_SEEDED, self._seeded)
        copied = self._graph.call_module(f"{_SEEDED}.{node.name}", args, kwargs)
        copied.meta = dict(node.meta)
        return copied

    def _whole(self, source: fx.Node, *, records: bool = True) -> fx.Node:
        """The copy of a value, whole."""
        if self._divided is None:
            return self._copy_of[source]
        return self._divided.operand(source, None, divided=False, records=records)

    def finish(self, outputs: tuple[fx.Node, ...], name: str) -> fx.GraphModule:
        """The module that returns the values of `outputs`."""
        self._switch_autocast(None)
        self._switch_gradient(True)
        self._graph.output(tuple(self._whole(n) for n in outputs))
        return fx.GraphModule(self._root, self._graph, class_name=name)

    def _switch_gradient(self, on: bool) -> None:
        if on != self._records_gradient:
            self._graph.call_function(set_grad_enabled, (on,))
            self._records_gradient = on

    def _switch_autocast(self, region: tuple[Any, ...] | None) -> None:
        if (self._autocast and self._autocast[0]) == region:
            return
        if self._autocast is not None:
            self._graph.call_function(exit_autocast, (self._autocast[1],))
            self._autocast = None
        if region is not None:
            arguments = (self._device.type, *region[1:])
            entered = self._graph.call_function(enter_autocast, arguments)
            self._autocast = region, entered


def _computes(node: fx.Node) -> bool:
    return node.op not in ("placeholder", "get_attr", "output")
