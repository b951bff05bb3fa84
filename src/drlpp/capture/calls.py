"""A single call of an operator, cut out of its graph so that it can be run alone: on fake tensors to count its work
(`drlpp.capture.work`), on real ones to time it (`drlpp.capture.profile`).

Two calls with the same `Call.key` do the same work: same operator, same shapes, strides and dtypes, same other
arguments, and gradients asked for by the same arguments.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from drlpp.capture.groups import schema_arguments
from drlpp.torch_private import tree_map


@dataclasses.dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor argument without its values.

    Attributes:
        shape, stride, dtype: as of the tensor.
        requires_grad: a gradient of it is needed.
        is_param: it is a parameter of the model: its gradient is a weight gradient, and is accumulated.
        changed: the call changes it in place.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool
    is_param: bool
    changed: bool


def _distinct_elements(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    count = 1
    for size, step in zip(shape, stride, strict=True):
        count *= size if step else min(size, 1)
    return count


def distinct_bytes(tensor: torch.Tensor) -> int:
    """Bytes of the elements of a tensor; broadcast dimensions count once."""
    return _distinct_elements(tuple(tensor.shape), tuple(tensor.stride())) * tensor.element_size()


@dataclasses.dataclass(frozen=True)
class Call:
    """One call: the operator, its arguments with `_Argument` in the place of tensors, and the tensors' specs.

    Attributes:
        target: the operator.
        args, kwargs: arguments; a tensor is an `Argument` with its position in `tensors`.
        tensors: the distinct tensor arguments, in the order of `sources`.
        sources: fx node (and, for an element of a tuple, index) that gives each of `tensors`.
        grad_enabled: gradients are recorded.
        key: equal for calls that do the same work.
    """

    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    tensors: tuple[TensorSpec, ...]
    sources: tuple[fx.Node, ...]
    grad_enabled: bool
    key: str

    def run(self, tensors: tuple[torch.Tensor, ...]) -> Any:
        """Calls the operator on `tensors` (one per spec)."""

        def fill(value: Any) -> Any:
            return tensors[value.index] if isinstance(value, Argument) else value

        args, kwargs = tree_map(fill, (self.args, dict(self.kwargs)))
        return self.target(*args, **kwargs)


@dataclasses.dataclass(frozen=True, slots=True)
class Argument:
    """Stands for the tensor at a position of `Call.tensors`."""

    index: int


def call_of(
    node: fx.Node, *, requires_grad: Callable[[fx.Node], bool], is_param: Callable[[fx.Node], bool], grad_enabled: bool
) -> Call:
    """Cuts the call of a ``call_function`` node out of its graph. Every argument that is a node must be a tensor."""
    changed = {
        v for argument, values in schema_arguments(node) if (a := argument.alias_info) and a.is_write for v in values
    }
    specs: list[TensorSpec] = []
    sources: list[fx.Node] = []
    position: dict[fx.Node, int] = {}

    def replace(source: fx.Node) -> Any:
        value = source.meta.get("val")
        if not isinstance(value, torch.Tensor):
            return value
        if source not in position:
            position[source] = len(specs)
            sources.append(source)
            specs.append(
                TensorSpec(
                    shape=tuple(value.shape),
                    stride=tuple(value.stride()),
                    dtype=value.dtype,
                    requires_grad=grad_enabled and requires_grad(source),
                    is_param=is_param(source),
                    changed=source in changed,
                )
            )
        return Argument(position[source])

    args = fx.node.map_arg(node.args, replace)
    kwargs = fx.node.map_arg(node.kwargs, replace)
    return Call(
        target=node.target,  # type: ignore[arg-type]
        args=tuple(args),
        kwargs=dict(kwargs),
        tensors=tuple(specs),
        sources=tuple(sources),
        grad_enabled=grad_enabled,
        key=repr((str(node.target), args, kwargs, specs, grad_enabled)),
    )


def on_device(arguments: Any, device: torch.device) -> Any:
    """Arguments of a node or call with `device` in the place of the device that the model was captured on."""
    return fx.node.map_aggregate(arguments, lambda value: device if isinstance(value, torch.device) else value)


def is_getitem(node: fx.Node) -> bool:
    """Whether a node takes an element out of a tuple or list (which is no work)."""
    return node.target is operator.getitem and not isinstance(node.all_input_nodes[0].meta.get("val"), torch.Tensor)


def kind_of(node: fx.Node) -> str:
    """Short name of what a node computes: ``aten.linear``, ``getitem``.

    A convolution names the kernels that serve it, where they are not the usual ones: ``aten.conv2d.3x3``.
    """
    packet = getattr(node.target, "overloadpacket", None)
    name = str(packet) if packet is not None else getattr(node.target, "__name__", str(node.target))
    special = _kernels(node) if packet is torch.ops.aten.conv2d else ""
    return f"{name}.{special}" if special else name


def _kernels(node: fx.Node) -> str:
    """Which kernels serve a two-dimensional convolution: those for ``grouped`` ones; for dense ones in
    ``channels_last``, products without a change of layout; for a ``3x3`` or ``5x5`` of stride and dilation 1, fast
    algorithms; nothing for others.
    """
    given = dict(zip(("input", "weight", "bias", "stride", "padding", "dilation", "groups"), node.args, strict=False))
    given |= node.kwargs
    if given.get("groups", 1) != 1:
        return "grouped"
    if _is_channels_last(given["input"].meta["val"]) or _is_channels_last(given["weight"].meta["val"]):  # type: ignore[union-attr]
        return "channels_last"
    plain = all(n == 1 for k in ("stride", "dilation") for n in given.get(k, (1, 1)))  # type: ignore[union-attr]
    kernel = tuple(given["weight"].meta["val"].shape[2:])  # type: ignore[union-attr]
    return f"{kernel[0]}x{kernel[1]}" if plain and kernel in ((3, 3), (5, 5)) else ""


def _is_channels_last(value: torch.Tensor) -> bool:
    """Whether the channels of an image lie together, and it could not be read as lying the other way too."""
    return not value.is_contiguous() and value.is_contiguous(memory_format=torch.channels_last)
