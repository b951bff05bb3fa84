"""Which tensors a module has under which names: parameters, buffers, and the keys of its state dict."""

from __future__ import annotations

import inspect
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from types import FunctionType

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy

from drlpp.capture.loss import LOSS
from drlpp.errors import CaptureError


def module_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer under the first of its names, those that the loss does not read too."""
    first: dict[int, str] = {}
    out: dict[str, torch.Tensor] = {}
    for name, tensor in _named(module):
        if id(tensor) not in first:
            first[id(tensor)] = name
            out[name] = tensor
    return out


def loss_tensors(loss_fn: object) -> dict[str, torch.Tensor]:
    """Parameters and buffers of a loss function, under the names that the captured graph has for them."""
    if not isinstance(loss_fn, nn.Module):
        return {}
    return {f"{LOSS}.{name}": tensor for name, tensor in module_tensors(loss_fn).items()}


def state_keys(module: nn.Module) -> Mapping[str, str]:
    """Key of the module's state dict -> first name of the tensor. Buffers that are not persistent have none.

    A key whose value is no tensor of the module (it was made by a hook, or is extra state) is left out.
    """
    first: dict[int, str] = {}
    for name, tensor in _named(module):
        first.setdefault(id(tensor), name)
    state = module.state_dict(keep_vars=True)
    return {key: first[id(value)] for key, value in state.items() if id(value) in first}


def _named(module: nn.Module) -> itertools.chain[tuple[str, torch.Tensor]]:
    return itertools.chain(
        module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    )


def check_memory(module: nn.Module, loss_fn: object) -> None:
    """Checks that trained parameters have memory of their own, and that names are unique.

    Two parameters (or a parameter and a buffer) that show the same memory change together on one device; on several
    they would not. One parameter under several names is not meant: it is kept as one.

    Raises:
        CaptureError: it names the two.
    """
    tensors = module_tensors(module)
    _check_names(tensors)
    of_loss = loss_tensors(loss_fn)
    if both := sorted(set(of_loss) & set(tensors)):
        raise CaptureError(
            f"the module and its loss function both have a tensor {both[0]!r}: give the sub-module {LOSS!r} of the "
            "module another name"
        )
    known = {id(t) for t in tensors.values()}
    tensors |= {name: t for name, t in of_loss.items() if id(t) not in known}
    for first, second in _sharing_memory(tensors):
        if any(_is_trained(tensors[n]) for n in (first, second)):
            raise CaptureError(
                f"{first!r} and {second!r} are two tensors with the same memory: tie them by one parameter "
                "(for example, b.weight = a.weight), or copy the values"
            )


def check_kinds(module: nn.Module) -> None:
    """Checks that all parts of a module can be looked into.

    Raises:
        CaptureError: a part was compiled by torch.jit, or a parameter has no shape yet.
    """
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise CaptureError(
                f"module {name!r} was compiled by torch.jit, so it cannot be looked into: use the module that it was "
                "made from"
            )
    for name, tensor in _named(module):
        if is_lazy(tensor):
            raise CaptureError(f"{name!r} has no shape yet (a lazy module): call the module once on a batch before")


def check_constants(constants: Mapping[str, torch.Tensor], module: nn.Module, loss_fn: object) -> None:
    """Checks that no tensor which the graph reads besides parameters and buffers changes with a trained parameter.

    Raises:
        CaptureError: it shows the memory of one, or is one of a module that the loss function uses.
    """
    hidden = _hidden_parameters(loss_fn)
    for pair in _sharing_memory(hidden | {f"constant {n}": t for n, t in constants.items()}):
        name = next((n for n in pair if n in hidden), None)
        if name is not None:
            raise CaptureError(
                f"the loss function uses the trained parameter {name!r} of a module that it does not own: make the "
                "loss an nn.Module with that module in it, or freeze it (requires_grad_(False))"
            )
    trained = {n: t for n, t in module_tensors(module).items() if _is_trained(t)}
    for pair in _sharing_memory(trained | {f"constant {n}": t for n, t in constants.items()}):
        parameter = next((n for n in pair if n in trained), None)
        if parameter is not None:
            raise CaptureError(
                f"forward reads the memory of parameter {parameter!r} through another tensor, which was made outside "
                f"of forward: read it by its name there, or write {parameter}.detach() if it is not trained so"
            )


def _hidden_parameters(loss_fn: object) -> dict[str, torch.Tensor]:
    """Trained parameters of modules that a function refers to by variables outside of it."""
    if not isinstance(loss_fn, FunctionType):
        return {}
    used = inspect.getclosurevars(loss_fn)
    modules = {k: v for k, v in {**used.globals, **used.nonlocals}.items() if isinstance(v, nn.Module)}
    return {f"{k}.{n}": p for k, module in modules.items() for n, p in module.named_parameters() if p.requires_grad}


def _check_names(tensors: Mapping[str, torch.Tensor]) -> None:
    empty = fx.GraphModule(nn.Module(), fx.Graph())
    reserved = {*dir(empty), *vars(empty)} - {*dir(nn.Module), *vars(nn.Module())}
    for name in tensors:
        if name.partition(".")[0] in reserved:
            raise CaptureError(
                f"{name!r} begins with a name that torch.fx keeps for itself: rename that attribute of the module"
            )


def _sharing_memory(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, str]]:
    """Pairs of tensors that show the same memory, neighbours in it."""
    by_storage: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for name, tensor in tensors.items():
        if tensor.layout is torch.strided and tensor.numel():
            by_storage[tensor.untyped_storage()._cdata].append((*_extent(tensor), name))
    for pieces in by_storage.values():
        for (_, end, first), (begin, _, second) in itertools.pairwise(sorted(pieces)):
            if begin < end:
                yield first, second


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """First byte of a tensor in its storage, and the one after its last."""
    begin = int(tensor.storage_offset())
    end = begin + 1 + sum(int((n - 1) * s) for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return begin * tensor.element_size(), end * tensor.element_size()


def _is_trained(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and tensor.requires_grad
