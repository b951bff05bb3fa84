"""Work and memory of a single call: FLOP and bytes of forward, input gradient and weight gradient; what it keeps.

The call is run with its backward pass on fake tensors, and the kernels that PyTorch would start are counted: FLOP as
`drlpp.capture.flop` knows them, bytes as the tensors that each kernel reads and writes. What autograd keeps is asked of
autograd.

The weight gradient includes adding it to the accumulated gradient.

Two operators differ between GPUs and CPUs, and the caller says whose kernels to count. With dropout, attention is fused
on a GPU, while the CPU computes and keeps the matrix of scores; and dropout keeps a mask of one byte per element on a
GPU, on a CPU one of the tensor's type.

A backward pass whose shapes depend on values is taken to cost as much as the forward pass.

Left out: the sum of the gradients of a tensor with several consumers (one addition per further consumer).
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch

from drlpp.capture.calls import Call, TensorSpec, distinct_bytes
from drlpp.capture.flop import ProductFlop, kernel_flop
from drlpp.capture.user_call import UserCall
from drlpp.graph import Work
from drlpp.graph.op_graph import NO_WORK
from drlpp.torch_private import DynamicOutputShapeException, FakeTensorMode, TorchDispatchMode, tree_leaves

aten = torch.ops.aten


Kernels = Literal["gpu", "cpu"]
"""Whose kernels the work and the kept tensors are those of."""
LSTM_RESERVE = 5
"""What a fused LSTM keeps per element of its result: four gates and the cell state. Its shape rule leaves it out."""


@dataclasses.dataclass(frozen=True, slots=True)
class Saved:
    """A tensor that autograd keeps: an argument or a result of the call (by position), or one of its own (`bytes`)."""

    kind: Literal["argument", "result", "own"]
    index: int
    bytes: float


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """A tensor that a call returns: whether it has a gradient, the argument whose memory it shares, its memory."""

    requires_grad: bool
    shares_argument: int | None
    bytes: float


@dataclasses.dataclass(frozen=True, slots=True)
class CallWork:
    """What a call costs and keeps; `unpriced` has the bytes of kernels without a FLOP formula, by operator."""

    forward: Work
    input_grad: Work
    weight_grad: Work
    results: tuple[Result, ...]
    saved: tuple[Saved, ...]
    unpriced: Mapping[str, float] = dataclasses.field(default_factory=dict)


def count_work(call: Call, kernels: Kernels = "gpu") -> CallWork:
    """Runs the call on fake tensors and counts. Raises what the operator raises if it has no shape rule."""
    if kernels == "gpu":
        call = _as_on_a_gpu(call)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with FakeTensorMode():
                return _count(call)
        except Exception:  # code of the user may need values
            if not isinstance(call.target, UserCall):
                raise
        for fill, watch in ((0, True), (1, True), (0, False)):
            try:
                return _count(call, fill=fill, watch=watch)
            except Exception:  # noqa: BLE001 (zeros may be no values for it, as lengths)
                continue
        return _count(call, fill=1, watch=False)


def _as_on_a_gpu(call: Call) -> Call:
    """The call in a form that keeps on the CPU, where fake tensors live, what it keeps on a GPU."""
    if call.target is aten.dropout.default:
        return dataclasses.replace(call, target=_dropout_with_small_mask)
    if call.target is not aten.scaled_dot_product_attention.default:
        return call
    args = tuple(0.0 if i == 4 else a for i, a in enumerate(call.args))
    return dataclasses.replace(call, args=args, kwargs={k: v for k, v in call.kwargs.items() if k != "dropout_p"})


def _dropout_with_small_mask(x: torch.Tensor, p: float, train: bool) -> torch.Tensor:
    if p in (0, 1) or not train:
        return aten.dropout.default(x, p, train)  # type: ignore[no-any-return]
    return aten.native_dropout.default(x, p, train)[0]  # type: ignore[no-any-return]


def _count(call: Call, fill: int = 0, *, watch: bool = True) -> CallWork:
    """Runs a call.

    Args:
        fill: the value of all its tensors.
        watch: ask autograd what it keeps (torch.func does not allow it); else that is all arguments.
    """
    leaves = [_made(spec, fill) for spec in call.tensors]
    values = tuple(leaf.clone() if spec.changed else leaf for leaf, spec in zip(leaves, call.tensors, strict=True))
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alias = tensor.detach()
        kept.append(alias)
        return alias

    forward = _KernelCounter()
    with (
        torch.set_grad_enabled(call.grad_enabled),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t) if watch else nullcontext(),
        forward,
    ):
        returned = call.run(values)
    results = [r for r in tree_leaves(returned) if isinstance(r, torch.Tensor)]
    saved = _saved(kept if watch else values, values, results)
    if forward.reserve_bytes:
        saved += (Saved("own", len(saved), forward.reserve_bytes),)
    described = tuple(_result(r, values) for r in results)
    unpriced = Counter(forward.unpriced)
    try:
        input_grad, weight_grad = _backward(call.tensors, leaves, results, unpriced)
    except DynamicOutputShapeException:  # the size of the gradient depends on values (a Boolean mask as an index)
        input_grad, weight_grad = forward.work, NO_WORK
    return CallWork(forward.work, input_grad, weight_grad, described, saved, unpriced)


def _made(spec: TensorSpec, fill: int) -> torch.Tensor:
    tensor = torch.empty_strided(spec.shape, spec.stride, dtype=spec.dtype).fill_(fill)
    if spec.requires_grad:
        tensor.requires_grad_(True)
        if spec.is_param:
            tensor.grad = torch.empty_like(tensor)
    return tensor


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _result(result: torch.Tensor, values: Sequence[torch.Tensor]) -> Result:
    storage = _storage(result)
    shares = next((i for i, v in enumerate(values) if _storage(v) == storage), None)
    return Result(result.requires_grad, shares, result.untyped_storage().nbytes())


def _saved(
    kept: Sequence[torch.Tensor], values: Sequence[torch.Tensor], results: Sequence[torch.Tensor]
) -> tuple[Saved, ...]:
    found: dict[int, Saved] = {}
    places: dict[int, tuple[Literal["argument", "result"], int]] = {
        _storage(r): ("result", i) for i, r in enumerate(results)
    }
    places |= {_storage(v): ("argument", i) for i, v in enumerate(values)}
    for tensor in kept:
        storage = _storage(tensor)
        size = tensor.untyped_storage().nbytes()
        if size and storage not in found:
            place = places.get(storage)
            found[storage] = Saved(*place, size) if place else Saved("own", len(found), size)
    return tuple(found.values())


def _backward(
    specs: Sequence[TensorSpec],
    leaves: Sequence[torch.Tensor],
    results: Sequence[torch.Tensor],
    unpriced: Counter[str],
) -> tuple[Work, Work]:
    """Work of the gradients of the inputs, and of those of the parameters; adds to `unpriced`."""
    outputs = [r for r in results if r.requires_grad]
    inputs = [t for t, s in zip(leaves, specs, strict=True) if s.requires_grad and not s.is_param]
    params = [t for t, s in zip(leaves, specs, strict=True) if s.requires_grad and s.is_param]
    if not outputs:
        return NO_WORK, NO_WORK
    gradients = [torch.empty_like(r) for r in outputs]

    def count(wanted: Sequence[torch.Tensor]) -> _KernelCounter:
        counter = _KernelCounter()
        with counter:
            torch.autograd.backward(outputs, gradients, inputs=wanted, retain_graph=True)
        for t in inputs:
            t.grad = None
        return counter

    first = count(inputs) if inputs else _KernelCounter()
    last = count([*inputs, *params]) if params else first
    unpriced.update(last.unpriced)
    input_grad, both = first.work, last.work
    if not params:
        return input_grad, NO_WORK
    return input_grad, both - input_grad


class _KernelCounter(TorchDispatchMode):
    """Adds up FLOP and bytes of the kernels that are started."""

    def __init__(self) -> None:
        super().__init__()
        self.work = NO_WORK
        self.reserve_bytes = 0.0
        self.unpriced: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.is_view or func.namespace == "prim" or func.overloadpacket in _FREE:
            return out
        results = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        operands = {id(t): t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        written = sum(distinct_bytes(t) for t in results)
        if func.overloadpacket in _PARTIAL_READERS:
            read = min(written, sum(distinct_bytes(t) for t in operands.values()))
        else:
            read = sum(distinct_bytes(t) for t in operands.values())
        if func.overloadpacket in _TWICE_READ:
            read += sum(distinct_bytes(args[i]) for i in _TWICE_READ[func.overloadpacket])
        if func.overloadpacket is aten.mkldnn_rnn_layer:
            self.reserve_bytes += LSTM_RESERVE * distinct_bytes(results[0])
        flop, moved = kernel_flop(func, args, kwargs or {}, out), float(read + written)
        if isinstance(flop, ProductFlop):
            self.work += Work.of(flop.amount, moved, 1.0, float(sum(t.numel() for t in _products(func, results))))
        else:
            self.work += Work.of(flop.amount, moved, 1.0, 0.0, moved)
        if not flop.known:
            self.unpriced[str(func.overloadpacket)] += read + written
        return out


def _products(func: Any, results: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """The results that are sums of products: without the gradient of a bias, random states, sums of exponentials."""
    if func.overloadpacket is aten.convolution_backward:
        return [t for t in results if t.dim() > 1]
    return results[:1]


_FREE = {
    aten.detach,
    aten.empty,
    aten.empty_like,
    aten.empty_strided,
    aten.new_empty,
    aten.new_empty_strided,
    aten.alias,
}
_TWICE_READ = {
    aten.native_batch_norm: (0,),
    aten._native_batch_norm_legit: (0,),
    aten._native_batch_norm_legit_functional: (0,),
    aten.native_batch_norm_backward: (0, 1),
    aten.native_group_norm: (0,),
    aten.native_group_norm_backward: (0, 1),
}
"""Kernels that need statistics over more than fits a core: they read these arguments once for them and once more."""
_PARTIAL_READERS = {
    aten.embedding,
    aten.index_select,
    aten.gather,
    aten.index,
    aten.slice_backward,
    aten.select_backward,
}
