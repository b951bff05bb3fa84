"""The parameters, buffers and constants that one rank holds, under the names that they have in the user's module.

A tensor that a stage reads is held by the devices of the stage. One that nothing reads belongs to the state of the
model all the same: the first device holds it. What several ranks hold begins equal, whatever each of them was given.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import nn

from drlpp.capture import CapturedModel
from drlpp.capture.model_state import loss_tensors, module_tensors, state_keys
from drlpp.capture.parameter_hooks import copy_hooks
from drlpp.errors import InputError, did_you_mean
from drlpp.runtime.stage.stage_module import TensorSource, find_tensor

Part = Callable[[str, torch.Tensor], torch.Tensor]
"""Name and whole tensor -> what this rank holds of it."""


class HeldTensors:
    """Gives each parameter, buffer or constant once, on the device of this rank.

    Args:
        captured: the model.
        state_dict: initial values; None: those of `captured`.
        device: of this rank.
        copy: the tensors of `state_dict` are someone else's; else they were made for this rank and taken as they are.
        complete: `state_dict` is to have every parameter and every persistent buffer that is asked for.
        part: name and whole tensor -> what this rank holds of it.

    Attributes:
        taken: name -> tensor, of what this rank holds.
        part: see there.

    Raises:
        InputError: the state dict has a name that the model has not.
    """

    def __init__(
        self,
        captured: CapturedModel,
        state_dict: Mapping[str, torch.Tensor] | None,
        device: torch.device,
        *,
        copy: bool,
        complete: bool,
        part: Part = lambda name, tensor: tensor,
    ) -> None:
        self.taken: dict[str, torch.Tensor] = {}
        self._captured = captured
        self._model = module_tensors(captured.call.module)
        self._own = self._model | loss_tensors(captured.call.loss_fn)
        self._keys = state_keys(captured.call.module)
        self._persistent = frozenset(self._keys.values())
        self._given = {} if state_dict is None else state_dict
        self._names: dict[str, list[str]] = defaultdict(list)
        for alias, name in captured.aliases.items():
            self._names[name].append(alias)
        self._device = device
        self._copy = copy
        self._complete = complete
        self.part = part
        if complete:
            self._check_names(self._given)

    def take(self, name: str) -> torch.Tensor:
        """The tensor of a name that the captured graph reads, or that the user's module has."""
        if name in self.taken:
            return self.taken[name]
        own = self.like(name)
        given = next((self._given[n] for n in (name, *self._names[name]) if n in self._given), None)
        parameter = isinstance(own, nn.Parameter)
        if given is not None:
            whole = _fitting(name, given, own).detach()
            tensor = self.part(name, whole).to(self._device, own.dtype, copy=self._copy)
        elif self._complete and name in self._persistent:
            raise InputError(f"the state dict has no {name!r}: give the state dict of the whole model")
        elif parameter and not self._captured.has_values:
            raise InputError(
                f"parameter {name!r} has no values: capture the model with values, or give make_model or a state_dict"
            )
        else:
            tensor = self.part(name, own.detach()).to(self._device)
        if parameter:
            same = given is None and tensor.data_ptr() == own.data_ptr() and tensor.shape == own.shape
            tensor = own if same else nn.Parameter(tensor, requires_grad=own.requires_grad)
            copy_hooks(own, tensor)
        self.taken[name] = tensor
        return tensor

    def is_own(self, name: str) -> bool:
        """Whether it is a parameter or buffer of the user's model or loss, and no constant of the captured graph."""
        return name in self._own

    def like(self, name: str) -> torch.Tensor:
        """A tensor of the captured model, which may have no values and no memory."""
        return self._own[name] if name in self._own else find_tensor(self._captured.module, name)

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the parameters of the user's module."""
        return frozenset(n for n, t in self._model.items() if isinstance(t, nn.Parameter))

    def release_values(self) -> None:
        """Lets go of the state dict, when all that is held has been taken."""
        self._given = {}

    def source(self, variant: CapturedModel, borrowed: dict[str, torch.Tensor]) -> TensorSource:
        """Where the stages of a variant of the model (other inputs, eval mode) take their tensors from.

        Args:
            variant: captured from the same module; its constants are its own.
            borrowed: filled with tensors of the model that this rank does not hold, without values.
        """
        constants: dict[str, torch.Tensor] = {}

        def tensor(name: str) -> torch.Tensor:
            if name in self.taken and (name in self._own or variant is self._captured):
                return self.taken[name]
            if name in self._own:
                own = self._own[name]
                if name not in borrowed:
                    borrowed[name] = torch.empty(own.shape, dtype=own.dtype, device=self._device)
                return borrowed[name]
            if name not in constants:
                constants[name] = find_tensor(variant.module, name).detach().to(self._device)
            return constants[name]

        return tensor

    def unread(self, read: Iterable[str]) -> tuple[str, ...]:
        """Names of the model's parameters and persistent buffers that nothing reads."""
        there = set(read)
        return tuple(n for n in self._model if n not in there and (n in self._persistent or n in self.parameters))

    def state_dict(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Some tensors of the model, as in the state dict of the user's module: under all names."""
        return {key: tensors[name] for key, name in self._keys.items() if name in tensors}

    def gathered(self, whole_of: Callable[[str], torch.Tensor | None]) -> dict[str, torch.Tensor]:
        """The state dict of the user's module, on the CPU. Called on every rank.

        Args:
            whole_of: name -> the whole tensor, where this rank gets it.

        Returns:
            The state dict; an empty one on ranks that do not get it.
        """
        whole: dict[str, torch.Tensor] = {}
        for name in dict.fromkeys(self._keys.values()):
            got = whole_of(name)
            if got is not None:
                whole[name] = got.to("cpu", copy=True)
        return {key: whole[name] for key, name in self._keys.items() if name in whole}

    def load(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Copies the values of what this rank holds.

        Raises:
            InputError: something is missing, unknown, or has another shape.
        """
        self._check_names(state_dict)
        keys = defaultdict(list)
        for key, name in self._keys.items():
            keys[name].append(key)
        found: list[tuple[torch.Tensor, torch.Tensor]] = []
        for name, tensor in self.taken.items():
            value = next((state_dict[k] for k in keys[name] if k in state_dict), None)
            if value is not None:
                found.append((tensor, self.part(name, _fitting(name, value, self.like(name)))))
            elif name in self._persistent:
                raise InputError(f"the state dict has no {name!r}: give the state dict of the whole model")
        with torch.no_grad():
            for tensor, value in found:
                tensor.copy_(value)

    def _check_names(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        known = {*self._keys, *self._own, *self._captured.aliases}
        for name in state_dict:
            if name not in known and not name.endswith("_extra_state"):
                raise InputError(
                    f"the state dict has {name!r}, which the model does not have: "
                    f"{did_you_mean(name, known)}give the state dict of the model as it was captured"
                )


def spread(
    mine: torch.Tensor | None, like: torch.Tensor, src: int, to: Sequence[int] | None, device: torch.device
) -> torch.Tensor | None:
    """Sends a tensor from rank `src` to the ranks of `to` (None: to all), as bytes. Called on every rank.

    Args:
        mine: the tensor, on `src`; None on the others.
        like: shape and element type.
        device: where the others get it.

    Returns:
        The tensor on `src` and on those that get it; None elsewhere.
    """
    here = dist.get_rank()
    wanted = to is None or here in to
    if not wanted and here != src:
        return None
    if here == src and to is not None and list(to) == [src]:
        return mine
    value = torch.empty(like.shape, dtype=like.dtype, device=device) if mine is None else mine.to(device).contiguous()
    data = value.resolve_conj().resolve_neg().reshape(-1).view(torch.uint8)
    if not data.numel():
        return value
    if to is None:
        dist.broadcast(data, src)
    elif here == src:
        for other in to:
            if other != src:
                dist.send(data, other)
    else:
        dist.recv(data, src)
    return value if wanted else None


def _fitting(name: str, given: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    if given.shape != own.shape:
        raise InputError(f"{name!r} of the state dict has shape {list(given.shape)}: the model's is {list(own.shape)}")
    return given
