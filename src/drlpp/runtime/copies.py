"""Compares the copies of parameters that several ranks hold.

Copies stay equal as long as every rank changes them in the same way. Code of the user that changes them between steps
(a clamp, noise) may not. A few elements of each are compared after 1, 2, 4, 8, ... steps, and whenever they were
changed more or less often than before; that costs next to nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist

from drlpp.runtime.programs import Ground
from drlpp.runtime.transfers.reduction import Holders
from drlpp.runtime.transfers.waiting import wait_for_all

_ELEMENTS = 64
_TOLERANCE = 1e-4
"""Of the largest compared element: unequal GPUs may round differently."""


class Copies:
    """The parameters of this rank that other ranks hold too.

    Args:
        shared: parameter -> sets of devices that hold the same values, in the same order on every rank.
        ground: see there.
    """

    def __init__(self, shared: Mapping[str, Sequence[Holders]], ground: Ground) -> None:
        self._ground = ground
        self._names: dict[Holders, list[str]] = defaultdict(list)
        for name, sets in shared.items():
            for devices in sets:
                self._names[devices].append(name)
        self._mine = [ground.held.taken[n] for n, sets in shared.items() if any(ground.device in s for s in sets)]
        self._steps = 0
        self._versions = self._version()
        self._changes: int | None = None

    def due(self, *, evaluates: bool) -> bool:
        """Whether this rank wants to compare before the next step; called once per step and evaluation."""
        if evaluates or not self._mine:
            return False
        version = self._version()
        changes, self._versions = version - self._versions, version
        odd = self._changes is not None and changes != self._changes
        self._changes = changes
        self._steps += 1
        steps = self._steps - 1
        return steps > 0 and (odd or steps & (steps - 1) == 0)

    def attend(self, timeout_s: float) -> None:
        """Compares. Called on every rank; raises InputError on every rank if copies differ."""
        groups = self._ground.make_groups(sorted(self._names))
        problem = ""
        for devices, names in sorted(self._names.items()):
            if self._ground.device in devices:
                problem = problem or self._difference(groups[devices], names, devices, timeout_s)
        self._ground.council.check(problem)

    def _difference(self, group: dist.ProcessGroup, names: Sequence[str], devices: Holders, timeout_s: float) -> str:
        samples = [_sample(self._ground.held.taken[n]) for n in names]
        both = torch.cat(samples)
        extremes = torch.cat([both, -both])
        work = dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=group, async_op=True)
        wait_for_all(work, "the comparison of copies", timeout_s, extremes.device)
        high, low = extremes.chunk(2)
        at = 0
        for name, sample in zip(names, samples, strict=True):
            top, bottom = high[at : at + len(sample)], -low[at : at + len(sample)]
            at += len(sample)
            if not len(sample):
                continue
            dtype = self._ground.held.taken[name].dtype
            bound = max(_TOLERANCE, 4 * torch.finfo(dtype).eps) * torch.maximum(top.abs(), bottom.abs()).max()
            if (top - bottom).max() > bound:
                return (
                    f"the copies of parameter {name!r} on devices {list(devices)} differ: between the steps it was "
                    "changed in another way on each rank; seed the random numbers of the change equally on every rank, "
                    "or give the stage one device"
                )
        return ""

    def _version(self) -> int:
        return sum(t._version for t in self._mine)


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    """Some of the elements, as real numbers in double precision; those that are not finite are zero."""
    flat = tensor.detach().reshape(-1)
    some = flat[:: max(1, flat.numel() // _ELEMENTS)][:_ELEMENTS]
    real = torch.view_as_real(some).reshape(-1) if some.is_complex() else some
    return real.double().nan_to_num(0.0, 0.0, 0.0)
