"""PyTorch module + loss -> a flat torch.fx graph of ATen operators whose output is the scalar loss.

`torch.export` in non-strict mode, with every module in the mode (training or eval) that it is in, and with the backward
passes that the user wrote (`drlpp.capture.tracing`). The graph is not functionalised (that would break
the training of models with in-place operators and batch norm) and its shapes are those of the example inputs. It is
tidied: parameters keep the names that they have in the module, a tensor with two names is read under one of them, nodes
that switch the gradient mode are removed and noted per node, checks and dead nodes are dropped.

Left out: dynamic shapes; control flow that depends on the values of tensors.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import io
import logging
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from typing import Any

import torch
from torch import fx
from torch.distributions import Distribution

from drlpp.capture.attention_masks import masks_as_they_are, masks_by_broadcasting
from drlpp.capture.collector import collector_paused
from drlpp.capture.failures import TraceError, capture_error, where_it_failed
from drlpp.capture.loss import LOSS, LossFunction, ModelWithLoss, takes_target
from drlpp.capture.module_call import ModuleCall, entries_of
from drlpp.capture.python_state import NumbersKept, StateKept
from drlpp.capture.recording import USER_CALL, Assigned, Calls, replaced
from drlpp.capture.tracing import keeping_gradients
from drlpp.capture.unlifted import set_attribute, unlifted
from drlpp.capture.user_call import UserCall
from drlpp.capture.whole_modules import NOTHING, Whole
from drlpp.errors import CaptureError
from drlpp.torch_private import (
    HigherOrderOperator,
    decompositions,
    region_passes,
    set_grad_enabled,
    tree_leaves,
    tree_map,
)

_MODEL = "model"
_TARGET = "target"
_DROPPED = {
    "aten._assert_tensor_metadata",
    "aten._assert_async",
    "aten._assert_scalar",
    "aten.sym_constrain_range",
    "aten.sym_constrain_range_for_size",
}


@dataclasses.dataclass(frozen=True)
class ExportedModel:
    """The captured computation, before ops are formed.

    Attributes:
        module: its graph has placeholders (the tensors of the micro-batch), ``get_attr`` (one per parameter, buffer or
            constant), ``call_function`` (ATen operators, ``operator.getitem``) and one output: the loss, or `results`.
        call: how the module was called.
        example_inputs: placeholder name -> tensor of the example micro-batch.
        results: names of the fx nodes of all outputs; the loss comes first.
        no_grad: names of the fx nodes that run without gradient recording.
        no_autocast: names of the fx nodes that must not run under an autocast from outside.
        autocast: fx node name -> (device type, dtype, enabled, cache) of the autocast region that it runs in.
        aliases: further name of a tied parameter or shared buffer -> the name under which the graph reads it.
        checks: places of checks on values, which the graph does not have.
    """

    module: fx.GraphModule
    call: ModuleCall
    example_inputs: Mapping[str, torch.Tensor]
    results: tuple[str, ...]
    no_grad: frozenset[str]
    no_autocast: frozenset[str]
    autocast: Mapping[str, tuple[Any, ...]]
    aliases: Mapping[str, str]
    checks: tuple[str, ...]

    @property
    def loss(self) -> str:
        """Name of the fx node that gives the loss."""
        return self.results[0]


def export_module(
    model: torch.nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    loss_fn: LossFunction | None = None,
    wrapper: ModelWithLoss | None = None,
    whole: Whole = NOTHING,
) -> ExportedModel:
    """Exports `model` with its loss on one micro-batch, in the modes that it is in. It is left as it was.

    Args:
        model: the user's module.
        args, kwargs: of the call; the target of the loss is the last one.
        loss_fn: see `drlpp.capture.loss`.
        wrapper: what is exported: the model and its loss; None makes it. It may return several tensors.
        whole: modules that are one operator.

    Raises:
        TraceError: it has a construct that cannot be traced, in a module that might be kept whole.
        CaptureError: the module cannot be exported; the message names the construct and the module.
    """
    wrapped = ModelWithLoss(model, loss_fn) if wrapper is None else wrapper
    state = StateKept(wrapped)
    given, named = _by_name(model, _cloned(tuple(args)), _cloned(dict(kwargs)), loss_fn)
    try:
        with _exporting():
            calls, program = _export(wrapped, given, named, whole)
            if calls.assigned:
                state.restore()
                calls, program = _export(wrapped, given, named, whole, calls.assigned)
        raw = unlifted(program)
    except TraceError as error:
        error.module = error.module or where_it_failed(error, wrapped)[0]
        raise
    except CaptureError:
        raise
    except Exception as error:
        raise capture_error(error, wrapped) from error
    finally:
        state.restore()
    canonical = _canonical_names(wrapped)
    tidy = _Tidied(raw, canonical, calls)
    leaves = tree_leaves((given, named))
    placeholders = [n for n in raw.graph.nodes if n.op == "placeholder"]
    if len(leaves) != len(placeholders):
        raise CaptureError(
            f"the module has {len(placeholders)} inputs where the example has {len(leaves)}: give every input in the "
            "example, as tensors, tuples, lists and dicts"
        )
    inputs = {tidy.copy_of[n].name: leaf for n, leaf in zip(placeholders, leaves, strict=True) if n in tidy.copy_of}
    names = [tidy.copy_of[n].name if n in tidy.copy_of else n.name for n in placeholders]
    return ExportedModel(
        module=tidy.module,
        call=ModuleCall(
            module=model,
            loss_fn=loss_fn,
            entries=entries_of(given, named, names),
            modes={name: part.training for name, part in model.named_modules()},
            whole=whole,
            numbers=NumbersKept(*(part for part in (model, loss_fn) if isinstance(part, torch.nn.Module))),
        ),
        example_inputs=inputs,
        results=tidy.results,
        no_grad=frozenset(tidy.no_grad),
        no_autocast=frozenset(tidy.no_autocast),
        autocast=tidy.autocast,
        aliases={
            name: first
            for name, first in ((n.removeprefix(f"{_MODEL}."), c) for n, c in canonical.items())
            if name != first
        },
        checks=tuple(calls.checks),
    )


def _export(
    wrapped: ModelWithLoss,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    whole: Whole,
    assigned: Assigned = frozenset(),
) -> tuple[Calls, torch.export.ExportedProgram]:
    with keeping_gradients(wrapped, assigned, whole) as calls:
        return calls, torch.export.export(wrapped, args, kwargs, strict=False)


def _by_name(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], loss_fn: LossFunction | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turns positional arguments into keywords where the signature allows it: inputs are named after them."""
    names = []
    for parameter in inspect.signature(model.forward).parameters.values():
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            names.append(parameter.name)
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            return args, kwargs
    if loss_fn is not None and takes_target(loss_fn) and not kwargs:
        names = [*names[: len(args) - 1], _TARGET]
    if len(args) > len(names) or len(set(names)) < len(names):
        return args, kwargs
    return (), dict(zip(names, args, strict=False)) | kwargs


def _cloned(tree: Any) -> Any:
    """Clones tensors: one that is given twice would be merged into one input."""

    def clone(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return copy.copy(leaf)
        return leaf.detach().clone().requires_grad_(leaf.requires_grad)

    return tree_map(clone, tree)


@contextmanager
def _exporting() -> Iterator[None]:
    """Keeps the notices of export, which mean nothing to the user, from the screen, random distributions from checking
    the values of their arguments, and torch.fx from noting the Python stack of every operator.

    The shape rule of an LSTM gives its last states a dimension too many before torch 2.14.
    """
    validate = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            with (
                collector_paused(),
                replaced(fx.config, "do_not_emit_stack_traces", True),
                masks_by_broadcasting(),
                masks_as_they_are(),
                _lstm_shapes(),
                _regions_by_nodes(),
            ):
                yield
    finally:
        logger.setLevel(level)
        Distribution.set_default_validate_args(validate)


@contextmanager
def _regions_by_nodes() -> Iterator[None]:
    """Regions begin and end with a node each. The passes of torch.export that make graphs of them forget `no_grad`
    inside of an autocast region."""

    def as_it_is(module: fx.GraphModule, signature: Any) -> tuple[fx.GraphModule, Any]:
        return module, signature

    with ExitStack() as stack:
        for made in region_passes():
            stack.enter_context(replaced(made, made.__name__.rpartition(".")[2], as_it_is))
        yield


@contextmanager
def _lstm_shapes() -> Iterator[None]:
    name = "one_layer_lstm"
    layer = getattr(decompositions, name)

    def corrected(*args: Any, **kwargs: Any) -> Any:
        output, states = layer(*args, **kwargs)
        return output, tuple(s.squeeze(0) if s.dim() > 2 else s for s in states)

    setattr(decompositions, name, corrected)
    try:
        yield
    finally:
        setattr(decompositions, name, layer)


def _canonical_names(wrapped: ModelWithLoss) -> dict[str, str]:
    """Name of every parameter and buffer in the wrapper -> the first name of the same tensor in the user's module."""
    first: dict[int, str] = {}
    out: dict[str, str] = {}
    for named in (wrapped.named_parameters, wrapped.named_buffers):
        for name, tensor in named(remove_duplicate=False):
            out[name] = first.setdefault(id(tensor), name.removeprefix(f"{_MODEL}."))
    return out


@dataclasses.dataclass(frozen=True, slots=True)
class _Mode:
    """Whether gradients are recorded, and the arguments of the autocast region, if any."""

    grad: bool
    autocast: tuple[Any, ...] | None


class _Tidied:
    """Copies an exported graph into a plain one (see the module's docstring)."""

    def __init__(self, raw: fx.GraphModule, canonical: Mapping[str, str], calls: Calls) -> None:
        self.copy_of: dict[fx.Node, fx.Node] = {}
        self.no_grad: set[str] = set()
        self.no_autocast: set[str] = set()
        self.autocast: dict[str, tuple[Any, ...]] = {}
        self._canonical = canonical
        self._calls = calls
        self._root = torch.nn.Module()
        self._graph = fx.Graph()
        self._attributes: dict[str, fx.Node] = {}
        self._only_result_of: dict[Any, fx.Node] = {}
        result = self._walk(raw)
        values = [self._computed(node) for node in result]
        self.results = tuple(node.name for node in values)
        self._graph.output(values[0] if len(values) == 1 else tuple(values))
        self._move_hooks()
        self._graph.eliminate_dead_code()
        kept = {n.name for n in self._graph.nodes}
        self.no_grad &= kept
        self.no_autocast &= kept
        self.autocast = {k: v for k, v in self.autocast.items() if k in kept}
        self.module = fx.GraphModule(self._root, self._graph, class_name="CapturedModule")

    def _walk(self, raw: fx.GraphModule) -> list[fx.Node]:
        """Copies the nodes of the exported graph; returns its outputs."""
        mode = _Mode(grad=True, autocast=None)
        regions = []
        for node in raw.graph.nodes:
            target = str(getattr(node.target, "overloadpacket", getattr(node.target, "__name__", "")))
            if node.op == "placeholder":
                if node.users and isinstance(node.meta.get("val"), torch.Tensor):
                    self._copy(node, mode)
            elif node.op == "get_attr":
                self._attribute(raw, node)
            elif node.op == "output":
                return [self._of(n) for n in tree_leaves(node.args[0])]
            elif node.target is set_grad_enabled:
                mode = dataclasses.replace(mode, grad=bool(node.args[0]))
            elif target == "_enter_autocast":
                regions.append(mode)
                mode = dataclasses.replace(mode, autocast=tuple(node.args))
            elif target == "_exit_autocast":
                mode = dataclasses.replace(mode, autocast=regions.pop().autocast)
            elif node.target is operator.getitem and node.args[0] in self._only_result_of:
                self.copy_of[node] = self._only_result_of[node.args[0]]
            elif node.target is USER_CALL:
                self._user_call(node, mode)
            elif target not in _DROPPED:
                self._copy(node, mode)
        raise CaptureError("the exported graph has no output: this is an error of torch.export")

    def _computed(self, node: fx.Node) -> fx.Node:
        """A result as the value of an op: a module may return an input or a parameter as it is."""
        if node.op == "call_function":
            return node
        alias = self._graph.call_function(torch.ops.aten.alias.default, (node,))
        alias.meta = dict(node.meta)
        return alias

    def _of(self, node: Any) -> fx.Node:
        if isinstance(node, fx.Node):
            return self.copy_of[node]
        raise CaptureError(f"the exported graph passes {node!r} where a tensor is expected: the loss must be a tensor")

    def _copy(self, node: fx.Node, mode: _Mode) -> None:
        if isinstance(node.target, HigherOrderOperator):
            raise TraceError(
                f"module {module_path(node)!r} uses torch's {node.target} (control flow in the graph): it cannot be "
                "cut; write it with plain tensor operators",
                traced_in(node),
            )
        copied = self._graph.node_copy(node, lambda n: self.copy_of[n])
        if node.op == "placeholder":
            copied.args = ()
        self._note(node, copied, mode)

    def _user_call(self, node: fx.Node, mode: _Mode) -> None:
        """Puts the user's call itself in the place of the recorded one."""
        inputs, number = node.args
        call = self._calls.of(int(number))  # type: ignore[arg-type]
        copied = self._graph.create_node(
            "call_function",
            call,
            tuple(self.copy_of[n] for n in inputs),  # type: ignore[union-attr, index]
            name=call.__name__,
        )
        copied.meta = dict(node.meta)
        if call.num_outputs == 1:
            copied.meta["val"] = node.meta["val"][0]
            self._only_result_of[node] = copied
        self._note(node, copied, mode)

    def _move_hooks(self) -> None:
        """Puts hooks on gradients in front of all readers of their tensor: those from before the hook count, too."""
        for node in list(self._graph.nodes):
            if isinstance(node.target, UserCall) and node.target.is_hook:
                (source,) = node.all_input_nodes
                source.append(node)
                for reader in [u for u in source.users if u is not node]:
                    reader.replace_input_with(source, node)

    def _note(self, node: fx.Node, copied: fx.Node, mode: _Mode) -> None:
        """Notes the copy of a node and the modes that it runs in."""
        if not mode.grad:
            self.no_grad.add(copied.name)
        if mode.autocast is not None and mode.autocast[2]:
            self.autocast[copied.name] = mode.autocast
        elif mode.autocast is not None:
            self.no_autocast.add(copied.name)
        self.copy_of[node] = copied

    def _attribute(self, owner: fx.GraphModule, node: fx.Node) -> None:
        value = _get(owner, str(node.target))
        if isinstance(value, fx.GraphModule):
            return
        target = str(node.target)
        name = self._canonical.get(target, target.removeprefix(f"{_MODEL}."))
        if name not in self._attributes:
            set_attribute(self._root, name, value)
            new = self._graph.get_attr(name)
            new.meta = dict(node.meta)
            self._attributes[name] = new
        self.copy_of[node] = self._attributes[name]


def module_path(node: fx.Node) -> str:
    """Dotted path, in the user's module, of the module that an fx node was traced in."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return str(path).removeprefix(_MODEL).removeprefix(".")


def traced_in(node: fx.Node) -> str:
    """Dotted path, in the model with its loss, of the module that an fx node was traced in."""
    stack = node.meta.get("nn_module_stack") or {}
    path = str(next(reversed(stack.values()))[0]) if stack else ""
    return path or LOSS  # what is in no module is in a loss function


def _get(root: torch.nn.Module, path: str) -> Any:
    value: Any = root
    for part in path.split("."):
        value = getattr(value, part)
    return value
