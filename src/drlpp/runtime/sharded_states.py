"""ZeRO stage 1: of the ranks that hold a parameter, one keeps the states of its optimizer and changes it.

A parameter that several ranks hold belongs to one of them. `Pipeline.parameters` gives a rank those that belong to it,
so that every optimizer of elements, rows or whole matrices does what it does on one device. The sum of a gradient goes
to the owner only, and before the next step (or evaluation) the owner sends the parameter to the other holders: together
the bytes of an all-reduce (Rajbhandari et al., "ZeRO", SC 2020, stage 1). A parameter is not cut, so the states of a
stage are divided as evenly as its parameters allow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist

from drlpp.runtime.programs import Ground
from drlpp.runtime.transfers.reduction import BUCKET_BYTES, Holders
from drlpp.runtime.transfers.waiting import wait_for_all


def owners(
    shared: Mapping[str, Sequence[Holders]], parameter_bytes: Mapping[str, int]
) -> Mapping[tuple[str, Holders], int]:
    """Parameter and devices that sum its gradient -> the device that it belongs to.

    The largest goes first, to the holder that has the fewest bytes of what the same devices share; so every holder has
    something to change where there is enough for all.

    Args:
        shared: parameter -> sets of devices that sum its gradient.
        parameter_bytes: that its states depend on; 0 for one that is not trained.
    """
    load: dict[Holders, dict[int, tuple[int, int]]] = defaultdict(dict)
    found = {}
    for name in sorted(shared, key=lambda n: -parameter_bytes[n]):
        for devices in shared[name]:
            held = load[devices]
            device = min(devices, key=lambda d: (held.get(d, (0, 0)), d))
            held[device] = (held.get(device, (0, 0))[0] + parameter_bytes[name], held.get(device, (0, 0))[1] + 1)
            found[name, devices] = device
    return found


class Followers:
    """The copies of parameters that belong to another rank, and the parameters of this one that others copy.

    Args:
        shared: parameter -> sets of devices that sum its gradient, in the same order on every rank.
        ground: see there; its holdings know the owners.
    """

    def __init__(self, shared: Mapping[str, Sequence[Holders]], ground: Ground) -> None:
        self._ground = ground
        self._messages = _messages(shared, ground)
        own = [n for n in shared if ground.device in ground.holdings.holders(n)]
        self._own = [ground.held.taken[n] for n in own if ground.holdings.changes(n, ground.device)]
        self._seen = self._version()

    def due(self, *, evaluates: bool) -> bool:
        """Whether this rank has changed what others copy; `evaluates` makes no difference."""
        return self._version() != self._seen

    def attend(self, timeout_s: float) -> None:
        """Brings all copies up to date. Called on every rank."""
        ground = self._ground
        groups = ground.make_groups(sorted({devices for devices, _, _ in self._messages}))
        under_way = []
        for devices, owner, names in self._messages:
            if ground.device in devices:
                tensors = [ground.held.taken[n].detach() for n in names]
                flat = torch.cat([t.reshape(-1) for t in tensors])
                work = dist.broadcast(flat, ground.rank_of[owner], group=groups[devices], async_op=True)
                under_way.append((work, flat, tensors if owner != ground.device else []))
        for work, flat, tensors in under_way:
            wait_for_all(work, "the parameters of another replica", timeout_s, flat.device)
            for tensor, piece in zip(tensors, flat.split([t.numel() for t in tensors]) if tensors else (), strict=True):
                tensor.copy_(piece.view(tensor.shape))
        self._seen = self._version()

    def _version(self) -> int:
        return sum(t._version for t in self._own)


def _messages(shared: Mapping[str, Sequence[Holders]], ground: Ground) -> list[tuple[Holders, int, list[str]]]:
    """What travels together: holders, owner, and names of parameters of one element type, some MiB of them."""
    found: list[tuple[Holders, int, list[str]]] = []
    filling: dict[tuple[Holders, int, torch.dtype], list[str]] = defaultdict(list)
    for name, sets in shared.items():
        for devices in sets:
            key = devices, ground.holdings.owners[name, devices], ground.held.like(name).dtype
            if not filling[key]:
                found.append((devices, key[1], filling[key]))
            filling[key].append(name)
            if sum(ground.held.like(n).nbytes for n in filling[key]) >= BUCKET_BYTES:
                del filling[key]
    return found
