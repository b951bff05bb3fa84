"""Names of PyTorch that it does not promise to keep, in one place: what drlpp needs of them, and from where.

Another release may lack one, or mean something else by it. A name that is not there is told in one line when drlpp
is imported; so is a release that the tests never ran with (`make test-versions`).
"""

from __future__ import annotations

import logging
from types import ModuleType

import torch
import torch.utils.checkpoint

from drlpp.errors import InstallationError

CAUSAL_MASK = "_detect_is_causal_mask"
TESTED = (2, 9), (2, 15)
"""The oldest and the newest release that the tests run with, and the range of pyproject.toml."""


def torch_release(version: str = torch.__version__) -> tuple[int, int]:
    """``2.14.1+cu130`` -> (2, 14)."""
    major, minor, *_ = version.split(".")
    return int(major), int(minor)


def untested(release: tuple[int, int]) -> str:
    """What to say of a release that the tests never ran with; empty if they did."""
    oldest, newest = (".".join(map(str, r)) for r in TESTED)
    if TESTED[0] <= release <= TESTED[1]:
        return ""
    found = ".".join(map(str, release))
    return f"torch {found} is not tested with drlpp, which is made for {oldest} to {newest}: install one of these"


def missing(error: ImportError | AttributeError) -> InstallationError:
    """The error for a name that this PyTorch does not have."""
    oldest, newest = (".".join(map(str, r)) for r in TESTED)
    return InstallationError(
        f"torch {torch.__version__} is not as drlpp needs it ({error}): install a release from {oldest} to {newest}"
    )


try:
    from torch._decomp import decompositions
    from torch._functorch import eager_transforms
    from torch._functorch import vmap as functorch_vmap
    from torch._ops import HigherOrderOperator, OpOverload
    from torch._subclasses.fake_tensor import (
        DataDependentOutputException,
        DynamicOutputShapeException,
        FakeTensor,
        FakeTensorMode,
    )
    from torch.amp.autocast_mode import _enter_autocast as enter_autocast
    from torch.amp.autocast_mode import _exit_autocast as exit_autocast
    from torch.cuda import _sleep as cuda_sleep
    from torch.fx.experimental.proxy_tensor import get_proxy_mode
    from torch.utils import _pytree as pytree
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._python_dispatch import _disable_current_modes as disable_current_modes
    from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_unflatten

    for owner, name in (
        (torch.utils.checkpoint, "_checkpoint_hook"),
        (torch.autograd, "_engine_run_backward"),
        (torch.distributions.Distribution, "_validate_args"),
        (torch.library.Library, "_destroy"),
        (torch.nn.modules.batchnorm, "_BatchNorm"),
        (torch.nn.modules.transformer, CAUSAL_MASK),
        (torch.nn.Module(), "_backward_pre_hooks"),
        (decompositions, "one_layer_lstm"),
    ):
        getattr(owner, name)  # each is replaced or read where it is needed
    if torch.distributed.is_available():
        from torch._C._distributed_c10d import PrefixStore, Store
        from torch.distributed.distributed_c10d import _get_default_store as default_store
    DisableTorchFunction = torch._C.DisableTorchFunction
    TensorBase = torch._C.TensorBase
    call_module = torch.nn.Module._wrapped_call_impl
    parse_schema = torch._C.parse_schema
    TRANSFORMS = (
        (functorch_vmap, "vmap_increment_nesting", "vmap"),
        (eager_transforms, "grad_increment_nesting", "grad, vjp, jacrev"),
        (eager_transforms, "jvp_increment_nesting", "jvp, jacfwd"),
    )
    for owner, name, _ in TRANSFORMS:
        getattr(owner, name)
    set_grad_enabled = torch._C._set_grad_enabled
except (ImportError, AttributeError) as error:
    raise missing(error) from error


def region_passes() -> tuple[ModuleType, ...]:
    """Modules, each with a function of its own name, by which torch.export rewrites autocast and no_grad regions.

    Loaded here, by captures alone: sympy, which takes a second, comes with them.

    Raises:
        InstallationError: this PyTorch does not have them.
    """
    try:
        from torch._export.passes import replace_autocast_with_hop_pass, replace_set_grad_with_hop_pass

        found = (replace_autocast_with_hop_pass, replace_set_grad_with_hop_pass)
        for module in found:
            getattr(module, module.__name__.rpartition(".")[2])
    except (ImportError, AttributeError) as error:
        raise missing(error) from error
    return found


if said := untested(torch_release()):
    logging.getLogger(__name__).warning(said)

__all__ = [
    "CAUSAL_MASK",
    "TESTED",
    "TRANSFORMS",
    "DataDependentOutputException",
    "DisableTorchFunction",
    "DynamicOutputShapeException",
    "FakeTensor",
    "FakeTensorMode",
    "HigherOrderOperator",
    "OpOverload",
    "PrefixStore",
    "Store",
    "TensorBase",
    "TorchDispatchMode",
    "TreeSpec",
    "call_module",
    "cuda_sleep",
    "decompositions",
    "default_store",
    "disable_current_modes",
    "enter_autocast",
    "exit_autocast",
    "get_proxy_mode",
    "missing",
    "parse_schema",
    "pytree",
    "region_passes",
    "set_grad_enabled",
    "torch_release",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_unflatten",
    "untested",
]
